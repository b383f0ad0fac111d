# SPDX-License-Identifier: Apache-2.0
"""GET and HEAD of objects: ask the nodes, and answer with what makes the object.

The policy's redundancy gives the collector that says which answers make the object. The
object servers judge conditions and ranges. The bytes come from object_body when one
copy has them all, from object_decode when archives must be put together. Contract: api
4 and 14, backend-http 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain

from swift.core import headers as h
from swift.core.conditions import Conditions
from swift.core.fragments import Described
from swift.core.headers import Headers
from swift.core.metadata_rules import without_swift_bytes
from swift.core.quorum import Answer
from swift.core.ranges import resolve
from swift.core.redundancy import Collector, Decoder, Redundancy
from swift.core.ring.devices import Node
from swift.runtime import green
from swift.services.proxy.exchange import Exchange, PairList
from swift.services.proxy.object import Place, base_headers, may_open_expired
from swift.services.proxy.object_body import (
    CONDITIONS,
    streamed,
    unconditional,
    whole_body,
)
from swift.services.proxy.object_decode import SegmentReader, decoded
from swift.wire import environ as env
from swift.wire.backends import Ask, Found, discard, without_connection_headers
from swift.wire.nodes import Candidates
from swift.wire.request import Response

_CONDITION_KEYS = tuple((env.key_of(name), name) for name in CONDITIONS)
_BACKEND_KEYS = env.key_of(h.BACKEND)


def read_object(exchange: Exchange, place: Place) -> Response:
    """GET and HEAD. Yields."""
    denied = exchange.denial(place.info.read_acl)
    if denied is not None:
        return denied
    if not place.info.exists and not place.is_explicit:
        return _missing(exchange)
    proxy = exchange.proxy
    config = proxy.policy_config(place.policy)
    redundancy = place.policy.redundancy
    primaries = len(place.primaries)
    newest = exchange.wants_newest
    collector = redundancy.collector(
        newest=newest,
        suppress_missing=min(config.rebalance_missing_suppression_count, primaries - 1),
        wants_body=exchange.method == "GET",
    )
    ask = Ask(exchange.method, place.partition, place.path, _headers(exchange, place))
    candidates = _candidates(exchange, place)
    at_once = collector.wanted
    if config.concurrent_gets and at_once > 1:
        at_once += config.concurrent_ec_extra_requests
    proxy.backends.read(
        ask,
        candidates,
        collector,
        timeout_s=proxy.config.read_timeout_s,
        stagger_s=proxy.options.concurrency_timeout_s(config)
        if config.concurrent_gets
        else None,
        at_once=primaries if newest else at_once,
        until_enough=not newest,
    )
    chosen = collector.chosen
    if chosen is None:
        refusal = collector.refusal()
        if refusal is None:
            return Response(503)
        if refusal.status == 404:
            return _missing(exchange, refusal.headers)
        return Response(refusal.status)
    decoder = redundancy.decoder() if exchange.method == "GET" else None
    if decoder is not None:
        return _decode(exchange, place, ask, candidates, collector, decoder)
    chosen = Answer(
        chosen.status,
        redundancy.object_headers(chosen.headers),
        chosen.body,
        chosen.is_handoff,
        chosen.source,
    )
    return _answer(exchange, ask, None if newest else candidates, chosen)


def _candidates(exchange: Exchange, place: Place) -> Candidates:
    proxy = exchange.proxy
    redundancy = place.policy.redundancy
    return proxy.read_candidates(
        place.ring,
        place.partition,
        "object",
        proxy.orders.get(place.policy.index),
        None if redundancy.is_whole else partial(_has_parity, redundancy),
    )


def _has_parity(redundancy: Redundancy, node: Node) -> bool:
    """True for a node whose archive needs arithmetic to be of use."""
    index = None if node.index is None else redundancy.archive_index(node.index)
    return index is not None and index >= redundancy.needed


def _once_more(exchange: Exchange, place: Place) -> Iterator[Node]:
    """All nodes, for a body that has broken off: they may have more than they gave."""
    yield from _candidates(exchange, place)


def _decode(
    exchange: Exchange,
    place: Place,
    ask: Ask,
    candidates: Candidates,
    collector: Collector,
    decoder: Decoder,
) -> Response:
    """The client's answer from several archives of the object. Yields."""
    chosen = collector.chosen
    assert chosen is not None, "the collector has enough"
    headers = client_headers(place.policy.redundancy.object_headers(chosen.headers))
    if chosen.status not in (200, 206, 416):
        discard(chosen)
        headers[h.CONTENT_LENGTH] = "0"
        return Response(chosen.status, headers, b"")
    described = Described.of(chosen.headers, decoder.scheme, decoder.unique)
    assert described is not None, "the collector takes no other answers"
    # Nodes that sent the whole of what they have were not to heed the range.
    spans = None
    if chosen.status != 200:
        spans = resolve(exchange.environ.get(env.HTTP_RANGE), described.size)
    sources = collector.sources
    if spans == []:
        for answer in sources.values() or [chosen]:
            green.spawn(discard, answer)
        headers.pop(h.CONTENT_LENGTH, None)
        headers.pop(h.CONTENT_TYPE, None)
        headers[h.CONTENT_RANGE] = f"bytes */{described.size}"
        return Response(416, headers)
    headers.pop(h.CONTENT_RANGE, None)
    if not sources:
        discard(chosen)
    reader = SegmentReader(
        exchange,
        Ask(ask.method, ask.partition, ask.path, unconditional(ask.headers)),
        chain(candidates, _once_more(exchange, place)),
        decoder,
        described,
    )
    reader.adopt(sources)
    if chosen.status == 416:
        # Nodes have judged the first range alone; their refusal, a page of HTML, does
        # not say what the object is. Of an empty object nothing may be wanted.
        start = spans[0].start if spans else 0
        content_type = reader.find_type(start // decoder.segment_size)
        if content_type is None:
            return Response(503)
        headers[h.CONTENT_TYPE] = without_swift_bytes(content_type)
    return decoded(reader, decoder, headers, spans, described.size)


def _headers(exchange: Exchange, place: Place) -> PairList:
    headers = base_headers(exchange, place)
    environ = exchange.environ
    redundancy = place.policy.redundancy
    for key, name in _CONDITION_KEYS:
        if key in environ:
            value = environ[key]
            if key == env.HTTP_RANGE:
                value = redundancy.archive_range(value)
            headers.append((name, value))
    etag_names = redundancy.etag_name
    for key in [key for key in environ if key.startswith(_BACKEND_KEYS)]:
        name = h.title(key[5:].replace("_", "-"))
        if etag_names is not None and name == h.X_BACKEND_ETAG_IS_AT:
            etag_names = f"{environ[key]},{etag_names}"
        elif key != _POLICY_KEY:
            headers.append((name, environ[key]))
    if etag_names is not None:
        headers.append((h.X_BACKEND_ETAG_IS_AT, etag_names))
    if exchange.proxy.config.allow_open_expired and may_open_expired(exchange):
        headers.append((h.X_BACKEND_OPEN_EXPIRED, "true"))
    return headers


_POLICY_KEY = env.HTTP_X_BACKEND_STORAGE_POLICY_INDEX


def _missing(exchange: Exchange, found: Headers | None = None) -> Response:
    """The answer when there is no object: 404, or 412 when one was required."""
    conditions = Conditions.of(exchange.headers)
    headers = Headers()
    if found is not None and h.X_BACKEND_TIMESTAMP in found:
        headers[h.X_BACKEND_TIMESTAMP] = found[h.X_BACKEND_TIMESTAMP]
    if conditions is not None and conditions.verdict_missing() is not None:
        return Response(412, headers, b"")
    return Response(404, headers)


def _answer(
    exchange: Exchange,
    ask: Ask,
    candidates: Candidates | None,
    chosen: Answer,
) -> Response:
    """The client's answer from the copy that was chosen. Yields."""
    headers = client_headers(chosen.headers)
    status = chosen.status
    if exchange.method == "HEAD" or status not in (200, 206):
        source = chosen.source
        if isinstance(source, Found):
            source.response.drain(65536)
        if status == 416:
            headers.pop(h.CONTENT_LENGTH, None)
            headers.pop(h.CONTENT_TYPE, None)
            return Response(416, headers)
        if status != 200:
            headers[h.CONTENT_LENGTH] = "0"
        return Response(status, headers, b"")
    assert isinstance(chosen.source, Found), "a good answer to a GET has a body"
    length = chosen.source.response.content_length
    if length is not None and length <= exchange.proxy.config.object_chunk_size:
        body = whole_body(exchange, ask, candidates, chosen)
        if body is not None:
            return Response(status, headers, body)
        if candidates is None:
            return Response(503)
    return streamed(exchange, ask, candidates, chosen, headers)


def client_headers(found: Headers) -> Headers:
    """What a client sees of an object server's headers; gatekeeper takes the rest."""
    headers = without_connection_headers(found)
    etag = headers.get(h.ETAG)
    if etag is not None and etag[:1] == '"':
        dict.__setitem__(headers, h.ETAG, etag.strip('"'))
    content_type = headers.get(h.CONTENT_TYPE)
    if content_type is not None and ";" in content_type:
        dict.__setitem__(headers, h.CONTENT_TYPE, without_swift_bytes(content_type))
    dict.__setitem__(headers, h.ACCEPT_RANGES, "bytes")
    return headers
