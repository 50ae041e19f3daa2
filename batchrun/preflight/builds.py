"""The build that Runs of a task use: its number, its input schema and its memory."""

import re
from collections.abc import Mapping

from batchrun.account.task import Task
from batchrun.apify.client import ApifyClient
from batchrun.apify.wire import ActorInfo, BuildInfo, parse_actor
from batchrun.errors import ApiError, NoUsableAnswer, Unauthorized
from batchrun.preflight.input_schema import InputSchema, SchemaUnusable
from batchrun.runtime.fast_dataclasses import dataclass

#: Seconds to wait for it: fewer than the batch waits for the platform, since what the build shows is optional.
PATIENCE_S = 20.0
#: A build or version number; any other text is a tag.
_NUMBER = re.compile(r"\d+\.\d+(\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """The build of Runs whose job names none; what the platform does not show is None or empty."""

    #: Tag or number, as Runs ask for it; empty: unknown.
    asked: str
    number: str | None = None
    schema: InputSchema | None = None
    #: Why there is no schema; empty: there is one.
    why_unchecked: str = ""
    #: True if the token may not read it.
    is_denied: bool = False
    min_memory_mb: int | None = None
    max_memory_mb: int | None = None
    #: Memory of Runs for which neither job, batch nor task sets another.
    default_memory_mb: int | None = None
    #: Build ids by tag; None: the Actor does not show its tags.
    tags: Mapping[str, str] | None = None

    def has(self, build: str) -> bool:
        """True if the Actor may have such a build: one of its tags, or any number."""
        return self.tags is None or build in self.tags or _NUMBER.fullmatch(build) is not None

    def is_same(self, build: str) -> bool:
        """True if a tag or a number is known to mean this build."""
        if build in (self.asked, self.number):
            return True
        return self.tags is not None and build in self.tags and self.tags[build] == self.tags.get(self.asked)


async def read_build(client: ApifyClient, task: Task, asked: str | None) -> Build:
    """Read the build that the task's Runs use; never raises: the reason for a missing schema is in the result.

    Args:
        client: asks the platform.
        task: names the Actor; its options may name a build.
        asked: the build that the batch asks for, which overrides the task's.
    """
    wanted = asked or str(task.options.get("build") or "")
    if not task.actor_id:
        return Build(asked=wanted, why_unchecked="the token may not read the task, and so not find its Actor")
    # The checks are optional: a platform that does not answer must not keep a batch from starting.
    try:
        return await client.within(PATIENCE_S, _read_build(client, task, wanted))
    except (ApiError, ValueError) as error:
        why = f"the Actor's build cannot be read ({error})"
        return Build(asked=wanted, why_unchecked=why, is_denied=isinstance(error, Unauthorized))
    except NoUsableAnswer as error:
        return Build(asked=wanted, why_unchecked=f"asked for the Actor's build, the platform {error}")


async def _read_build(client: ApifyClient, task: Task, wanted: str) -> Build:
    actor = parse_actor(await client.get_actor(task.actor_id))
    wanted = wanted or actor.default_build
    tags = None if actor.tagged is None else {tag: build_id for tag, (build_id, _) in actor.tagged.items()}
    build_id = await _build_id(client, actor, wanted)
    if build_id is None:
        why = f"the Actor shows no build {wanted!r}"
        return Build(asked=wanted, why_unchecked=why, default_memory_mb=actor.default_memory_mb, tags=tags)
    info = await client.get_build(build_id)
    schema, why = _schema(info)
    return Build(
        asked=wanted,
        number=info.number,
        schema=schema,
        why_unchecked=why,
        min_memory_mb=info.min_memory_mb,
        max_memory_mb=info.max_memory_mb,
        default_memory_mb=actor.default_memory_mb,
        tags=tags,
    )


async def _build_id(client: ApifyClient, actor: ActorInfo, wanted: str) -> str | None:
    tagged = actor.tagged or {}
    if wanted in tagged:
        return tagged[wanted][0]
    by_number = {number: build_id for build_id, number in tagged.values()}
    return by_number.get(wanted) or (await client.list_builds(actor.id)).get(wanted)


def _schema(info: BuildInfo) -> tuple[InputSchema | None, str]:
    if info.input_schema is None:
        return None, "the Actor's build shows no input schema"
    try:
        return InputSchema(info.input_schema), ""
    except SchemaUnusable as error:
        return None, f"the Actor's input schema is not valid ({error})"
