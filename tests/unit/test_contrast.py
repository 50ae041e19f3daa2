"""Colours of the report and of the live page: read and told apart by those who see little."""

import pytest

from batchrun.style_sheet import _DARK, _LIGHT, Tone

#: Source: WCAG 2.2, 1.4.3 (text) and 1.4.11 (graphics), level AA.
TEXT, GRAPHIC = 4.5, 3.0
GROUNDS = ("page", "card", "faint")

themes = pytest.mark.parametrize("colours", [_LIGHT, _DARK], ids=["light", "dark"])


def luminance(colour: str) -> float:
    """Return the relative luminance of `#rrggbb`; source: WCAG 2.2, glossary."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, 1 to 21."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_reckoned_as_the_standard_does() -> None:
    """Black on white is 21, a colour on itself 1, and the grey that just passes is known."""
    assert (contrast("#000000", "#ffffff"), contrast("#777777", "#777777")) == (21.0, 1.0)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@themes
def test_text_can_be_read_on_every_ground(colours: dict[str, str]) -> None:
    """Whatever is written with letters."""
    pairs = {(ink, ground) for ink in ("ink", "soft", "link", "mark") for ground in GROUNDS}
    low = {pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < TEXT} == {}


@themes
def test_bars_stand_out_from_their_card(colours: dict[str, str]) -> None:
    """Each outcome's colour; what is still open is ground itself, and its count stands beside."""
    low = {tone: round(contrast(colours[tone], colours["card"]), 2) for tone in Tone if tone is not Tone.OPEN}
    assert {tone: ratio for tone, ratio in low.items() if ratio < GRAPHIC} == {}
