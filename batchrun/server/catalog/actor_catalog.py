"""The Actors that this server offers: bundled ones, those of directories, and inline coroutines.

Reads Actor directories (`.actor/actor.json`) and decides how each is run as a local process. Reading blocks: callers
use a thread.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import orjson

from batchrun.errors import ConfigError
from batchrun.model import JsonObject
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.server.catalog.actor_input_schema import ActorInputSchema
from batchrun.server.content.json_text import JSON_STRING
from batchrun.server.error_answers import ErrorAnswer
from batchrun.server.ids import derived_id
from batchrun.server.names import check_name
from batchrun.server.settings import InlineActor, ServerSettings
from batchrun.server.store.storage_table import Kind

_BUNDLED = {"hello_world": "apify", "page_scraper": "batchrun"}
_BUNDLED_DIR = Path(__file__).parents[1] / "actors"
#: Default memory of a coroutine Actor's Run in MB, the platform's minimum: it has no process to limit.
_INLINE_MEMORY_MB = 128
#: Comments outside of strings, and commas before a closing bracket: many actor.json files have them.
_JSON_EXTRAS = re.compile(rf"({JSON_STRING})|//[^\n]*|/\*.*?(?:\*/|\Z)|,(?=\s*[\]}}])", re.DOTALL)
_VERSION = re.compile(r"([0-9]|[1-9][0-9])\.([0-9]|[1-9][0-9])")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCommand:
    argv: tuple[str, ...]
    cwd: Path
    #: The Actor's own variables; they never override the platform's.
    variables: Mapping[str, str]

    @property
    def own_python(self) -> Path:
        """The interpreter of the packages that are installed for this Actor alone, where there are any."""
        return self.cwd / ".venv" / "bin" / "python"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """One Actor, as its files are on disk now."""

    username: str
    name: str
    title: str
    description: str = ""
    version: str = "0.0"
    #: Number of the build within its version, and when the build was first seen, in wall milliseconds.
    build_no: int = 1
    built_ms: int = 0
    build_tag: str = "latest"
    input_schema: ActorInputSchema | None = None
    #: None: the default of the server's settings.
    default_memory_mb: int | None = None
    min_memory_mb: int = 128
    max_memory_mb: int = 32768
    runner: LocalCommand | InlineActor
    definition: JsonObject = field(default_factory=dict)
    #: Event name -> title, description, price. If there are any, the Actor is paid per event.
    charge_events: JsonObject = field(default_factory=dict)
    #: Views of its dataset schema, by name.
    dataset_views: JsonObject = field(default_factory=dict)

    @property
    def storage_aliases(self) -> Mapping[str, Sequence[str]]:
        """Kind of storage, in the API's plural -> the aliases that actor.json names, besides the default ones."""
        named = self.definition.get("storages")
        kinds = {kind.plural: named.get(kind.plural) if isinstance(named, dict) else None for kind in Kind}
        return {
            kind: [alias for alias in given if alias != "default"] if isinstance(given, dict) else ()
            for kind, given in kinds.items()
        }

    @property
    def full_name(self) -> str:
        return f"{self.username}/{self.name}"

    @property
    def id(self) -> str:
        """The id; it is the same on every server, as it follows from the full name."""
        return derived_id(f"actor {self.full_name}")

    @property
    def build_id(self) -> str:
        return derived_id(f"build {self.full_name} {self.build_number}")

    @property
    def build_number(self) -> str:
        return f"{self.version}.{self.build_no}"

    def check_build(self, build: str) -> None:
        if build not in (self.build_tag, "latest", self.version, self.build_number):
            message = f'Build with tag "{build}" was not found. Has the Actor been built?'
            raise ErrorAnswer(404, "unknown-build-tag", message)


class Catalog:
    def __init__(self, actors: Iterable[Actor]) -> None:
        self._by_id = {actor.id: actor for actor in actors}
        #: Directory -> why it is left out.
        self.broken: dict[Path, str] = {}
        self._by_name = {actor.full_name.lower(): actor for actor in self._by_id.values()}

    def find(self, address: str, own_username: str = "") -> Actor | None:
        """Return the Actor with this id, `username~name`, `username/name`, or `~name` of the caller."""
        if (actor := self._by_id.get(address)) is not None:
            return actor
        username, _, name = address.replace("~", "/").partition("/")
        return self._by_name.get(f"{username or own_username}/{name}".lower())

    def put(self, actor: Actor) -> None:
        """Add an Actor, or replace the one with its name."""
        self._by_id[actor.id] = self._by_name[actor.full_name.lower()] = actor

    def remove(self, actor_id: str) -> None:
        if (actor := self._by_id.pop(actor_id, None)) is not None:
            self._by_name.pop(actor.full_name.lower(), None)

    def __iter__(self) -> Iterator[Actor]:
        return iter(tuple(self._by_id.values()))


def load_catalog(settings: ServerSettings) -> Catalog:
    """Read the bundled Actors and those of the settings; of one name, the last one counts.

    Raises:
        ConfigError: as `read_actors`.
    """
    catalog = Catalog(read_actor(_BUNDLED_DIR / folder, username) for folder, username in _BUNDLED.items())
    own, catalog.broken = read_actors(settings.actors, settings.username)
    for actor in own:
        catalog.put(actor)
    for name, coroutine in settings.inline_actors.items():
        catalog.put(_inline_actor(name, coroutine))
    return catalog


def read_actors(paths: Iterable[Path], username: str) -> tuple[list[Actor], dict[Path, str]]:
    """Return the Actors of directories, and why each directory with an invalid definition is left out.

    Raises:
        ConfigError: a path holds no Actor, or none of the directories can be used.
    """
    found: list[Actor] = []
    broken: dict[Path, ConfigError] = {}
    for path in paths:
        if not (folders := actor_folders(path)):
            raise ConfigError(f"{path} holds no Actor (a directory with .actor/actor.json)")
        for folder in folders:
            try:
                found.append(read_actor(folder, username))
            except ConfigError as error:
                broken[folder.resolve()] = error
    if broken and not found:
        raise next(iter(broken.values()))
    return found, {folder: str(error) for folder, error in broken.items()}


def _inline_actor(full_name: str, coroutine: InlineActor) -> Actor:
    username, slash, name = full_name.partition("/")
    if not (slash and username and name):
        raise ConfigError(f'an inline Actor is named "user/name", not "{full_name}"')
    return Actor(username=username, name=name, title=name, default_memory_mb=_INLINE_MEMORY_MB, runner=coroutine)


def actor_folders(path: Path) -> list[Path]:
    """Return the Actor directories: this one, or its subdirectories."""
    if _is_actor(path):
        return [path]
    return sorted(folder for folder in path.iterdir() if _is_actor(folder)) if path.is_dir() else []


def _is_actor(folder: Path) -> bool:
    return (folder / ".actor" / "actor.json").is_file()


def read_actor(folder: Path, username: str) -> Actor:
    """Read one Actor's directory.

    Raises:
        ConfigError: its definition is invalid; names the file and the reason.
    """
    file = folder / ".actor" / "actor.json"
    try:
        definition = _read_json(file)
        return _define(folder.resolve(), username, definition)
    except (OSError, ValueError, ErrorAnswer) as error:
        reason = error.message if isinstance(error, ErrorAnswer) else str(error)
        raise ConfigError(f"this Actor cannot be used: {reason}", file=file) from error


def _define(folder: Path, username: str, definition: JsonObject) -> Actor:
    name = check_name(definition.get("name"), "Actor")
    schema = _read_input_schema(folder, definition)
    return Actor(
        username=username,
        name=name,
        title=str(definition.get("title") or name),
        description=str(definition.get("description") or ""),
        version=_version(definition.get("version", "0.0")),
        build_tag=str(definition.get("buildTag") or "latest"),
        input_schema=ActorInputSchema(schema) if schema else None,
        default_memory_mb=_memory(definition, "defaultMemoryMbytes", None),
        min_memory_mb=_memory(definition, "minMemoryMbytes", 128) or 128,
        max_memory_mb=_memory(definition, "maxMemoryMbytes", 32768) or 32768,
        runner=LocalCommand(argv=_find_command(folder, definition), cwd=folder, variables=_variables(definition)),
        definition=definition,
        charge_events=_charge_events(definition),
        dataset_views=_dataset_views(folder, definition),
    )


def _charge_events(definition: JsonObject) -> JsonObject:
    """Return the priced events. The platform keeps them outside of actor.json, hence this key is ours."""
    events = definition.get("localChargeEvents") or {}
    if not isinstance(events, dict):
        raise ValueError('"localChargeEvents" must be an object of events')
    return {name: _charge_event(name, event) for name, event in events.items()}


def _charge_event(name: str, event: Any) -> JsonObject:
    price = event.get("eventPriceUsd") if isinstance(event, dict) else None
    if isinstance(price, bool) or not isinstance(price, int | float) or price < 0:
        raise ValueError(f'"localChargeEvents": {name} needs an "eventPriceUsd" that is a number')
    title, description = event.get("eventTitle", name), event.get("eventDescription", "")
    return {"eventTitle": str(title), "eventDescription": str(description), "eventPriceUsd": price}


def _version(value: object) -> str:
    if not _VERSION.fullmatch(str(value)):
        raise ValueError(f'"version" must have the form 0.1, not {value!r}')
    return str(value)


def _memory(definition: JsonObject, key: str, default: int | None) -> int | None:
    # The platform also accepts expressions over the input here; the default replaces them.
    value = definition.get(key)
    return value if isinstance(value, int) else default


def _variables(definition: JsonObject) -> dict[str, str]:
    given = definition.get("environmentVariables") or {}
    if not isinstance(given, dict):
        raise ValueError('"environmentVariables" must be an object')
    return {str(name): str(value) for name, value in given.items()}


def _read_input_schema(folder: Path, definition: JsonObject) -> JsonObject | None:
    named = definition.get("input", definition.get("inputSchema"))
    if isinstance(named, dict):
        return named
    candidates = [named] if isinstance(named, str) else ["INPUT_SCHEMA.json", "../INPUT_SCHEMA.json"]
    for candidate in candidates:
        file = _inside(folder, candidate)
        if file.is_file() or named is not None:
            return _read_json(file)
    return None


def _dataset_views(folder: Path, definition: JsonObject) -> JsonObject:
    storages = definition.get("storages")
    schema = storages.get("dataset") if isinstance(storages, dict) else None
    if isinstance(schema, str):
        schema = _read_json(_inside(folder, schema))
    views = schema.get("views") if isinstance(schema, dict) else None
    return views if isinstance(views, dict) else {}


def _inside(folder: Path, name: str) -> Path:
    """Return the file that actor.json names. It must be inside the Actor's directory."""
    file = (folder / ".actor" / name).resolve()
    if not file.is_relative_to(folder):
        raise ValueError(f"{name} is outside of the Actor's directory")
    return file


def _read_json(file: Path) -> JsonObject:
    text = _JSON_EXTRAS.sub(lambda match: match[1] or "", file.read_text("utf-8-sig"))
    value: Any = orjson.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{file.name} must hold an object")
    return value


def _find_command(folder: Path, definition: JsonObject) -> tuple[str, ...]:
    """Return the command: `localCommand`, else the start script of package.json, else a Python package."""
    command = definition.get("localCommand")
    if isinstance(command, list) and command:
        return tuple(str(part) for part in command)
    package = folder / "package.json"
    scripts = _read_json(package).get("scripts") if package.is_file() else None
    if isinstance(scripts, dict) and (script := scripts.get("start")):
        return ("/bin/sh", "-c", f'PATH="$PWD/node_modules/.bin:$PATH"; {script}')
    packages = sorted(main.parent for main in folder.glob("*/__main__.py"))
    if packages:
        return (sys.executable, "-m", packages[0].name)
    if (folder / "__main__.py").is_file():
        return (sys.executable, str(folder))
    raise ValueError(
        "nothing to run: no package.json start script, no Python package with __main__.py, no localCommand"
    )
