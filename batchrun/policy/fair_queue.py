"""Which waiting job goes next: groups take turns by weight, and what does not fit now does not hold up what does.

Stride scheduling (Waldspurger and Weihl, 1995): each group has a pass that grows by 1 / weight with every job it
gives; the group with the smallest pass is next. A job too large for what is free is passed over, but only so often:
then nothing that would take its room goes before it any more.

A group with a weight keeps its pass while it has no job here, so that it neither forgets what it has had in advance nor
all of what it is owed; and it is said to be short of jobs while it could not give its share of the next starts.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

#: So many jobs that do not fit are looked at in search of one that does.
MAX_LOOKED_AT = 64
#: So often a job that does not fit is passed over before all others wait for it.
MAX_PASSED_OVER = 64
#: So many of the starts that went by while a group with a weight had no job are made up for when it has one again.
MAX_OWED = 64


class Fit(Enum):
    """Whether a job can start now."""

    YES = "yes"
    #: Its group has all that it may have.
    GROUP_IS_FULL = "group_is_full"
    #: What is free does not suffice for it.
    TOO_LARGE = "too_large"


class _Group(Generic[T]):
    __slots__ = ("interval", "jobs", "name", "passed")

    def __init__(self, name: str | None, interval: float, passed: float) -> None:
        self.name = name
        self.interval = interval
        self.passed = passed
        self.jobs: deque[T] = deque()


class FairQueue(Generic[T]):
    """Waiting jobs, first come first served within a group, and fair between groups.

    Args:
        weights: by group; a group that is not named has weight 1.
        depth: of so many starts, each group with a weight is to have its share here, or it is short of jobs.
    """

    def __init__(self, weights: Mapping[str | None, float], depth: int = 1) -> None:
        self._weights = weights
        total = sum(weights.values())
        self._shares = {group: math.ceil(depth * weight / total) for group, weight in weights.items()}
        #: Groups with a weight that have fewer jobs here than their share; in the order of `weights` at first.
        self.short = dict.fromkeys(weights)
        #: Passes of groups with a weight that have no job here.
        self._passes: dict[str | None, float] = {}
        self._groups: dict[str | None, _Group[T]] = {}
        #: Groups with jobs, by turn; the number keeps groups with the same pass in the order in which they came.
        self._turns: list[tuple[float, int, _Group[T]]] = []
        self._number = count()
        self._size = 0
        self._now = 0.0
        self._first_in_line: tuple[T, _Group[T]] | None = None
        self._times_passed_over = 0

    def __len__(self) -> int:
        return self._size

    def push(self, job: T, group: str | None, *, is_first: bool = False) -> None:
        """Add a job behind the others of its group, or before them."""
        found = self._groups.get(group)
        if found is None:
            found = self._groups[group] = self._new_group(group)
            self._await_turn(found)
        found.jobs.appendleft(job) if is_first else found.jobs.append(job)
        self._size += 1
        self._note_length(found)

    def _new_group(self, name: str | None) -> _Group[T]:
        """Return a group that has its first job here: it gets few turns, or none, for the time before."""
        interval = 1.0 / self._weights.get(name, 1.0)
        kept = self._passes.pop(name, self._now)
        return _Group(name, interval, max(kept, self._now - MAX_OWED * interval))

    def _note_length(self, group: _Group[T]) -> None:
        if group.name not in self._shares:
            return
        if len(group.jobs) < self._shares[group.name]:
            self.short[group.name] = None
        else:
            self.short.pop(group.name, None)

    def take(self, fit: Callable[[T], Fit]) -> T | None:
        """Take the next job that fits; None when none does, or when all wait for one that does not."""
        if self._is_waited_for and self._first_in_line is not None:
            job, group = self._first_in_line
            match fit(job):
                case Fit.YES:
                    group.jobs.remove(job)
                    self._note_taken(group, job)
                    return job
                case Fit.TOO_LARGE:
                    return None  # nothing takes its room any more
        return self._take_by_turn(fit)

    @property
    def _is_waited_for(self) -> bool:
        return self._times_passed_over >= MAX_PASSED_OVER

    def _take_by_turn(self, fit: Callable[[T], Fit]) -> T | None:
        looks = _Looks()
        passed_by: list[_Group[T]] = []
        job: T | None = None
        while self._turns and job is None and looks.left:
            _, _, group = heappop(self._turns)
            if self._groups.get(group.name) is not group:
                continue  # it was dropped, or ran empty
            job = self._take_from(group, fit, looks)
            if job is None:
                passed_by.append(group)
            elif group.jobs:
                self._await_turn(group)
        for group in passed_by:
            self._await_turn(group)
        return job

    def drop(self, group: str | None) -> list[T]:
        """Drop a group's jobs and return them; more of it are not wanted."""
        self._shares.pop(group, None)
        self.short.pop(group, None)
        found = self._groups.pop(group, None)
        if found is None:
            return []
        if self._first_in_line is not None and self._first_in_line[1] is found:
            self._first_in_line, self._times_passed_over = None, 0
        self._size -= len(found.jobs)
        return list(found.jobs)

    def _await_turn(self, group: _Group[T]) -> None:
        heappush(self._turns, (group.passed, next(self._number), group))

    def _take_from(self, group: _Group[T], fit: Callable[[T], Fit], looks: "_Looks") -> T | None:
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
                    looks.left -= 1
            if not looks.left:
                break
        return None

    def _note_taken(self, group: _Group[T], job: T) -> None:
        if self._first_in_line is not None and job is self._first_in_line[0]:
            self._first_in_line, self._times_passed_over = None, 0
        elif self._first_in_line is not None:
            self._times_passed_over += 1
        self._now = max(self._now, group.passed)
        group.passed += group.interval
        self._size -= 1
        self._note_length(group)
        if not group.jobs:
            del self._groups[group.name]
            if group.name in self._weights:
                self._passes[group.name] = group.passed


class _Looks:
    """How many more jobs that do not fit are looked at."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_LOOKED_AT
