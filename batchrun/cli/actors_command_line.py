"""Every command of `batchrun actors`: its arguments, its help, and the function that carries it out.

A command imports that function when it runs, so that `--help` imports neither the engine nor HTTP.
"""

from pathlib import Path
from typing import Annotated

import typer

from batchrun.cli.command_group import CommandGroup

app = typer.Typer(cls=CommandGroup, help="Make Actors of your own, and install what they need.", no_args_is_help=True)


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="The Actor's name; its directory is made here.")],
    lang: Annotated[str, typer.Option(help="Language: python or js.")] = "python",
) -> None:
    """Make the directory of a small Actor that works."""
    from batchrun.cli.actors_command import make_actor

    make_actor(name, lang)


@app.command("install")
def install(directory: Annotated[Path, typer.Argument(help="An Actor's directory, or one of several.")]) -> None:
    """Install the packages that Actors ask for, each into its own directory: .venv and node_modules."""
    from batchrun.cli.actors_command import install_packages

    install_packages(directory)
