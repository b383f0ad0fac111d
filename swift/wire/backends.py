# SPDX-License-Identifier: Apache-2.0
"""Asking several nodes: one after the other until one is good, or at once for a quorum.

What the answers amount to is decided by the collectors and tallies of `core.quorum`,
which node is next by `wire.nodes`. Here requests are put on kept connections, answers
awaited, failures counted against their nodes, and everything that was opened is read to
its end or closed. One process has one `Backends`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from swift.core.errors import PeerError, PeerTimeout
from swift.core.headers import Headers
from swift.core.names import quote_segment
from swift.core.quorum import NO_ANSWER, Answer, Tally, Verdict, is_good
from swift.core.ring.devices import Node
from swift.runtime import green
from swift.runtime.logs import Logger
from swift.wire.client import ConnectionPool, HttpConnection
from swift.wire.client_response import ClientResponse
from swift.wire.nodes import Candidates, ErrorLimiter, NodeTimings

Pairs = Sequence[tuple[str, str]]
"""Headers as they are sent."""

_UNHINDERED_MAX = 16384
"""Bytes of a body that an idle connection takes at once, whatever its peer does."""

DRAIN_MAX = 65536
"""Bytes of an unwanted body that are read so that its connection can be kept."""


class Collector(Protocol):
    """Decides when a read has what it needs (core.quorum, core.fragments)."""

    @property
    def dropped(self) -> list[Answer]:
        """Good answers that are not wanted."""
        ...

    @property
    def undecided(self) -> bool:
        """True when the answers so far allow neither a copy nor a refusal."""
        ...

    @property
    def useless(self) -> Sequence[Answer]:
        """Those of them that their nodes should not have given."""
        ...

    @property
    def wanted(self) -> int:
        """How many more answers it takes at the least."""
        ...

    def feed(self, answer: Answer) -> bool:
        """Take an answer; True when no further node need be asked."""
        ...

    def extra(self) -> Pairs:
        """Headers for the next node, because of what has been answered."""
        ...

    def revisit(self) -> Any | None:
        """The source of an answer whose node should be asked again, None for none."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that goes to any of several nodes.

    path: percent-encoded, what follows `/device/partition`, with the query. body: at
    hand, so that the request can be sent again.
    """

    method: str
    partition: int
    path: str
    headers: Pairs
    body: bytes = b""

    def target(self, node: Node) -> str:
        """The request target at one node."""
        return f"/{device_segment(node.name)}/{self.partition}{self.path}"


def device_segment(name: str) -> str:
    """A device's name in a path."""
    return name if name.isascii() and name.isalnum() else quote_segment(name)


@dataclass(frozen=True, slots=True)
class Found:
    """Where a good answer of a read is still to be had: `Answer.source`."""

    node: Node
    response: ClientResponse


class Backends:
    """The storage nodes, as one process reaches them.

    say: called with the metric name when a node is limited. All times in seconds.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        *,
        limiter: ErrorLimiter,
        timings: NodeTimings,
        conn_timeout_s: float,
        log: Logger,
        wants_timings: bool = False,
    ) -> None:
        self.pool = pool
        self.limiter = limiter
        self.timings = timings
        self.conn_timeout_s = conn_timeout_s
        self._log = log
        self._wants_timings = wants_timings

    # --- One node ---------------------------------------------------------------------

    def connect(self, node: Node) -> HttpConnection:
        """A connection to the node, kept or new. Raises PeerError. Yields."""
        if not self._wants_timings:
            return self.pool.take(node.ip, node.port, self.conn_timeout_s)
        begun = green.monotonic()
        connection = self.pool.take(node.ip, node.port, self.conn_timeout_s)
        self.timings.add(node, green.monotonic() - begun, green.now())
        return connection

    def dial(self, node: Node) -> HttpConnection:
        """A new connection to the node. Raises PeerError. Yields."""
        return self.pool.dial(node.ip, node.port, self.conn_timeout_s)

    def ask(
        self, node: Node, ask: Ask, timeout_s: float, extra: Pairs = ()
    ) -> ClientResponse:
        """Send one request and return the answer, its body unread. Yields.

        extra: headers for this node only. Raises PeerError. A kept connection that the
        peer has closed meanwhile is replaced by a new one, once.
        """
        headers = [*ask.headers, *extra] if extra else ask.headers
        begun = green.monotonic() if self._wants_timings else 0.0
        response = self.pool.request(
            node.ip,
            node.port,
            ask.method,
            ask.target(node),
            headers,
            ask.body,
            connect_timeout_s=self.conn_timeout_s,
            response_timeout_s=timeout_s,
        )
        if begun:
            self.timings.add(node, green.monotonic() - begun, green.now())
        return response

    def try_ask(
        self, node: Node, ask: Ask, timeout_s: float, extra: Pairs = ()
    ) -> Answer | None:
        """The node's answer, None when there was none; failures are counted. Yields.

        A good answer to a read has `Found` as its source and its body unread; the body
        of every other one has been read.
        """
        try:
            response = self.ask(node, ask, timeout_s, extra)
        except PeerError as error:
            self.failed(node, f"{ask.method} {ask.path}", error)
            return None
        return self._answer(node, ask, response)

    def _answer(self, node: Node, ask: Ask, response: ClientResponse) -> Answer:
        status = response.status
        if ask.method in _READS and is_good(status):
            return Answer(
                status,
                response.headers,
                b"",
                node.handoff_index is not None,
                Found(node, response),
            )
        self.observe(node, status, f"{ask.method} {ask.path}")
        body = self._small_body(response)
        return Answer(
            status, response.headers, body, node.handoff_index is not None, node
        )

    def _small_body(self, response: ClientResponse) -> bytes:
        """The body of an answer that is not streamed, cut at DRAIN_MAX. Yields."""
        try:
            body = response.read(DRAIN_MAX)
            if len(body) == DRAIN_MAX:
                response.close()
            return body
        except PeerError:
            return b""
        finally:
            response.drain(DRAIN_MAX)

    def observe(self, node: Node, status: int, what: str) -> None:
        """Count an answer that shows the node in trouble."""
        if status < 500:
            return
        if status == 507:
            self.limiter.limit_now(node, green.now())
            self._log.error(
                "%s:%s/%s: 507 to %s; left alone for a while",
                node.ip, node.port, node.name, what,
            )  # fmt: skip
        else:
            self.limiter.add(node, green.now())
            self._log.error(
                "%s:%s/%s: %s to %s", node.ip, node.port, node.name, status, what
            )

    def failed(self, node: Node, what: str, error: PeerError) -> None:
        """Count a node that was not reached or did not answer."""
        limited = self.limiter.add(node, green.now())
        self._log.warning(
            "%s:%s/%s: no answer to %s (%s)%s",
            node.ip, node.port, node.name, what, error.reason,
            "; left alone for a while" if limited else "",
        )  # fmt: skip

    # --- Reads ------------------------------------------------------------------------

    def read(
        self,
        ask: Ask,
        candidates: Candidates,
        collector: Collector,
        *,
        timeout_s: float,
        stagger_s: float | None = None,
        at_once: int = 1,
        until_enough: bool = False,
    ) -> None:
        """Ask nodes until the collector has enough or no candidate is left. Yields.

        stagger_s: ask a further node when the ones asked are silent for so long; None
        waits for each. at_once: answers wanted in parallel; when more than one, so many
        answers are collected even if the collector never has enough, unless it is
        `until_enough`.
        """
        if stagger_s is None and at_once == 1:
            for node in candidates:
                answer = self.try_ask(node, ask, timeout_s, collector.extra())
                if answer is not None and collector.feed(answer):
                    break
        else:
            self._read_in_parallel(
                ask, candidates, collector, timeout_s, stagger_s, at_once, until_enough
            )
        if collector.undecided:
            for node in candidates.last_resort():
                answer = self.try_ask(node, ask, timeout_s, collector.extra())
                if answer is not None and collector.feed(answer):
                    break
        for answer in collector.useless:
            if isinstance(answer.source, Found):
                error = PeerError(answer.source.response.peer, "not what was asked for")
                self.failed(answer.source.node, f"{ask.method} {ask.path}", error)
        for answer in collector.dropped:
            # Elsewhere, for a node that lost may be slow to send what nobody wants.
            green.spawn(discard, answer)

    def _read_in_parallel(
        self,
        ask: Ask,
        candidates: Candidates,
        collector: Collector,
        timeout_s: float,
        stagger_s: float | None,
        at_once: int,
        until_enough: bool,
    ) -> None:
        race = _Race(self, ask, timeout_s)
        wanted = at_once
        try:
            while True:
                while race.running < wanted:
                    again = collector.revisit()
                    node = next(candidates, None) if again is None else again.node
                    if node is None:
                        stagger_s = None
                        break
                    race.start(node, collector.extra())
                if not race.running:
                    # All that were to answer have, and it may not be enough.
                    node = _node_in_doubt(collector, candidates)
                    if node is None:
                        return
                    race.start(node, collector.extra())
                try:
                    answer = race.answers.get(stagger_s)
                except green.QueueEmpty:
                    wanted = race.running + 1
                    continue
                race.running -= 1
                if answer is None:
                    continue
                if collector.feed(answer):
                    return
                if until_enough:
                    wanted = max(wanted - 1, collector.wanted)
                elif at_once > 1:
                    wanted -= 1
        finally:
            race.leave()

    # --- Writes -----------------------------------------------------------------------

    def write(
        self,
        ask: Ask,
        extras: Sequence[Pairs],
        candidates: Candidates,
        tally: Tally,
        *,
        timeout_s: float,
        post_quorum_timeout_s: float,
    ) -> list[Answer]:
        """Send one write to as many nodes as there are `extras`, with handoffs. Yields.

        extras: the headers of each replica; each goes to the next candidate until one
        gives an answer below 500. One Answer for each comes back, of whatever status,
        in the order of `extras`. When the tally is met, the others have
        `post_quorum_timeout_s` left; those later than that are finished in the
        background, within their own timeouts.
        """
        write = _Write(self, ask, extras, candidates, tally, timeout_s)
        return write.run(post_quorum_timeout_s)


_READS = ("GET", "HEAD")
_SILENCE = Answer(NO_ANSWER)


def _node_in_doubt(collector: Collector, candidates: Candidates) -> Node | None:
    """Who is asked next when the answers so far decide nothing; None: nobody."""
    if not collector.undecided:
        return None
    again = collector.revisit()
    if again is None:
        return next(candidates, None)
    node: Node = again.node
    return node


class _Race:
    """Reads that run side by side; what comes too late is discarded."""

    __slots__ = ("_ask", "_backends", "_left", "_timeout_s", "answers", "running")

    def __init__(self, backends: Backends, ask: Ask, timeout_s: float) -> None:
        self._backends = backends
        self._ask = ask
        self._timeout_s = timeout_s
        self._left = False
        self.answers: green.Queue[Answer | None] = green.Queue()
        self.running = 0

    def start(self, node: Node, extra: Pairs) -> None:
        """Ask one node in a thread of its own."""
        self.running += 1
        green.spawn(self._run, node, extra)

    def _run(self, node: Node, extra: Pairs) -> None:
        answer = None
        try:
            answer = self._backends.try_ask(node, self._ask, self._timeout_s, extra)
        finally:
            if not self._left:
                self.answers.put(answer)
            elif answer is not None:
                discard(answer)

    def leave(self) -> None:
        """Take no more answers."""
        self._left = True
        while len(self.answers):
            answer = self.answers.get(0)
            if answer is not None:
                discard(answer)


@dataclass(frozen=True, slots=True)
class _Sent:
    """One replica's request, on a connection from which its answer is to come."""

    index: int
    node: Node
    connection: HttpConnection


class _Write:
    """A write on its way to several nodes.

    As a rule every node has a kept connection and a good answer: then all requests are
    sent and their answers taken as they come, by the one thread that wants them. Only
    a replica whose node is in trouble, and those that are waited for no longer, get
    threads of their own.
    """

    __slots__ = (
        "_answers", "_ask", "_backends", "_candidates", "_deadline", "_done",
        "_extras", "_in_threads", "_sent", "_tally", "_timeout_s",
    )  # fmt: skip

    def __init__(
        self,
        backends: Backends,
        ask: Ask,
        extras: Sequence[Pairs],
        candidates: Candidates,
        tally: Tally,
        timeout_s: float,
    ) -> None:
        self._backends = backends
        self._ask = ask
        self._extras = extras
        self._candidates = candidates
        self._tally = tally
        self._timeout_s = timeout_s
        self._deadline = green.monotonic() + timeout_s
        self._answers = [_SILENCE] * len(extras)
        self._sent: list[_Sent] = []
        self._in_threads = 0
        self._done: green.Queue[tuple[int, Answer]] = green.Queue()

    def run(self, post_quorum_timeout_s: float) -> list[Answer]:
        """One answer for each replica, in their order. Yields."""
        until: float | None = None
        try:
            for index in range(len(self._extras)):
                self._send(index)
            while self._sent or self._in_threads:
                got = self._next(until)
                if got is None:
                    break
                index, answer = got
                self._answers[index] = answer
                if self._tally.feed(answer.status) is Verdict.MET and until is None:
                    until = green.monotonic() + post_quorum_timeout_s
        finally:
            self._leave()
        return self._answers

    def _send(self, index: int) -> None:
        """Send one replica's request if its node has a kept connection."""
        ask = self._ask
        node = next(self._candidates, None)
        if node is None:
            self._done.put((index, _SILENCE))
            self._in_threads += 1
            return
        pool = self._backends.pool
        connection = None
        if len(ask.body) <= _UNHINDERED_MAX:
            connection = pool.take_kept(node.ip, node.port)
        if connection is None:
            self._spawn(index, node)
            return
        try:
            connection.send_head(
                ask.method,
                ask.target(node),
                [*ask.headers, *self._extras[index]],
                ask.body,
            )
        except PeerError:
            connection.close()
            self._spawn(index, node)  # it was kept too long; on a new one
        else:
            self._sent.append(_Sent(index, node, connection))

    def _next(self, until: float | None) -> tuple[int, Answer] | None:
        """The next final answer and whose it is; None when `until` has come. Yields."""
        while self._sent and not self._in_threads:
            limit = self._deadline if until is None else min(until, self._deadline)
            watches = [sent.connection.channel.watch for sent in self._sent]
            ready = green.first_readable(watches, max(0.0, limit - green.monotonic()))
            if ready is None:
                break
            sent = self._sent[watches.index(ready)]
            if sent.connection.answer_came():
                self._sent.remove(sent)
                answer = self._take(sent)
                if answer is not None:
                    return sent.index, answer
        self._leave()
        try:
            left = None if until is None else max(0.0, until - green.monotonic())
            got = self._done.get(left)
        except green.QueueEmpty:
            return None
        self._in_threads -= 1
        return got

    def _take(self, sent: _Sent) -> Answer | None:
        """A node's final answer; None when a thread sees to the replica now. Yields."""
        backends, ask = self._backends, self._ask
        connection, node = sent.connection, sent.node
        last = _SILENCE
        again: Node | None = None
        try:
            left = max(0.0, self._deadline - green.monotonic())
            last = backends._answer(node, ask, connection.response(left))
            if last.status < 500:
                return last
        except PeerError as error:
            connection.close()
            if not isinstance(error, PeerTimeout) and not connection.answering:
                again = node  # it had closed the connection, which says nothing of it
            else:
                backends.failed(node, f"{ask.method} {ask.path}", error)
        self._spawn(sent.index, again, last)
        return None

    def _leave(self) -> None:
        """Let threads see to what has been sent and is not answered."""
        left, self._sent = self._sent, []
        for sent in left:
            self._in_threads += 1
            green.spawn(self._finish, sent)

    def _spawn(self, index: int, node: Node | None, last: Answer | None = None) -> None:
        self._in_threads += 1
        green.spawn(self._deliver, index, node, last or _SILENCE)

    def _finish(self, sent: _Sent) -> None:
        try:
            answer = self._take(sent)
        except BaseException:
            sent.connection.close()
            self._done.put((sent.index, _SILENCE))
            raise
        if answer is not None:
            self._done.put((sent.index, answer))
        else:
            self._in_threads -= 1  # the other thread counts

    def _deliver(self, index: int, node: Node | None, last: Answer) -> None:
        """Try `node`, then further ones, until one has an answer below 500."""
        first = () if node is None else (node,)
        try:
            for candidate in chain(first, self._candidates):
                answer = self._backends.try_ask(
                    candidate, self._ask, self._timeout_s, self._extras[index]
                )
                if answer is not None:
                    last = answer
                    if answer.status < 500:
                        break
        finally:
            self._done.put((index, last))


def discard(answer: Answer) -> None:
    """Let go of an answer; its connection is kept if that is cheap. Yields."""
    if isinstance(answer.source, Found):
        answer.source.response.drain(DRAIN_MAX)


def unread_body(answer: Answer) -> bytes:
    """The whole body of an answer, which the caller knows to be small. Yields.

    Raises PeerError when it breaks off.
    """
    if isinstance(answer.source, Found):
        return answer.source.response.read()
    return answer.body


OnHandoff = Callable[[int], object]


def without_connection_headers(headers: Headers) -> Headers:
    """A backend's headers without those that were about its connection only."""
    kept = Headers.titled(headers.items())
    for name in _HOP_BY_HOP:
        # Title-Cased already, so that the mapping's own look-up need not see to it.
        dict.pop(kept, name, None)
    return kept


_HOP_BY_HOP = ("Connection", "Transfer-Encoding", "Date", "Keep-Alive", "Server")
