import pytest

from batchrun.words.number_words import duration, money


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0.0 s"),
        (7.25, "7.2 s"),
        (42.4, "42 s"),
        (60, "1 min 00 s"),
        (260, "4 min 20 s"),
        (3599.6, "1 h 00 min"),
        (11_100, "3 h 05 min"),
        (4_000_000, "1,111 h 06 min"),
    ],
)
def test_a_duration_is_written_for_people(seconds: float, words: str) -> None:
    """Rounding up carries into the larger unit."""
    assert duration(seconds) == words


def test_sixty_seconds_are_a_minute() -> None:
    """Rounding up carries from seconds into minutes, too."""
    assert (duration(59.7), duration(9.97)) == ("1 min 00 s", "10 s")


@pytest.mark.parametrize(
    ("usd", "words"),
    [
        (0.0, "$0.00"),
        (0.0123, "$0.0123"),
        (0.00099, "$0.00099"),
        (0.00001, "$0.000010"),
        (1.234e-9, "$0.0000000012"),
        (0.99999, "$1.0000"),
        (1.0, "$1.00"),
        (12345.678, "$12,345.68"),
    ],
)
def test_small_amounts_are_not_rounded_away(usd: float, words: str) -> None:
    """Amounts below a dollar have four decimals, or as many as show two digits."""
    assert money(usd) == words
