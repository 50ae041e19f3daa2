"""A group of commands: they take texts and paths without pydantic, and the help of each ends with examples."""

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from batchrun.cli.examples import epilog

#: How a given text becomes a parameter's value, by the parameter's annotation.
_PLAIN = {str: str, Path: Path, list[str]: str, list[Path]: Path}

#: What the help shows as the value of an option. Typer's own words are wide, and cut the options' names in 80 columns.
_METAVARS = {
    bool: "", str: "TEXT", list[str]: "TEXT", Path: "PATH", list[Path]: "PATH", int: "N",
    float: "N",
}  # fmt: skip


class CommandGroup(TyperGroup):
    """A group whose commands show examples and short values, and whose parameters `_LeanConversion` converts."""

    def get_params(self, ctx: typer.Context) -> Any:  # type: ignore[override] # a private class there
        """Return the options of the group itself."""
        return _lean(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, with its examples."""
        command: Any = super().get_command(ctx, cmd_name)
        if command is not None and not isinstance(command, TyperGroup):
            command.epilog = epilog(cmd_name if ctx.parent is None else f"{ctx.info_name} {cmd_name}")
            _lean(command.get_params(ctx))
        return command


class _LeanConversion:
    """Converts texts and paths, and what is not given, as typer does, but without pydantic; all else is left to typer.

    Typer makes a validator of pydantic for each parameter of a command, whose import alone takes longer than `status`.
    """

    def coerce(self, value: Any, param: Any, ctx: typer.Context) -> Any:
        is_list = param.multiple or param.nargs == -1
        if value is None:
            return () if is_list else None
        plain = _PLAIN.get(param.type_descriptor.annotation)
        if plain is None:
            return type(param).get_runtime_param(param).coerce(value, param=param, ctx=ctx)
        return [plain(each) for each in value] if is_list else plain(value)


def _lean(parameters: Any) -> Any:
    for each in parameters:
        if each.param_type_name == "option" and each.metavar is None:
            each.metavar = _METAVARS.get(each.type_descriptor.annotation)
        each.get_runtime_param = _LeanConversion  # the method that typer asks for what converts
    return parameters
