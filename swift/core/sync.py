# SPDX-License-Identifier: Apache-2.0
"""What two replicas of a partition must exchange, told by their suffix hashes.

A replicator pushes: a suffix that only the peer has is none of its business, for the
peer pushes it. What a peer answers is not trusted; `read_suffix_hashes` takes nothing
but the shape that the format has. Rules: contract daemons §8, §9; the format of the
hashes: doc/source/formats/suffix-hashes.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from swift.core import pickles
from swift.core.errors import FormatError
from swift.core.hashing import is_suffix
from swift.core.redundancy import SuffixHash

LISTING_EVERY = 10
"""Passes in which each partition's directory is listed once."""

_WHAT = "suffix hashes"


def read_suffix_hashes(data: bytes) -> dict[str, SuffixHash]:
    """Suffix → digest out of the answer to a REPLICATE.

    Raises FormatError for a pickle that is unsafe or holds anything else.
    """
    found = pickles.loads(data)
    if not isinstance(found, dict):
        raise FormatError(_WHAT, f"a {type(found).__name__}")
    for suffix, value in found.items():
        if not isinstance(suffix, str) or not is_suffix(suffix):
            raise FormatError(_WHAT, f"key {suffix!r:.80}")
        if value is not None and not _is_digest(value):
            raise FormatError(_WHAT, f"value of {suffix}: {value!r:.80}")
    return found


def _is_digest(value: Any) -> bool:
    if isinstance(value, dict):
        return all(
            (index is None or type(index) is int) and isinstance(digest, str)
            for index, digest in value.items()
        )
    return isinstance(value, str)


def differing(
    local: Mapping[str, SuffixHash], remote: Mapping[str, SuffixHash | None]
) -> list[str]:
    """The suffixes whose content the peer lacks or has otherwise, sorted."""
    return sorted(
        suffix for suffix, value in local.items() if remote.get(suffix) != value
    )


def is_listed(partition: int, pass_number: int) -> bool:
    """True in the one pass out of ten that looks for unannounced suffixes."""
    return (partition + pass_number) % LISTING_EVERY == 0


def may_give_up(successes: int, targets: int, handoff_delete: int) -> bool:
    """True when a handoff has handed over often enough to delete its own.

    targets: the primaries; handoff_delete: of them that must have it, 0 for all.
    """
    needed = min(handoff_delete, targets) if handoff_delete else targets
    return successes >= needed


def confirmed_by_all(confirmed: Iterable[Collection[str]]) -> set[str]:
    """What every one of some peers has confirmed; nothing when nobody was asked."""
    found: set[str] | None = None
    for hashes in confirmed:
        found = set(hashes) if found is None else found.intersection(hashes)
    return found or set()
