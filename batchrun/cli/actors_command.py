"""`batchrun actors`: directories of Actors, new ones and what they need."""

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from batchrun.cli.actor_template import LANGUAGES, actor_files
from batchrun.cli.terminal import say
from batchrun.errors import ConfigError, OutputError
from batchrun.runtime.shell_command import shell_command
from batchrun.server.catalog.actor_catalog import actor_folders
from batchrun.server.error_answers import ErrorAnswer
from batchrun.server.names import check_name
from batchrun.server.runs.process_groups import hide_own_environment

#: How names of variables begin that may hold a secret of ours. A package runs its own scripts when it is installed.
_SECRETS = ("APIFY_TOKEN", "APIFY_PROXY_PASSWORD", "BATCHRUN_", "NATS_")


def make_actor(name: str, language: str) -> None:
    """Make an Actor's directory in the current one.

    Raises:
        ConfigError: the name cannot be an Actor's, or there is no template in this language.
        OutputError: there is such a file or directory already, or it cannot be written.
    """
    if language not in LANGUAGES:
        raise ConfigError(f"there is no Actor in {language!r} to begin with: --lang takes {' or '.join(LANGUAGES)}")
    try:
        check_name(name, "Actor")
    except ErrorAnswer as error:
        raise ConfigError(f"this cannot be an Actor's name: {error.message}") from None
    folder = Path(name)
    try:
        folder.mkdir()
        for path, text in actor_files(name, language).items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text, "utf-8")
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}") from error
    say(f"{folder} is an Actor. Install its packages, and run it once per line of a job file:")
    say(f"  {shell_command('batchrun', 'actors', 'install', name)}")
    jobs, out = f"{name}/example.jsonl", f"{name}.out"
    say(f"  {shell_command('batchrun', 'run', '--actors', name, '--jobs', jobs, '--out', out)}")


def install_packages(directory: Path) -> None:
    """Install the packages of one Actor, or of each Actor in a directory; what pip and npm say goes to stderr.

    Raises:
        ConfigError: there is no Actor, or an Actor's list of packages cannot be read.
        OutputError: a package could not be installed, or Node is missing.
    """
    folders = actor_folders(directory)
    if not folders:
        raise ConfigError(f"{directory} holds no Actor (a directory with .actor/actor.json)")
    hide_own_environment()
    for folder in folders:
        python, node = _python_packages(folder), (folder / "package.json").is_file()
        if python:
            if not (folder / ".venv" / "bin" / "python").exists():
                _run(folder, sys.executable, "-m", "venv", ".venv")
            _run(folder, ".venv/bin/python", "-m", "pip", "install", "--disable-pip-version-check", *python)
        if node:
            _run(folder, "npm", "install", "--no-audit", "--no-fund")
        if not (python or node):
            say(f"{folder} asks for no packages: it has no requirements.txt, pyproject.toml or package.json")


def _python_packages(folder: Path) -> list[str]:
    """Return the arguments of `pip install`; empty if the Actor asks for no packages."""
    if (folder / "requirements.txt").is_file():
        return ["-r", "requirements.txt"]
    file = folder / "pyproject.toml"
    if not file.is_file():
        return []
    try:
        named = tomllib.loads(file.read_text("utf-8")).get("project", {}).get("dependencies", [])
    except (OSError, ValueError) as error:
        raise ConfigError(f"it cannot be read: {error}", file=file) from error
    if not (isinstance(named, list) and all(isinstance(each, str) for each in named)):
        raise ConfigError("must be a list of requirements", key="project.dependencies", file=file)
    return named


def _run(folder: Path, *command: str) -> None:
    say(f"{folder}: {shlex.join(command)}")
    # Output for people: stdout is for data alone.
    program = str(folder.resolve() / command[0]) if command[0].startswith(".") else command[0]
    if shutil.which(program) is None:
        raise OutputError(f"{folder}: {command[0]} is not installed on this machine")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_SECRETS)}
    done = subprocess.run([program, *command[1:]], cwd=folder, env=environ, stdout=sys.stderr, check=False)  # noqa: S603 - the Actor's own packages, as asked for
    if done.returncode:
        raise OutputError(f"{folder}: {shlex.join(command)} failed with exit code {done.returncode}; see its output")
