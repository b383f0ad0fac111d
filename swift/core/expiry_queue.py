# SPDX-License-Identifier: Apache-2.0
"""The expirer's queue as its reader sees it: which rows are due, whose, in what order.

A queue row names an object and when it goes. Which of several expirers takes a row is
decided by the row's hash alone, so they need not know of each other; how long an
account or a container waits beyond that time is the operator's choice. Contract daemons
§11.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from hashlib import md5
from urllib.parse import unquote

from swift.core.errors import InvalidInput
from swift.core.expiry import DAY_S, SPREAD
from swift.core.names import ContainerName, ObjectName
from swift.core.settings import seconds
from swift.core.shares import Share
from swift.core.timestamp import Timestamp

ASYNC_DELETE_TYPE = "application/async-deleted"
DELAY_PREFIX = "delay_reaping_"


@dataclass(frozen=True, slots=True)
class Task:
    """One row of the queue.

    container, row: where it stands, below the queue's account. target: what goes.
    when: from when on; of an async delete, the time of the delete itself. is_async: the
    object goes whatever X-Delete-At it has.
    """

    container: str
    row: str
    target: ObjectName
    when: Timestamp
    is_async: bool = False


def parse_task(container: str, row: str, content_type: str) -> Task:
    """The task of a row `<time>-<account>/<container>/<object>`.

    Raises InvalidInput when it is none.
    """
    text, dash, path = row.partition("-")
    parts = path.split("/", 2)
    if not dash or len(parts) < 3 or not all(parts):
        raise InvalidInput(f"{row!r} is no task of the queue")
    when = Timestamp.parse(text)
    is_async = content_type.partition(";")[0].strip() == ASYNC_DELETE_TYPE
    return Task(container, row, ObjectName(*parts), when, is_async)


def is_usual_container(number: int, divisor_s: int = DAY_S) -> bool:
    """True for a name that today's writers would choose: just before a boundary."""
    return -number % divisor_s < SPREAD


class Delays:
    """How long accounts and containers keep what has expired.

    A container's own delay wins over its account's.
    """

    def __init__(self, delays: Mapping[tuple[str, str], float]) -> None:
        self._delays = delays

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Delays:
        """Of `delay_reaping_<account>[/<container>] = seconds`, percent-encoded.

        Raises InvalidInput, whose first argument begins with the option's name.
        """
        found = {}
        for name, text in options.items():
            if not name.startswith(DELAY_PREFIX):
                continue
            parts = name[len(DELAY_PREFIX) :].split("/")
            if len(parts) > 2 or not all(parts):
                raise InvalidInput(f"{name}: names no account or container")
            account, container = unquote(parts[0]), unquote("".join(parts[1:]))
            try:
                found[account, container] = seconds(text)
            except ValueError as error:
                raise InvalidInput(f"{name}: {text!r} {error}") from error
        return cls(found)

    def of(self, name: ContainerName) -> float:
        """Seconds that the objects of a container stay after their time."""
        own = self._delays.get((name.account, name.container))
        if own is None:
            own = self._delays.get((name.account, ""), 0.0)
        return own


class Fate(Enum):
    """What becomes of a task in this pass."""

    ASSIGNED = "assigned"
    SKIPPED = "skipped"
    DELAYED = "delayed"
    NOT_DUE = "not due"


def fate_of(task: Task, *, now: float, share: Share, delays: Delays) -> Fate:
    """Whether an expirer that has a share of the queue acts.

    NOT_DUE holds for the rest of the container too, whose rows are in order of time.
    """
    if task.when.seconds > now:
        return Fate.NOT_DUE
    if not share.holds(digest_of(task)):
        return Fate.SKIPPED
    if not task.is_async:
        delay_s = delays.of(task.target.container_name)
        if task.when.seconds > now - delay_s:
            return Fate.DELAYED
    return Fate.ASSIGNED


def digest_of(task: Task) -> bytes:
    """What says to whose share a row belongs."""
    path = f"{task.container}/{task.row}".encode("utf-8", "surrogateescape")
    return md5(path, usedforsecurity=False).digest()


def round_robin(tasks: Iterable[Task], room: int) -> Iterator[Task]:
    """The tasks, up to `room` at a time mixed so that containers take turns.

    A container with a million expired objects does not then delay all others.
    """
    waiting: dict[str, deque[Task]] = {}
    count = 0
    for task in tasks:
        waiting.setdefault(task.target.container_name.path, deque()).append(task)
        count += 1
        if count >= room:
            yield from _in_turns(waiting)
            waiting, count = {}, 0
    yield from _in_turns(waiting)


def _in_turns(waiting: dict[str, deque[Task]]) -> Iterator[Task]:
    names = sorted(waiting)
    while names:
        left = []
        for name in names:
            yield waiting[name].popleft()
            if waiting[name]:
                left.append(name)
        names = left


class Verdict(Enum):
    """What the answer to the DELETE of an expired object means for its row."""

    POP = "the row can go"
    RETRY = "the row stays for the next pass"


def verdict_of(task: Task, status: int, *, now: float, reclaim_age_s: float) -> Verdict:
    """Whether the row of a task can go after an answer; 0 is no answer.

    404 and 412 may come from nodes that have not heard of the object yet; once
    tombstones are reclaimed, nothing will change any more.
    """
    if status // 100 == 2 or status == 409:
        return Verdict.POP
    if status == 404 and task.is_async:
        return Verdict.POP
    if status in (404, 412) and task.when.seconds < now - reclaim_age_s:
        return Verdict.POP
    return Verdict.RETRY
