"""Every command of `batchrun task`: its arguments, its help, and the function that carries it out.

A command imports that function when it runs, so that `--help` imports neither the engine nor HTTP.
"""

from typing import Annotated

import typer

from batchrun.cli.command_group import CommandGroup

app = typer.Typer(cls=CommandGroup, help="Create, read and run single tasks.", no_args_is_help=True)

Task = Annotated[str | None, typer.Option(help="Id of the task, or user~name.")]
#: The task without --task, as earlier versions took it.
BareTask = Annotated[str | None, typer.Argument(hidden=True)]
Input = Annotated[str | None, typer.Option("--input", help="Input as a JSON object, or @FILE with one.")]
Memory = Annotated[int | None, typer.Option(help="Memory of a Run, in MB.")]
Timeout = Annotated[int | None, typer.Option(help="Time limit of a Run, in seconds.")]
Build = Annotated[str | None, typer.Option(help="Tag or number of the Actor's build.")]
ApiUrl = Annotated[str | None, typer.Option(help="Address of the API.")]


@app.command("create")
def create(
    actor: Annotated[str, typer.Option(help="The Actor, like apify/hello-world.")],
    name: Annotated[str | None, typer.Option(help="The task's name; default: chosen by the platform.")] = None,
    input_json: Input = None,
    build: Build = None,
    memory_mb: Memory = None,
    timeout_s: Timeout = None,
    api_url: ApiUrl = None,
) -> None:
    """Create a task and print it."""
    from batchrun.cli.task_command import create_task
    from batchrun.model import RunOptions

    options = RunOptions(build=build, memory_mb=memory_mb, timeout_s=timeout_s)
    create_task(actor, options, name=name, input_json=input_json, api_url=api_url)


@app.command("get")
def get(bare_task: BareTask = None, task: Task = None, api_url: ApiUrl = None) -> None:
    """Print a task."""
    from batchrun.cli.task_command import print_task

    print_task(_given(task, bare_task), api_url=api_url)


@app.command("run")
def run(
    bare_task: BareTask = None,
    task: Task = None,
    input_json: Input = None,
    build: Build = None,
    memory_mb: Memory = None,
    timeout_s: Timeout = None,
    sync: Annotated[bool, typer.Option("--sync", help="Wait, at most 300 s, and print the OUTPUT value.")] = False,
    api_url: ApiUrl = None,
) -> None:
    """Start one Run of a task and print it; the start is never repeated."""
    from batchrun.cli.task_command import run_task
    from batchrun.model import RunOptions

    options = RunOptions(build=build, memory_mb=memory_mb, timeout_s=timeout_s)
    run_task(_given(task, bare_task), options, input_json=input_json, is_sync=sync, api_url=api_url)


def _given(task: str | None, bare_task: str | None) -> str:
    from batchrun.errors import ConfigError

    if (task is None) == (bare_task is None):
        raise ConfigError("give the task: --task user~name, or its id")
    return str(task or bare_task)
