"""Which waiting job goes next: groups alternate by weight, and a job that does not fit does not block those that do.

Stride scheduling (Waldspurger and Weihl, 1995): each group has a pass, which grows by 1 / weight with every job that it
gives; the group with the smallest pass is next. A job that is too large for the free memory is skipped at most
MAX_SKIPS times; after that, no job goes before it that would take memory from it.

A group with a weight keeps its pass while it has no job here: it neither loses all the starts it is owed nor forgets
those it had in advance. It is short of jobs while it has fewer than its part of the next `depth` starts.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

#: Jobs that do not fit which one search for a fitting job looks at.
MAX_LOOKED_AT = 64
#: Times that a job that does not fit is skipped before all others wait for it.
MAX_SKIPS = 64
#: Starts that a group with a weight is owed for the time in which it had no job.
MAX_OWED = 64


class Fit(Enum):
    """Whether a job can start now."""

    YES = "yes"
    #: Its group has as many live Runs as it may have.
    GROUP_IS_FULL = "group_is_full"
    #: It needs more than the free memory.
    TOO_LARGE = "too_large"


class _Group(Generic[T]):
    __slots__ = ("interval", "jobs", "name", "passed")

    def __init__(self, name: str | None, interval: float, passed: float) -> None:
        self.name = name
        self.interval = interval
        self.passed = passed
        self.jobs: deque[T] = deque()


class FairGroupQueue(Generic[T]):
    """Waiting jobs, first come first served within a group, and fair between groups.

    A group without a weight has weight 1. `depth` is the number of next starts of which each group with a weight should
    have its part here.
    """

    def __init__(self, weights: Mapping[str | None, float], depth: int = 1) -> None:
        self._weights = weights
        total = sum(weights.values())
        self._wanted = {group: math.ceil(depth * weight / total) for group, weight in weights.items()}
        #: Groups with a weight that have fewer jobs here than wanted; in the order of `weights` at first.
        self.short = dict.fromkeys(weights)
        #: Passes of groups with a weight that have no job here.
        self._passes: dict[str | None, float] = {}
        self._groups: dict[str | None, _Group[T]] = {}
        #: Groups with jobs, by pass; the number keeps groups with the same pass in the order in which they came.
        self._by_pass: list[tuple[float, int, _Group[T]]] = []
        self._number = count()
        self._size = 0
        self._now = 0.0
        self._first_in_line: tuple[T, _Group[T]] | None = None
        self._skips = 0
        #: Jobs that do not fit which the current search may still look at.
        self._looks_left = 0

    def __len__(self) -> int:
        return self._size

    def push(self, job: T, group: str | None, *, is_first: bool = False) -> None:
        """Add a job after the others of its group, or before them."""
        found = self._groups.get(group)
        if found is None:
            found = self._groups[group] = self._new_group(group)
            self._enqueue(found)
        found.jobs.appendleft(job) if is_first else found.jobs.append(job)
        self._size += 1
        self._note_length(found)

    def _new_group(self, name: str | None) -> _Group[T]:
        """Return a group that has its first job here; it is owed few starts, or none, for the time before."""
        interval = 1.0 / self._weights.get(name, 1.0)
        kept = self._passes.pop(name, self._now)
        return _Group(name, interval, max(kept, self._now - MAX_OWED * interval))

    def _note_length(self, group: _Group[T]) -> None:
        if group.name not in self._wanted:
            return
        if len(group.jobs) < self._wanted[group.name]:
            self.short[group.name] = None
        else:
            self.short.pop(group.name, None)

    def take(self, fit: Callable[[T], Fit]) -> T | None:
        """Take the next job that fits; None if none does, or if all wait for one that does not."""
        if self._is_waited_for and self._first_in_line is not None:
            job, group = self._first_in_line
            match fit(job):
                case Fit.YES:
                    group.jobs.remove(job)
                    self._note_taken(group, job)
                    return job
                case Fit.TOO_LARGE:
                    return None  # no job takes memory from it any more
        return self._take_by_pass(fit)

    @property
    def _is_waited_for(self) -> bool:
        return self._skips >= MAX_SKIPS

    def _take_by_pass(self, fit: Callable[[T], Fit]) -> T | None:
        self._looks_left = MAX_LOOKED_AT
        skipped: list[_Group[T]] = []
        job: T | None = None
        while self._by_pass and job is None and self._looks_left:
            _, _, group = heappop(self._by_pass)
            if self._groups.get(group.name) is not group:
                continue  # the group was dropped, or has no job left
            job = self._take_from(group, fit)
            if job is None:
                skipped.append(group)
            elif group.jobs:
                self._enqueue(group)
        for group in skipped:
            self._enqueue(group)
        return job

    def drop(self, group: str | None) -> list[T]:
        """Drop a group's jobs and return them; no more of its jobs are wanted."""
        self._wanted.pop(group, None)
        self.short.pop(group, None)
        found = self._groups.pop(group, None)
        if found is None:
            return []
        if self._first_in_line is not None and self._first_in_line[1] is found:
            self._first_in_line, self._skips = None, 0
        self._size -= len(found.jobs)
        return list(found.jobs)

    def remove(self, is_wanted: Callable[[T], bool]) -> list[T]:
        """Remove the wanted jobs and return them."""
        removed: list[T] = []
        for group in list(self._groups.values()):
            kept: deque[T] = deque()
            for job in group.jobs:
                (removed if is_wanted(job) else kept).append(job)
            group.jobs = kept
            self._note_length(group)
            self._forget_if_empty(group)
        if self._first_in_line is not None and is_wanted(self._first_in_line[0]):
            self._first_in_line, self._skips = None, 0
        self._size -= len(removed)
        return removed

    def _enqueue(self, group: _Group[T]) -> None:
        heappush(self._by_pass, (group.passed, next(self._number), group))

    def _take_from(self, group: _Group[T], fit: Callable[[T], Fit]) -> T | None:
        for index, job in enumerate(group.jobs):
            match fit(job):
                case Fit.YES:
                    del group.jobs[index]
                    self._note_taken(group, job)
                    return job
                case Fit.GROUP_IS_FULL:
                    return None
                case Fit.TOO_LARGE:
                    self._first_in_line = self._first_in_line or (job, group)
                    self._looks_left -= 1
            if not self._looks_left:
                break
        return None

    def _note_taken(self, group: _Group[T], job: T) -> None:
        if self._first_in_line is not None and job is self._first_in_line[0]:
            self._first_in_line, self._skips = None, 0
        elif self._first_in_line is not None:
            self._skips += 1
        self._now = max(self._now, group.passed)
        group.passed += group.interval
        self._size -= 1
        self._note_length(group)
        self._forget_if_empty(group)

    def _forget_if_empty(self, group: _Group[T]) -> None:
        if not group.jobs:
            del self._groups[group.name]
            if group.name in self._weights:
                self._passes[group.name] = group.passed
