"""The flags that select jobs to retry, of a directory and of a worker's batch."""

from typing import Annotated

import typer

Outcomes = Annotated[
    list[str] | None,
    typer.Option("--outcome", help="Only these outcomes: failed,timed_out; default: all but succeeded."),
]
ErrorTypes = Annotated[list[str] | None, typer.Option("--error", help="Only these error types, as in records.")]
Groups = Annotated[list[str] | None, typer.Option("--group", help="Only jobs of these groups.")]
Keys = Annotated[list[str] | None, typer.Option("--key", help="Only these jobs; repeatable, not split at commas.")]
FailureIds = Annotated[
    list[str] | None, typer.Option("--failure", help="Only these causes: ids from `batchrun failures`.")
]
Tripped = Annotated[bool, typer.Option("--tripped", help="Only the jobs that tripped the breaker.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be retried; start nothing.")]
