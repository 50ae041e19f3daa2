"""The build that Runs use, and the reason that is given where the platform does not show it."""

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import pytest

from batchrun.account.task import Task
from batchrun.apify.wire import BuildInfo
from batchrun.errors import NoUsableAnswer
from batchrun.model import TaskId
from batchrun.preflight.builds import PATIENCE_S, read_build
from tests.support.scripted_api import api_error

T = TypeVar("T")
ACTOR = {
    "id": "a",
    "defaultRunOptions": {"build": "latest", "memoryMbytes": 512},
    "taggedBuilds": {"latest": {"buildId": "b2", "buildNumber": "0.1.2"}, "beta": {"buildId": "b3"}},
}
SCHEMA = {"properties": {"n": {"type": "integer"}}}


def _info(build_id: str, schema: dict[str, Any] | None = None) -> BuildInfo:
    return BuildInfo(
        id=build_id, number=f"0.1.{build_id[1:]}", input_schema=schema, min_memory_mb=None, max_memory_mb=None
    )


@dataclass
class _Client:
    """Has an Actor with three builds."""

    actor: Any = field(default_factory=lambda: ACTOR)
    schema: Any = field(default_factory=lambda: SCHEMA)

    async def get_actor(self, actor_id: str) -> Any:  # noqa: ARG002 - there is but one
        if isinstance(self.actor, Exception):
            raise self.actor
        if self.actor is None:
            await anyio.sleep_forever()
        return self.actor

    async def within(self, limit_s: float, answer: Awaitable[T]) -> T:
        with anyio.move_on_after(limit_s):
            return await answer
        raise NoUsableAnswer(None, limit_s)

    async def get_build(self, build_id: str) -> BuildInfo:
        return _info(build_id, self.schema)

    async def list_builds(self, actor_id: str) -> dict[str, str]:  # noqa: ARG002 - there is but one
        return {"0.1.1": "b1", "0.1.2": "b2"}


async def _read(client: _Client, asked: str | None = None, **options: Any) -> Any:
    task = Task(id=TaskId("t"), label="t", input={}, actor_id="a", options=options)
    return await read_build(client, task, asked)  # type: ignore[arg-type]  # the three methods it calls


@pytest.mark.parametrize(
    ("asked", "of_task", "number"),
    [
        (None, None, "0.1.2"),
        (None, "beta", "0.1.3"),
        ("latest", "beta", "0.1.2"),
        ("0.1.1", None, "0.1.1"),
        ("0.1.2", None, "0.1.2"),
    ],
)
async def test_the_batch_comes_before_the_task_before_the_actor(asked, of_task, number):
    """A tag is looked up at the Actor, a number among its builds."""
    build = await _read(_Client(), asked, **({"build": of_task} if of_task else {}))
    assert (build.number, build.why_unchecked, build.default_memory_mb) == (number, "", 512)
    assert build.schema.problems({"n": "x"}) == ["Field input.n must be integer"]


async def test_a_missing_build_is_reported():
    """The reason names the build, and there is no schema."""
    build = await _read(_Client(), "nope")
    assert (build.schema, build.why_unchecked) == (None, "the Actor shows no build 'nope'")
    assert not build.has("nope")
    assert build.has("beta")


@pytest.mark.parametrize(
    ("client", "why"),
    [
        (_Client(actor=api_error(403, "insufficient-permissions")), "the Actor's build cannot be read"),
        (_Client(actor=api_error(404)), "the Actor's build cannot be read"),
        (_Client(actor={}), "the Actor's build cannot be read"),
        (_Client(schema=None), "the Actor's build shows no input schema"),
        (_Client(schema={"properties": []}), "the Actor's input schema is not valid"),
    ],
    ids=["403", "404", "no id", "no schema", "broken schema"],
)
async def test_a_build_that_cannot_be_read_stops_nothing(client, why):
    """A token may be allowed to run tasks and nothing else; then the reason is reported."""
    build = await _read(client)
    assert build.schema is None
    assert build.why_unchecked.startswith(why)
    assert build.has("anything") is (build.tags is None)


async def test_a_platform_that_does_not_answer_is_not_waited_for():
    """After PATIENCE_S the batch starts without the checks."""
    began = anyio.current_time()
    build = await _read(_Client(actor=None))
    assert build.why_unchecked == "asked for the Actor's build, the platform does not answer within 20 s"
    assert anyio.current_time() - began == PATIENCE_S
