"""From a row to its jobs: fields of ours, template, constants, matrix, key, merge.

What a format asks for is compiled once, by `JobMaker`; a row without template and matrix takes a short way.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import product
from typing import Any

import orjson

from batchrun.errors import ConfigError, JobFileError
from batchrun.jobs.at_fields import FIELDS, NO_FIELDS, OwnFields, check_group, check_key, take_fields, unknown_field
from batchrun.jobs.job_format import JobFormat
from batchrun.jobs.rows import NotAJob, Row, bad_line
from batchrun.jobs.template import DROPPED, Cells, Template, as_text
from batchrun.model import BadLine, Job, JobKey, JsonObject, Position

#: What the API takes as input at most.
MAX_BODY_BYTES = 9_437_184
#: Jobs of one line are made together.
MAX_COMBINATIONS = 100_000

_TOO_DEEP = "is nested deeper than 254 levels; flatten it"


class JobMaker:
    """Makes jobs of rows.

    Args:
        job_format: what to make.
        columns: the columns of a CSV file; None where each row has properties of its own.

    Raises:
        ConfigError: A template, the matrix or the constants cannot be used.
        JobFileError: A column of the file has a name it must not have.
    """

    def __init__(self, job_format: JobFormat, columns: tuple[str, ...] | None) -> None:
        self._are_cells = columns is not None
        self._constants = check_json(job_format.constants, "input")
        self._combinations = _combinations(check_json(dict(job_format.matrix), "jobs.matrix"))
        self._template = (
            None
            if job_format.template is None
            else Template(check_json(job_format.template, "jobs.template"), "jobs.template")
        )
        self._has_template_fields = any(name[:1] == "@" for name in job_format.template or ())
        self._key = None if job_format.key is None else Template(job_format.key, "jobs.key")
        self._group = None if job_format.group is None else Template(job_format.group, "jobs.group")
        self._meta = job_format.meta
        self._under = _under(job_format)
        self._check_own_names(job_format)
        if columns is not None:
            self._check_columns(columns, job_format)
        if self._key is not None:
            _check_key_covers(self._key, job_format)

    @property
    def jobs_per_row(self) -> int:
        """How many jobs each good row gives."""
        return len(self._combinations) or 1

    def make(self, row: Row) -> list[Job] | list[BadLine]:
        """Return the jobs of a row, at least one, or the one BadLine that reports it."""
        try:
            return self.jobs(row)
        except NotAJob as bad:
            return [bad_line(row, str(bad))]

    def jobs(self, row: Row) -> list[Job]:
        """Return the jobs of a row, one for each combination of the matrix.

        Raises:
            NotAJob: It gives none; if one combination cannot be made, none is.
        """
        if row.data is None:
            raise NotAJob(row.problem)
        try:
            fields = take_fields(row.data, are_cells=self._are_cells)
            if not self._combinations:
                return [self._job(row.position, row.data, fields, "")]
            return list(self._variants(row.position, row.data, fields))
        except orjson.JSONEncodeError as error:
            # It is TypeError by another name, and a bug of ours must not pass for a bad line.
            if "Recursion limit" not in str(error):
                raise
            raise NotAJob(_TOO_DEEP) from None

    def _variants(self, position: Position, data: JsonObject, fields: OwnFields) -> Iterator[Job]:
        for name in self._combinations[0][0]:
            if name in data:
                raise NotAJob(f"has a property {name!r}, which jobs.matrix gives too; rename one")
        for variant, (combination, suffix) in enumerate(self._combinations):
            yield self._job(replace(position, variant=variant), {**data, **combination}, fields, suffix)

    def _job(self, position: Position, cells: JsonObject, fields: OwnFields, suffix: str) -> Job:
        override: JsonObject = cells if self._template is None else self._template.fill(cells)
        if self._has_template_fields:
            fields = _over(take_fields(override), fields)
        if self._constants:
            override = {**self._constants, **override}
        digest = _digest(override, fields.options)
        body = orjson.dumps(override if self._under is None else deep_merge(self._under, override))
        if len(body) > MAX_BODY_BYTES:
            raise NotAJob(
                f"gives an input of {len(body):,} bytes; the API takes {MAX_BODY_BYTES:,} at most: "
                "put large content into a key-value store and pass its address"
            )
        return Job(
            key=self._job_key(cells, fields, suffix) or JobKey(digest.hex()),
            digest=digest,
            position=position,
            # Copied: what orjson returns keeps four kilobytes for itself, however short it is.
            body=bytes(memoryview(body)),
            options=fields.run_options,
            priority=fields.priority,
            group=fields.group or self._job_group(cells),
            meta=fields.meta if not self._meta else self._job_meta(cells, fields.meta),
        )

    def _job_key(self, cells: Cells, fields: OwnFields, suffix: str) -> JobKey | None:
        if fields.key is not None:
            return check_key(fields.key + suffix) if suffix else JobKey(fields.key)
        if self._key is None or (value := self._key.fill(cells)) is DROPPED:
            return None
        return check_key(as_text(value))

    def _job_group(self, cells: Cells) -> str | None:
        if self._group is None or (value := self._group.fill(cells)) is DROPPED:
            return None
        group = as_text(value)
        check_group(group)
        return group or None

    def _job_meta(self, cells: Cells, own: Any) -> Any:
        if own is not None and type(own) is not dict:
            raise NotAJob("@meta must be an object where jobs.meta copies columns, so that both have room")
        try:
            return {name: cells[name] for name in self._meta} | (own or {})
        except KeyError as missing:
            raise NotAJob(f"has no property {missing.args[0]!r}, which jobs.meta copies") from None

    def _templates(self) -> list[Template]:
        return [template for template in (self._template, self._key, self._group) if template is not None]

    def _check_own_names(self, job_format: JobFormat) -> None:
        for name in self._constants:
            if name[:1] == "@":
                raise ConfigError("only lines and templates have fields of ours", key=f"input.{name}")
        for name in job_format.matrix:
            if name[:1] == "@":
                problem = "use it through a template, like \"@options\" = { memory_mb = '{{memory_mb:int}}' }"
                raise ConfigError(problem, key=f"jobs.matrix.{name}")
        for name in job_format.template or ():
            if name[:1] == "@" and name not in FIELDS:
                raise ConfigError(unknown_field(name), key=f"jobs.template.{name}")

    def _check_columns(self, columns: tuple[str, ...], job_format: JobFormat) -> None:
        for name in columns:
            if name[:1] == "@" and name not in FIELDS:
                raise JobFileError(f"column {unknown_field(name)}", file=job_format.name, line=1)
            if name in job_format.matrix:
                problem = "the job file has a column of that name too; rename one"
                raise ConfigError(problem, key=f"jobs.matrix.{name}")
        known = [*(name for name in columns if name[:1] != "@"), *job_format.matrix]
        wanted = {name: key for template in self._templates() for name, key in template.columns.items()}
        wanted |= dict.fromkeys(self._meta, "jobs.meta")
        for name, key in wanted.items():
            if name not in known:
                raise ConfigError(f"{job_format.name} has no column {name!r}; it has {', '.join(known)}", key=key)


def deep_merge(under: JsonObject, over: JsonObject) -> JsonObject:
    """Return `over` laid over `under`: objects are merged at every level, all else is replaced whole."""
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = deep_merge(below, value) if type(below) is dict and type(value) is dict else value
    return merged


def lost_fields(task_input: JsonObject, override: JsonObject) -> list[str]:
    """Return the task's properties that an override replaces by an object with fewer fields, at any level."""
    return [name for name, value in override.items() if _loses(task_input.get(name), value)]


def _loses(below: Any, over: Any) -> bool:
    if type(below) is not dict or type(over) is not dict:
        return False
    return any(name not in over or _loses(value, over[name]) for name, value in below.items())


def check_json(value: Any, key: str) -> Any:
    """Return a value of the configuration as JSON has it: dates become strings.

    Raises:
        ConfigError: JSON cannot hold it.
    """
    for leaf_key, leaf in _leaves(value, key):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise ConfigError("JSON has no infinity and no NaN", key=leaf_key)
    try:
        return orjson.loads(orjson.dumps(value))
    except (orjson.JSONEncodeError, orjson.JSONDecodeError) as error:
        raise ConfigError(f"JSON cannot hold it: {error}", key=key) from None


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, f"{key}.{name}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _leaves(part, f"{key}.{index}")
    else:
        yield key, value


def _digest(override: JsonObject, options: JsonObject) -> bytes:
    content = orjson.dumps(override, option=orjson.OPT_SORT_KEYS)
    if options:
        # A line end cannot stand in compact JSON, so that no override reads like another with options.
        content += b"\n" + orjson.dumps(options, option=orjson.OPT_SORT_KEYS)
    return sha256(content).digest()[:16]


def _over(upper: OwnFields, lower: OwnFields) -> OwnFields:
    """Lay the fields that a template gave over those of the line itself."""
    if lower is NO_FIELDS:
        return upper
    return OwnFields(
        key=lower.key if upper.key is None else upper.key,
        options=lower.options | upper.options,
        priority=upper.priority or lower.priority,
        group=lower.group if upper.group is None else upper.group,
        meta=lower.meta if upper.meta is None else upper.meta,
    )


def _under(job_format: JobFormat) -> JsonObject | None:
    if job_format.merge == "shallow":
        return None
    if job_format.task_input is None:
        raise ConfigError('"deep" needs the input of the task, which is not known', key="jobs.merge")
    return job_format.task_input


def _combinations(matrix: JsonObject) -> list[tuple[JsonObject, str]]:
    """Return every combination with the suffix that tells its keys apart; none without a matrix."""
    for name, values in matrix.items():
        if not isinstance(values, list) or not values:
            raise ConfigError("must be a list with one value at least", key=f"jobs.matrix.{name}")
    count = math.prod(len(values) for values in matrix.values())
    if count > MAX_COMBINATIONS:
        raise ConfigError(f"gives {count:,} jobs for each line; {MAX_COMBINATIONS:,} are the most", key="jobs.matrix")
    if not matrix:
        return []
    combinations = (dict(zip(matrix, values, strict=True)) for values in product(*matrix.values()))
    return [(combination, _suffix(combination)) for combination in combinations]


def _suffix(combination: JsonObject) -> str:
    return "/" + ",".join(f"{name}={as_text(value)}" for name, value in combination.items())


def _check_key_covers(key: Template, job_format: JobFormat) -> None:
    for name, values in job_format.matrix.items():
        if len(values) > 1 and name not in key.columns:
            problem = f"must name {{{{{name}}}}}, or the jobs that jobs.matrix makes of one line share a key"
            raise ConfigError(problem, key="jobs.key")
