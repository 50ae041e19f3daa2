"""Lines of the item file: a dataset item, tagged with the job and the Run that it comes from."""

from collections.abc import Sequence
from typing import Any

from batchrun.model import Job, JsonObject, Outcome, Run, is_writable, json_line


def item_tag(job: Job, run: Run, outcome: Outcome) -> JsonObject:
    """Return what each item of a Run is tagged with: job key, line, Run, outcome and the job's meta columns."""
    meta = job.meta if isinstance(job.meta, dict) else {}
    return {"_key": job.key, "_line": job.position.line, "_run": run.id, "_outcome": outcome, **meta}


def item_lines(items: Sequence[Any], tag: JsonObject) -> tuple[bytes, int]:
    """Return a line for each item that is not nested too deep, and their number.

    An item that is no object becomes the property `value`.
    """
    try:
        return b"".join([_item_line(item, tag) for item in items]), len(items)
    except ValueError:
        shallow = [item for item in items if is_writable(item)]
        return b"".join([_item_line(item, tag) for item in shallow]), len(shallow)


def _item_line(item: Any, tag: JsonObject) -> bytes:
    """Return one line; an item's own properties win over meta columns, the four that begin with `_` over both."""
    line = (
        {**tag, **item, **{name: tag[name] for name in ("_key", "_line", "_run", "_outcome")}}
        if isinstance(item, dict)
        else {"value": item, **tag}
    )
    return json_line(line)
