"""A group of commands that does not import pydantic for its own `--help`."""

import typer
from typer.core import TyperGroup, TyperOption


class CommandGroup(TyperGroup):
    """A group whose `--help` is False where it is not given.

    Typer converts the default None with pydantic, whose import takes longer than all else of a command's help.
    """

    def get_help_option(self, ctx: typer.Context) -> TyperOption | None:  # type: ignore[override] # a private class there
        """Return the option `--help`."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option
