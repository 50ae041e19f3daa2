"""Foreign text stays text in every element; the output is well-formed."""

from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from batchrun.report.html_elements import (
    Column,
    Html,
    Tile,
    card,
    command,
    escape,
    facts,
    foreign,
    join,
    legend,
    link,
    page,
    table,
    tag,
    tiles,
)
from batchrun.style_sheet import STYLE, Tone

HOSTILE = "</script><img src=x onerror='alert(1)'>\"&amp;\u202e\x00\ud800"


def test_text_is_escaped_and_markup_is_not() -> None:
    """Only `Html` is not escaped."""
    inner = tag("b", "a < b")
    assert tag("p", inner, " & c", None, class_="x", aria_hidden="true", hidden=True, title=None, open=False) == (
        '<p class="x" aria-hidden="true" hidden="hidden"><b>a &lt; b</b> &amp; c</p>'
    )
    assert tag("p", inner + "&") == "<p>&lt;b&gt;a &amp;lt; b&lt;/b&gt;&amp;</p>"  # put together by hand: text again
    assert tag("input", name="n", value='"') == '<input name="n" value="&quot;" />'
    assert join(["<", Html("<br>"), None]) == "&lt;<br>"


def test_characters_that_move_or_hide_others_are_replaced() -> None:
    """Controls, direction marks, lone surrogates and non-characters; not line ends and tabs."""
    assert escape("a\x00\x1b[2J\u202eb\u2066\ud800\uffff\ufeff") == "a��[2J�b����"
    assert escape("one\n\ttwo é 😀 א") == "one\n\ttwo é 😀 א"


def test_a_foreign_text_is_cut_and_has_a_tooltip() -> None:
    """Its element isolates its direction."""
    assert foreign("a\nb", 5) == "<bdi>a b</bdi>"
    assert foreign("abcdefg", 5) == '<bdi title="abcdefg">abcd…</bdi>'
    assert len(foreign("x" * 10_000_000, 100)) < 1200


def test_only_http_addresses_are_linked() -> None:
    """An address that would run a script is shown as text."""
    assert link("https://a/?b=c&d", "x") == '<a href="https://a/?b=c&amp;d" rel="noreferrer">x</a>'
    assert link("javascript:alert(1)", "<x>") == "&lt;x&gt;"
    assert link(None, "x") == "x"


@given(st.text())
def test_a_page_with_any_text_is_well_formed_and_the_text_is_no_markup(text: str) -> None:
    """Any text in any element: the page parses and has the same elements as with a harmless text."""
    assert _elements(text) == _elements("innocent")
    assert _elements(HOSTILE + text) == _elements("innocent")


def _elements(text: str) -> list[str]:
    columns = [Column(heading=text), Column(heading="n", kind="number")]
    whole = page(
        text,
        card(text or "-", tiles([Tile(name=text, value=text, note=text or "-")]), note=text or "-", is_half=True),
        table(columns, [(text, foreign(text))], total=(text, "1")),
        facts([(text, text), ("x", None)]),
        legend([(Tone.FAILED, text)]),
        command(text),
        tag("a", text, title=text, data_key=text),
        link(f"https://example.com/{text}", text),
    )
    root = ET.fromstring(whole.removeprefix("<!DOCTYPE html>\n"))
    return [element.tag for element in root.iter()]


def test_a_page_loads_and_runs_nothing() -> None:
    """Its policy forbids it, and it refers to nothing."""
    whole = page("t", "x")
    assert "default-src &#39;none&#39;" in whole
    assert "<script" not in whole
    assert "url(" not in STYLE
    assert "@import" not in STYLE


def test_every_tone_has_a_light_and_a_dark_colour() -> None:
    """In the light, the dark and the printed palette, and a class that uses it."""
    for tone in Tone:
        assert STYLE.count(f"--{tone}: ") == 3
        assert f".tone-{tone} {{" in STYLE
