"""The commands that messages give a person to paste."""

import shlex

import pytest

from batchrun.runtime.shell_command import shell_command
from batchrun.words.terminal_text import printable


@pytest.mark.parametrize(
    "name", ["shop.out", "my shop.out", "~", "it's;$(id)`id`.out", "--x=$HOME", "x=~", "a:~b", "a~$x"]
)
def test_each_word_of_a_command_reaches_the_program_as_it_is(name):
    """Also those that mean something to a shell."""
    assert shlex.split(shell_command("batchrun", "repair", name)) == ["batchrun", "repair", name]


@pytest.mark.parametrize("name", ["a\n$(id)", "\x1b'$(id)", "$(id)\x1b[", "\x1b]'\x1b\\'$(id)", "\udcff"])
def test_nothing_that_a_terminal_leaves_out_takes_a_quote_with_it(name):
    """Then the rest of the name would stand outside of quotes."""
    command = shell_command("batchrun", "repair", name)
    assert printable(command) == command
    assert len(shlex.split(command)) == 3


def test_the_name_of_a_task_stands_as_people_write_it():
    """As in the README and in each verb's examples: no shell replaces a `~` within a word."""
    assert shell_command("batchrun", "run", "--task", "you~your-task") == "batchrun run --task you~your-task"
