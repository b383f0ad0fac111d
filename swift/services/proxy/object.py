# SPDX-License-Identifier: Apache-2.0
"""The verbs of objects that carry no body: POST and DELETE; and what all verbs share.

Contract: api 4 and 5, backend-http 2, 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swift.core import headers as h
from swift.core.headers import Headers
from swift.core.metadata_rules import (
    check_content_type,
    check_metadata,
    check_name_lengths,
    check_own_parameters,
    settle_delete_at,
)
from swift.core.names import ObjectName
from swift.core.policy import StoragePolicy
from swift.core.quorum import Answer, Tally, best, quorum_size
from swift.core.ring.devices import Node
from swift.core.ring.ring import Ring
from swift.core.timestamp import Timestamp
from swift.services.proxy.exchange import Exchange, PairList, refused, settled
from swift.services.proxy.options import PolicyConfig
from swift.services.proxy.targets import (
    container_target,
    queue_target,
    tell_databases,
    update_headers,
)
from swift.wire import environ as env
from swift.wire.backends import Ask
from swift.wire.infocache import ContainerInfo
from swift.wire.nodes import Candidates, near_handoffs, near_primaries
from swift.wire.request import Response

OBJECT_METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS")

# What a client sends for the proxy or its filters alone; backends neither need nor may
# see it. Everything else of a write goes along, because operators may have the object
# servers keep further headers (`allowed_headers`).
_NOT_PASSED = frozenset(
    (
        h.ACCEPT,
        h.AUTHORIZATION,
        h.CONNECTION,
        h.CONTENT_LENGTH,
        h.EXPECT,
        h.HOST,
        h.IF_MATCH,
        h.IF_MODIFIED_SINCE,
        h.IF_UNMODIFIED_SINCE,
        h.RANGE,
        h.REFERER,
        h.TRANSFER_ENCODING,
        h.USER_AGENT,
        h.X_AUTH_TOKEN,
        h.X_DELETE_AFTER,
        h.X_NEWEST,
        h.X_OPEN_EXPIRED,
        h.X_SERVICE_TOKEN,
        h.X_STORAGE_TOKEN,
        h.X_TIMESTAMP,
        h.X_TRANS_ID,
        h.X_TRANS_ID_EXTRA,
        h.X_BACKEND_STORAGE_POLICY_INDEX,
        "Accept-Encoding",
        "Accept-Language",
        "Cookie",
        "Keep-Alive",
        "Te",
        "Upgrade",
    )
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object lives: its policy, ring and partition.

    is_explicit: one of the cluster's own parts named the policy, whatever the
    container.
    """

    name: ObjectName
    info: ContainerInfo
    policy: StoragePolicy
    ring: Ring
    partition: int
    path: str
    is_explicit: bool = False

    @property
    def primaries(self) -> Sequence[Node]:
        """The nodes that should hold it."""
        return self.ring.primaries(self.partition)


def place_of(exchange: Exchange, info: ContainerInfo, policy: StoragePolicy) -> Place:
    """Look the object of a request up in its policy's ring."""
    name = exchange.name
    assert isinstance(name, ObjectName), "routed by name"
    cluster = exchange.proxy.cluster
    ring = cluster.object_ring(policy.index)
    partition = ring.partition(cluster.salt.digest_of(name))
    is_explicit = env.HTTP_X_BACKEND_STORAGE_POLICY_INDEX in exchange.environ
    return Place(name, info, policy, ring, partition, name.quoted, is_explicit)


def base_headers(
    exchange: Exchange, place: Place, timestamp: Timestamp | None = None
) -> PairList:
    """What every request to an object server carries."""
    headers = exchange.backend_headers(timestamp)
    headers.append((h.X_BACKEND_STORAGE_POLICY_INDEX, str(place.policy.index)))
    return headers


def write_headers(exchange: Exchange, place: Place) -> PairList:
    """What a PUT, POST or DELETE tells the object servers, whatever the node."""
    headers = base_headers(exchange, place)
    if place.ring.next_part_power is not None:
        # While partitions are split, a server keeps what it writes in both places.
        power = str(place.ring.next_part_power)
        headers.append((h.X_BACKEND_NEXT_PART_POWER, power))
    headers += [pair for pair in exchange.headers.items() if pair[0] not in _NOT_PASSED]
    return headers


def write_extras(exchange: Exchange, place: Place, requests: int) -> list[PairList]:
    """What each request of a write tells its server to tell databases. Yields."""
    quorum = place.policy.redundancy.write_quorum(requests)
    extras = update_headers(
        container_target(exchange, place.name, place.info),
        requests,
        quorum,
        queue_target(exchange, place.name),
    )
    own = h.X_BACKEND_CLEAN_EXPIRING_OBJECT_QUEUE
    if own in exchange.headers:
        # The expirer removes the queue's row itself; its word goes to every node.
        extras = [[pair for pair in extra if pair[0] != own] for extra in extras]
    return extras


def may_open_expired(exchange: Exchange) -> bool:
    """True when the client may and does ask for an object past its X-Delete-At."""
    return exchange.proxy.config.allow_open_expired and exchange.headers.true(
        h.X_OPEN_EXPIRED
    )


def check_object_name(exchange: Exchange) -> Response | None:
    """The answer to a name that is too long, None when it is not."""
    name = exchange.name
    assert isinstance(name, ObjectName), "routed by name"
    refusal = check_name_lengths(
        exchange.proxy.cluster.limits,
        account=name.account,
        container=name.container,
        obj=name.obj,
    )
    return refused(refusal) if refusal else None


# --- POST -----------------------------------------------------------------------------


def post_object(exchange: Exchange, place: Place) -> Response:
    """POST: replace the metadata. Yields."""
    denied = exchange.denial(place.info.write_acl)
    if denied is not None:
        return denied
    if not place.info.exists:
        return Response(404)
    limits = exchange.proxy.cluster.limits
    refusal = (
        check_metadata(exchange.headers, "object", limits)
        or settle_delete_at(exchange.headers, exchange.now)
        or check_content_type(exchange.headers)
        or check_own_parameters(exchange.headers)
    )
    if refusal is not None:
        return refused(refusal)
    note_delete_at(exchange)
    headers = write_headers(exchange, place)
    if may_open_expired(exchange):
        headers.append((h.X_BACKEND_OPEN_EXPIRED, "true"))
    return _post(exchange, place, headers)


def note_delete_at(exchange: Exchange) -> None:
    """Tell the access log of an expiry."""
    at = exchange.headers.get(h.X_DELETE_AT)
    if at:
        exchange.log_info(f"x-delete-at:{at}")


def _post(exchange: Exchange, place: Place, headers: PairList) -> Response:
    """Send a POST; copies on handoffs count when primaries lack the object. Yields."""
    proxy = exchange.proxy
    replicas = len(place.primaries)
    quorum = quorum_size(replicas)
    ask = Ask("POST", place.partition, place.path, headers)
    candidates = proxy.write_candidates(place.ring, place.partition, "object")
    extras = write_extras(exchange, place, replicas)
    answers = proxy.backends.write(
        ask,
        extras,
        candidates,
        Tally(replicas, quorum),
        timeout_s=proxy.config.node_timeout_s,
        post_quorum_timeout_s=proxy.config.post_quorum_timeout_s,
    )
    if any(answer.is_success for answer in answers):
        _post_to_handoffs(exchange, ask, extras, candidates, answers, quorum)
        answers = [answer for answer in answers if answer.status != 404] + [
            Answer(503) for answer in answers if answer.status == 404
        ]
    chosen = best(answers, quorum)
    response = settled(chosen, method="POST")
    if chosen is not None and chosen.is_success:
        # What filters keep with the object tells them whose metadata it was.
        response.headers.update(chosen.headers.beginning(h.OBJECT_SYSMETA))
    return response


def _post_to_handoffs(
    exchange: Exchange,
    ask: Ask,
    extras: Sequence[PairList],
    candidates: Candidates,
    answers: list[Answer],
    quorum: int,
) -> None:
    """Look for the copies that primaries lack, until a quorum has the change. Yields.

    Some have the object and some do not: it is on its way between nodes.
    """
    proxy = exchange.proxy
    for index, answer in enumerate(answers):
        if sum(other.is_success for other in answers) >= quorum:
            return
        if answer.status != 404:
            continue
        for node in candidates:
            again = proxy.backends.try_ask(
                node, ask, proxy.config.node_timeout_s, extras[index]
            )
            if again is not None and again.is_success:
                answers[index] = again
                break


# --- DELETE ---------------------------------------------------------------------------


def delete_object(exchange: Exchange, place: Place) -> Response:
    """DELETE: a tombstone on every node that should hold the object. Yields."""
    denied = exchange.denial(place.info.write_acl)
    if denied is not None:
        return denied
    if not place.info.exists:
        return Response(404)
    if h.X_IF_DELETE_AT in exchange.headers:
        text = exchange.headers[h.X_IF_DELETE_AT]
        if not (text.isascii() and text.isdigit()):
            return Response.text(400, f"Bad {h.X_IF_DELETE_AT} header value")
    proxy = exchange.proxy
    primaries = place.primaries
    first = [*primaries, *_near_copies(place, proxy.policy_config(place.policy))]
    quorum = quorum_size(len(primaries))
    same_as = {404: 204}
    extras = write_extras(exchange, place, len(first))
    answers = proxy.backends.write(
        Ask("DELETE", place.partition, place.path, write_headers(exchange, place)),
        extras,
        _delete_candidates(exchange, place, first),
        Tally(len(first), quorum, same_as),
        timeout_s=proxy.config.node_timeout_s,
        post_quorum_timeout_s=proxy.config.post_quorum_timeout_s,
    )
    chosen = best(answers, quorum, same_as)
    if chosen is not None and chosen.status in (204, 404):
        lost = [
            extra
            for extra, answer in zip(extras, answers, strict=True)
            if answer.status not in (204, 404)
        ]
        if lost:
            facts = Headers({h.X_TIMESTAMP: exchange.timestamp.internal})
            tell_databases(exchange, place.name, place.policy.index, lost, facts)
    return settled(chosen, method="DELETE")


def _near_copies(place: Place, config: PolicyConfig) -> list[Node]:
    """Near handoffs, where write affinity may have put copies that must go too."""
    affinity = config.write_affinity
    if not affinity:
        return []
    count = config.write_affinity_handoff_delete_count
    if count is None:
        count = len(place.primaries) - near_primaries(place.primaries, affinity)
    handoffs = place.ring.handoffs(place.partition)
    return near_handoffs(handoffs, affinity=affinity, count=count)


def _delete_candidates(
    exchange: Exchange, place: Place, first: Sequence[Node]
) -> Candidates:
    return exchange.proxy.write_candidates(place.ring, place.partition, "object", first)
