"""`batchrun help TOPIC`: a page of the documentation, or the help of a verb."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from batchrun.cli.terminal import answer_lines, show_page
from batchrun.errors import ConfigError

#: The pages, which the package brings along.
DOCS = Path(__file__).parents[1] / "docs"


def show_help(root: Any, words: Sequence[str]) -> None:
    """Show a page, or the help of a verb; without words, the list of pages.

    Args:
        root: typer's context of the whole command line.
        words: a page's name, or a verb.

    Raises:
        ConfigError: there is neither a page nor a verb of that name.
    """
    pages = {page.stem: page for page in sorted(DOCS.glob("*.md"))}
    if not words:
        answer_lines(_topics(pages))
    elif len(words) == 1 and words[0] in pages:
        _show_page(pages[words[0]].read_text("utf-8"))
    else:
        _refuse_unknown(root, words, pages)
        root.command.main([*words, "--help"], prog_name=root.info_name, standalone_mode=False)


def _topics(pages: dict[str, Path]) -> Iterator[str]:
    width = max(map(len, pages), default=0)
    yield "Pages, each shown by `batchrun help TOPIC`:"
    for name, page in pages.items():
        with page.open(encoding="utf-8") as lines:
            yield f"  {name:<{width}}  {lines.readline().removeprefix('# ').strip()}"
    yield "Verbs: `batchrun help VERB` is `batchrun VERB --help`; `batchrun -h` lists them."


def _show_page(text: str) -> None:
    """Print a page: laid out on a terminal, as it is elsewhere."""
    if not sys.stdout.isatty():
        show_page(text)
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.markdown import Markdown  # noqa: PLC0415

    Console().print(Markdown(text, hyperlinks=False))


def _refuse_unknown(root: Any, words: Sequence[str], pages: dict[str, Path]) -> None:
    commands = getattr(root.command, "commands", {})
    for number, word in enumerate(words):
        if word not in commands:
            known = [*commands, *(pages if number == 0 else ())]
            raise ConfigError(f"there is no page or verb {' '.join(words)!r}{_nearest(word, known)}")
        commands = getattr(commands[word], "commands", {})


def _nearest(word: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only an error needs it

    near = get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else "; `batchrun help` lists the pages"
