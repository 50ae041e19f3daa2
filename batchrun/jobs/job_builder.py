"""From a row of a job file to its jobs: `@` fields, template, constants, matrix, job key, merge.

A job format is compiled once, by `JobBuilder`; a row without template and matrix takes a short way.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson

from batchrun.errors import ConfigError, JobFileError
from batchrun.jobs.at_fields import (
    AT_FIELDS,
    NO_AT_FIELDS,
    AtFields,
    check_group,
    take_at_fields,
    unknown_field,
)
from batchrun.jobs.job_format import JobFormat
from batchrun.jobs.job_key import check_key_covers, content_digest, key_of
from batchrun.jobs.matrix import combinations
from batchrun.jobs.merge import deep_merge
from batchrun.jobs.rows import NAMES_FIRST, NotAJob, Row, bad_line
from batchrun.jobs.template import DROPPED, Cells, Template, as_text
from batchrun.model import MAX_BODY_BYTES, BadLine, Job, JsonObject, Position, read_json, write_json

#: Properties of item lines that are batchrun's.
_ITEM_NAMES = ("_key", "_line", "_run", "_outcome", "_meta", "_own")
#: Max bytes of inputs and @meta that a matrix makes of one row: they are made together, in memory.
MAX_INPUTS_BYTES = 128 << 20
#: How many of them each property of the row counts as, for each of its jobs.
_PROPERTY_BYTES = 8
#: How deep orjson writes.
_TOO_DEEP = "is nested deeper than 254 levels; flatten it"


class JobBuilder:
    """Builds the jobs of each row; `columns` are those of a CSV file, None where rows may differ in their properties.

    `fits_rows` is False where most rows have another number of cells.

    Raises:
        ConfigError: A template, the matrix or the constants cannot be used.
        JobFileError: A column of the file has a name it must not have.
    """

    def __init__(self, job_format: JobFormat, columns: tuple[str, ...] | None, *, fits_rows: bool = True) -> None:
        self._are_cells = columns is not None
        self._empty = job_format.empty
        self._constants = check_json(job_format.constants, "input")
        self._combinations = combinations(check_json(dict(job_format.matrix), "jobs.matrix"))
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
        self._check_at_names(job_format)
        if columns is not None:
            self._check_columns(columns, job_format, fits_rows=fits_rows)
        if self._key is not None:
            check_key_covers(self._key, job_format)

    @property
    def empty_in_text(self) -> Counter[str]:
        """How often an empty cell was filled into a text, by the dotted key of the text."""
        templates = [each for each in (self._template, self._key, self._group) if each is not None]
        return sum((each.empty_in_text for each in templates), Counter())

    @property
    def jobs_per_row(self) -> int:
        """How many jobs each good row gives."""
        return len(self._combinations) or 1

    def build(self, row: Row) -> list[Job] | list[BadLine]:
        """Return the jobs of a row, at least one, or the one BadLine that reports it."""
        try:
            return self.jobs(row)
        except NotAJob as bad:
            return [bad_line(row, str(bad))]

    def jobs(self, row: Row) -> list[Job]:
        """Return the jobs of a row, one for each combination of the matrix.

        Raises:
            NotAJob: The row is no job, or one of its combinations is none.
        """
        if row.data is None:
            raise NotAJob(row.problem)
        data = row.data
        if self._empty:
            data = {name: "" if isinstance(cell, str) and cell in self._empty else cell for name, cell in data.items()}
        try:
            fields = take_at_fields(data, are_cells=self._are_cells)
            if not self._combinations:
                job = self._job(row.position, data, fields, "")
                _meta_bytes(job)
                return [job]
            return list(self._variants(row.position, data, fields))
        except orjson.JSONEncodeError as error:
            # orjson raises a TypeError by another name; a bug of ours must not pass for a bad line.
            if "Recursion limit" not in str(error):
                raise
            raise NotAJob(_TOO_DEEP) from None

    def _variants(self, position: Position, data: JsonObject, fields: AtFields) -> Iterator[Job]:
        for name in self._combinations[0].columns:
            if name in data:
                raise NotAJob(f"has a property {name!r}, which jobs.matrix sets too; rename one")
        left = MAX_INPUTS_BYTES
        for variant, (columns, key_suffix) in enumerate(self._combinations):
            job = self._job(replace(position, variant=variant), {**data, **columns}, fields, key_suffix)
            # The line itself is copied for each combination, also what a template leaves out.
            left -= len(job.body) + _meta_bytes(job) + _PROPERTY_BYTES * len(data)
            if left < 0:
                raise NotAJob(
                    f"gives jobs.matrix more than {MAX_INPUTS_BYTES >> 20} MB of inputs and @meta; put large content"
                    " into a key-value store and pass its address"
                )
            yield job

    def _job(self, position: Position, cells: JsonObject, fields: AtFields, key_suffix: str | None) -> Job:
        override: JsonObject = cells if self._template is None else self._template.fill(cells)
        if self._has_template_fields:
            fields = _over(take_at_fields(override), fields)
        if self._constants:
            override = {**self._constants, **override}
        digest = content_digest(override, fields.options)
        body = write_json(override if self._under is None else deep_merge(self._under, override))
        if len(body) > MAX_BODY_BYTES:
            raise NotAJob(
                f"gives an input of {len(body):,} bytes; the API takes {MAX_BODY_BYTES:,} at most: "
                "put large content into a key-value store and pass its address"
            )
        return Job(
            key=key_of(fields.key, key_suffix, self._key, cells, digest),
            digest=digest,
            position=position,
            # Copied: bytes from orjson keep a buffer of four kilobytes, however short they are.
            body=bytes(memoryview(body)),
            options=fields.run_options,
            priority=fields.priority,
            replaces=fields.replaces,
            group=fields.group or self._job_group(cells),
            meta=fields.meta if not self._meta else self._job_meta(cells, fields.meta),
        )

    def _job_group(self, cells: Cells) -> str | None:
        if self._group is None or (value := self._group.fill(cells)) is DROPPED:
            return None
        group = as_text(value)
        check_group(group)
        return group or None

    def _job_meta(self, cells: Cells, own: Any) -> Any:
        if own is not None and type(own) is not dict:
            raise NotAJob("@meta must be an object where jobs.meta is set: it receives the columns too")
        try:
            return {name: cells[name] for name in self._meta} | (own or {})
        except KeyError as missing:
            raise NotAJob(f"has no property {missing.args[0]!r}, which jobs.meta copies") from None

    def _check_at_names(self, job_format: JobFormat) -> None:
        for name in self._constants:
            if name[:1] == "@":
                raise ConfigError("must not begin with '@': lines and jobs.template have @ fields", key=f"input.{name}")
        for name in job_format.matrix:
            if name[:1] == "@":
                problem = "use it through a template, like \"@options\" = { memory_mb = '{{memory_mb:int}}' }"
                raise ConfigError(problem, key=f"jobs.matrix.{name}")
        for name in job_format.meta:
            if name in _ITEM_NAMES:
                raise ConfigError(f"{name!r} is a property of every item line; rename the column", key="jobs.meta")
        for name in job_format.template or ():
            if name[:1] == "@" and name not in AT_FIELDS:
                raise ConfigError(unknown_field(name), key=f"jobs.template.{name}")

    def _check_columns(self, columns: tuple[str, ...], job_format: JobFormat, *, fits_rows: bool) -> None:
        for name in columns:
            if name[:1] == "@" and name not in AT_FIELDS:
                raise JobFileError(f"column {unknown_field(name)}", file=job_format.name, line=1)
            if name in job_format.matrix:
                problem = "the job file has a column of that name too; rename one"
                raise ConfigError(problem, key=f"jobs.matrix.{name}")
        known = [*(name for name in columns if name[:1] != "@"), *job_format.matrix]
        templates = [each for each in (self._template, self._key, self._group) if each is not None]
        wanted = {name: key for template in templates for name, key in template.columns.items()}
        wanted |= dict.fromkeys(self._meta, "jobs.meta")
        for name, key in wanted.items():
            if name not in known:
                advice = "" if fits_rows else f"; {NAMES_FIRST}"
                problem = f"{job_format.name} has no column {name!r}; it has {_visibly(known)}{advice}"
                raise ConfigError(problem, key=key)


def _meta_bytes(job: Job) -> int:
    """Return how many bytes a job's meta takes; raise orjson's error if it is nested too deep."""
    return 0 if job.meta is None else len(write_json(job.meta))


def _visibly(names: list[str]) -> str:
    return ", ".join(name if name.isprintable() else repr(name) for name in names)


def check_json(value: Any, key: str) -> Any:
    """Return a value of the configuration as JSON reads it back: dates become strings.

    Raises:
        ConfigError: It cannot be written as JSON.
    """
    for leaf_key, leaf in _leaves(value, key):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise ConfigError("must be finite: JSON has no infinity and no NaN", key=leaf_key)
    try:
        return read_json(write_json(value))
    except (orjson.JSONEncodeError, orjson.JSONDecodeError) as error:
        raise ConfigError(f"cannot be written as JSON: {error}", key=key) from None


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, f"{key}.{name}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _leaves(part, f"{key}.{index}")
    else:
        yield key, value


def _over(upper: AtFields, lower: AtFields) -> AtFields:
    """Return the fields of the template, with those of the line where the template gives none."""
    if lower is NO_AT_FIELDS:
        return upper
    return AtFields(
        key=lower.key if upper.key is None else upper.key,
        options=lower.options | upper.options,
        priority=upper.priority or lower.priority,
        replaces=upper.replaces or lower.replaces,
        group=lower.group if upper.group is None else upper.group,
        meta=lower.meta if upper.meta is None else upper.meta,
    )


def _under(job_format: JobFormat) -> JsonObject | None:
    if job_format.merge == "shallow":
        return None
    if job_format.task_input is None:
        raise ConfigError('"deep" needs the input of the task, which is unknown', key="jobs.merge")
    return job_format.task_input
