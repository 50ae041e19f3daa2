"""The values that flow through batchrun, a file per word. None of them waits, reads or writes.

A line of the job file becomes a Job, a Job becomes Attempts, an Attempt a Run, and all of it one Record. Values are not
changed once made; for most of them the type checker alone sees to that (`runtime/fast_dataclasses.py`).
"""

from batchrun.model.attempt import CLOCK_DOUBT, RUN_UNREADABLE, Attempt, AttemptState, Cause, Intent, Mark, Problem
from batchrun.model.batch import Command, Ending, Selection, Summary
from batchrun.model.exact_json import read_json, write_json
from batchrun.model.job import BadLine, Job, JobId, JobKey, Position
from batchrun.model.record import Items, Outcome, Record, is_writable, json_line
from batchrun.model.run import (
    MAX_BODY_BYTES,
    CostSource,
    DatasetId,
    ItemsPage,
    JsonObject,
    Run,
    RunId,
    RunOptions,
    RunsPage,
    RunStatus,
    StoreId,
    TaskId,
)
from batchrun.model.time_window import TimeWindow
from batchrun.model.wait import WaitKind, WaitReason

__all__ = [
    "CLOCK_DOUBT",
    "MAX_BODY_BYTES",
    "RUN_UNREADABLE",
    "Attempt",
    "AttemptState",
    "BadLine",
    "Cause",
    "Command",
    "CostSource",
    "DatasetId",
    "Ending",
    "Intent",
    "Items",
    "ItemsPage",
    "Job",
    "JobId",
    "JobKey",
    "JsonObject",
    "Mark",
    "Outcome",
    "Position",
    "Problem",
    "Record",
    "Run",
    "RunId",
    "RunOptions",
    "RunStatus",
    "RunsPage",
    "Selection",
    "StoreId",
    "Summary",
    "TaskId",
    "TimeWindow",
    "WaitKind",
    "WaitReason",
    "is_writable",
    "json_line",
    "read_json",
    "write_json",
]
