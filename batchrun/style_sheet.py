"""The style sheet of the report and of the two live pages: system fonts, light and dark, phone and paper.

Colours are custom properties. Outcomes differ in lightness as well as in hue, after Okabe and Ito's palette, so that
colour-blind readers can distinguish them. A text stands beside every colour.
"""

from enum import StrEnum


class Tone(StrEnum):
    """What a colour means; its value ends the name of a custom property and of a class."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    ABORTED = "aborted"
    EMPTY = "empty"
    MALFORMED = "malformed"
    INVALID = "invalid"
    REJECTED = "rejected"
    LOST = "lost"
    #: Live Runs, and every amount that is not of an outcome.
    LIVE = "live"
    #: Open jobs, and reserved money.
    OPEN = "open"


_LIGHT = {
    "page": "#f6f7f8",
    "card": "#ffffff",
    "ink": "#1b2127",
    "soft": "#58636e",
    "line": "#dfe3e7",
    "faint": "#eef1f3",
    "link": "#0b5fae",
    "mark": "#a33b00",
    Tone.SUCCEEDED: "#0f8f6b",
    Tone.FAILED: "#d1490c",
    Tone.TIMED_OUT: "#c28400",
    Tone.ABORTED: "#c26a9f",
    Tone.EMPTY: "#2b95d6",
    Tone.MALFORMED: "#0a64a4",
    Tone.INVALID: "#8a939b",
    Tone.REJECTED: "#6b4e9e",
    Tone.LOST: "#39424a",
    Tone.LIVE: "#2f7fc1",
    Tone.OPEN: "#d3d9de",
}
_DARK = {
    "page": "#12161a",
    "card": "#1a2026",
    "ink": "#e4e8ec",
    "soft": "#9ba7b2",
    "line": "#303941",
    "faint": "#232a31",
    "link": "#7db8ee",
    "mark": "#ff9d6b",
    Tone.SUCCEEDED: "#2fb38c",
    Tone.FAILED: "#f0702f",
    Tone.TIMED_OUT: "#f2bd3b",
    Tone.ABORTED: "#d68ab6",
    Tone.EMPTY: "#78c4f0",
    Tone.MALFORMED: "#3f8fd0",
    Tone.INVALID: "#828c95",
    Tone.REJECTED: "#9c80d0",
    Tone.LOST: "#c3cad1",
    Tone.LIVE: "#559fdb",
    Tone.OPEN: "#3b4650",
}


def _properties(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


_TONES = "\n".join(
    f".tone-{tone} {{ fill: var(--{tone}); stroke: var(--{tone}); background: var(--{tone}); }}" for tone in Tone
)

STYLE = f"""\
:root {{ color-scheme: light dark; {_properties(_LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_properties(_DARK)} }} }}
@media print {{ :root {{ color-scheme: light; {_properties(_LIGHT)} --page: #fff; }} }}

*, *::before, *::after {{ box-sizing: border-box; }}
body {{
  margin: 0; background: var(--page); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
}}
main {{ max-width: 1120px; margin: 0 auto; padding: 0 20px; }}
main {{ padding-bottom: 48px; }}
h1, h2, h3, p {{ margin: 0; }}
h1 {{ font-size: 22px; line-height: 1.25; font-weight: 650; letter-spacing: -.01em; overflow-wrap: anywhere; }}
h2 {{ font-size: 14px; font-weight: 650; }}
h3 {{ font-size: 14px; font-weight: 600; overflow-wrap: anywhere; }}
a {{ color: var(--link); text-decoration-thickness: 1px; text-underline-offset: 2px; }}
:focus-visible {{ outline: 2px solid var(--link); outline-offset: 2px; border-radius: 3px; }}
bdi {{ overflow-wrap: anywhere; }}
.soft {{ color: var(--soft); }}
.small {{ font-size: 12.5px; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}

.head {{ padding: 28px 0 18px; }}
.head p {{ margin-top: 4px; color: var(--soft); overflow-wrap: anywhere; }}
.head .state {{ color: var(--ink); }}

.cards {{ display: grid; gap: 14px; grid-template-columns: repeat(12, minmax(0, 1fr)); }}
.card {{
  grid-column: span 12; min-width: 0; padding: 16px 18px 18px; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px;
}}
.card.half {{ grid-column: span 6; }}
.card > header {{ display: flex; flex-wrap: wrap; gap: 0 12px; align-items: baseline; margin-bottom: 12px; }}
.card > header .note {{ color: var(--soft); font-size: 12.5px; }}
.card > * + h2, .card > * + .block {{ margin-top: 18px; }}

.tiles {{
  display: grid; gap: 14px 16px; margin: 0; grid-template-columns: repeat(auto-fit, minmax(96px, 1fr));
}}
.tiles div {{ min-width: 0; }}
.tiles dt {{ color: var(--soft); font-size: 12.5px; }}
.tiles dd {{
  margin: 0; font-size: 18px; line-height: 1.4; font-weight: 600; white-space: nowrap;
  font-variant-numeric: tabular-nums;
}}
.tiles dd + dd {{ color: var(--soft); font-size: 12.5px; font-weight: 400; white-space: normal; }}

.legend {{
  display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 10px 0 0; padding: 0; list-style: none;
  font-variant-numeric: tabular-nums;
}}
.swatch {{
  display: inline-block; width: 10px; height: 10px; margin-right: 7px; border-radius: 2px;
  print-color-adjust: exact; -webkit-print-color-adjust: exact;
}}

.scroll {{ overflow-x: auto; }}
table {{ width: 100%; border-collapse: collapse; }}
th, td {{ padding: 5px 0 5px 16px; text-align: left; vertical-align: baseline; border-bottom: 1px solid var(--faint); }}
th:first-child, td:first-child {{ padding-left: 0; }}
th {{ color: var(--soft); font-size: 12.5px; font-weight: 500; border-color: var(--line); white-space: nowrap; }}
th.number {{ text-align: right; }}
tbody tr:last-child td {{ border-bottom: 0; }}
tfoot td {{ border-top: 1px solid var(--line); border-bottom: 0; font-weight: 600; }}
td.text {{ min-width: 8em; overflow-wrap: anywhere; }}
td.bar {{ width: 26%; min-width: 60px; }}

.causes {{ --indent: calc(var(--digits) * 1.2 + 12px); }}
.cause {{ padding: 14px 0; border-top: 1px solid var(--line); }}
.cause:first-of-type {{ padding-top: 0; border-top: 0; }}
.cause:last-of-type {{ padding-bottom: 0; }}
.cause > header {{ display: flex; gap: 12px; align-items: baseline; }}
.cause > header .count {{
  flex: none; min-width: var(--digits); font-size: 16px; font-weight: 650; text-align: right;
  font-variant-numeric: tabular-nums;
}}
.cause > .body {{ margin: 6px 0 0 var(--indent); }}
.facts {{ display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 3px 14px; margin: 0; }}
.facts dt {{ color: var(--soft); }}
.facts dd {{ margin: 0; overflow-wrap: anywhere; }}
code, pre {{ font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }}
code {{ overflow-wrap: anywhere; }}
code.command {{
  padding: 2px 7px; background: var(--faint); border: 1px solid var(--line); border-radius: 4px;
  -webkit-user-select: all; user-select: all; -webkit-box-decoration-break: clone; box-decoration-break: clone;
}}
pre {{
  margin: 0; padding: 8px 10px; max-height: 22em; overflow: auto; background: var(--faint); border-radius: 5px;
  white-space: pre-wrap; overflow-wrap: anywhere;
}}
summary {{ cursor: pointer; color: var(--soft); }}
details > pre {{ margin-top: 6px; }}

svg {{ display: block; width: 100%; overflow: visible; }}
svg, .swatch {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
svg text {{ fill: var(--soft); stroke: none; font-size: 11.5px; font-variant-numeric: tabular-nums; }}
svg.with-axis {{ width: calc(100% - 34px); margin-left: 34px; }}
svg text.strong {{ fill: var(--ink); font-weight: 600; }}
svg rect, svg path {{ stroke-width: 0; }}
svg .grid {{ stroke: var(--line); stroke-width: 1; }}
svg .limit {{ stroke: var(--mark); stroke-width: 1.5; stroke-dasharray: 5 4; }}
svg .mark {{ stroke: var(--ink); stroke-width: 1; stroke-dasharray: 2 3; }}
svg text.limit-text {{ fill: var(--mark); }}
svg .track {{ fill: var(--faint); }}
svg .area {{ fill-opacity: .28; }}
svg .edge {{ fill: none; stroke-width: 1.5; vector-effect: non-scaling-stroke; }}
{_TONES}

footer {{ margin-top: 22px; color: var(--soft); font-size: 12.5px; overflow-wrap: anywhere; }}

@media screen and (max-width: 760px) {{
  main {{ padding-left: 12px; padding-right: 12px; }}
  .card, .card.half {{ grid-column: span 12; padding: 14px; }}
  .head {{ padding: 18px 2px 14px; }}
  th, td {{ padding-left: 10px; }}
  td.bar, th.bar, .minor {{ display: none; }}
  td.text {{ min-width: 0; }}
  .tiles {{ grid-template-columns: repeat(2, minmax(0, 1fr)); }}
  .cause > header .count {{ min-width: 0; }}
  .cause > .body {{ margin-left: 0; }}
  .facts {{ grid-template-columns: minmax(0, 1fr); gap: 0; }}
  .facts dd {{ margin-bottom: 5px; }}
}}
@media print {{
  body {{ font-size: 11px; }}
  .card.half, .cause, svg, tr {{ break-inside: avoid; }}
  .card > header {{ break-after: avoid; }}
  main {{ max-width: none; padding: 0; }}
  pre {{ max-height: none; }}
}}
"""

#: What the two live pages have beside the report: controls and messages.
CONTROLS = """\
[hidden] { display: none !important; }
.trouble { color: var(--mark); }
button, select, .button {
  min-height: 32px; padding: 4px 12px; border: 1px solid var(--line); border-radius: 6px;
  background: var(--card); color: var(--ink); font: inherit; cursor: pointer;
}
button:hover, .button:hover { background: var(--faint); }
input {
  min-width: 0; min-height: 32px; padding: 4px 8px; border: 1px solid var(--soft); border-radius: 5px;
  background: var(--page); color: var(--ink); font: inherit;
}
.choices { display: flex; flex-wrap: wrap; gap: 6px; margin: 0 0 12px; padding: 0; list-style: none; }
.choices a {
  display: block; padding: 4px 10px; border: 1px solid var(--line); border-radius: 999px; color: var(--ink);
  text-decoration: none; font-variant-numeric: tabular-nums; white-space: nowrap;
}
.choices a:hover { background: var(--faint); }
.choices a[aria-current] { border-color: var(--link); background: var(--faint); font-weight: 600; }
.swatch { vertical-align: baseline; }
td.time { white-space: nowrap; font-variant-numeric: tabular-nums; }
td, dd, pre { unicode-bidi: isolate; }
.pager { display: flex; flex-wrap: wrap; gap: 4px 16px; margin-top: 12px; font-variant-numeric: tabular-nums; }
.pager:empty { display: none; }
.pager a:not([href]) { color: var(--soft); }
@media (pointer: coarse) {
  button, input, select, .button { min-height: 42px; }
  .choices a, .pager a { padding-top: 9px; padding-bottom: 9px; }
}
"""
