# SPDX-License-Identifier: Apache-2.0
"""What follows from the answers of several nodes: wait, go on or give up.

A write is sent to the nodes of a partition at once. `Tally` is fed their answers as
they come and says when enough of one kind have come, or when enough can no longer come;
`best` picks the answer that the client gets. A read asks nodes one after the other;
`CopyCollector` says when to stop and which answer is the object. Nothing here knows
sockets or nodes. Rules: contracts backend-http 1 and api 14.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from swift.core.errors import InvalidInput
from swift.core.headers import (
    X_BACKEND_DATA_TIMESTAMP,
    X_BACKEND_TIMESTAMP,
    X_PUT_TIMESTAMP,
    X_TIMESTAMP,
    Headers,
)
from swift.core.timestamp import ZERO, Timestamp

NO_ANSWER = 503
"""What a node that was not reached or did not answer in time counts as."""

_CLASSES = (2, 3, 4)
_AGES = (
    X_BACKEND_DATA_TIMESTAMP,
    X_BACKEND_TIMESTAMP,
    X_PUT_TIMESTAMP,
    X_TIMESTAMP,
)


class Verdict(Enum):
    """What the answers so far amount to."""

    WAITING = "waiting"
    MET = "met"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one node said; a node that said nothing has the status NO_ANSWER.

    source: whatever the caller wants to find again (a response to read, a node).
    """

    status: int
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    is_handoff: bool = False
    source: Any = None

    @property
    def is_success(self) -> bool:
        """True for the 2xx."""
        return self.status // 100 == 2

    @property
    def age(self) -> Timestamp:
        """The time of the state that the answer shows; ZERO when it names none."""
        return time_of(self.headers)


def time_of(headers: Headers) -> Timestamp:
    """The time of what a node holds, by the first header that names one, else ZERO."""
    for name in _AGES:
        if name in headers:
            try:
                return headers.timestamp(name) or ZERO
            except InvalidInput:
                return ZERO
    return ZERO


def quorum_size(nodes: int) -> int:
    """Half of the nodes, rounded up: enough copies for accounts and containers."""
    return (nodes + 1) // 2


def majority_size(nodes: int) -> int:
    """More than half of the nodes: 2 of 3, 3 of 4."""
    return nodes // 2 + 1


class Tally:
    """The answers to one write, counted by the class of their status.

    asked: nodes that will be fed, 1 <= quorum <= asked. same_as: statuses that count as
    another one when no class has a quorum by itself (a DELETE counts 404 as 204).
    """

    __slots__ = ("_asked", "_counts", "_moved", "_quorum", "_same_as", "fed")

    def __init__(
        self, asked: int, quorum: int, same_as: Mapping[int, int] | None = None
    ) -> None:
        self._asked = asked
        self._quorum = quorum
        self._same_as = same_as or {}
        self._counts = [0] * 6
        self._moved = [0] * 6
        self.fed = 0

    def feed(self, status: int) -> Verdict:
        """Count one more answer and say where that leaves the write."""
        self.fed += 1
        self._counts[_class_of(status)] += 1
        if self._same_as:
            self._moved[_class_of(self._same_as.get(status, status))] += 1
        return self.verdict

    @property
    def verdict(self) -> Verdict:
        """MET when a class has the quorum, LOST when none can have it any more."""
        counts = self._counts
        most = max(counts[2], counts[3], counts[4])
        if self._same_as:
            moved = self._moved
            most = max(most, moved[2], moved[3], moved[4])
        if most >= self._quorum:
            return Verdict.MET
        if most + self._asked - self.fed < self._quorum:
            return Verdict.LOST
        return Verdict.WAITING


def _class_of(status: int) -> int:
    kind = status // 100
    return kind if 0 < kind < 6 else 5


def best(
    answers: Sequence[Answer], quorum: int, same_as: Mapping[int, int] | None = None
) -> Answer | None:
    """The answer that speaks for all, or None when no class of status has the quorum.

    Success comes before redirection before refusal; within the class the highest status
    wins, of equal ones the first. same_as: as for Tally, tried when there is no quorum
    without it; the answer then carries the status that it counted as.
    """
    chosen = _best_of([(answer.status, answer) for answer in answers], quorum)
    if chosen is None and same_as:
        chosen = _best_of(
            [(same_as.get(answer.status, answer.status), answer) for answer in answers],
            quorum,
        )
    if chosen is None:
        return None
    status, answer = chosen
    if status == answer.status:
        return answer
    for other in answers:
        if other.status == status:
            return other
    return Answer(status, answer.headers, b"", answer.is_handoff, answer.source)


def _best_of(
    answers: Sequence[tuple[int, Answer]], quorum: int
) -> tuple[int, Answer] | None:
    for kind in _CLASSES:
        of_kind = [pair for pair in answers if pair[0] // 100 == kind]
        if of_kind and len(of_kind) >= quorum:
            return max(of_kind, key=lambda pair: pair[0])
    return None


def newest(answers: Iterable[Answer]) -> Answer | None:
    """The answer that shows the latest state; of equal ones the first."""
    return max(answers, key=lambda answer: answer.age, default=None)


class CopyCollector:
    """Reads of which any one good answer gives the whole: replicas, databases.

    newest: look at every answer and take the latest; otherwise the first good one is
    it. suppress_missing: so many 404s without a timestamp are taken for copies that a
    rebalance has not moved yet, and say nothing. tombstones: the timestamp of a 404
    says when the thing was deleted (objects), so that older copies are stale.
    """

    __slots__ = (
        "_deleted_at",
        "_newest",
        "_suppress",
        "_tombstones",
        "chosen",
        "dropped",
        "refusals",
    )

    wanted = 1
    sources: Mapping[int, Answer] = {}
    useless: Sequence[Answer] = ()

    def __init__(
        self,
        *,
        newest: bool = False,
        suppress_missing: int = 0,
        tombstones: bool = True,
    ) -> None:
        self._newest = newest
        self._tombstones = tombstones
        self._suppress = suppress_missing
        self._deleted_at = ZERO
        self.chosen: Answer | None = None
        self.dropped: list[Answer] = []
        self.refusals: list[Answer] = []

    def feed(self, answer: Answer) -> bool:
        """Take one more answer; True when no further node need be asked.

        `chosen` is then the answer to give. Good answers that lost their place are in
        `dropped`; their owner must close what they hold.
        """
        if self._tombstones and is_without_object(answer):
            self.dropped.append(answer)
            return self._feed_missing(as_missing(answer))
        if is_good(answer.status):
            return self._feed_good(answer)
        if answer.status == 404:
            return self._feed_missing(answer)
        self.refusals.append(answer)
        return False

    def _feed_good(self, answer: Answer) -> bool:
        if self._deleted_at and answer.age < self._deleted_at:
            # A stale copy on a node that has not heard of the deletion.
            self.dropped.append(answer)
            return False
        if not self._newest:
            if self.chosen is not None:
                self.dropped.append(answer)
            else:
                self.chosen = answer
            return True
        if self.chosen is None:
            self.chosen = answer
        elif self.chosen.age < answer.age:
            self.dropped.append(self.chosen)
            self.chosen = answer
        else:
            self.dropped.append(answer)
        return False

    def _feed_missing(self, answer: Answer) -> bool:
        if X_BACKEND_TIMESTAMP not in answer.headers:
            if answer.is_handoff:
                # A node that should not have the thing does not know whether it exists.
                return False
            if self._suppress > 0:
                self._suppress -= 1
                return False
        self.refusals.append(answer)
        if not self._tombstones:
            return False
        deleted_at = answer.age
        if deleted_at > self._deleted_at:
            self._deleted_at = deleted_at
            if self.chosen is not None and self.chosen.age < deleted_at:
                self.dropped.append(self.chosen)
                self.chosen = None
        return False

    @property
    def undecided(self) -> bool:
        """True when the answers so far allow neither a copy nor a refusal.

        Who wants the newest has asked primaries only; those that lack an object need
        not know of a copy that was written to handoffs while they were away.
        """
        if self.chosen is not None:
            return False
        if self._newest and self._tombstones and not self._deleted_at:
            return True
        return self.refusal() is None

    def extra(self) -> Sequence[tuple[str, str]]:
        """Every node is asked alike."""
        return ()

    def revisit(self) -> None:
        """A node has told all that it knows."""

    def refusal(self) -> Answer | None:
        """The answer when nothing good came: what most of those that count say.

        None when they do not agree, or none counts: the read is not possible now.
        """
        return best(self.refusals, quorum_size(len(self.refusals)))


def is_good(status: int) -> bool:
    """True for an answer that was made from a copy: the thing, or its refusal.

    416 and 412 are judged on the copy's own length and tags; another copy would say the
    same.
    """
    return 200 <= status < 400 or status in (412, 416)


def is_without_object(answer: Answer) -> bool:
    """True for a 412 of a node that lacks the object, as `If-Match: *` has it.

    It says no more than a 404: another node may well have the object.
    """
    return answer.status == 412 and X_BACKEND_DATA_TIMESTAMP not in answer.headers


def as_missing(answer: Answer) -> Answer:
    """The 404 that a node without the object would have given unconditionally."""
    return Answer(404, answer.headers, b"", answer.is_handoff)
