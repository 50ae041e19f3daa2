"""How browsers treat what strangers wrote: items, stored values, records, logs."""

import re

#: Content-Security-Policy: it runs nothing, has no access to the pages beside it, and loads nothing, which would tell a
#: stranger that it is looked at. Styles and small pictures in it stay, as in an SVG or a report.
STRANGER_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"

#: One type alone: of two (`audio/mpeg, text/html`), browsers show the last. A type has a slash, a list of codecs none.
_PLAYED = re.compile(r"(audio|video)/[\w.+-]+ *(;[^/]*)?")
#: What browsers show in a page, which the policy holds. They act on some of the other types by themselves: a "signed
#: exchange" leads the tab elsewhere. Of two types, they take the last.
_SHOWN = re.compile(r"((text|image)/[\w.+-]+|application/([\w.+-]+\+)?(json|xml|pdf)) *(;[^,]*)?")


def is_shown(content_type: str) -> bool:
    """Whether a browser may show a value of this type; it should save others."""
    return is_played(content_type) or _SHOWN.fullmatch(content_type.lower()) is not None


def is_played(content_type: str) -> bool:
    """Whether a browser plays a value of this type, and surely does not show it as a page."""
    return _PLAYED.fullmatch(content_type) is not None
