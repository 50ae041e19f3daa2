"""The one question about money: does batchrun report what the server charges?"""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.command_line import batchrun


def assert_costs_are_the_servers(out: Path, runs: Iterable[Mapping[str, Any]]) -> None:
    """`batchrun cost` prints the server's sum, costs.jsonl has the cost of each of its Runs, and all are final.

    Args:
        out: the batch's output directory.
        runs: every Run of the batch's task, as the server describes them.
    """
    charged = {run["id"]: run["usageTotalUsd"] for run in runs}
    said = batchrun("cost", str(out), "--csv", cwd=out.parent)
    assert said.code == 0, said
    *_, total = csv.DictReader(io.StringIO(said.out))
    assert float(total["cost_usd"]) == pytest.approx(sum(charged.values()))
    assert (int(total["runs"]), total["unknown_cost_runs"], total["not_final_runs"]) == (len(charged), "0", "0")
    costs = [orjson.loads(line) for line in (out / "costs.jsonl").read_bytes().splitlines()]
    assert {cost["run_id"]: cost["cost_usd"] for cost in costs} == charged
    assert {cost["cost_is_final"] for cost in costs} <= {True}
    assert len(costs) == len(charged)
