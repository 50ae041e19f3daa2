"""Jobs with inputs, and the check of an Actor whose input schema is known."""

from hashlib import sha256
from typing import Any

from batchrun.model import BadLine, Job, JobKey, Position, RunOptions, write_json
from batchrun.preflight.builds import Build
from batchrun.preflight.input_checks import JobCheck
from batchrun.preflight.input_schema import InputSchema

SCHEMA = InputSchema(
    {
        "properties": {
            "maxPages": {"type": "integer", "minimum": 1, "default": 3},
            "mode": {"type": "string", "enum": ["a", "b"]},
            "proxy": {"type": "object"},
        },
        "required": ["mode"],
    }
)
BUILD = Build(
    asked="latest",
    number="0.1.2",
    schema=SCHEMA,
    min_memory_mb=256,
    max_memory_mb=4096,
    default_memory_mb=1024,
    tags={"latest": "b1", "same": "b1", "beta": "b2"},
)


def check_of(task_input: dict[str, Any] | None = None, known: Build = BUILD, **options: Any) -> JobCheck:
    return JobCheck(task_input=task_input or {}, build=known, options=RunOptions(**options), account_memory_mb=8192)


def job_with(
    line: int, override: dict[str, Any], *, key: str | None = None, group: str | None = None, **options: Any
) -> Job:
    body = write_json(override)
    digest = sha256(body).digest()[:16]
    return Job(
        key=JobKey(key or digest.hex()),
        digest=digest,
        position=Position(line=line, offset=0, length=1),
        body=body,
        options=RunOptions(**options) if options else None,
        group=group,
    )


def unread_line(line: int, reason: str) -> BadLine:
    return BadLine(position=Position(line=line, offset=0, length=1), reason=reason, content="")
