"""A group of commands: its `--help` does not import pydantic, and the help of each command ends with examples."""

from typing import Any

import typer
from typer.core import TyperGroup, TyperOption

from batchrun.cli.examples import epilog


class CommandGroup(TyperGroup):
    """A group whose `--help` is False where it is not given, and whose commands show examples.

    Typer converts the default None with pydantic, whose import takes longer than all else of a command's help.
    """

    def get_help_option(self, ctx: typer.Context) -> TyperOption | None:  # type: ignore[override] # a private class there
        """Return the option `--help`."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option

    def get_params(self, ctx: Any) -> Any:
        """Return the options, those for completion with False where they are not given; as for `--help`."""
        for parameter in self.params:
            if getattr(parameter, "is_flag", False) and parameter.default is None:
                parameter.default = False
        return super().get_params(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, with its examples."""
        command: Any = super().get_command(ctx, cmd_name)
        if command is not None and not isinstance(command, TyperGroup):
            command.epilog = epilog(cmd_name if ctx.parent is None else f"{ctx.info_name} {cmd_name}")
        return command
