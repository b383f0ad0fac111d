# SPDX-License-Identifier: Apache-2.0
"""The options of the proxy server, and what a policy's own section puts in their place.

`[app:proxy-server]` binds to `ProxyConfig`; what may differ by policy is bound a second
time to `PolicyConfig` from `[proxy-server:policy:<index>]` over the first. Nothing here
reads files. Contract: config 3 and 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from swift.core.errors import ConfigError
from swift.core.settings import (
    auto_or,
    bind,
    boolean,
    csv,
    natural,
    number,
    one_of,
    option,
    positive_int,
    seconds,
)
from swift.runtime.config import optional
from swift.wire.nodes import (
    NodeCount,
    ReadAffinity,
    WriteAffinity,
    parse_node_count,
    parse_read_affinity,
    parse_write_affinity,
)

POLICY_SECTION = "proxy-server:policy:"
_SORTING = ("shuffle", "timing", "affinity")
_POLICY_SECTION = re.compile(r"proxy-server:policy:(\d+)\Z")

OWNER_HEADERS = (
    "x-container-read",
    "x-container-write",
    "x-container-sync-key",
    "x-container-sync-to",
    "x-account-meta-temp-url-key",
    "x-account-meta-temp-url-key-2",
    "x-container-meta-temp-url-key",
    "x-container-meta-temp-url-key-2",
    "x-account-access-control",
)


def percent(text: str) -> float:
    """A share between 0 and 100."""
    value = number(text)
    if not 0 <= value <= 100:
        raise ValueError("must be between 0 and 100")
    return value


def lower_csv(text: str) -> tuple[str, ...]:
    """Comma-separated words in lower case."""
    return tuple(item.lower() for item in csv(text))


def _optional_seconds(text: str) -> float | None:
    return seconds(text) if text.strip() else None


@dataclass(frozen=True)
class PolicyConfig:
    """What may differ by policy: [app:proxy-server], overlaid by its section."""

    sorting_method: str = option(
        "shuffle", parse=one_of(*_SORTING), doc="Order of primaries: shuffle, timing, "
        "or affinity."
    )  # fmt: skip
    read_affinity: ReadAffinity = option(
        (), parse=parse_read_affinity, doc="`r1z1=100, r2=200`: lower is asked first."
    )
    write_affinity: WriteAffinity = option(
        (), parse=parse_write_affinity, doc="`r1, r2z1`: where writes land first."
    )
    write_affinity_node_count: NodeCount = option(
        NodeCount(2, True),
        parse=parse_node_count,
        doc="Near nodes to try before others: `N` or `N * replicas`.",
    )
    write_affinity_handoff_delete_count: int | None = option(
        None,
        parse=auto_or(natural),
        doc="Near handoffs that hear of a DELETE too; auto: as many as far primaries.",
    )
    rebalance_missing_suppression_count: int = option(
        1,
        parse=natural,
        doc="404s of primaries, without a timestamp, that say nothing.",
    )
    concurrent_gets: bool = option(
        False, parse=boolean, doc="Ask a second node when the first is slow."
    )
    concurrency_timeout_s: float | None = option(
        None,
        name="concurrency_timeout",
        parse=_optional_seconds,
        doc="Seconds until the next node is asked; conn_timeout by default.",
    )
    concurrent_ec_extra_requests: int = option(
        0, parse=natural, doc="Fragments asked for beyond those needed."
    )


@dataclass(frozen=True)
class ProxyConfig:
    """[app:proxy-server] of proxy-server.conf, and what [DEFAULT] may hold of it."""

    expose_info: bool = option(True, doc="Answer /info.")
    admin_key: str = option("", doc="Secret that signs the admin view of /info.")
    disallowed_sections: tuple[str, ...] = option(
        ("swift.auto_create_account_prefix", "swift.valid_api_versions"),
        doc="Dotted keys that /info leaves out.",
    )
    trans_id_suffix: str = option("", doc="Added to transaction ids.")
    cors_allow_origin: tuple[str, ...] = option(
        (), doc="Origins allowed for every container."
    )
    cors_expose_headers: tuple[str, ...] = option(
        (), doc="Headers that every cross-origin answer exposes."
    )
    strict_cors_mode: bool = option(
        True, doc="No CORS headers for an origin that is not allowed."
    )
    log_handoffs: bool = option(True, doc="Log a line when handoffs are used.")
    recheck_account_existence_s: float = option(
        60.0,
        name="recheck_account_existence",
        parse=seconds,
        doc="Seconds that facts of an account are believed.",
    )
    recheck_container_existence_s: float = option(
        60.0,
        name="recheck_container_existence",
        parse=seconds,
        doc="Seconds that facts of a container are believed.",
    )
    recheck_updating_shard_ranges_s: float = option(
        3600.0,
        name="recheck_updating_shard_ranges",
        parse=seconds,
        doc="Seconds that shards for updates are believed; 0 asks always.",
    )
    recheck_listing_shard_ranges_s: float = option(
        600.0,
        name="recheck_listing_shard_ranges",
        parse=seconds,
        doc="Seconds that shards for listings are believed; 0 asks always.",
    )
    account_existence_skip_cache_pct: float = option(
        0.0, parse=percent, doc="Share of look-ups that pass the cache by."
    )
    container_existence_skip_cache_pct: float = option(
        0.0, parse=percent, doc="Share of look-ups that pass the cache by."
    )
    container_updating_shard_ranges_skip_cache_pct: float = option(
        0.0, parse=percent, doc="Share of look-ups that pass the cache by."
    )
    container_listing_shard_ranges_skip_cache_pct: float = option(
        0.0, parse=percent, doc="Share of look-ups that pass the cache by."
    )
    namespace_cache_tokens_per_session: int = option(
        3,
        parse=natural,
        doc="Requests that fetch the shards of a container when the cache lacks them; "
        "others wait for those. 0 lets all fetch.",
    )
    namespace_avg_backend_fetch_time_s: float = option(
        0.3,
        name="namespace_avg_backend_fetch_time",
        parse=seconds,
        doc="Seconds that such a fetch takes; others wait up to ten times as long.",
    )
    object_chunk_size: int = option(
        65536, parse=positive_int, doc="Bytes read from an object server at once."
    )
    client_chunk_size: int = option(
        65536, parse=positive_int, doc="Bytes read from a client at once."
    )
    node_timeout_s: float = option(
        10.0, name="node_timeout", parse=seconds, doc="Seconds for a node to answer."
    )
    recoverable_node_timeout_s: float | None = option(
        None,
        name="recoverable_node_timeout",
        parse=_optional_seconds,
        doc="The same for GETs, where another node can be asked instead.",
    )
    conn_timeout_s: float = option(
        0.5, name="conn_timeout", parse=seconds, doc="Seconds for a node to accept."
    )
    client_timeout_s: float = option(
        60.0, name="client_timeout", parse=seconds, doc="Seconds for a client to send."
    )
    post_quorum_timeout_s: float = option(
        0.5,
        name="post_quorum_timeout",
        parse=seconds,
        doc="Seconds that the rest may take when a quorum has answered.",
    )
    error_suppression_interval_s: float = option(
        60.0,
        name="error_suppression_interval",
        parse=seconds,
        doc="Seconds that a failing node is left alone; 0 never.",
    )
    error_suppression_limit: int = option(
        10, parse=natural, doc="Errors after which a node is left alone."
    )
    allow_account_management: bool = option(False, doc="PUT and DELETE of accounts.")
    account_autocreate: bool = option(False, doc="Accounts come into being by use.")
    max_containers_per_account: int = option(
        0, parse=natural, doc="Containers that an account may have; 0 is no limit."
    )
    max_containers_whitelist: tuple[str, ...] = option(
        (), doc="Accounts without that limit."
    )
    deny_host_headers: tuple[str, ...] = option(
        (), parse=lower_csv, doc="Host headers that are refused."
    )
    timing_expiry_s: float = option(
        300.0,
        name="timing_expiry",
        parse=seconds,
        doc="Seconds that a node's timing is believed.",
    )
    request_node_count: NodeCount = option(
        NodeCount(2, True),
        parse=parse_node_count,
        doc="Nodes to try for one request: `N` or `N * replicas`.",
    )
    swift_owner_headers: tuple[str, ...] = option(
        OWNER_HEADERS, parse=lower_csv, doc="Headers that only owners see and set."
    )
    allow_open_expired: bool = option(
        False, doc="Clients may open objects past their X-Delete-At."
    )
    write_legacy_ec_crc: bool | None = option(
        None,
        parse=optional(boolean),
        doc="Fragments that liberasurecode up to 1.5.0 can read; unset: as the "
        "environment says.",
    )
    splice: bool = option(
        True, doc="Let the kernel pass on large bodies that no filter looks at."
    )
    object_size_in_one_send: int = option(
        65536,
        parse=natural,
        doc="Bodies up to so many bytes go to the nodes together with the head.",
    )

    @property
    def read_timeout_s(self) -> float:
        """How long a node may take to answer a GET or HEAD of an object."""
        if self.recoverable_node_timeout_s is None:
            return self.node_timeout_s
        return self.recoverable_node_timeout_s


@dataclass(frozen=True)
class ProxyOptions:
    """All options of one proxy: its own, the plain policy's, and each policy's."""

    proxy: ProxyConfig
    common: PolicyConfig
    by_policy: Mapping[int, PolicyConfig]

    def of_policy(self, index: int) -> PolicyConfig:
        """What holds for a policy."""
        return self.by_policy.get(index, self.common)

    def concurrency_timeout_s(self, config: PolicyConfig) -> float:
        """Seconds until a second node is asked."""
        if config.concurrency_timeout_s is None:
            return self.proxy.conn_timeout_s
        return config.concurrency_timeout_s


def read_options(
    values: Mapping[str, str],
    sections: Mapping[str, Mapping[str, str]],
    *,
    policies: Iterable[int],
    source: str,
) -> ProxyOptions:
    """Bind the app section and the policies' sections.

    values: the options of the app. sections: the whole file, of which only
    [proxy-server:policy:N] are looked at. policies: indexes that exist. Raises
    ConfigError.
    """
    known = set(policies)
    proxy = bind(ProxyConfig, values, source=source, section="app:proxy-server")
    common = bind(PolicyConfig, values, source=source, section="app:proxy-server")
    by_policy = {}
    for section, own in sections.items():
        if not section.startswith(POLICY_SECTION):
            continue
        match = _POLICY_SECTION.match(section)
        if match is None or int(match[1]) not in known:
            raise ConfigError(source, section, "-", "no such storage policy")
        merged = {**values, **own}
        by_policy[int(match[1])] = bind(
            PolicyConfig, merged, source=source, section=section
        )
    return ProxyOptions(proxy, common, by_policy)
