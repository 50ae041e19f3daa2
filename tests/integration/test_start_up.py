"""What the command line imports: little before a verb does its work, so that it answers at once."""

import subprocess
import sys

import pytest

from batchrun.cli.main import app
from batchrun.ledger.sqlite.tables import open_ledger

#: Packages of others that `--version` needs.
FOR_VERSION = {"annotated_doc", "shellingham", "typer"}
#: Packages of others that help needs: typer prints it with rich, which needs no more for what has no Markdown.
FOR_HELP = FOR_VERSION | {"rich"}
#: Packages of others that `status` needs.
FOR_STATUS = FOR_VERSION | {"anyio", "orjson"}
#: Packages of others that `run` needs before it asks the platform for the first time.
FOR_RUN = FOR_STATUS | {
    *("annotated_types", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection"),
    *("aiohappyeyeballs", "aiohttp", "aiosignal", "attr", "brotli", "frozenlist", "idna", "multidict", "propcache"),
    *("colorama", "cython_runtime", "sniffio", "structlog", "uvloop", "yarl", "zstandard"),
}
#: Our own modules that help needs.
OWN_FOR_HELP = {
    *(
        "batchrun",
        "batchrun.cli",
        "batchrun.cli.actors_command_line",
        "batchrun.cli.command_group",
        "batchrun.cli.examples",
        "batchrun.cli.exit_codes",
        "batchrun.cli.main",
        "batchrun.cli.retry_options",
        "batchrun.cli.secret_file",
        "batchrun.cli.task_command_line",
    ),
    *("batchrun.cli.terminal", "batchrun.cli.command_line", "batchrun.cli.worker_command_line", "batchrun.errors"),
    *("batchrun.runtime", "batchrun.runtime.lean_imports"),
    *("batchrun.words", "batchrun.words.terminal_text", "batchrun.version"),
}
#: Runs command lines, one after another, and prints the names of all modules that were imported for them.
PROBE = """
import sys
before = set(sys.modules)
from batchrun.cli.main import app, main
for arguments in eval(sys.argv[1]):
    groups = [(group, vars(group).copy()) for group in (app, *(each.typer_instance for each in app.registered_groups))]
    sys.argv = ["batchrun", *arguments]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 0, arguments
    for group, registered in groups:  # main keeps only the command that is run
        vars(group).update(registered)
print("imported:", *sorted(set(sys.modules) - before), sep="\\n", file=sys.stderr)
"""


def _verbs() -> list[list[str]]:
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    single = [[str(command.name)] for command in app.registered_commands]
    grouped = [
        [str(name), str(command.name)]
        for name, typer in groups.items()
        if typer is not None
        for command in typer.registered_commands
    ]
    return [*single, *grouped]


def _imports_of(*command_lines: list[str]) -> tuple[set[str], set[str]]:
    """Return what a process imports for command lines: packages of others, and modules of ours."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, repr(command_lines)], capture_output=True, text=True, timeout=60, check=True
    )
    names = set(done.stderr.partition("imported:\n")[2].split())
    own = {name for name in names if name.partition(".")[0] == "batchrun"}
    others = {name.partition(".")[0] for name in names - own if not name.startswith("_sysconfigdata")}
    return others - sys.stdlib_module_names, own


def test_the_version_is_shown_without_importing_what_does_the_work():
    """It needs the tree of verbs, nothing behind it, and nothing that prints help."""
    others, own = _imports_of(["--version"])
    assert others <= FOR_VERSION
    assert own == OWN_FOR_HELP


def test_help_is_shown_without_importing_what_does_the_work():
    """Help of every verb needs neither the engine nor HTTP, nor the configuration, nor a database."""
    verbs = _verbs()
    assert ["run"] in verbs
    assert ["worker", "list"] in verbs
    others, own = _imports_of(["--help"], *([*verb, "--help"] for verb in verbs))
    assert {"rich"} <= others <= FOR_HELP
    assert own == OWN_FOR_HELP


@pytest.mark.parametrize("words", [["run", "-h"], ["help", "worker", "list"]])
def test_help_asked_for_in_other_words_imports_no_more(words: list[str]):
    """Typer imports Markdown and tracebacks with rich, whether help has any or not."""
    others, own = _imports_of(words)
    assert {"rich"} <= others <= FOR_HELP
    assert own - {"batchrun.cli.help_command"} == OWN_FOR_HELP


#: Runs a command line, and prints the names of the commands that typer builds for it.
BUILT = """
import sys
from typer.core import TyperCommand
from batchrun.cli.main import main
build = TyperCommand.__init__
def noted(command, *, name, **options):
    print(name, file=sys.stderr)
    build(command, name, **options)
TyperCommand.__init__ = noted
sys.argv = ["batchrun", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(("words", "built"), [(["schema"], ["schema"]), (["worker", "list", "--help"], ["list"])])
def test_only_the_command_that_is_run_is_built(words: list[str], built: list[str]):
    """Typer would build all of them, each with all its parameters."""
    done = subprocess.run([sys.executable, "-c", BUILT, *words], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.split() == built


#: Modules of the standard library that `run` can do without: for plugins of pydantic, for resources, for pages.
LEAN_WITHOUT = {"importlib.metadata", "importlib.resources", "html"}
#: Packages whose modules come after the first request: only the words and values of other modules are needed before.
LATE = ("batchrun.engine.", "batchrun.maintenance.", "batchrun.report.", "batchrun.words.")
#: Runs a batch on a platform of its own that prints, at the first request, what was imported until then, and ends all.
FIRST_REQUEST = """
import os, socket, sys, threading
platform = socket.create_server(("127.0.0.1", 0))
before = set(sys.modules)
def answer():
    platform.accept()[0].recv(1)
    print(*sorted(set(sys.modules) - before), sep="\\n", flush=True)
    os._exit(0)
threading.Thread(target=answer, daemon=True).start()
from batchrun.cli.main import app
url = f"http://127.0.0.1:{platform.getsockname()[1]}"
app(["run", "--task", "a~b", "--jobs", "jobs.jsonl", "--api-url", url])
"""


def test_a_batch_asks_the_platform_before_it_imports_what_comes_later(tmp_path):
    """Neither rich, which structlog would import, nor the server, nor the engine: they come when they are needed."""
    (tmp_path / "jobs.jsonl").write_text("{}\n")
    done = subprocess.run(
        [sys.executable, "-c", FIRST_REQUEST], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    names = set(done.stdout.split())
    own = {name for name in names if name.partition(".")[0] == "batchrun"}
    others = {name.partition(".")[0] for name in names - own if not name.startswith("_sysconfigdata")}
    assert {name for name in others if not name.startswith("_")} - sys.stdlib_module_names <= FOR_RUN
    assert not names & LEAN_WITHOUT
    assert not {name for name in own if name.startswith(("batchrun.server.", "batchrun.worker"))}
    assert {name for name in own if name.startswith(LATE)} <= {
        *("batchrun.engine.limits", "batchrun.engine.limits.batch_priorities"),
        *("batchrun.words.number_words", "batchrun.words.terminal_text"),
    }


#: Keeps eight worker threads busy at once, and prints by how many kilobytes they let the process's data grow.
THREADS = """
import threading
from pathlib import Path
import anyio
from batchrun.cli.event_loop import run_async
together = threading.Barrier(8)
def data_kb():
    return int(Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0])
async def work():
    before = data_kb()
    async with anyio.create_task_group() as children:
        for _ in range(8):
            children.start_soon(anyio.to_thread.run_sync, together.wait)
    print(data_kb() - before)
run_async(work)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows what a process may write to")
def test_worker_threads_take_little_of_a_memory_limit():
    """`ulimit -v` and `ulimit -d` count whole stacks, and there may be 40 worker threads at once."""
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) < 8 * 4096


def test_the_status_is_shown_without_logs_and_http(tmp_path):
    """It reads a ledger, and needs neither the log nor a loop, nor pydantic, with which typer converts arguments."""
    with open_ledger(tmp_path):
        pass
    others, _ = _imports_of(["status", str(tmp_path)])
    assert others <= FOR_STATUS
