"""What the documentation says is true: commands, flags, keys, exit codes, examples."""

import inspect
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
import typer.main
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel

from batchrun.cli.examples import EXAMPLES
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.main import app
from batchrun.config import Config, load_config
from batchrun.config.worker_config import FILE_NAME, WorkerConfig, load_worker_config
from batchrun.version import __version__
from tests.support.command_line import batchrun, serving
from tests.support.patience import impatient_python

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = {page.stem: page.read_text("utf-8") for page in (ROOT / "batchrun/docs").glob("*.md")}
DOCUMENTS = "\n".join([README, *PAGES.values()])
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
#: Files in configs/ that are not the configuration of a batch.
NO_BATCHES = {
    "faults.toml": "faults of the embedded server; tested with the server",
    "worker.toml": "configuration of a worker; tested below",
}


def _commands() -> dict[str, set[str]]:
    """Return every command's flags."""

    def walk(command: Any, name: str) -> dict[str, set[str]]:
        flags = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        found = {name: flags}
        for sub_name, sub in getattr(command, "commands", {}).items():
            found |= walk(sub, f"{name} {sub_name}".strip())
        return found

    return walk(typer.main.get_command(app), "")


def _keys(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Return every dotted configuration key with its default."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        section = next((each for each in (field.annotation, *get_args(field.annotation)) if _is_section(each)), None)
        if section is not None and prefix == "":
            found |= _keys(section, f"{name}.")
        else:
            found[prefix + name] = field.default
    return found


def _is_section(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, BaseModel)


def test_every_command_of_the_documents_exists():
    """Each `batchrun …` in a code block or in the text names an existing command and existing flags."""
    commands = _commands()
    text = DOCUMENTS.replace("\\\n", " ")
    blocks = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"^    .*\n", text, re.MULTILINE))
    lines = re.findall(r"(?:^|[ /])batchrun ([^#\n]*)", blocks, re.MULTILINE) + re.findall(
        r"`batchrun ([^`\n]*)`", text
    )
    assert len(lines) >= 60
    for line in lines:
        words = [word for word in line.replace("|", " ").split() if word not in ("BATCH.toml", "DIR")]
        if words[0].startswith("-"):
            continue
        name = " ".join(words[:2]) if " ".join(words[:2]) in commands else words[0]
        assert name in commands, line
        flags = {word for word in words if word.startswith("--")}
        assert flags <= commands[name], line


def test_every_command_has_examples_that_exist():
    """Each names the command itself, existing flags, and fits a terminal of 80 columns."""
    commands = _commands()
    assert set(EXAMPLES) == {name for name in commands if name not in ("", "actors", "task", "worker")}
    for name, lines in EXAMPLES.items():
        for line in lines:
            assert line.startswith(f"batchrun {name}"), line
            assert {word for word in line.split() if word.startswith("--")} <= commands[name], line
            assert len(line) <= 78


def test_help_has_a_short_flag_and_ends_with_examples(tmp_path):
    """Of a command and of one within a group."""
    for verb in (["retry"], ["worker", "submit"]):
        said = batchrun(*verb, "-h", cwd=tmp_path)
        assert said.code == 0, said
        lines = [line.strip() for line in said.out.splitlines() if line.strip()]
        examples = EXAMPLES[" ".join(verb)]
        assert tuple(lines[-len(examples) - 1 :]) == ("Examples:", *examples)


def test_every_command_is_in_the_readme():
    """The table of commands is complete."""
    table = README[README.index("## What each verb does") :]
    for name in _commands():
        assert f"batchrun {name.split()[0] if name else 'run'}" in table


def test_the_readme_lists_every_exit_code():
    """The table lists each exit code once."""
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)]
    assert codes == sorted(ExitCode)


def test_every_key_named_in_the_documents_exists():
    """Dotted keys in the text are configuration keys."""
    keys = _keys(Config)
    named = set(re.findall(r"`((?:api|task|jobs|run|limits|retry|output|server)\.[a-z_]+)", DOCUMENTS))
    assert len(named) >= 20
    assert named <= set(keys)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_config_can_be_loaded(file):
    """Each TOML file of configs/ configures a batch, except those in NO_BATCHES."""
    if file.name in NO_BATCHES:
        pytest.skip(f"not a batch: {NO_BATCHES[file.name]}")
    assert load_config(file, environ={}).jobs.file.exists()


def _named_keys(text: str) -> tuple[dict[str, Any], set[str]]:
    """Return the dotted keys of a TOML file, and those that are commented out."""
    values, section = tomllib.loads(text), ""
    commented: set[str] = set()
    for line in text.splitlines():
        section = found[1] + "." if (found := re.match(r"\[(\w+)\]", line)) else section
        if found := re.match(r"# (\w+) = ", line):
            commented.add(section + found[1])
    return {f"{name}.{key}": value for name, table in values.items() for key, value in table.items()}, commented


def test_the_full_config_names_every_key_with_its_default():
    """Uncommented keys hold their default, commented ones have none; no key is missing."""
    text = (ROOT / "configs/full.toml").read_text("utf-8")
    given, commented = _named_keys(text)
    keys = _keys(Config)
    # Tables whose names are the user's own.
    free = {"input", *(key for key in keys if key.startswith("groups."))}
    assert set(given) | commented | free == set(keys)
    assert all(key.partition(".")[2] in text for key in free)
    needed = {"task.id", "jobs.file"}
    assert {key: value for key, value in given.items() if key not in needed} == {
        key: default for key, default in keys.items() if key in given and key not in needed
    }


def test_the_config_of_a_worker_can_be_loaded_and_names_every_key_with_its_default(tmp_path):
    """As it stands, and with its commented-out keys set."""
    text = (ROOT / "configs/worker.toml").read_text("utf-8")
    given, commented = _named_keys(text)
    keys = _keys(WorkerConfig)
    assert set(given) | commented == set(keys)
    assert given == {key: default for key, default in keys.items() if key in given}
    assert {keys[key] for key in commented} == {None}
    (tmp_path / FILE_NAME).write_text(text)
    assert load_worker_config(tmp_path, environ={}) == WorkerConfig()
    (tmp_path / FILE_NAME).write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    load_worker_config(tmp_path, environ={})


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_systemd_unit_is_accepted(tmp_path):
    """By systemd itself, with another program in place of the one to be installed."""
    text = (ROOT / "configs/batchrun-worker.service").read_text("utf-8")
    program = "/opt/batchrun/bin/batchrun"
    assert f"ExecStart={program} worker start --data /var/lib/batchrun\n" in text
    unit = tmp_path / "batchrun-worker.service"
    unit.write_text(text.replace(program, sys.executable))
    judged = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (judged.returncode, unit.name in judged.stderr) == (0, False), judged.stderr


def test_the_systemd_unit_waits_longer_than_the_worker_drains():
    """Otherwise systemd would kill the worker while it waits for its Runs."""
    text = (ROOT / "configs/batchrun-worker.service").read_text("utf-8")
    found = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert found is not None
    assert int(found[1]) > WorkerConfig().worker.drain_s


def test_the_lock_file_holds_what_the_container_needs():
    """Every dependency of the package, of two extras and of the build, in a version that fits, each with hashes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    needed = [*project["project"]["dependencies"], *extras["metrics"], *extras["otel"]]
    needed += project["build-system"]["requires"]
    entries = (ROOT / "configs/requirements.lock").read_text("utf-8").replace("\\\n", "").splitlines()[1:]
    locked = {}
    for entry in entries:
        ((name, version),) = re.findall(r"^([\w.-]+)==([\w.]+)", entry)
        locked[canonicalize_name(name)] = version
        assert re.search(r" --hash=sha256:[0-9a-f]{64}( |$)", entry), entry
        assert "://" not in entry
    for requirement in map(Requirement, needed):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_nothing_installs_a_strangers_package():
    """On the package index, `batchrun` is another project: instructions install the source directory."""
    package = (file for kind in ("*.py", "*.md") for file in (ROOT / "batchrun").rglob(kind))
    places = [ROOT / "README.md", *(ROOT / "configs").iterdir(), *package]
    for place in places:
        for command in re.findall(r"pip install ([^\n]*)", place.read_text("utf-8")):
            assert not re.search(r"(^|[\s'\"])batchrun(\[|[\s'\"=<>]|$)", command), (place, command)


def test_the_container_starts_the_worker_with_existing_flags():
    """As a user without privileges, on the port that its health check asks."""
    text = (ROOT / "configs/Containerfile").read_text("utf-8")
    found = re.search(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    assert found is not None
    program, *words = orjson.loads(found[1])
    assert program.endswith("/bin/batchrun")
    assert words[:2] == ["worker", "start"]
    assert {word for word in words if word.startswith("--")} <= _commands()["worker start"]
    assert f"127.0.0.1:{words[words.index('--port') + 1]}/health/live" in text
    assert text.index("\nUSER batchrun") < text.index("\nENTRYPOINT")


def test_the_containers_health_check_imports_nothing_from_its_volume(tmp_path):
    """Others may write to it, and what they put there would run as the worker's user."""
    text = (ROOT / "configs/Containerfile").read_text("utf-8")
    found = re.search(r"^HEALTHCHECK [^[]*CMD (.*)$", text, re.MULTILINE)
    assert found is not None
    _, *words = orjson.loads(found[1])
    (tmp_path / "urllib").mkdir()
    (tmp_path / "urllib/__init__.py").write_text("print('planted')")
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "", done


def test_the_python_example_runs(tmp_path):
    """It prints each job's key and outcome."""
    code = re.search(r"```python\n(.*?)```", PAGES["python"], re.DOTALL)
    assert code is not None
    (tmp_path / "jobs.jsonl").write_text('{"@key": "one"}\n{"@key": "two"}\n')
    with serving(tmp_path / "api", "t") as base_url:
        (tmp_path / "shop.toml").write_text(
            f'[api]\nbase_url = "{base_url}"\n[task]\nactor = "apify/hello-world"\nname = "hello"\n'
            '[jobs]\nfile = "jobs.jsonl"\n'
        )
        (tmp_path / "example.py").write_text(code[1])
        said = _python(tmp_path)
    lines = sorted(line.split()[:2] for line in said.splitlines() if "succeeded" in line)
    assert lines == [["one", "succeeded"], ["two", "succeeded"]]


def _python(directory: Path) -> str:
    done = subprocess.run(
        impatient_python("runpy.run_path('example.py', run_name='__main__')"),
        cwd=directory,
        env={"APIFY_TOKEN": "t", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_the_version_is_printed(tmp_path):
    """`--version` prints the version and nothing else."""
    assert batchrun("--version", cwd=tmp_path).out == f"{__version__}\n"
