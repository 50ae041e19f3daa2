"""What `batchrun plan` counts in a whole job file: jobs, groups, duplicates, problems, erased fields.

It reads no file: it is given jobs and bad lines.
"""

from collections import Counter
from hashlib import blake2b

import orjson

from batchrun.jobs import CsvDialect
from batchrun.jobs.merge import lost_fields, nested_properties
from batchrun.model import BadLine, Job, JobKey, JsonObject
from batchrun.preflight.input_checks import JobCheck
from batchrun.preflight.line_problems import LineProblems
from batchrun.preflight.odd_values import odd_values
from batchrun.preflight.shown_inputs import ShownInputs

#: Groups that are counted each; the jobs of further ones are counted together.
MAX_GROUPS = 1_000
REPEATED_KEY = "has the key of an earlier line with other content; give each line its own @key"


class JobFileCounts:
    """Counts over a whole job file. It keeps about 200 bytes per job, by which it recognises repeated lines.

    Args:
        check: finds the problems of each job.
        shadowed: the task's input where overrides are merged shallowly; else {}.
        shown: number of jobs whose inputs are kept.
    """

    def __init__(self, check: JobCheck, shadowed: JsonObject, shown: int = 0) -> None:
        self._check = check
        self.inputs = ShownInputs(check, shown)
        self._nested = nested_properties(shadowed)
        self._seen: dict[bytes, bytes] = {}
        self.problems = LineProblems()
        #: Values that a person may not have meant, and lines that would do nothing new where that stops no batch.
        self.odd = LineProblems()
        #: Empty cells that were filled into texts, by the dotted key of the text.
        self.empty_in_text: Counter[str] = Counter()
        #: Of a CSV file.
        self.columns: tuple[str, ...] = ()
        self.dialect: CsvDialect | None = None
        #: False: the file goes on after the jobs that were looked at.
        self.is_whole_file = True
        #: Jobs and bad lines that were read, also those of other shards.
        self.read = 0
        self.jobs = 0
        self.bad_lines = 0
        #: Lines that repeat a job that would not fail.
        self.duplicates = 0
        #: The last line that replaces another, by the key of its job.
        self.replacing: dict[JobKey, int] = {}
        #: Jobs by group, of the first MAX_GROUPS; "" counts the jobs without a group.
        self.groups: Counter[str] = Counter()
        #: Jobs whose override replaces a nested property of the task's input and loses fields of it, by property.
        self.erased: Counter[str] = Counter()
        #: The fields that are lost, by property; nested ones are not looked at.
        self.erased_fields: dict[str, set[str]] = {}
        self.largest_body_bytes = 0
        #: Memory of all Runs whose memory is known.
        self.memory_mb = 0
        #: Jobs whose memory is unknown.
        self.of_unknown_memory = 0

    @property
    def in_other_groups(self) -> int:
        """Jobs of the groups after the first MAX_GROUPS."""
        return self.jobs - self.groups.total()

    def look_at(self, entry: Job | BadLine) -> None:
        """Count one job or bad line."""
        if isinstance(entry, BadLine):
            self.bad_lines += 1
            self.problems.note(entry.position.line, [entry.reason])
        elif (first := self._first_content(entry)) is not None:
            self._repeated(entry, first)
        else:
            self._job(entry)

    def _first_content(self, job: Job) -> bytes | None:
        """Return the digest of the first job with this key; None when this job is the first."""
        key = blake2b(job.key.encode(), digest_size=16).digest()
        before = len(self._seen)
        first = self._seen.setdefault(key, job.digest)
        if job.replaces and first != job.digest:
            self._seen[key] = job.digest
            self.replacing[job.key] = job.position.line
        return None if len(self._seen) > before else first

    def _repeated(self, job: Job, first: bytes) -> None:
        if first != job.digest and not job.replaces:
            self.bad_lines += 1
            self.problems.note(job.position.line, [REPEATED_KEY])
        elif problems := self._check.problems(job):
            self.problems.note(job.position.line, problems)
        else:
            self.duplicates += 1

    def _job(self, job: Job) -> None:
        self.jobs += 1
        if (group := job.group or "") in self.groups or len(self.groups) < MAX_GROUPS:
            self.groups[group] += 1
        self.largest_body_bytes = max(self.largest_body_bytes, len(job.body))
        memory_mb = self._check.memory_mb(job)
        self.memory_mb += memory_mb or 0
        self.of_unknown_memory += memory_mb is None
        if self._nested:
            self._note_erased(orjson.loads(job.body))
        self.inputs.look_at(job)
        self.odd.note(job.position.line, [*odd_values(job.body), *self._check.revealed(job)])
        found = self._check.look_at(job)
        self.problems.note(job.position.line, found.problems)
        (self.problems if self._check.stops_futile else self.odd).note(job.position.line, found.futile)

    def _note_erased(self, override: JsonObject) -> None:
        for name in lost_fields(self._nested, override):
            self.erased[name] += 1
            self.erased_fields.setdefault(name, set()).update(self._nested[name].keys() - override[name].keys())
