# SPDX-License-Identifier: Apache-2.0
"""Making a fragment that a peer lacks, out of those that others have.

A `Rebuilder` is the source of an ssync sender: for an object that the peer wants it
asks the other primaries for their fragments, handoffs when those are too few, and gives
the bytes of the peer's. Our own fragment is read from the disk. Which fragments may be
used is decided in core/rebuilding.

Every archive is read to its end before the last piece of the new one is given: a node
that finds out at the end that its archive is corrupt breaks off, and then nothing that
was made of it is taken for whole. A node that has broken off, or whose bytes are not
what they say, is not asked for that object again in this pass.

Contract daemons §9, erasure-coding 8.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol

from swift.core.erasure import BadFragment
from swift.core.errors import ObjectMissing, ObjectQuarantined, PeerError
from swift.core.fragments import Described
from swift.core.headers import (
    ETAG,
    X_BACKEND_REPLICATION,
    X_BACKEND_STORAGE_POLICY_INDEX,
    X_OBJECT_SYSMETA_EC_CONTENT_LENGTH,
    X_OBJECT_SYSMETA_EC_ETAG,
    X_OBJECT_SYSMETA_EC_FRAG_INDEX,
    Headers,
)
from swift.core.metadata import NAME
from swift.core.names import ObjectName, split_name
from swift.core.quorum import NO_ANSWER, Answer
from swift.core.rebuilding import FragmentSources, Sought
from swift.core.redundancy import Decoder
from swift.core.ring.devices import Node
from swift.core.ring.ring import Ring
from swift.daemons.ssync_sender import Push, own_copy
from swift.runtime import green
from swift.runtime.logs import Logger
from swift.runtime.metrics import Metrics
from swift.storage.object.diskfile import DiskFile, OpenObject
from swift.storage.object.manager import DiskFileManager
from swift.storage.object.reader import ObjectReader
from swift.wire.client_response import ClientResponse
from swift.wire.direct import DirectClient
from swift.wire.nodes import NodeCount

AHEAD_BYTES = 2 * 1024 * 1024
"""Bytes of a new archive that are made before the first is given: what goes wrong with
a source until then costs no conversation."""

AT_ONCE_BYTES = 1024 * 1024
"""Bytes of each archive that are waited for, and read from our disk, at a time. To be
woken for each packet of each source would cost more than to make the fragments."""

DISTRUSTED_MAX = 10_000
"""Bad sources that are remembered; more are a sign of something else."""

REFUSAL_MAX = 1024
"""Bytes of a refusal that are read, so that its connection can be kept."""


class BrokenRebuild(PeerError):
    """A source failed after a part of the new archive had been given."""


class _BadSource(Exception):
    """A source of which no more is wanted."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason


@dataclass(frozen=True)
class SolitaryRule:
    """When a fragment is given up because there seem to be too few others.

    threshold: fragments up to which that is believed, 0 for never. age_s: of the data,
    at least. nodes: how many are asked for fragments, handoffs among them.
    """

    threshold: int
    age_s: float
    nodes: NodeCount


class Rebuilder:
    """Makes fragments of the objects of one policy; see `daemons.ssync_sender.Source`.

    ring: the policy's as it is now. direct: asks other nodes.
    """

    def __init__(
        self,
        manager: DiskFileManager,
        ring: Callable[[], Ring],
        direct: DirectClient,
        rule: SolitaryRule,
        log: Logger,
        metrics: Metrics,
    ) -> None:
        decoder = manager.policy.redundancy.decoder()
        assert decoder is not None, "the policy keeps fragments"
        self.manager = manager
        self.decoder: Decoder = decoder
        self.ring = ring
        self.direct = direct
        self.rule = rule
        self.log = log
        self.metrics = metrics
        self._distrusted: set[tuple[str, int]] = set()

    def forget(self) -> None:
        """A new pass begins: every node is trusted again."""
        self._distrusted.clear()

    def trusts(self, name: str, node: Node) -> bool:
        """True when a node has not been a bad source of an object in this pass."""
        return (name, node.id) not in self._distrusted

    def distrust(self, name: str, node: Node, reason: str) -> None:
        """A node's fragment of an object is of no use."""
        if len(self._distrusted) >= DISTRUSTED_MAX:
            self._distrusted.clear()
        self._distrusted.add((name, node.id))
        self.metrics.increment("fragments.refused")
        self.log.warning(
            "fragment of %s on device %s of %s:%s is of no use: %s",
            name,
            node.name,
            node.replication_ip,
            node.replication_port,
            reason,
        )

    def __call__(
        self, opened: OpenObject, push: Push
    ) -> tuple[Headers, Iterator[bytes]]:
        """The metadata and the bytes that the peer of a push should have. Yields.

        Raises ObjectQuarantined for our own fragment, ObjectMissing when there are not
        enough others.
        """
        if push.peer_index in (None, push.fragment_index):
            return own_copy(opened, push)
        if opened.record_fault is not None:
            disk = disk_of(self.manager, opened, push)
            raise green.in_thread(disk.quarantine, opened.record_fault)
        headers = opened.data_metadata
        headers.pop(NAME, None)
        headers.pop(ETAG, None)
        headers[X_OBJECT_SYSMETA_EC_FRAG_INDEX] = str(push.peer_index)
        if not opened.content_length:
            return headers, _nothing()
        while True:
            rebuild = _Rebuild(self, opened, push)
            try:
                return headers, rebuild.begin()
            except _BadSource as bad:
                rebuild.distrust(bad)


def disk_of(manager: DiskFileManager, opened: OpenObject, push: Push) -> DiskFile:
    """The hash directory that an open object lies in."""
    return manager.diskfile(push.device, push.partition, name_of(opened))


def name_of(opened: OpenObject) -> ObjectName:
    """The name of an object that a sender has opened."""
    name = split_name(opened.name)
    assert isinstance(name, ObjectName), "the sender has looked"
    return name


def _nothing() -> Iterator[bytes]:
    yield from ()


class _Rebuild:
    """One attempt to make one fragment."""

    def __init__(self, rebuilder: Rebuilder, opened: OpenObject, push: Push) -> None:
        self._rebuilder = rebuilder
        self._opened = opened
        self._push = push
        assert push.peer_index is not None, "a fragment is to be made"
        assert push.fragment_index is not None, "from one that we have"
        self._target = push.peer_index
        self._own_index = push.fragment_index
        self._ring = rebuilder.ring()
        self._sources = self._new_sources()
        self._nodes: dict[int, Node] = {}
        self._bodies: dict[int, _Body] = {}

    def _new_sources(self) -> FragmentSources:
        opened, decoder = self._opened, self._rebuilder.decoder
        size = opened.metadata.get(X_OBJECT_SYSMETA_EC_CONTENT_LENGTH, "")
        own = Described(
            self._own_index,
            opened.data_timestamp,
            opened.metadata[X_OBJECT_SYSMETA_EC_ETAG],
            int(size) if size.isascii() and size.isdigit() else -1,
        )
        return FragmentSources(
            Sought(own, opened.content_length, self._target),
            suffices=decoder.suffices,
            needed=self._rebuilder.manager.policy.redundancy.needed,
            scheme=decoder.scheme,
            unique=decoder.unique,
        )

    def begin(self) -> Iterator[bytes]:
        """The bytes of the fragment, the first of them made. Yields.

        Raises _BadSource, ObjectMissing, ObjectQuarantined.
        """
        try:
            self._gather(self._candidates())
            if self._sources.missing:
                self._give_up_if_alone()
                self._say_impossible()
                raise ObjectMissing(f"{self._opened.name}: too few fragments")
            reader = self._opened.reader(read_size=AT_ONCE_BYTES)
            self._bodies[self._own_index] = _OwnBody(reader)
            pieces = self._pieces()
            ahead: deque[bytes] = deque()
            size = 0
            while size < AHEAD_BYTES and (piece := next(pieces, b"")):
                ahead.append(piece)
                size += len(piece)
        except BaseException:
            self.close()
            raise
        self._rebuilder.metrics.increment("fragments.rebuilt")
        return _Archive(ahead, pieces, self)

    def close(self) -> None:
        """Let go of all sources."""
        for body in self._bodies.values():
            body.close()

    def distrust(self, bad: _BadSource) -> None:
        """Do without a source from now on. Raises ObjectMissing for our own."""
        node = self._nodes.get(bad.index)
        if node is None:
            raise ObjectMissing(f"{self._opened.name}: {bad.reason}") from bad
        self._rebuilder.distrust(self._opened.name, node, bad.reason)

    # --- gathering --------------------------------------------------------------------

    def _candidates(self) -> Iterator[Node]:
        """Whom to ask, the most useful first: primaries, and handoffs behind them.

        Neither the peer nor who was of no use.
        """
        expected = {self._own_index, self._target}
        index_at = self._rebuilder.manager.policy.redundancy.archive_index
        partition = self._push.partition
        primaries = sorted(
            self._ring.primaries(partition),
            key=lambda node: index_at(node.index or 0) in expected,
        )
        count = self._rebuilder.rule.nodes.of(len(primaries)) - len(primaries)
        handoffs = islice(self._ring.handoffs(partition), max(0, count))
        for node in chain(primaries, handoffs):
            if node.id == self._push.node.id:
                continue
            if self._rebuilder.trusts(self._opened.name, node):
                yield node
            else:
                self._sources.pass_over()

    def _gather(self, nodes: Iterator[Node]) -> None:
        """Ask as many nodes as are needed, and others in the place of useless ones."""
        sources = self._sources
        preferences = sources.preferences()
        while missing := sources.missing:
            batch = list(islice(nodes, missing))
            if not batch:
                break
            threads = [green.spawn(self._ask, node, preferences) for node in batch]
            for node, thread in zip(batch, threads, strict=True):
                self._take(node, thread.wait())
        while sources.missing and (more := sources.revisit()):
            node, preferences = more
            self._take(node, self._ask(node, preferences))

    def _ask(self, node: Node, preferences: tuple[str, str]) -> ClientResponse | None:
        """What a node answers, None when it does not. Yields."""
        rebuilder = self._rebuilder
        path = f"/{self._push.partition}{name_of(self._opened).quoted}"
        policy_index = str(rebuilder.manager.policy.index)
        headers = [
            (X_BACKEND_STORAGE_POLICY_INDEX, policy_index),
            (X_BACKEND_REPLICATION, "True"),
            preferences,
        ]
        try:
            response = rebuilder.direct.open(node, "GET", path, headers)
            if response.status != 200:
                with closing(response):
                    response.read(REFUSAL_MAX)
        except PeerError as error:
            rebuilder.log.debug("%s: %s", self._opened.name, error)
            return None
        return response

    def _take(self, node: Node, response: ClientResponse | None) -> None:
        if response is None:
            self._sources.feed(Answer(NO_ANSWER))
            return
        answer = Answer(response.status, response.headers, source=node)
        index = self._sources.feed(answer)
        if index is None:
            response.close()
        else:
            self._nodes[index] = node
            self._bodies[index] = _PeerBody(response)

    def _give_up_if_alone(self) -> None:
        """Move our fragment aside when nobody seems to have enough others.

        Raises ObjectQuarantined.
        """
        rule, opened = self._rebuilder.rule, self._opened
        age_s = green.now() - opened.data_timestamp.seconds
        if age_s > rule.age_s and self._sources.is_solitary(rule.threshold):
            disk = disk_of(self._rebuilder.manager, opened, self._push)
            reason = f"solitary fragment: {self._sources}"
            raise green.in_thread(disk.quarantine, reason)

    def _say_impossible(self) -> None:
        opened = self._opened
        self._rebuilder.log.error(
            "unable to reconstruct fragment %d of %s (etag %s, %s, durable): %s",
            self._target,
            opened.name,
            opened.metadata[X_OBJECT_SYSMETA_EC_ETAG],
            opened.data_timestamp.internal,
            self._sources,
        )

    # --- making -----------------------------------------------------------------------

    def _pieces(self) -> Iterator[bytes]:
        """The fragment of each segment. Raises _BadSource, ObjectQuarantined."""
        decoder = self._rebuilder.decoder
        left = self._opened.content_length
        while left:
            size = min(decoder.fragment_size, left)
            fragments = {index: self._read(index, size) for index in self._bodies}
            try:
                piece = decoder.rebuild(fragments, self._target)
            except BadFragment as error:
                raise _BadSource(error.index, error.reason) from error
            left -= size
            yield piece

    def _read(self, index: int, size: int) -> bytes:
        try:
            data = self._bodies[index].read(size)
        except PeerError as error:
            raise _BadSource(index, error.reason) from error
        if len(data) != size:
            raise _BadSource(index, f"ends {size - len(data)} bytes early")
        return data


class _Body(Protocol):
    """The bytes of one archive, in order."""

    def read(self, size: int) -> bytes:
        """`size` bytes, less only at the end. Yields."""
        ...

    def close(self) -> None:
        """Want no more."""
        ...


class _PeerBody:
    """The archive of another node, taken in large steps."""

    def __init__(self, response: ClientResponse) -> None:
        self._response = response
        self._arrived = 0

    def read(self, size: int) -> bytes:
        response = self._response
        if self._arrived < size and (coming := response.unread_length):
            self._arrived = size * -(-AT_ONCE_BYTES // size)
            response.await_bytes(min(coming, self._arrived))
        self._arrived -= size
        return response.read(size)

    def close(self) -> None:
        self._response.close()


class _OwnBody:
    """Our own archive, whose checksum is looked at on the way.

    Its next bytes are read and verified while those before are used.
    """

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self._rest = b""
        self._at = 0
        self._following = green.spawn(next, reader, b"")

    def read(self, size: int) -> bytes:
        pieces = []
        while size:
            if self._at == len(self._rest) and not self._proceed():
                break
            piece = self._rest[self._at : self._at + size]
            pieces.append(piece)
            self._at += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _proceed(self) -> bool:
        """Go on to what was read ahead; False at the end."""
        self._rest, self._at = self._following.wait(), 0
        self._following = green.spawn(next, self._reader, b"")
        return bool(self._rest)

    def close(self) -> None:
        self._following.kill()
        self._reader.close()


class _Archive:
    """The bytes of the fragment that is made, for the sender."""

    def __init__(
        self, ahead: deque[bytes], pieces: Iterator[bytes], rebuild: _Rebuild
    ) -> None:
        self._ahead = ahead
        self._pieces = pieces
        self._rebuild = rebuild

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._ahead:
            return self._ahead.popleft()
        try:
            return next(self._pieces)
        except _BadSource as bad:
            self._rebuild.distrust(bad)
            raise BrokenRebuild("fragment", bad.reason) from bad
        except ObjectQuarantined as error:
            raise BrokenRebuild("fragment", str(error)) from error

    def close(self) -> None:
        """Let go of all sources."""
        self._rebuild.close()
