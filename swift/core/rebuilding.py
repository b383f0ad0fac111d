# SPDX-License-Identifier: Apache-2.0
"""From which fragments a missing one is made, and when one is beyond help.

A node that has one fragment of an object makes another for a peer. `FragmentSources` is
told what the other primaries answer, takes what is of the very same data and keeps away
from everything else: other times, other etags or lengths, indexes that are there
already, and the one that is to be made. What is taken is the same object, or nothing
is. Nothing here knows sockets. Rules: contract daemons §9, erasure-coding 8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from swift.core.fragments import Described, fragments_of, preferences_header
from swift.core.headers import CONTENT_LENGTH, X_BACKEND_DURABLE_TIMESTAMP
from swift.core.quorum import Answer

_MISSING = 404


@dataclass(frozen=True, slots=True)
class Sought:
    """The data that fragments are wanted of, as our own fragment tells.

    own: our fragment. archive_size: its bytes, which all others have as well. target:
    the index that is to be made.
    """

    own: Described
    archive_size: int
    target: int


class FragmentSources:
    """Collects fragments of one object until they give the missing one.

    suffices: tells whether indexes give a segment back. needed: how many do at the
    least. scheme, unique: of the code. Our own fragment is there from the start.
    """

    def __init__(
        self,
        sought: Sought,
        *,
        suffices: Callable[[Collection[int]], bool],
        needed: int,
        scheme: str,
        unique: int,
    ) -> None:
        self._sought = sought
        self._suffices = suffices
        self._needed = needed
        self._scheme = scheme
        self._unique = unique
        self._seen: dict[int, bool] = {}
        """Index → whether its node has seen a commit, of the data that is sought."""
        self._elsewhere: list[tuple[Any, set[int]]] = []
        self._revisits_left = unique  # a node that says what is not so must not win
        self._refusals: Counter[int] = Counter()
        self._others = 0

    def feed(self, answer: Answer) -> int | None:
        """Take an answer to a GET; its index, None when its body is of no use.

        Its source is whom `revisit` names.
        """
        if not answer.is_success:
            self._refusals[answer.status] += 1
            return None
        described = Described.of(answer.headers, self._scheme, self._unique)
        if described is None or not self._is_sought(described, answer):
            self._others += 1
            return None
        is_durable = answer.headers.get(X_BACKEND_DURABLE_TIMESTAMP) is not None
        self._note_elsewhere(answer, described)
        index = described.index
        is_new = index not in (self._sought.target, *self.indexes)
        self._seen.setdefault(index, is_durable)
        return index if is_new else None

    def _is_sought(self, described: Described, answer: Answer) -> bool:
        """True for a fragment of the very data that ours is of."""
        own = self._sought.own
        return (
            described.timestamp == own.timestamp
            and described.etag == own.etag
            and described.size == own.size
            and answer.headers.get(CONTENT_LENGTH) == str(self._sought.archive_size)
        )

    def _note_elsewhere(self, answer: Answer, described: Described) -> None:
        """Remember what else of the data a node has; it may be asked again."""
        there = fragments_of(answer.headers).get(described.timestamp, set())
        if there - {described.index}:
            self._elsewhere.append((answer.source, there - {described.index}))

    def pass_over(self) -> None:
        """A node is not asked, as what it has is known to be of no use."""
        self._others += 1

    @property
    def indexes(self) -> set[int]:
        """The fragments that are there, ours too."""
        return {self._sought.own.index, *self._seen} - {self._sought.target}

    @property
    def missing(self) -> int:
        """How many more are needed at the least; 0 when the target can be made."""
        if self._suffices(self.indexes):
            return 0
        return max(1, self._needed - len(self.indexes))

    def preferences(self) -> tuple[str, str]:
        """The header that asks for the data, whatever the index."""
        return preferences_header([(self._sought.own.timestamp, ())])

    def revisit(self) -> tuple[Any, tuple[str, str]] | None:
        """(source, header) of an answer whose node has another fragment of use.

        None when there is none.
        """
        known = {*self.indexes, self._sought.target}
        while self._elsewhere and self._revisits_left:
            self._revisits_left -= 1
            source, there = self._elsewhere.pop()
            if there - known:
                wanted = (self._sought.own.timestamp, known)
                return source, preferences_header([wanted])
        return None

    # --- when it cannot be made -------------------------------------------------------

    def is_solitary(self, threshold: int) -> bool:
        """True when nobody seems to have enough of the object, nor anything newer.

        threshold: the number of fragments, ours among them, up to which that is
        believed; 0 never does.
        """
        count = len({self._sought.own.index, *self._seen})
        missing = self._refusals[_MISSING]
        return (
            count <= threshold
            and count < self._needed
            and not self._others
            and 0 < missing == self._refusals.total()
        )

    def __str__(self) -> str:
        parts = [f"{len(self.indexes)} of {self._needed} fragments"]
        durable = sum(self._seen.values())
        parts.append(f"{durable} of {len(self._seen)} others durable")
        if self._others:
            parts.append(f"{self._others} of other data")
        parts += [f"{count} × {s}" for s, count in sorted(self._refusals.items())]
        return ", ".join(parts)
