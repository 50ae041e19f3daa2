"""The warning of a file with a secret that other users of the machine can read."""

from pathlib import Path

from batchrun.cli.terminal import say
from batchrun.runtime.private_files import others_can_read
from batchrun.runtime.shell_command import shell_command


def warn_of_readers(file: Path) -> None:
    """Say how to close a file of this user that holds a token; one that cannot be looked at is not mentioned."""
    if others_can_read(file):
        say(f"WARNING: other users can read {file}, which holds a token: `{shell_command('chmod', '600', file)}`")
