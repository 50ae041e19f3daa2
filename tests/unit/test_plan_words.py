"""A forecast, and news of an edited task, in words."""

from types import SimpleNamespace
from typing import Any

from batchrun.cli.forecast_lines import forecast_lines
from batchrun.cli.live_progress import News
from batchrun.engine.progress import Progress
from batchrun.policy.forecast import Estimate
from batchrun.preflight.batch_forecast import Forecast


def _forecast(**known: Any) -> Forecast:
    values: dict[str, Any] = {
        "runs": 1000,
        "slots": 8,
        "elapsed_s": Estimate(p50=260.0, p90=11100.0),
        "cost_usd": Estimate(p50=12.4, p90=15.1),
        "run_s": Estimate(p50=2.0, p90=7.3),
        "run_cost_usd": Estimate(p50=0.0124, p90=0.00004),
        "samples": 87,
        "cost_samples": 87,
        "unsuccessful": 13,
        "unknown": ["the price of a compute unit"],
    }
    return Forecast(**{**values, **known})


def test_a_forecast_is_two_lines_and_its_unknowns():
    """The batch; a Run, and the number of Runs it is made from; what is unknown."""
    assert forecast_lines(_forecast()) == [
        "forecast  4 min 20 s (p90 3 h 05 min) with 8 Runs at once; $12.40 (p90 $15.10)",
        "          a Run takes 2.0 s (p90 7.3 s) and costs $0.0124 (p90 $0.000040), by 87 recent ones",
        "unknown   the price of a compute unit",
    ]


def test_an_unknown_cost_is_not_a_number():
    """Neither of the batch nor of a Run; without any duration only the unknowns are left."""
    assert forecast_lines(_forecast(slots=1, cost_usd=None, run_cost_usd=None), has_unknowns=False) == [
        "forecast  4 min 20 s (p90 3 h 05 min) with 1 Run at once; cost unknown",
        "          a Run takes 2.0 s (p90 7.3 s), by 87 recent ones",
    ]
    assert forecast_lines(_forecast(elapsed_s=None, run_s=None)) == ["unknown   the price of a compute unit"]
    assert forecast_lines(None) == []


def test_each_edit_of_the_task_is_reported_once():
    """With the edited parts and the consequence."""
    batch: Any = SimpleNamespace(outage="", task_edits=[], progress=Progress())
    news = News(batch)
    assert news.words() == []
    batch.task_edits += [("input",), ("input", "options")]
    means = "Runs that start now differ from those before"
    assert news.words() == [
        f"Warning: the task's input was edited just now: {means}",
        f"Warning: the task's input and options were edited just now: {means}",
    ]
    assert news.words() == []
