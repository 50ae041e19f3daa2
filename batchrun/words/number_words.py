"""Numbers in words, wherever a person reads them: counts of things, dollar amounts, durations."""

import math


def counted(count: int, noun: str) -> str:
    """Return a number and its noun: `1 Run`, `2,000 Runs`, `3 batches`."""
    ending = "" if count == 1 else "es" if noun.endswith("ch") else "s"
    return f"{count:,} {noun}{ending}"


def money(usd: float) -> str:
    """Return US dollars; amounts below $1 have four decimals, or as many as show two digits."""
    if usd >= 1 or usd == 0:
        return f"${usd:,.2f}"
    return f"${usd:.{max(4, 1 - math.floor(math.log10(abs(usd))))}f}"


def duration(seconds: float) -> str:
    """Return a duration for people: 7.3 s, 4 min 20 s, 3 h 05 min."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min"
