"""The lines of `bad_lines.jsonl`."""

import orjson

from batchrun.model import BadLine


def bad_line_json(bad_line: BadLine) -> bytes:
    """Return the line that reports a bad line."""
    return orjson.dumps(
        {"line": bad_line.position.line, "reason": bad_line.reason, "content": bad_line.content},
        option=orjson.OPT_APPEND_NEWLINE,
    )
