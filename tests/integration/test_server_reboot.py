"""Runs that begin anew: reboot, metamorph, and what is left of their time after a migration."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from batchrun.server import InlineContext
from batchrun.server.store import account_table
from batchrun.server.store.database import open_database
from tests.support.server_api import ACTORS, Api, open_api


class Stage:
    """An Actor that lives as often as it is let: each life says it is there, then waits for its cue."""

    def __init__(self) -> None:
        self.lives = 0
        self.arrived = anyio.Event()

    async def __call__(self, context: InlineContext) -> None:
        """Push what is seen, and wait to be ended."""
        self.lives += 1
        await context.push_items([{"life": self.lives, "input": context.input}])
        self.arrived.set()
        await anyio.sleep_forever()

    async def next_life(self) -> None:
        """Wait until a life has begun."""
        await self.arrived.wait()
        self.arrived = anyio.Event()


@pytest.fixture
def stage() -> Stage:
    """The Actor `test/stage`."""
    return Stage()


@pytest.fixture
async def api(tmp_path: Path, stage: Stage) -> AsyncIterator[Api]:
    """A server with that Actor."""
    async with open_api(tmp_path / "server", actors=(ACTORS,), inline_actors={"test/stage": stage}) as api:
        yield api


async def test_a_rebooted_run_begins_anew_over_its_storages(api: Api, stage: Stage) -> None:
    """Same id, same dataset, one reboot counted; the Run stays RUNNING."""
    run = await api.run_actor("test~stage", {"n": 1})
    await stage.next_life()
    rebooted = await api.send("POST", f"/v2/actor-runs/{run['id']}/reboot")
    await stage.next_life()
    assert (rebooted.status, rebooted.data["status"], rebooted.data["stats"]["rebootCount"]) == (200, "RUNNING", 1)
    assert await api.items(run) == [{"life": 1, "input": {"n": 1}}, {"life": 2, "input": {"n": 1}}]
    await api.send("POST", f"/v2/actor-runs/{run['id']}/abort")
    assert (await api.finish(run["id"]))["status"] == "ABORTED"


async def test_a_finished_run_cannot_begin_anew(api: Api) -> None:
    """403 `job-finished`, for reboot and metamorph alike; 404 for an unknown one."""
    run = await api.run_actor("test~echo", {})
    await api.finish(run["id"])
    for verb in ("reboot", "metamorph?targetActorId=test~echo"):
        assert (await api.send("POST", f"/v2/actor-runs/{run['id']}/{verb}")).refusal == (403, "job-finished")
    assert (await api.send("POST", f"/v2/actor-runs/{'x' * 17}/reboot")).status == 404


async def test_an_sdk_actor_reboots_itself_and_becomes_another(api: Api) -> None:
    """The SDK's calls are answered before the process is ended.

    The new input stands under INPUT-METAMORPH-1; storages, id and the first Actor's id stay.
    """
    run = await api.run_actor("local~listener", {"do": "change"})
    ended = await api.finish(run["id"])
    assert (ended["status"], ended["stats"]["rebootCount"], ended["stats"]["metamorph"]) == ("SUCCEEDED", 1, 1)
    (metamorph,) = ended["metamorphs"]
    assert (metamorph["actorId"], metamorph["inputKey"], ended["actId"]) == (
        run["actId"],
        "INPUT-METAMORPH-1",
        run["actId"],
    )
    lives = [item for item in await api.items(run) if "life" in item]
    assert [(life["life"], life["input"], life["key"]) for life in lives] == [
        (1, {"do": "change"}, "INPUT"),
        (2, {"do": "change"}, "INPUT"),
        (3, {"do": "exit"}, "INPUT-METAMORPH-1"),
    ]


async def test_a_run_changes_at_most_ten_times(api: Api, stage: Stage) -> None:
    """The eleventh metamorph is refused, and the Run goes on."""
    run = await api.run_actor("test~stage", {"n": 0})
    for n in range(10):
        await stage.next_life()
        answer = await api.send("POST", f"/v2/actor-runs/{run['id']}/metamorph?targetActorId=test~stage", {"n": n + 1})
        assert answer.status == 200, answer.body
    await stage.next_life()
    refused = await api.send("POST", f"/v2/actor-runs/{run['id']}/metamorph?targetActorId=test~stage", {})
    assert (refused.status, refused.error_type) == (400, "max-metamorphs-exceeded")
    assert [item["input"]["n"] for item in await api.items(run)] == list(range(11))


async def test_a_migrated_metamorph_goes_on_as_what_it_has_become(tmp_path: Path) -> None:
    """The next server runs the last Actor, with its input."""
    async with open_api(tmp_path, inline_actors={"test/stage": (stage := Stage()), "test/other": Stage()}) as api:
        run = await api.run_actor("test~other", {})
        await api.send("POST", f"/v2/actor-runs/{run['id']}/metamorph?targetActorId=test~stage", {"n": 7})
        await stage.next_life()
    async with open_api(tmp_path, inline_actors={"test/stage": (stage := Stage()), "test/other": Stage()}) as api:
        await stage.next_life()
        assert (await api.items(run))[-1] == {"life": 1, "input": {"n": 7}}


async def test_a_migrated_run_keeps_the_rest_of_its_time(tmp_path: Path) -> None:
    """Of 60 s, 45 were used when the server was last known to live; the time it was down does not count."""
    async with open_api(tmp_path, inline_actors={"test/stage": Stage()}) as api:
        run = await api.run_actor("test~stage", {}, timeout=60)
        database = api.server._backend.database
        begun_ms = int(await database.read(lambda connection: connection.execute(_STARTED).fetchone()[0]))
    await _set_alive(tmp_path, begun_ms + 45_000)
    async with open_api(tmp_path, inline_actors={"test/stage": (stage := Stage())}) as api:
        await stage.next_life()
        live = api.server._backend.runs.find_live(run["id"])
        assert live is not None
        assert live.extras["usedS"] == 45
        assert 10 < live.deadline - anyio.current_time() <= 15


_STARTED = "SELECT started_ms FROM runs"


async def _set_alive(data_dir: Path, at_ms: int) -> None:
    async with open_database(data_dir / "server.sqlite3") as database:
        await database.write(account_table.put, "alive_ms", str(at_ms))
