# SPDX-License-Identifier: Apache-2.0
"""The receiving end of ssync: one SSYNC request to an object server.

A sender offers objects of one partition; the answer says which of them are wanted; they
come as requests within the request, and go through the handlers that any PUT, POST or
DELETE goes through. The answer's body is written while the request's is read, so its
chunks come from a generator that holds the partition's lock until the end.

Whatever a sender does wrong ends its conversation and nothing else: it is told, logged
once and the connection is closed. Contract backend-http §11.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from swift.core import ssync
from swift.core.errors import (
    ClientDisconnect,
    ClientTimeout,
    InvalidInput,
    LockTimeout,
    NotFound,
    SwiftError,
    Unavailable,
)
from swift.core.hashing import HashSalt, partition_of_hex
from swift.core.headers import (
    CONTENT_TYPE,
    ETAG,
    X_BACKEND_ACCEPT_NO_COMMIT,
    X_BACKEND_NO_COMMIT,
    X_BACKEND_REPLICATION,
    X_BACKEND_REPLICATION_HEADERS,
    X_BACKEND_SSYNC_FRAG_INDEX,
    X_BACKEND_SSYNC_NODE_INDEX,
    X_BACKEND_STORAGE_POLICY_INDEX,
    Headers,
)
from swift.core.names import wsgi_of_text
from swift.core.objectfiles import FileSet
from swift.core.redundancy import Redundancy
from swift.core.settings import natural, number, option, positive_int, seconds
from swift.core.ssync import (
    Holding,
    LineBuffer,
    Offer,
    ProtocolError,
    Update,
    Want,
)
from swift.runtime import green
from swift.runtime.cluster import Cluster, RingUnavailable
from swift.runtime.logs import Logger
from swift.runtime.metrics import Metrics
from swift.services.node import NodeCall
from swift.storage.object.commit_group import CommitGroup
from swift.storage.object.manager import DiskFileManager
from swift.wire import environ as env
from swift.wire.body import Intake, RequestBody
from swift.wire.environ import Environ
from swift.wire.request import Response

OFFERS_PER_LOOK = 256
"""Offers that are held against the disk by one hop to its thread."""

AT_ONCE = 64
"""Updates of one conversation that are stored at the same time, and synced together."""

SMALL_BODY = 65536
"""Bodies up to this size are read ahead, so that the next update can begin."""

READ_SIZE = 262_144


@dataclass(frozen=True)
class ReceiverConfig:
    """Options of [app:object-server] about incoming replication."""

    replication_concurrency: int = option(
        4, parse=natural, doc="Incoming SSYNC conversations; 0 is unlimited."
    )
    replication_concurrency_per_device: int = option(
        1, parse=natural, doc="Incoming SSYNC conversations of one device; 0: no limit."
    )
    replication_lock_timeout_s: float = option(
        15.0,
        name="replication_lock_timeout",
        parse=seconds,
        doc="Seconds that an SSYNC waits for its device and partition.",
    )
    replication_failure_threshold: int = option(
        100,
        parse=positive_int,
        doc="Failed updates from which an SSYNC may be broken off.",
    )
    replication_failure_ratio: float = option(
        1.0,
        parse=number,
        doc="It is, when failures per success are more than this.",
    )


class Body(Protocol):
    """What a conversation reads from: `wsgi.input`."""

    def read_some(self, size: int) -> bytes:
        """1 to `size` bytes as they come; empty at the end."""


Subrequest = Callable[[Environ], Response]
"""Answers a PUT, POST or DELETE that came within an SSYNC."""


class SsyncReceiver:
    """Holds the SSYNC conversations of one object server.

    answer: runs a request within a request.
    """

    def __init__(
        self,
        config: ReceiverConfig,
        *,
        cluster: Cluster,
        answer: Subrequest,
        log: Logger,
        metrics: Metrics,
    ) -> None:
        self.config = config
        self.cluster = cluster
        self.answer = answer
        self.log = log
        self.metrics = metrics
        self._free = config.replication_concurrency

    def run(self, call: NodeCall, manager: DiskFileManager) -> Response:
        """The answer to an SSYNC, whose body is the conversation. Yields.

        Raises DeviceUnavailable, InvalidInput.
        """
        manager.devices.path(call.device)
        if call.rest or not (call.partition.isascii() and call.partition.isdigit()):
            raise InvalidInput("SSYNC of what is no partition")
        fragment_index = _fragment_index(call.headers)
        conversation = _Conversation(self, call, manager, fragment_index)
        headers = Headers.titled([(X_BACKEND_ACCEPT_NO_COMMIT, "True")])
        return Response(200, headers, app_iter=conversation.chunks())

    def take_slot(self) -> bool:
        """True when one more conversation may go on; `leave_slot` ends it."""
        if not self.config.replication_concurrency:
            return True
        if not self._free:
            return False
        self._free -= 1
        return True

    def leave_slot(self) -> None:
        """A conversation is over."""
        self._free += 1


def _fragment_index(headers: Headers) -> int | None:
    """The fragment index of this node in a sender's eyes; raises InvalidInput."""
    index = headers.integer(X_BACKEND_SSYNC_FRAG_INDEX)
    if index is None:
        index = headers.integer(X_BACKEND_SSYNC_NODE_INDEX)
    if index is not None and index < 0:
        raise InvalidInput(f"Invalid {X_BACKEND_SSYNC_FRAG_INDEX} {index!r}")
    return index


class _Refusal(SwiftError):
    """Why a conversation is broken off. status: for the sender."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Conversation:
    """One SSYNC."""

    def __init__(
        self,
        receiver: SsyncReceiver,
        call: NodeCall,
        manager: DiskFileManager,
        fragment_index: int | None,
    ) -> None:
        self._receiver = receiver
        self._config = receiver.config
        self._call = call
        self._manager = manager
        self._fragment_index = fragment_index
        self._body: Body = call.environ[env.WSGI_INPUT]
        self._lines = LineBuffer()
        self._powers = self._part_powers()
        self._commits = CommitGroup(manager.devices.fs, AT_ONCE)
        self._place_on_device = ExitStack()
        self._successes = 0
        self._failures = 0

    # --- the answer -------------------------------------------------------------------

    def chunks(self) -> Iterator[bytes]:
        """The answer's body: lines, given as soon as they are known. Yields."""
        # The head goes out with this line, before anything is waited for.
        yield ssync.CRLF
        try:
            with ExitStack() as held:
                self._hold(held)
                yield from self._missing_check()
                yield from self._updates()
        except _Refusal as refusal:
            yield self._break_off(refusal.status, str(refusal))
        except ProtocolError as error:
            yield self._break_off(400, error.reason)
        except LockTimeout as error:
            yield self._break_off(0, str(error))
        except (Unavailable, NotFound) as error:
            yield self._break_off(507, str(error))
        except ClientTimeout:
            yield self._break_off(408, "the sender is silent")
        except ClientDisconnect as error:
            self._log("the sender is gone (%s)", error)
        finally:
            if self._failures:
                self._log(
                    "%d updates failed, %d stored", self._failures, self._successes
                )

    def _hold(self, held: ExitStack) -> None:
        """Take a slot, the device's lock and the partition's. Yields.

        The device's is given back sooner than the others (`_leave_device`).
        """
        call, config = self._call, self._config
        if not self._receiver.take_slot():
            raise _Refusal(503, "too many conversations")
        held.callback(self._receiver.leave_slot)
        deadline = green.monotonic() + config.replication_lock_timeout_s
        partitions = self._manager.partitions
        self._place_on_device = held.enter_context(ExitStack())
        self._place_on_device.enter_context(
            partitions.device_locked(
                call.device,
                config.replication_concurrency_per_device,
                config.replication_lock_timeout_s,
            )
        )
        left_s = max(0.0, deadline - green.monotonic())
        held.enter_context(
            partitions.locked(call.device, call.partition, left_s, make=True)
        )

    def _leave_device(self) -> None:
        """Let the next conversation come to the device. Decision 0020.

        Called when all updates have been read: what is left is to wait for commits. The
        slot is kept until the end, so those who wait are bounded; the partition's lock,
        too, so nobody else works on the same objects.
        """
        self._place_on_device.close()

    def _break_off(self, status: int, reason: str) -> bytes:
        """The line that says so; the connection ends with it."""
        self._call.environ[env.CONNECTION_CLOSE] = True
        self._receiver.metrics.increment("SSYNC.errors")
        self._log("broken off: %s %s", status, reason)
        return ssync.error_line(status, reason)

    def _log(self, text: str, *args: object) -> None:
        call = self._call
        peer = call.environ.get(env.REMOTE_ADDR)
        self._receiver.log.warning(
            f"SSYNC {call.device}/{call.partition} from %s: {text}",
            peer,
            *args,
            txn=call.trans_id,
        )

    # --- reading ----------------------------------------------------------------------

    def _more(self) -> None:
        data = self._body.read_some(READ_SIZE)
        if not data:
            raise ClientDisconnect("the conversation ends too early")
        self._lines.feed(data)

    def _line(self) -> bytes:
        """The next line. Yields."""
        while (line := self._lines.line()) is None:
            self._more()
        return line

    def _expect(self, expected: bytes) -> None:
        line = self._line()
        while not line:
            line = self._line()
        if line.strip() != expected:
            raise ProtocolError(f"{line!r:.120} where {expected!r} should be")

    def read_body(self, size: int) -> bytes:
        """1 to `size` bytes of an update's body. Yields."""
        piece = self._lines.take(size)
        while not piece:
            self._more()
            piece = self._lines.take(size)
        return piece

    def intake(self, size: int) -> Intake | None:
        """For who receives the next `size` bytes on a real thread; None: nobody can."""
        if not isinstance(self._body, RequestBody):
            return None  # a filter counts what passes
        intake = self._body.intake_part(size)
        if intake is not None:
            intake.begin_with(self._lines.take(size))
        return intake

    # --- which offers are wanted ------------------------------------------------------

    def _missing_check(self) -> Iterator[bytes]:
        self._expect(ssync.MISSING_START)
        wants: list[bytes] = []
        offers: list[Offer] = []
        while True:
            line = self._line().strip()
            if line == ssync.MISSING_END:
                break
            if not line:
                continue
            offer = Offer.parse(line)
            self._check_partition(offer.path_hash)
            offers.append(offer)
            if len(offers) == OFFERS_PER_LOOK:
                wants += self._wants(offers)
                offers = []
        wants += self._wants(offers)
        yield ssync.MISSING_START + ssync.CRLF
        # Nothing is an empty line, as captured receivers write it; senders skip it.
        yield b"".join(wants) or ssync.CRLF
        yield ssync.MISSING_END + ssync.CRLF

    def _wants(self, offers: Sequence[Offer]) -> list[bytes]:
        """The lines that ask for what is wanted of some offers. Yields."""
        if not offers:
            return []
        lines = []
        for offer, files in zip(offers, self._files(offers), strict=True):
            want = ssync.wanted(offer, Holding.of(files))
            if (
                want is not None
                and want.data
                and ssync.has_fragment(offer, files, self._fragment_index)
            ):
                want = self._want_beside_fragment(offer)
            if want is not None:
                lines.append(want.encode())
        return lines

    def _files(self, offers: Sequence[Offer]) -> list[FileSet]:
        """What lies here of the objects offered. Yields."""
        return self._manager.partitions.file_sets(
            self._call.device,
            self._call.partition,
            [offer.path_hash for offer in offers],
            self._choose,
        )

    def _want_beside_fragment(self, offer: Offer) -> Want | None:
        """What is wanted of an offer whose fragment is here without its commit. Yields.

        An offer of durable data stands for the commit that this node has missed.
        """
        index = self._fragment_index
        if not offer.holding.durable or index is None:
            return None
        disk = self._manager.diskfile_by_hash(
            self._call.device, self._call.partition, offer.path_hash
        )
        disk.make_durable(offer.holding.data, index)
        (files,) = self._files([offer])
        return ssync.wanted(offer, Holding.of(files))

    def _choose(self, redundancy: Redundancy, names: Sequence[str]) -> FileSet:
        return redundancy.choose(names, fragment_index=self._fragment_index)

    def _part_powers(self) -> tuple[int, ...]:
        """The part powers by which a hash may belong to this partition."""
        try:
            ring = self._receiver.cluster.object_ring(self._manager.policy.index)
        except RingUnavailable:
            return ()  # an object server may do without a ring, and cannot tell then
        following = ring.next_part_power
        return (ring.part_power, *(() if following is None else (following,)))

    def _check_partition(self, path_hash: str) -> None:
        """Raise _Refusal for an object that has no business in this partition."""
        if not self._powers:
            return
        partition = int(self._call.partition)
        if all(partition_of_hex(path_hash, p) != partition for p in self._powers):
            raise _Refusal(400, f"{path_hash} is of another partition")

    # --- taking what was wanted -------------------------------------------------------

    def _updates(self) -> Iterator[bytes]:
        line = self._first_update_line()
        if line is None:
            return
        storing = _Storing(self)
        try:
            while True:
                line = self._line()
                if line.strip() == ssync.UPDATES_END:
                    self._leave_device()
                    break
                if line:
                    self._take(line, storing)
        finally:
            storing.wait()
        if self._failures:
            counts = f"{self._failures} failures, {self._successes} successes"
            raise _Refusal(500, f"ERROR: With :UPDATES: {counts}")
        yield ssync.UPDATES_START + ssync.CRLF
        yield ssync.UPDATES_END + ssync.CRLF

    def _first_update_line(self) -> bytes | None:
        """The line that begins the updates; None when the sender only asked. Yields."""
        line = self._lines.line()
        while line is None or not line:
            if line is None:
                data = self._body.read_some(READ_SIZE)
                if not data:
                    return None
                self._lines.feed(data)
            line = self._lines.line()
        if line.strip() != ssync.UPDATES_START:
            raise ProtocolError(f"{line!r:.120} where updates should begin")
        return line

    def _take(self, first: bytes, storing: _Storing) -> None:
        """Read one update and have it stored. Yields."""
        lines, size = [first], 0
        while line := self._line():
            lines.append(line)
            size += len(line)
            if len(lines) > ssync.HEADERS_MAX or size > ssync.HEADERS_BYTES_MAX:
                raise ProtocolError("the head of an update is too long")
        update = Update.parse(lines)
        salt: HashSalt = self._receiver.cluster.salt
        path_hash = salt.hex_of(update.name)
        self._check_partition(path_hash)
        if update.size <= SMALL_BODY:
            pieces, left = [], update.size
            while left:
                pieces.append(self.read_body(left))
                left -= len(pieces[-1])
            storing.add(path_hash, update, _AtHand(b"".join(pieces)))
        else:
            storing.wait()
            body = _Coming(self, update.size)
            self.store(update, body)
            body.skip()
        if self._too_many_failures():
            raise _Refusal(500, f"{self._failures} updates failed")

    def _too_many_failures(self) -> bool:
        failures, config = self._failures, self._config
        return (
            failures >= config.replication_failure_threshold
            and failures > config.replication_failure_ratio * self._successes
        )

    def store(self, update: Update, body: _SubBody) -> None:
        """Run one update through the server's own handlers, and count. Yields."""
        environ = self._environ_of(update, body)
        response = self._receiver.answer(environ)
        status = response.status
        if status // 100 == 2 or status == 404:
            self._successes += 1
            return
        self._failures += 1
        if self._failures == 1:
            self._log("%s %s: %s", update.method, update.name.path, status)

    def _environ_of(self, update: Update, body: _SubBody) -> Environ:
        call = self._call
        headers = update.headers
        named = [
            name.lower() for name in headers if name not in (ETAG, X_BACKEND_NO_COMMIT)
        ]
        sent = headers.copy()
        if update.method == "PUT":
            sent.setdefault(CONTENT_TYPE, "application/octet-stream")
        index = self._manager.policy.index
        sent[X_BACKEND_STORAGE_POLICY_INDEX] = str(index)
        sent[X_BACKEND_REPLICATION] = "True"
        sent[X_BACKEND_REPLICATION_HEADERS] = " ".join(named)
        if self._fragment_index is not None:
            sent[X_BACKEND_SSYNC_FRAG_INDEX] = str(self._fragment_index)
        path = f"/{call.device}/{call.partition}{update.name.path}"
        environ = env.sub_environ(
            call.environ, update.method, wsgi_of_text(path), headers=sent
        )
        environ[env.WSGI_INPUT] = body
        environ[env.COMMIT_GROUP] = self._commits
        return environ


class _Storing:
    """Small updates that are being stored, a few at a time.

    Their order does not matter but for those of one object, which wait for each other.
    """

    def __init__(self, conversation: _Conversation) -> None:
        self._conversation = conversation
        self._pool = green.Pool(AT_ONCE)
        self._last: dict[str, green.Thread] = {}

    def add(self, path_hash: str, update: Update, body: _SubBody) -> None:
        """Store an update, now or soon. Yields."""
        before = self._last.get(path_hash)
        if before is not None:
            before.wait()
        thread = self._pool.spawn(self._conversation.store, update, body)
        self._last[path_hash] = thread
        if len(self._last) > 4 * AT_ONCE:
            self._last = {
                key: running for key, running in self._last.items() if not running.ended
            }

    def wait(self) -> None:
        """Return when all are stored. Yields."""
        self._pool.wait_all()
        self._last.clear()


class _SubBody:
    """`wsgi.input` of an update."""

    content_length: int

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, less at the end. Yields."""
        raise NotImplementedError

    def read_some(self, size: int = READ_SIZE) -> bytes:
        """1 to `size` bytes; empty at the end. Yields."""
        return self.read(size)


class _AtHand(_SubBody):
    """A body that has been read."""

    def __init__(self, data: bytes) -> None:
        self.content_length = len(data)
        self._data = data

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size >= len(self._data):
            data, self._data = self._data, b""
            return data
        data, self._data = self._data[:size], self._data[size:]
        return data


class _Coming(_SubBody):
    """A body that is part of the conversation, read from it as it is asked for."""

    def __init__(self, conversation: _Conversation, size: int) -> None:
        self.content_length = size
        self._conversation = conversation
        self._left = size
        self._intake: Intake | None = None

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        pieces = []
        while wanted:
            piece = self._conversation.read_body(wanted)
            pieces.append(piece)
            wanted -= len(piece)
            self._left -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_some(self, size: int = READ_SIZE) -> bytes:
        if not self._left:
            return b""
        piece = self._conversation.read_body(min(size, self._left))
        self._left -= len(piece)
        return piece

    def intake(self) -> Intake | None:
        """As `wire.body.RequestBody.intake`."""
        self._intake = self._conversation.intake(self._left)
        return self._intake

    def skip(self) -> None:
        """Read away what the handler left, as when it refuses the update. Yields."""
        if self._intake is not None:
            self._left = self._intake.to_come
        while self.read_some():
            pass
