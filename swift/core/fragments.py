# SPDX-License-Identifier: Apache-2.0
"""Which fragments a read has, and which it asks for next.

Nodes may hold fragments of several versions of an object, some of them not durable.
The collector groups what they answer by the time of the data. A group gives the object
when some node has seen it committed, its fragments suffice, and nobody has seen a later
deletion or a later commit; the newest such group is it. What each next node is asked
for is said by a list of preferences, so that it does not send what is there already.
Nothing here knows sockets. Rules: contract erasure-coding 6.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from swift.core.errors import InvalidInput
from swift.core.headers import (
    X_BACKEND_DATA_TIMESTAMP,
    X_BACKEND_DURABLE_TIMESTAMP,
    X_BACKEND_FRAGMENT_PREFERENCES,
    X_BACKEND_FRAGMENTS,
    X_BACKEND_TIMESTAMP,
    X_OBJECT_SYSMETA_EC_CONTENT_LENGTH,
    X_OBJECT_SYSMETA_EC_ETAG,
    X_OBJECT_SYSMETA_EC_FRAG_INDEX,
    X_OBJECT_SYSMETA_EC_SCHEME,
    Headers,
)
from swift.core.quorum import (
    Answer,
    as_missing,
    best,
    is_good,
    is_without_object,
    quorum_size,
)
from swift.core.timestamp import ZERO, Timestamp, TimestampError

_MISSING = 404
_UNREADABLE = 503
_TIMES_MAX = 64
"""Versions of one object that a node may tell of; more is no honest answer."""


@dataclass(frozen=True, slots=True)
class Described:
    """What an answer says of the fragment that it brings."""

    index: int
    timestamp: Timestamp
    etag: str
    size: int

    @classmethod
    def of(cls, headers: Headers, scheme: str, unique: int) -> Described | None:
        """None when the answer does not say all of it, or is of another scheme.

        unique: how many fragments there are.
        """
        etag = headers.get(X_OBJECT_SYSMETA_EC_ETAG)
        try:
            timestamp = headers.timestamp(X_BACKEND_DATA_TIMESTAMP)
            index = headers.integer(X_OBJECT_SYSMETA_EC_FRAG_INDEX)
            size = headers.integer(X_OBJECT_SYSMETA_EC_CONTENT_LENGTH)
        except InvalidInput:
            return None
        if not etag or timestamp is None or index is None or size is None:
            return None
        if headers.get(X_OBJECT_SYSMETA_EC_SCHEME, scheme) != scheme:
            return None
        if not 0 <= index < unique or size < 0:
            return None
        return cls(index, timestamp, etag, size)


@dataclass(slots=True)
class _Group:
    """Answers that agree on a time, an etag and a length.

    fragments: index → answer. verdicts: those that refuse
    (a condition or a range was judged), which bring no bytes.
    """

    timestamp: Timestamp
    fragments: dict[int, Answer] = field(default_factory=dict)
    verdicts: dict[int, Answer] = field(default_factory=dict)

    def answers(self) -> list[Answer]:
        """All of them."""
        return [*self.fragments.values(), *self.verdicts.values()]


class FragmentCollector:
    """Reads that need several fragments; see `core.redundancy.Collector`.

    needed: fragments to ask for at first. suffices: tells whether indexes give a
    segment back. scheme: as archives name it; others are of no use. unique: how many
    fragments there are. newest: all answers are wanted. suppress_missing: as for
    CopyCollector.

    sources: index → answer, of the group that was chosen.
    """

    def __init__(
        self,
        *,
        needed: int,
        suffices: Callable[[Collection[int]], bool],
        scheme: str,
        unique: int,
        newest: bool = False,
        suppress_missing: int = 0,
    ) -> None:
        self._needed = needed
        self._suffices = suffices
        self._scheme = scheme
        self._unique = unique
        self._newest = newest
        self._suppress = suppress_missing
        self._groups: dict[tuple[Timestamp, str, int], _Group] = {}
        self._durable: set[Timestamp] = set()
        self._deleted_at = ZERO
        self._elsewhere: list[tuple[Any, Mapping[Timestamp, set[int]]]] = []
        self._revisits_left = 2 * unique
        self._unfit: list[Answer] = []
        self.refusals: list[Answer] = []
        self._undescribed: list[Answer] = []

    # --- what has come ----------------------------------------------------------------

    def feed(self, answer: Answer) -> bool:
        """Take one more answer; True when no further node need be asked."""
        if is_without_object(answer):
            self._unfit.append(answer)
            self._feed_missing(as_missing(answer))
        elif is_good(answer.status):
            self._feed_good(answer)
        elif answer.status == _MISSING:
            self._feed_missing(answer)
        else:
            self.refusals.append(answer)
        if self._newest:
            return False
        found = self._complete()
        return found is not None and found.timestamp == self._latest_durable()

    def _feed_good(self, answer: Answer) -> None:
        headers = answer.headers
        described = Described.of(headers, self._scheme, self._unique)
        if described is None:
            self._undescribed.append(answer)
            self._unfit.append(answer)
            return
        durable_at = _time(headers.get(X_BACKEND_DURABLE_TIMESTAMP))
        if durable_at is not None:
            self._durable.add(durable_at)
        # A node that says something else of a time than the others stands alone, no
        # matter which of them answers first.
        key = (described.timestamp, described.etag, described.size)
        group = self._groups.setdefault(key, _Group(described.timestamp))
        index = described.index
        # Nodes that are asked at once do not know of each other: one that gives what
        # another has given may have more. How often they are asked again is bounded,
        # for one that says what is not so would be for ever.
        self._note_elsewhere(answer, described)
        if index in group.fragments or index in group.verdicts:
            self._unfit.append(answer)
            return
        if answer.is_success:
            group.fragments[index] = answer
        else:
            group.verdicts[index] = answer

    def _note_elsewhere(self, answer: Answer, described: Described) -> None:
        """Remember what else a node has, for which it may be asked again."""
        others = {
            timestamp: indexes - {described.index}
            if timestamp == described.timestamp
            else indexes
            for timestamp, indexes in fragments_of(answer.headers).items()
        }
        others = {
            timestamp: indexes for timestamp, indexes in others.items() if indexes
        }
        if others:
            self._elsewhere.append((answer.source, others))

    def _feed_missing(self, answer: Answer) -> None:
        if X_BACKEND_TIMESTAMP not in answer.headers:
            if answer.is_handoff:
                return
            if self._suppress > 0:
                self._suppress -= 1
                return
        else:
            self._deleted_at = max(self._deleted_at, answer.age)
        self.refusals.append(answer)

    # --- what follows -----------------------------------------------------------------

    def _latest_durable(self) -> Timestamp:
        return max(
            (when for when in self._durable if when > self._deleted_at), default=ZERO
        )

    def _standing(self) -> list[_Group]:
        """The groups that no deletion has overtaken, best first."""
        groups = [
            group
            for group in self._groups.values()
            if group.timestamp > self._deleted_at
        ]
        return sorted(
            groups,
            key=lambda group: (
                group.timestamp in self._durable,
                group.timestamp,
                len(group.fragments) + len(group.verdicts),
            ),
            reverse=True,
        )

    def _is_complete(self, group: _Group) -> bool:
        if group.timestamp not in self._durable:
            return False
        if self._suffices(group.fragments):
            return True
        return bool(group.verdicts) and self._suffices(
            {*group.fragments, *group.verdicts}
        )

    def _complete(self) -> _Group | None:
        for group in self._standing():
            if self._is_complete(group):
                return group
        return None

    @property
    def wanted(self) -> int:
        """How many more answers it takes at the least; 1 or more."""
        standing = self._standing()
        if not standing:
            return self._needed
        got = standing[0]
        return max(1, self._needed - len(got.fragments) - len(got.verdicts))

    def extra(self) -> list[tuple[str, str]]:
        """What the next node is told of what is there already."""
        return [
            preferences_header((g.timestamp, _indexes(g)) for g in self._standing())
        ]

    def revisit(self) -> Any | None:
        """The source of an earlier answer whose node has more of use; each once."""
        if self._revisits_left <= 0:
            return None
        for group in self._standing():
            if group.timestamp in self._durable and not self._is_complete(group):
                found = self._take_elsewhere(group.timestamp, _indexes(group))
                if found is not None:
                    return found
        known = {group.timestamp for group in self._groups.values()}
        for timestamp in sorted(self._durable - known, reverse=True):
            if timestamp > self._deleted_at:
                return self._take_elsewhere(timestamp, set())
        return None

    def _take_elsewhere(self, timestamp: Timestamp, have: set[int]) -> Any | None:
        for at, (source, others) in enumerate(self._elsewhere):
            if others.get(timestamp, set()) - have:
                del self._elsewhere[at]
                self._revisits_left -= 1
                return source
        return None

    # --- the outcome ------------------------------------------------------------------

    @property
    def chosen(self) -> Answer | None:
        """The answer whose headers stand for the object, None when it cannot be had.

        A POST may have reached some nodes only: the latest state is shown.
        """
        group = self._complete()
        if group is None:
            return None
        answers: Iterable[Answer] = group.fragments.values()
        if not self._suffices(group.fragments):
            answers = group.verdicts.values()
        return max(
            answers, key=lambda answer: _time(answer.headers.get(X_BACKEND_TIMESTAMP))
            or ZERO
        )  # fmt: skip

    @property
    def sources(self) -> dict[int, Answer]:
        """The fragments of the object: index → answer; empty when there are too few."""
        group = self._complete()
        if group is None or not self._suffices(group.fragments):
            return {}
        # Data fragments first: what has all of them needs no arithmetic.
        found: dict[int, Answer] = {}
        for index in sorted(group.fragments):
            if len(found) >= self._needed and self._suffices(found):
                break
            found[index] = group.fragments[index]
        return found

    @property
    def useless(self) -> list[Answer]:
        """Answers that say what is not so; to be counted against their nodes."""
        found = list(self._undescribed)
        complete = self._complete()
        if complete is not None:
            for group in self._groups.values():
                if group is not complete and group.timestamp == complete.timestamp:
                    found += group.answers()
        return found

    @property
    def dropped(self) -> list[Answer]:
        """Good answers that are not used; what they hold must be closed."""
        used = {id(answer) for answer in self.sources.values()}
        chosen = self.chosen
        if chosen is not None and not used:
            used.add(id(chosen))
        found = list(self._unfit)
        for group in self._groups.values():
            found += [answer for answer in group.answers() if id(answer) not in used]
        return found

    @property
    def undecided(self) -> bool:
        """True when the answers so far allow neither the object nor a refusal.

        Nodes that were left out because they failed lately may have what is needed,
        unless so many have said that they have nothing that the rest cannot. What was
        committed and not deleted is somewhere, on handoffs if nowhere else.
        """
        if self.chosen is not None:
            return False
        if self._latest_durable() > ZERO:
            return True
        said = self.refusal()
        if said is None or said.status != _MISSING:
            return True
        missing = sum(answer.status == _MISSING for answer in self.refusals)
        return self._deleted_at == ZERO and missing <= self._unique - self._needed

    def refusal(self) -> Answer | None:
        """What most of the answers say when nothing was chosen; None: no agreement.

        Fragments that no commit is known of are as good as missing; those of an object
        that has too few cannot be read now.
        """
        answers = list(self.refusals)
        for group in self._groups.values():
            durable = group.timestamp in self._durable
            stale = group.timestamp <= self._deleted_at
            status = _UNREADABLE if durable and not stale else _MISSING
            answers += [Answer(status)] * len(group.answers())
        answers += [Answer(_UNREADABLE)] * len(self._undescribed)
        said = best(answers, quorum_size(len(answers)))
        if said is None or said.status != _MISSING:
            return said
        # The time of the deletion goes along with the answer.
        for answer in self.refusals:
            if answer.status == _MISSING and answer.age == self._deleted_at:
                return answer
        return said


def _indexes(group: _Group) -> set[int]:
    return {*group.fragments, *group.verdicts}


def preferences_header(
    groups: Iterable[tuple[Timestamp, Collection[int]]],
) -> tuple[str, str]:
    """The header that asks for a fragment of the first group that has another one.

    groups: times, best first, each with the indexes that are there already.
    """
    wanted = [
        {"timestamp": timestamp.internal, "exclude": sorted(indexes)}
        for timestamp, indexes in groups
    ]
    return X_BACKEND_FRAGMENT_PREFERENCES, json.dumps(wanted)


def fragments_of(headers: Headers) -> dict[Timestamp, set[int]]:
    """What a node says it has of an object; nothing when it makes no sense."""
    text = headers.get(X_BACKEND_FRAGMENTS)
    if not text:
        return {}
    try:
        told = json.loads(text)
        if len(told) > _TIMES_MAX:
            return {}
        return {
            Timestamp.parse(when): {int(index) for index in indexes}
            for when, indexes in told.items()
        }
    except (ValueError, TypeError, AttributeError, TimestampError):
        return {}


def _time(text: str | None) -> Timestamp | None:
    if not text:
        return None
    try:
        return Timestamp.parse(text)
    except TimestampError:
        return None
