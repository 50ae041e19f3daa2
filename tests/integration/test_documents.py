"""The README and the pages of `batchrun help`: each command in them runs, in their order, as a reader types it."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from batchrun.config import Config
from batchrun.config.batch_config import PATHS
from batchrun.config.worker_config import WorkerConfig
from batchrun.server import load_faults
from tests.support.command_line import batchrun, serving
from tests.support.forked import start
from tests.support.log_stores import free_port

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "batchrun/docs"
PAGES = {"README": ROOT / "README.md", **{page.stem: page for page in sorted(DOCS.glob("*.md"))}}
TOKEN = "token-of-you"
#: First words of lines that no test can run, each with the reason.
NOT_RUN = {
    ". .venv/bin/activate": "the shell of a person",
    "export APIFY_TOKEN=…": "a token of the reader",
    "batchrun actors install": "needs a network; test_own_actors installs from a directory",
    "batchrun --install-completion": "changes the user's shell; test_command_line does it in another home",
}
#: Exit codes of commands that do not succeed, as the page says.
CODES = {
    "batchrun notify shop.toml --test": 2,  # it names nobody
    "batchrun worker notify --test": 2,  # no worker runs
    "batchrun retry shop.out --tripped": 2,  # the breaker has not tripped
}
#: Verbs that go on until they are stopped, and the file that they write once they serve.
SERVING = {"worker start": "worker/address", "serve": ".batchrun/token"}
#: Verbs whose exit code tells whether all jobs succeeded.
RUNNING = {"run", "retry"}


def blocks(page: str, kind: str) -> list[str]:
    """Return the code blocks of a kind on a page."""
    return re.findall(rf"```{kind}\n(.*?)```", PAGES[page].read_text("utf-8"), re.DOTALL)


def commands(page: str) -> list[str]:
    """Return the command lines of a page, without comments."""
    text = "".join(blocks(page, "sh")).replace("\\\n", " ")
    for port in set(re.findall(r"--port (\d+)", text)):
        text = text.replace(port, str(free_port()))
    lines = (re.sub(r"\s+#\s.*|\s+\(.*\)$", "", line).strip() for line in text.splitlines())
    return [" ".join(line.split()) if line.startswith("batchrun") else line for line in lines if line]


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a person whose account has the task you/your-task."""
    directory = tmp_path_factory.mktemp("platform")
    accounts = directory / "accounts"
    accounts.write_text(f"you={TOKEN}\n")
    with serving(directory / "state", "t", "--account-file", str(accounts)) as base_url:
        # A new account has no usage that would show the price of a compute unit.
        environ = {"APIFY_TOKEN": TOKEN, "BATCHRUN_API__BASE_URL": base_url, "BATCHRUN_LIMITS__COMPUTE_UNIT_USD": "0.4"}
        made = batchrun(
            *("task", "create", "--actor", "batchrun/page-scraper", "--name", "your-task", "--timeout-s", "60"),
            *("--input", '{"startUrls": ["/demo/"], "maxRequestsPerCrawl": 1}', "--memory-mb", "256"),
            cwd=directory,
            environ=environ,
        )
        assert made.code == 0, made
        yield environ


def write_files(directory: Path, environ: dict[str, str], *, with_batch: bool) -> None:
    """Write the files that the pages name; `with_batch`, also shop.out, of a batch with a job that fails."""
    pages = f"{environ['BATCHRUN_API__BASE_URL']}/demo"
    shutil.copytree(ROOT / "configs", directory / "configs")
    quickstart = directory / "configs/quickstart.csv"
    quickstart.write_text("".join(quickstart.read_text().splitlines(keepends=True)[:4]))
    (directory / "products.csv").write_text(
        f"SKU,Product URL,Country,Max Pages\na1,{pages}/abc.html,de,1\na2,{pages}/re.html,us,1\n"
    )
    (directory / "inputs.jsonl").write_text('{"startUrls": ["/demo/ast.html"]}\n')
    (directory / "people.jsonl").write_text('{"name": "Ann"}\n')
    (directory / "shop.csv").write_text("id,page,country\na1,abc.html,de\na2,nope.html,de\n")
    (directory / "shop.toml").write_text(
        '[task]\nid = "you~your-task"\n[jobs]\nfile = "shop.csv"\nkey = "{{id}}"\ngroup = "{{country}}"\n'
        '[jobs.template]\nstartUrls = ["/demo/{{page}}"]\n[retry]\nmax_attempts = 1\n'
    )
    if with_batch:
        assert batchrun("run", "shop.toml", cwd=directory, environ=environ).code == 1


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_every_command_of_a_page_runs(page, tmp_path, environ):
    """Each line of each `sh` block, one after the other, in one directory, with the exit code that the page says."""
    lines, environ = commands(page), dict(environ)
    write_files(tmp_path, environ, with_batch=any("shop.out" in line for line in lines))
    with ExitStack() as serving_verbs:
        for line in lines:
            if any(line.startswith(begin) for begin in NOT_RUN):
                continue
            if found := re.fullmatch(r"export (\w+)=\$\(cat (.*)\)", line):
                environ[found[1]] = (tmp_path / found[2]).read_text().strip()
            elif line.startswith("batchrun "):
                serving_verbs.enter_context(ran(line, tmp_path, environ))
            else:
                in_a_shell(line, tmp_path, environ)


class ran:  # noqa: N801 - it reads as a verb
    """Run a command line to its end, or, of a verb that serves, until the page is at its end."""

    def __init__(self, line: str, directory: Path, environ: dict[str, str]) -> None:
        line, _, self._target = line.partition(" > ")
        self._line, self._directory, self._environ = line, directory, environ
        self._process: Any = None

    def __enter__(self) -> None:
        words = shlex.split(self._line)[1:]
        ready = next((file for verb, file in SERVING.items() if " ".join(words).startswith(verb)), None)
        if ready is not None:
            self._serve(words, self._directory / (f"{words[words.index('--data') + 1]}/{Path(ready).name}"
                                                  if "--data" in words else ready))  # fmt: skip
            return
        said = batchrun(*words, cwd=self._directory, environ=self._environ)
        allowed = {CODES.get(self._line, 0)} | ({0, 1} if words[0] in RUNNING and self._line not in CODES else set())
        assert said.code in allowed, (self._line, said)
        if self._target:
            (self._directory / self._target).write_text(said.out)

    def _serve(self, words: list[str], ready: Path) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("APIFY_", "BATCHRUN_"))}
        environ["BATCHRUN_WORKER__PORT"] = "0"
        ready.unlink(missing_ok=True)
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self._process = start("batchrun", *words, cwd=self._directory, environ=environ, **streams)  # type: ignore[arg-type]
        assert self._process.stdout is not None
        address = self._process.stdout.readline()
        assert address.startswith("http://127.0.0.1:"), (self._line, address)
        assert ready.exists()

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            with self._process.stdout as rest:
                rest.read()
            assert self._process.wait(60) in (0, -signal.SIGTERM)  # which may come before it is expected


def in_a_shell(line: str, directory: Path, environ: dict[str, str]) -> None:
    """Run a line that is not batchrun's, if its program is there."""
    if shutil.which(line.split(maxsplit=1)[0]) is None:
        return
    done = subprocess.run(
        ["bash", "-ec", line], cwd=directory, env={**os.environ, **environ}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (line, done)


def test_the_readme_is_short():
    """At most 2,000 words, tables and code included."""
    assert len(PAGES["README"].read_text("utf-8").split()) <= 2000


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_links_to_is_there(page):
    """Files and pictures; a picture is a small PNG; what `batchrun help` is said to show is a page."""
    text = PAGES[page].read_text("utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        file = PAGES[page].parent / target
        assert file.exists(), target
        if file.suffix == ".png":
            assert file.read_bytes()[:4] == b"\x89PNG"
            assert file.stat().st_size < 150_000
    for topic in re.findall(r"`batchrun help ([a-z-]+)`", text):
        assert topic in PAGES, topic


def test_every_page_is_in_the_readme_and_shown_by_help(tmp_path):
    """As it is, where stdout is no terminal; the list of pages has them all."""
    readme = PAGES["README"].read_text("utf-8")
    listed = batchrun("help", cwd=tmp_path).out
    for name in PAGES.keys() - {"README"}:
        assert f"(batchrun/docs/{name}.md)" in readme
        assert f"  {name} " in listed
    shown = batchrun("help", "promise", cwd=tmp_path)
    assert (shown.code, shown.out) == (0, PAGES["promise"].read_text("utf-8"))


def test_help_of_a_verb_is_that_of_its_flag(tmp_path):
    """And what is neither a page nor a verb is named with what is meant."""
    assert batchrun("help", "worker", "list", cwd=tmp_path) == batchrun("worker", "list", "-h", cwd=tmp_path)
    unknown = batchrun("help", "retyr", cwd=tmp_path)
    assert (unknown.code, "did you mean 'retry'?" in unknown.err) == (2, True), unknown


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "toml")])
def test_every_configuration_of_a_page_is_valid(page, tmp_path):
    """With a task and a job file, where it has none."""
    for block in blocks(page, "toml"):
        values = tomllib.loads(block)
        if "fault" in values:
            (tmp_path / "faults.toml").write_text(block)
            load_faults(tmp_path / "faults.toml")
            continue
        if "worker" in values:
            WorkerConfig.model_validate(values)
            continue
        values["jobs"] = {**values.get("jobs", {}), "file": Path("jobs.csv")}
        values.setdefault("task", {"id": "task"})
        for section, name in (key.split(".") for key in PATHS):
            if isinstance(given := values.get(section, {}).get(name), str):
                values[section][name] = Path(given)
        Config.model_validate(values)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_a_completion_script(shell, tmp_path):
    """Which asks batchrun itself."""
    environ = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    said = batchrun("--show-completion", shell, cwd=tmp_path, environ=environ)
    assert said.code == 0, said
    assert "_BATCHRUN_COMPLETE=complete_" in said.out
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=said.out, text=True, check=True)


def test_verbs_and_flags_are_completed(tmp_path):
    """As the script for bash asks for them, in a process of its own."""
    for line, expected in (("batchrun re", {"report", "retry", "resolve", "repair"}), ("batchrun cost --c", {"--csv"})):
        asked = {"_BATCHRUN_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        done = subprocess.run(
            [sys.executable, "-m", "batchrun"],
            cwd=tmp_path,
            env={**os.environ, **asked, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert set(done.stdout.split()) == expected, done


def test_one_command_installs_the_completion(tmp_path):
    """For the shell of the user, in the user's home."""
    environ = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    said = batchrun("--install-completion", "bash", cwd=tmp_path, environ=environ)
    assert said.code == 0, said
    assert (tmp_path / ".bash_completions/batchrun.sh").exists()
    assert "batchrun.sh" in (tmp_path / ".bashrc").read_text()
