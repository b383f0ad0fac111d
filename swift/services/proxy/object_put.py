# SPDX-License-Identifier: Apache-2.0
"""PUT of objects: check, spread over the nodes, and count who has stored it.

A small body is read first and sent to each node together with the head, which costs one
system call a node and can be repeated at a handoff. A large one, and one that needs
documents around it, goes through `wire.uploads`: the nodes are asked with `Expect`, and
the bytes passed on as the client sends them. The object exists (201) when a write
quorum of nodes has made it durable. Contract: api 4, backend-http 2 and 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from swift.core import headers as h
from swift.core.errors import BodyTooLarge, ClientDisconnect
from swift.core.headers import Headers
from swift.core.metadata_rules import (
    Refusal,
    check_content_type,
    check_framing,
    check_if_none_match,
    check_metadata,
    check_own_parameters,
    settle_delete_at,
)
from swift.core.quorum import NO_ANSWER, Answer, Tally, Verdict, best
from swift.core.redundancy import Encoder
from swift.core.row_facts import put_facts
from swift.runtime import green
from swift.services.proxy.exchange import Exchange, PairList, refused, settled
from swift.services.proxy.object import (
    Place,
    check_object_name,
    note_delete_at,
    write_extras,
    write_headers,
)
from swift.services.proxy.targets import tell_databases
from swift.wire import environ as env
from swift.wire.backends import Ask
from swift.wire.nodes import Candidates, near_first
from swift.wire.request import Response
from swift.wire.uploads import (
    Connected,
    Framing,
    Upload,
    connect_all,
    splice_to_all,
)

DEFAULT_TYPE = "application/octet-stream"

FooterCallback = Callable[[Headers], object]


def put_object(exchange: Exchange, place: Place) -> Response:
    """PUT. Yields. Raises ClientDisconnect, ClientTimeout, BodyTooLarge."""
    refusal = check_if_none_match(exchange.headers)
    if refusal is not None:
        return refused(refusal)
    denied = exchange.denial(place.info.write_acl)
    if denied is not None:
        return denied
    if not place.info.exists and not place.is_explicit:
        return Response(404)
    limits = exchange.proxy.cluster.limits
    length = check_framing(exchange.headers, limits)
    if isinstance(length, Refusal):
        return refused(length)
    bad = check_object_name(exchange) or _bad_headers(exchange)
    if bad is not None:
        return bad
    note_delete_at(exchange)
    footers: FooterCallback | None = exchange.environ.get(env.UPDATE_FOOTERS)
    headers = write_headers(exchange, place)
    if not place.policy.redundancy.is_whole:
        # Nodes get other bytes than those that the client's etag is of.
        headers = [pair for pair in headers if pair[0] != h.ETAG]
    is_small = (
        length is not None
        and length <= exchange.proxy.config.object_size_in_one_send
        and footers is None
        and not place.policy.redundancy.two_phase
        # A node that lacks the object would store what another refuses.
        and h.IF_NONE_MATCH not in exchange.headers
    )
    if is_small:
        assert length is not None, "a small body has a length"
        extras = write_extras(exchange, place, len(place.primaries))
        size = length
        answers = _put_at_once(exchange, place, headers, length, extras)
        etag = None
    else:
        extras = write_extras(exchange, place, len(place.primaries))
        outcome = _put_as_it_comes(exchange, place, headers, length, footers, extras)
        if isinstance(outcome, Response):
            return outcome
        answers, size, etag = outcome
    response = _outcome(exchange, place, answers, etag)
    if response.status == 201 and footers is None:
        etag = response.headers[h.ETAG]
        _tell_for_the_dead(exchange, place, answers, extras, size, etag)
    return response


def _tell_for_the_dead(
    exchange: Exchange,
    place: Place,
    answers: Sequence[Answer],
    extras: Sequence[PairList],
    size: int,
    etag: str,
) -> None:
    """Tell the container databases that no object server has told of the PUT. Yields.

    An object server that died in the middle, or was not asked because it failed lately,
    has told its share of the databases nothing; their listings would lack the object
    until replication has passed.
    """
    lost = [
        extra
        for extra, answer in zip(extras, answers, strict=True)
        if not answer.is_success
    ]
    if not lost:
        return
    headers = exchange.headers
    facts = put_facts(
        size=size,
        content_type=headers[h.CONTENT_TYPE],
        timestamp=exchange.timestamp,
        etag=etag,
        overrides=(headers,),
    )
    tell_databases(exchange, place.name, place.policy.index, lost, facts)


def _bad_headers(exchange: Exchange) -> Response | None:
    """Settle what is stored with the object, in place; the answer if refused."""
    headers = exchange.headers
    refusal = settle_delete_at(headers, exchange.now)
    if refusal is None:
        _settle_content_type(exchange)
        refusal = (
            check_content_type(headers)
            or check_metadata(headers, "object", exchange.proxy.cluster.limits)
            or check_own_parameters(headers)
        )
    if refusal is not None:
        return refused(refusal)
    etag = headers.get(h.ETAG)
    if etag is not None:
        headers[h.ETAG] = etag.strip().strip('"')
    return None


def _settle_content_type(exchange: Exchange) -> None:
    """Guess the type from the name when none is given, or a guess is asked for."""
    headers = exchange.headers
    detect = h.true(headers.pop(h.X_DETECT_CONTENT_TYPE, None))
    if detect or not headers.get(h.CONTENT_TYPE):
        guess = exchange.proxy.guess_type(exchange.name.path) or DEFAULT_TYPE
        headers[h.CONTENT_TYPE] = guess


def _candidates(exchange: Exchange, place: Place) -> Candidates:
    """Primaries, then handoffs; with write affinity, near nodes before far ones."""
    proxy = exchange.proxy
    primaries = place.primaries
    config = proxy.policy_config(place.policy)
    if not config.write_affinity:
        return proxy.write_candidates(place.ring, place.partition, "object")
    first, rest = near_first(
        primaries,
        place.ring.handoffs(place.partition),
        affinity=config.write_affinity,
        count=config.write_affinity_node_count.of(len(primaries)),
    )
    count = proxy.config.request_node_count.of(len(primaries))
    return Candidates(
        first,
        rest,
        count=max(count, len(primaries)),
        limiter=proxy.backends.limiter,
        now=green.now,
        on_handoff=proxy.handoff_counter("object", len(primaries)),
    )


# --- Small bodies ---------------------------------------------------------------------


def _put_at_once(
    exchange: Exchange,
    place: Place,
    headers: PairList,
    length: int,
    extras: Sequence[PairList],
) -> list[Answer]:
    body = exchange.environ[env.WSGI_INPUT].read(length) if length else b""
    if len(body) < length:
        raise ClientDisconnect(f"{len(body)} of {length} bytes came")
    headers.append((h.CONTENT_LENGTH, str(length)))
    proxy = exchange.proxy
    replicas = len(place.primaries)
    return proxy.backends.write(
        Ask("PUT", place.partition, place.path, headers, body),
        extras,
        _candidates(exchange, place),
        Tally(replicas, place.policy.redundancy.write_quorum(replicas)),
        timeout_s=proxy.config.node_timeout_s,
        post_quorum_timeout_s=proxy.config.post_quorum_timeout_s,
    )


def _outcome(
    exchange: Exchange, place: Place, answers: Sequence[Answer], etag: str | None
) -> Response:
    """The client's answer, from what the nodes said of a body that they got whole.

    etag: of the object, None when the nodes' own are that.
    """
    early = _early_outcome(exchange, answers)
    if early is not None:
        return early
    etags = {
        answer.headers.get(h.ETAG, "").strip('"')
        for answer in answers
        if answer.is_success
    }
    if etag is not None:
        etags = {etag}
    elif len(etags) > 1:
        exchange.proxy.log.error(
            "PUT %s: nodes disagree about the etag: %s", place.path, sorted(etags),
            txn=exchange.trans_id,
        )  # fmt: skip
        return Response(500)
    quorum = place.policy.redundancy.write_quorum(len(answers))
    chosen = best(answers, quorum)
    if chosen is None or not chosen.is_success:
        if chosen is None:
            exchange.proxy.log.error(
                "PUT %s: no quorum in %s", place.path, [a.status for a in answers],
                txn=exchange.trans_id,
            )  # fmt: skip
        return settled(chosen, method="PUT")
    headers = Headers()
    headers[h.ETAG] = etags.pop()
    headers[h.LAST_MODIFIED] = exchange.timestamp.http_date
    return Response(201, headers, b"")


def _early_outcome(exchange: Exchange, answers: Iterable[Answer]) -> Response | None:
    """What one node's answer decides for all, None when nothing does."""
    statuses = {answer.status for answer in answers}
    if 412 in statuses and h.IF_NONE_MATCH in exchange.headers:
        return Response(412)
    if 409 in statuses:
        # Newer state is there already, as if this PUT had been overwritten since.
        return Response(202)
    return None


# --- Bodies that are passed on as they come -------------------------------------------


def _put_as_it_comes(
    exchange: Exchange,
    place: Place,
    headers: PairList,
    length: int | None,
    footers: FooterCallback | None,
    extras: Sequence[PairList],
) -> tuple[list[Answer], int, str | None] | Response:
    """The answers of all archives' nodes, the size of the body and its etag, if that is
    known here; or a refusal.
    """
    proxy = exchange.proxy
    replicas = len(place.primaries)
    redundancy = place.policy.redundancy
    quorum = redundancy.write_quorum(replicas)
    has_documents = footers is not None or redundancy.two_phase
    sent_length = None if length is None else redundancy.archive_size(length)
    if not length and h.IF_NONE_MATCH in exchange.headers:
        # An empty body of known length is whole at once, and could not be taken back
        # when another node refuses; one in chunks has an end that is sent last.
        sent_length = None
    connected = connect_all(
        proxy.backends,
        Ask("PUT", place.partition, place.path, headers),
        extras,
        _candidates(exchange, place),
        Framing(
            sent_length,
            boundary=f"{proxy.rng.getrandbits(256):064x}" if has_documents else None,
            has_footers=has_documents,
            two_phase=redundancy.two_phase,
        ),
        proxy.config.node_timeout_s,
        redundancy.archive_index,
    )
    encoder = redundancy.encoder(replicas)
    try:
        early = _early_outcome(exchange, connected.answers)
        if early is not None:
            return early
        if len(connected.uploads) < quorum:
            return settled(best(connected.answers, quorum), method="PUT")
        is_met = None
        if length is not None and redundancy.is_whole:
            is_met = _splice(exchange, connected, length, quorum)
        if is_met is None:
            size = _pass_on(exchange, encoder, connected, length, quorum)
        else:
            size = length if is_met else None
        if size is None:
            proxy.log.error(
                "PUT %s: too few nodes are left", place.path, txn=exchange.trans_id
            )
            return Response(503)
        etag = encoder.etag
        expected = exchange.headers.get(h.ETAG)
        if etag is not None and expected and expected.lower() != etag:
            return Response(422)
        added = None
        if footers is not None:
            added = Headers()
            footers(added)
        for upload in connected.uploads:
            upload.finish(encoder.footers(upload.index, added))
        return _collect(exchange, connected, replicas, quorum), size, etag
    finally:
        for upload in connected.uploads:
            if upload.is_alive and not upload.is_finished:
                upload.abort()


def _pass_on(
    exchange: Exchange,
    encoder: Encoder,
    connected: Connected,
    length: int | None,
    quorum: int,
) -> int | None:
    """Send the client's bytes to all nodes; how many there were. Yields.

    None when too few nodes are left. Raises ClientDisconnect, ClientTimeout,
    BodyTooLarge.
    """
    source: Any = exchange.environ[env.WSGI_INPUT]
    read = getattr(source, "read_some", source.read)
    size_max = exchange.proxy.cluster.limits.max_file_size
    step = max(exchange.proxy.config.client_chunk_size, encoder.step)
    uploads = connected.uploads
    total = 0
    while length is None or total < length:
        chunk = read(step if length is None else min(step, length - total))
        if not chunk:
            break
        total += len(chunk)
        if total > size_max:
            raise BodyTooLarge(f"more than {size_max} bytes")
        if _spread(uploads, encoder.feed(chunk)) < quorum:
            return None
    if length is not None and total < length:
        raise ClientDisconnect(f"{total} of {length} bytes came")
    return total if _spread(uploads, encoder.finish()) >= quorum else None


def _splice(
    exchange: Exchange, connected: Connected, length: int, quorum: int
) -> bool | None:
    """Pass the client's bytes on unseen; False when too few nodes are left. Yields.

    None when that cannot be done, and nothing was.
    """
    source: Any = exchange.environ[env.WSGI_INPUT]
    uploads = connected.uploads
    if (
        exchange.proxy.config.splice
        and getattr(source, "can_splice", False)
        and all(upload.can_splice for upload in uploads)
    ):
        return splice_to_all(source, length, uploads, quorum)
    return None


def _spread(uploads: Sequence[Upload], pieces: Sequence[bytes]) -> int:
    """Hand each node its piece; how many nodes are left. Yields when one is slow."""
    alive = 0
    for upload in uploads:
        piece = pieces[upload.index]
        if upload.put(piece) if piece else upload.is_alive:
            alive += 1
    return alive


def _collect(
    exchange: Exchange, connected: Connected, replicas: int, quorum: int
) -> list[Answer]:
    """What the nodes say of the whole body; commits in between if they need it. Yields.

    One answer for each archive, in their order; nodes that refused it before the body
    stand where no upload does. Nodes that are slower than the quorum by more than
    post_quorum_timeout count as silent.
    """
    config = exchange.proxy.config
    tally = Tally(replicas, quorum)
    refusals = iter(connected.answers)
    for answer in connected.answers:
        tally.feed(answer.status)
    answers: dict[int, Answer] = {}
    ready: list[Upload] = []
    missing = {upload.index for upload in connected.uploads}
    until: float | None = None
    while missing:
        try:
            left = None if until is None else max(0.0, until - green.monotonic())
            upload, answer = connected.results.get(left)
        except green.QueueEmpty:
            break
        if answer.status == 100:
            ready.append(upload)
            for waiting in ready if len(ready) == quorum else ready[quorum:][-1:]:
                waiting.commit()
        else:
            missing.discard(upload.index)
            answers[upload.index] = answer
            if tally.feed(answer.status) is Verdict.MET and until is None:
                until = green.monotonic() + config.post_quorum_timeout_s
        if len(ready) < quorum and missing == {waiting.index for waiting in ready}:
            # Too few nodes have the bytes; what they have never becomes durable.
            for waiting in ready:
                waiting.abort()
            break
    if len(ready) >= quorum:
        for upload in connected.uploads:
            # One that is ready after this has the commit waiting for it.
            if upload.index in missing and upload not in ready:
                upload.commit()
    uploaded = {upload.index for upload in connected.uploads}
    return [
        answers.get(index, Answer(NO_ANSWER))
        if index in uploaded
        else next(refusals, Answer(NO_ANSWER))
        for index in range(replicas)
    ]
