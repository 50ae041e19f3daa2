"""Lines of the item file: a dataset item, tagged with the job and the Run that it comes from."""

from collections.abc import Sequence
from typing import Any, Final

from batchrun.model import Job, JsonObject, Outcome, Run, is_writable, json_line

#: Properties of a line that are ours; an item's own ones of these names are kept under `_own`.
OURS: Final = ("_key", "_line", "_run", "_outcome", "_meta", "_own")


def item_tag(job: Job, run: Run, outcome: Outcome) -> JsonObject:
    """Return what each item of a Run is tagged with: job key, line, Run, outcome and, if the job has any, its meta."""
    meta = {} if job.meta is None else {"_meta": job.meta}
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
    if not isinstance(item, dict):
        return json_line({**tag, "value": item})
    if own := {name: item[name] for name in OURS if name in item}:
        item = {name: value for name, value in item.items() if name not in OURS}
        return json_line({**tag, **item, "_own": own})
    return json_line({**tag, **item})
