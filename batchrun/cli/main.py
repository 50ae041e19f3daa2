"""The entry point: one Typer application; an error becomes one line and an exit code."""

import errno
import os
import sys
import traceback

import typer

from batchrun.cli import actors_command_line, command_line, task_command_line, worker_command_line
from batchrun.cli.command_group import CommandGroup
from batchrun.cli.exit_codes import ExitCode, exit_code_of
from batchrun.cli.terminal import say, say_text
from batchrun.errors import BatchrunError, first_error, is_out_of_memory, is_out_of_threads
from batchrun.runtime.lean_imports import import_help_leanly
from batchrun.version import __version__

app = typer.Typer(
    name="batchrun",
    cls=CommandGroup,
    help="Run a file of inputs as Apify task Runs: within limits, durable, never started twice.",
    epilog="`batchrun help` lists the pages of the documentation; `batchrun help VERB` is the help of a verb.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("init")(command_line.init)
app.command("help")(command_line.show_help)
app.command("run")(command_line.run)
app.command("plan")(command_line.plan)
app.command("notify")(command_line.notify)
app.command("status")(command_line.status)
app.command("failures")(command_line.failures)
app.command("report")(command_line.report)
app.command("export")(command_line.export)
app.command("retry")(command_line.retry)
app.command("cost")(command_line.cost)
app.command("abort")(command_line.abort)
app.command("resolve")(command_line.resolve)
app.command("repair")(command_line.repair)
app.command("audit")(command_line.audit)
app.command("pull")(command_line.pull)
app.command("schema")(command_line.schema)
app.command("serve")(command_line.serve)
app.add_typer(actors_command_line.app, name="actors")
app.add_typer(task_command_line.app, name="task")
app.add_typer(worker_command_line.app, name="worker")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Show the version."),
) -> None:
    """Take the options before a command."""


def main() -> None:
    """Run the command line; an error is one line on stderr and an exit code, never a traceback."""
    words = sys.argv[1:]
    _keep_only(words, app)
    if not {"-h", "--help", "help"}.isdisjoint(words):
        import_help_leanly()
    try:
        app(prog_name="batchrun")
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # The reader of our stdout is gone: discard what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.LOCAL_TROUBLE)
    except Exception as error:  # noqa: BLE001 - the top of the command line is one of the four boundaries
        sys.exit(_explain(error))


def _keep_only(words: list[str], group: typer.Typer) -> None:
    """Keep of a group only the command that the words name, if they do: typer builds all, with all their parameters."""
    name = next(iter(words), None)
    commands = [each for each in group.registered_commands if each.name == name]
    groups = [each for each in group.registered_groups if each.name == name]
    if not (commands or groups) or name == "help":  # which shows the help of the others
        return
    group.registered_commands, group.registered_groups = commands, groups
    for each in groups:
        if each.typer_instance is not None:
            _keep_only(words[1:], each.typer_instance)


def _explain(error: Exception) -> ExitCode:
    if isinstance(error, ExceptionGroup) and error.subgroup(BatchrunError) is not None:
        error = first_error(error)
    if isinstance(error, BatchrunError):
        say_text(f"batchrun: {error}")
        return exit_code_of(error)
    if is_out_of_memory(error):
        say(
            "batchrun: this process is out of memory. Nothing in the ledger is lost: run the same command to resume,"
            " with more memory or with less for output in transit (--set limits.max_buffer_mb=64)"
        )
        return ExitCode.LOCAL_TROUBLE
    if is_out_of_threads(error):
        say(
            "batchrun: this process may start no further thread. Nothing in the ledger is lost: raise the limit"
            " (ulimit -u, or TasksMax of a systemd unit), and run the same command to resume"
        )
        return ExitCode.LOCAL_TROUBLE
    if isinstance(error, PermissionError) and error.filename is not None:
        say(f"batchrun: {error.filename}: {error.strerror}; run this as the user whom it belongs to")
        return ExitCode.LOCAL_TROUBLE
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EPIPE):
        say(f"batchrun: {error.strerror}")
        return ExitCode.LOCAL_TROUBLE
    say(
        f"batchrun: a bug in batchrun: {type(error).__name__}: {error}. Nothing in the ledger is lost: run the same"
        " command to resume. Please report this, with the traceback that BATCHRUN_DEBUG=1 shows"
    )
    if os.environ.get("BATCHRUN_DEBUG"):
        traceback.print_exception(error)
    return ExitCode.LOCAL_TROUBLE
