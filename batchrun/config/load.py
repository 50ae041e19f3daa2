"""Reads a configuration: flags before environment before TOML file before defaults. Reports all errors at once."""

import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from batchrun.config.api_settings import ApiConfig
from batchrun.config.batch_config import PATHS, Config
from batchrun.config.file_paths import resolve_paths
from batchrun.config.ineffective_settings import find_settings_without_effect
from batchrun.config.text_bounds import parse_toml, read_bounded
from batchrun.errors import ConfigError, SeveralLines
from batchrun.jobs.job_format import is_job_file
from batchrun.runtime.shell_command import shell_command

#: Max problems in one error.
MAX_PROBLEMS = 20
#: Environment variables with this prefix set configuration keys: BATCHRUN_LIMITS__START_RATE.
ENVIRONMENT_PREFIX = "BATCHRUN_"
#: Variables with the prefix that set no configuration key.
_SWITCHES = frozenset(
    {"BATCHRUN_DEBUG", "BATCHRUN_KILL_AT", "BATCHRUN_WORKER_TOKEN", "BATCHRUN_NOTIFY_URL", "BATCHRUN_NOTIFY_KEY"}
)
#: Endings of the files that spreadsheet programs write.
_SPREADSHEETS = frozenset({".xlsx", ".xls", ".ods"})
#: What a value must be, by the type of pydantic's finding.
_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": 'a text in quotes, like "shop"',
    "list_type": 'a list, like ["a", "b"]',
    "dict_type": "a table",
    "model_type": "a table",
    "is_instance_of": "a path in quotes",
}


def load_config(
    file: Path | str | None = None,
    *,
    flags: Mapping[str, Any] = types.MappingProxyType({}),
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Read a batch's configuration: flags override BATCHRUN_SECTION__KEY of the environment, which override the file.

    Flags are by dotted key. Paths in flags are relative to the current directory, paths in the TOML file to the file.

    Raises:
        ConfigError: it names the file and every dotted key that is wrong.
    """
    file = Path(file) if file is not None else None
    values, given = read_settings(file, flags=flags, environ=environ, known=_is_not_a_workers)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise as_config_error(error, file, given) from None
    if problems := find_settings_without_effect(config):
        raise _config_error(problems, file, given)
    return _with_out_dir(config, file)


def read_settings(
    file: Path | None,
    *,
    flags: Mapping[str, Any],
    environ: Mapping[str, str] | None,
    known: Callable[[str], bool] = lambda _: True,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values of a file, overridden by the environment's `known` keys, overridden by flags.

    Returns:
        The values by section; and by dotted key, those of them that the environment or flags set.

    Raises:
        ConfigError: the file cannot be read.
    """
    values = _read_toml(file) if file is not None else {}
    if file is not None:
        resolve_paths(values, PATHS, file.parent)
    set_there = _from_environment(os.environ if environ is None else environ)
    given = {**{key: value for key, value in set_there.items() if known(key)}, **flags}
    for key, value in given.items():
        _put(values, key, value)
    return _lax_paths(values), given


def _is_not_a_workers(key: str) -> bool:
    """False for keys of a worker alone: its environment is that of its batches too."""
    return not key.startswith("worker.")


def load_api(base_url: str | None, *, environ: Mapping[str, str] | None = None) -> ApiConfig:
    """Return the platform for a command without a batch: `base_url`, or else the environment's.

    Raises:
        ConfigError: it is not an address.
    """
    set_there = _from_environment(os.environ if environ is None else environ)
    values = {key.removeprefix("api."): value for key, value in set_there.items() if "api." in key}
    table = {**values, **({"base_url": base_url} if base_url is not None else {})}
    try:
        return ApiConfig.model_validate(_lax_paths({"api": table})["api"])
    except ValidationError as error:
        finding = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(["api", *map(str, finding["loc"])])
        raise ConfigError(_problem([(finding["type"], finding["msg"])], key), key=key) from None


def parse_setting(text: str) -> tuple[str, Any]:
    """Split `a.b=c` into dotted key and value, which is read as TOML if it is valid TOML, else as text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: write it as section.key=value")
    return key.strip(), _toml_value(value.strip())


def _toml_value(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}")["value"]
    except (ValueError, KeyError):
        return text


def _read_toml(file: Path) -> dict[str, Any]:
    is_sheet = file.suffix.lower() in _SPREADSHEETS
    if (is_sheet or is_job_file(file.name)) and file.exists():
        first = "save it as CSV, then write" if is_sheet else "write"
        jobs = file.with_suffix(".csv") if is_sheet else file
        advice = f"{first} one for it: {_init_command(jobs)}"
        raise ConfigError(f"is a job file, not a batch file (TOML); {advice}", file=file)
    try:
        return parse_toml(read_bounded(file).decode("utf-8-sig"))
    except IsADirectoryError as error:
        if (file / ".actor").is_dir():
            advice = f"is an Actor; run it with {shell_command('--actors', file, '--jobs', 'FILE')}"
        else:
            advice = "is a directory; give the batch's TOML file"
        raise ConfigError(advice, file=file) from error
    except FileNotFoundError as error:
        advice = f"to write one for a job file: {_init_command('JOBS')}"
        raise ConfigError(f"there is no such file; {advice}", file=file) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", file=file) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not a TOML file (not UTF-8 text)", file=file) from error
    except ValueError as error:
        raise ConfigError(str(error), file=file) from error


def _init_command(jobs: Path | str) -> str:
    return shell_command("batchrun", "init", jobs, "--task", "you~your-task")


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    return {
        name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", "."): _toml_value(value)
        for name, value in environ.items()
        if name.startswith(ENVIRONMENT_PREFIX) and name not in _SWITCHES
    }


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    table = values
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError("is not a section", key=key)
    table[name] = value


def _lax_paths(values: dict[str, Any]) -> dict[str, Any]:
    """Turn the strings of path keys into paths: the sections are strict, and TOML has no path type."""
    for key in PATHS:
        section, name = key.split(".")
        table = values.get(section)
        if isinstance(table, dict) and isinstance(given := table.get(name), str | list) and given != "":
            table[name] = Path(given) if isinstance(given, str) else [Path(str(each)) for each in given]
    return values


def _with_out_dir(config: Config, file: Path | None) -> Config:
    if config.output.dir is not None:
        return config
    named = file if file is not None else config.jobs.file
    stem = "stdin" if str(named) == "-" else _stem(named)
    return config.model_copy(update={"output": config.output.model_copy(update={"dir": Path(f"{stem}.out")})})


def _stem(named: Path) -> str:
    """Return a file's name without the endings of its format: shop.uk for shop.uk.csv.gz."""
    plain = Path(named.stem) if named.suffix in (".gz", ".zst") else named
    return plain.stem.removeprefix(".") if plain.suffix else "batch"


def as_config_error(
    error: ValidationError, file: Path | None, given: Mapping[str, Any], model: type[BaseModel] = Config
) -> ConfigError:
    """Turn pydantic's findings into lines that name file and dotted key, one per key."""
    found: dict[str, list[tuple[str, str]]] = {}
    for finding in error.errors(include_url=False, include_context=False):
        found.setdefault(_dotted(finding["loc"], model), []).append((finding["type"], finding["msg"]))
    first = islice(found.items(), MAX_PROBLEMS)
    return _config_error({key: _problem(each, key, model) for key, each in first}, file, given)


def _config_error(problems: Mapping[str, str], file: Path | None, given: Mapping[str, Any]) -> ConfigError:
    """Return an error that names each key, and the file if the file sets it."""
    (first_key, first), *others = problems.items()
    more = [f"{_where(key, file, given)}{problem}" for key, problem in others]
    from_file = file if not _is_given(first_key, given) else None
    return ConfigError(SeveralLines([first, *more]), key=first_key or None, file=from_file)


def _where(key: str, file: Path | None, given: Mapping[str, Any]) -> str:
    parts = [] if file is None or _is_given(key, given) else [str(file)]
    return "".join(f"{part}: " for part in [*parts, key] if part)


def _is_given(key: str, given: Mapping[str, Any]) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in given)


def _dotted(location: Sequence[int | str], whole: type[BaseModel]) -> str:
    """Return a finding's dotted key, without the tried alternatives of a union, which pydantic appends."""
    known: list[str] = []
    model: Any = whole
    for part in location:
        fields = getattr(model, "model_fields", None)
        if known and fields is None:
            break
        known.append(str(part))
        model = _section_of(fields[part].annotation) if fields and part in fields else None
    return ".".join(known)


def _section_of(annotation: Any) -> Any:
    candidates = [annotation, *get_args(annotation)]
    return next((each for each in candidates if hasattr(each, "model_fields")), None)


def _problem(findings: Sequence[tuple[str, str]], key: str, model: type[BaseModel] = Config) -> str:
    """Return what is wrong with a key; a value of several possible kinds has a finding, type and message, for each."""
    kind, message = next((each for each in findings if _kind(*each) is None), findings[0])
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"is not a known key{_did_you_mean(key, model)}"
    if _kind(kind, message) is not None:
        kinds = [each for each in (_kind(*finding) for finding in findings) if each]
        return f"must be {' or '.join(each for each in kinds if each != 'a whole number' or 'a number' not in kinds)}"
    return message.removeprefix("Value error, ").removeprefix("Assertion failed, ").replace("Input", "the value")


def _kind(kind: str, message: str) -> str | None:
    """Return the kind of value that a finding asks for; None: it is about something else."""
    if kind == "literal_error":
        return message.removeprefix("Input should be ").replace("'", '"')
    return _KINDS.get(kind)


def _did_you_mean(key: str, whole: type[BaseModel]) -> str:
    """Return the known key that is meant: one of a like name in the same section, or of that name in another one."""
    from difflib import get_close_matches  # noqa: PLC0415 - only an error needs it

    *sections, name = key.split(".")
    model: Any = whole
    for section in sections:
        model = _section_of(model.model_fields[section].annotation) if section in model.model_fields else None
        if model is None:
            return ""
    found = get_close_matches(name, model.model_fields, n=1, cutoff=0.85)
    if not found and (elsewhere := next((each for each in _keys_of(whole) if each.endswith(f".{name}")), None)):
        return f"; did you mean {_shown(elsewhere, whole)}?"
    found = found or get_close_matches(name, model.model_fields, n=1)
    return f"; did you mean {_shown('.'.join([*sections, *found]), whole)}?" if found else ""


def _keys_of(whole: type[BaseModel]) -> Iterator[str]:
    for section, field in whole.model_fields.items():
        yield from (f"{section}.{name}" for name in getattr(_section_of(field.annotation), "model_fields", {}))


def _shown(key: str, whole: type[BaseModel]) -> str:
    """Return a key as a batch file spells it: a table in brackets."""
    model: Any = whole
    annotation: Any = None
    for name in key.split("."):
        annotation = model.model_fields[name].annotation
        model = _section_of(annotation)
    is_table = model is not None or any(get_origin(each) is dict for each in (annotation, *get_args(annotation)))
    return f"[{key}]" if is_table else key
