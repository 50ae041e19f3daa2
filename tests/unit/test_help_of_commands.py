"""The help of a command: only that command is built for it."""

from typing import Any

import pytest
from typer import Context, Typer
from typer.main import get_command

from batchrun.cli.main import app, main
from batchrun.errors import ConfigError


def _named(group: Typer, *words: str) -> dict[tuple[str, ...], Typer | None]:
    """Return all command lines that name a command or a group, with the group."""
    found: dict[tuple[str, ...], Typer | None] = {(*words, str(each.name)): None for each in group.registered_commands}
    for each in group.registered_groups:
        if each.typer_instance is not None:
            named = (*words, str(each.name))
            found |= {named: each.typer_instance} | _named(each.typer_instance, *named)
    return found


def test_the_help_of_a_command_is_the_same_whether_others_are_built_or_not(monkeypatch, capsys):
    """Of every command and group: what is left out is nothing that its help shows."""
    whole, named = get_command(app), _named(app)
    groups = [app, *filter(None, named.values())]
    assert {("run",), ("worker",), ("worker", "list")} < set(named)
    for words in named:
        with monkeypatch.context() as restoring:
            for group in groups:  # main keeps only the command that is run
                restoring.setattr(group, "registered_commands", group.registered_commands)
                restoring.setattr(group, "registered_groups", group.registered_groups)
            restoring.setattr("sys.argv", ["batchrun", *words, "--help"])
            with pytest.raises(SystemExit):
                main()
        alone = capsys.readouterr().out
        with pytest.raises(SystemExit):
            whole([*words, "--help"], prog_name="batchrun")
        assert alone == capsys.readouterr().out
        assert f"batchrun {' '.join(words)}" in alone


def test_a_help_is_whole_in_80_columns(monkeypatch, capsys):
    """Of every command: each option's name, and each word of what it does; brackets would be taken for markup."""
    monkeypatch.setenv("COLUMNS", "80")
    whole = get_command(app)
    for words, group in _named(app).items():
        with pytest.raises(SystemExit):
            whole([*words, "--help"], prog_name="batchrun")
        shown = capsys.readouterr().out
        assert "…" not in shown, shown
        command: Any = whole
        for word in words:
            command = command.get_command(Context(command), word)
        for each in command.params if group is None else ():
            names = each.opts if each.param_type_name == "option" else []
            assert {*names, *(each.help or "").split()} <= set(shown.split()), shown


@pytest.mark.parametrize(
    "words",
    [
        ("status", "nix"), ("failures", "nix"), ("report", "nix"), ("export", "nix", "x.csv"), ("audit", "nix"),
        ("cost", "nix"), ("retry", "nix"), ("abort", "nix"), ("resolve", "nix"), ("repair", "nix"),
    ],
)  # fmt: skip
def test_a_directory_that_does_not_exist_is_a_usage_error(words, tmp_path, monkeypatch):
    """Of every verb that takes a batch's directory; none makes it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^nix: there is no such directory; the first `batchrun run`"):
        get_command(app).main(words, standalone_mode=False)
    assert list(tmp_path.iterdir()) == []
