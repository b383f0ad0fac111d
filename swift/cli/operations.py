# SPDX-License-Identifier: Apache-2.0
"""swift-recon-cron, swift-config, swift-reconciler-enqueue: helpers of operators.

Contract cli §4 and §8.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swift.cli.init import SHORT, Dirs, Options, Server
from swift.core import headers as h
from swift.core.errors import InvalidInput, LockTimeout, PeerError, SwiftError
from swift.core.misplaced import (
    DELETE_TYPE,
    PUT_TYPE,
    QUEUE_ACCOUNT,
    queue_container,
    queue_name,
)
from swift.core.names import ObjectName, split_name
from swift.core.settings import bind, option
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.config import DEFAULT_SWIFT_DIR, ConfFile, read_conf
from swift.runtime.logs import ConsoleSink, Logger
from swift.runtime.recon import CACHE_PATH, update_cache
from swift.wire.client import ConnectionPool, TcpConnector
from swift.wire.direct import DirectClient

LOCK_TIMEOUT_S = 10.0
LOCK_NAME = "swift-recon-object-cron"
RECON_SECTION = "filter:recon"

_POLL_S = 0.1
_PENDING = "async_pending"


# --- swift-recon-cron -----------------------------------------------------------------


@dataclass(frozen=True)
class CronConfig:
    """[filter:recon] of an object server's file, as swift-recon-cron reads it."""

    devices: str = option("/srv/node", doc="Where the devices are mounted.")
    recon_cache_path: str = option(CACHE_PATH, doc="Where the cache files are.")
    recon_lock_path: str = option("/var/lock", doc="Where the lock is made.")


def recon_cron(argv: Sequence[str] | None = None) -> int:
    """Run swift-recon-cron; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print("usage: swift-recon-cron CONF\n\nCount the container updates that wait.")
        return 0 if words else 1
    try:
        conf = read_conf(words[0])
        config = bind(
            CronConfig,
            conf.section(RECON_SECTION),
            source=conf.source,
            section=RECON_SECTION,
        )
        _update_pending(config)
    except (SwiftError, OSError) as error:
        print(f"swift-recon-cron: {error}")
        return 1
    return 0


def _update_pending(config: CronConfig) -> None:
    """Count, and write the count into object.recon. Raises OSError, LockTimeout."""
    lock_dir = f"{config.recon_lock_path}/{LOCK_NAME}"
    os.makedirs(lock_dir, exist_ok=True)
    descriptor = os.open(lock_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = green.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if green.monotonic() >= deadline:
                    raise LockTimeout(lock_dir, LOCK_TIMEOUT_S) from error
                green.sleep(_POLL_S)
        count = pending_count(Path(config.devices))
        path = f"{config.recon_cache_path}/object.recon"
        log = Logger("swift-recon-cron", [ConsoleSink("swift-recon-cron")])
        updates = {_PENDING: count, f"{_PENDING}_last": green.now()}
        if not update_cache(path, updates, log):
            raise InvalidInput(f"{path} was not written")
    finally:
        os.close(descriptor)


def pending_count(root: Path) -> int:
    """The container updates that wait on all devices of a node."""
    return sum(
        len(os.listdir(prefix))
        for tree in root.glob(f"*/{_PENDING}*")
        for prefix in tree.iterdir()
        if prefix.is_dir()
    )


# --- swift-config ---------------------------------------------------------------------


def config(argv: Sequence[str] | None = None) -> int:
    """Run swift-config; the exit code."""
    parser = argparse.ArgumentParser(
        prog="swift-config",
        usage="%(prog)s [options] SERVER|FILE...",
        description="Show configurations as programs see them.",
    )
    parser.add_argument("targets", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument(
        "-c", "--config-num", type=int, default=0, metavar="N",
        help="only the N-th configuration of a server",
    )  # fmt: skip
    parser.add_argument("-s", "--section", metavar="NAME", help="only this section")
    parser.add_argument(
        "-w", "--wsgi", action="store_true", help="what makes up the WSGI pipeline"
    )
    parser.add_argument(
        "--swift-dir", default=DEFAULT_SWIFT_DIR, help="where configurations are"
    )
    options = parser.parse_intermixed_args(argv)
    if not options.targets:
        print("swift-config: a server or a file is needed", file=sys.stderr)
        return 1
    try:
        for target in options.targets:
            for path in _conf_paths(target, options):
                _print_conf(path, options)
    except SwiftError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _conf_paths(target: str, options: argparse.Namespace) -> Sequence[str]:
    if os.path.exists(target):
        return [target]
    name, _, only = target.partition(".")
    swift_dir = Path(options.swift_dir)
    server = Server(
        f"{name}-server" if name in SHORT else name,
        only,
        Dirs(swift_dir, swift_dir, ""),
    )
    chosen = server.chosen(Options(config_number=options.config_num))
    return [str(path) for path in chosen]


def _print_conf(path: str, options: argparse.Namespace) -> None:
    conf = read_conf(path)
    print(f"# {path}")
    sections = dict(pipeline_sections(conf) if options.wsgi else plain_sections(conf))
    for name, values in sections.items():
        if options.section not in (None, name):
            continue
        print(f"[{name}]")
        for key, value in values.items():
            print(f"{key} = {value}")
        print()


_OF_THE_FILE = ("here", "__file__")


def plain_sections(conf: ConfFile) -> Iterator[tuple[str, Mapping[str, str]]]:
    """(name, options) of every section, [DEFAULT] in each of them."""
    for name in conf.sections:
        values = conf.section(name)
        yield name, {k: v for k, v in values.items() if k not in _OF_THE_FILE}


def pipeline_sections(conf: ConfFile) -> Iterator[tuple[str, Mapping[str, str]]]:
    """(name, options) of the main pipeline and its parts, by their entry points.

    Raises ConfigError when a part has no section.
    """
    words = conf.section("pipeline:main").get("pipeline", "").split()
    parts: list[tuple[str, Mapping[str, str]]] = []
    names = []
    for word in words:
        kind = "filter" if f"filter:{word}" in conf.sections else "app"
        values = conf.app_section(f"{kind}:{word}")
        entry = values.pop("use", word).rpartition("#")[2]
        names.append(entry)
        shown = {k: v for k, v in values.items() if k not in _OF_THE_FILE}
        parts.append((f"{kind}:{entry}", shown))
    yield "pipeline:main", {"pipeline": " ".join(names)}
    yield from parts


# --- swift-reconciler-enqueue ---------------------------------------------------------


def reconciler_enqueue(argv: Sequence[str] | None = None) -> int:
    """Run swift-reconciler-enqueue; the exit code."""
    parser = argparse.ArgumentParser(
        prog="swift-reconciler-enqueue",
        usage="%(prog)s <policy_index> </a/c/o> <timestamp> [options]",
        description="Ask the container reconciler to look at an object. The policy is "
        "the one in which it may wrongly be.",
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument(
        "-X", "--op", choices=("PUT", "DELETE"), default="PUT",
        help="what happened to the object at that time (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "-f", "--force", action="store_true",
        help="replace an entry of the same time or newer",
    )  # fmt: skip
    parser.add_argument("--swift-dir", default=DEFAULT_SWIFT_DIR)
    options = parser.parse_intermixed_args(argv)
    if len(options.words) != 3:
        parser.print_help()
        return 0
    pool = ConnectionPool(TcpConnector())
    try:
        container = _enqueue(options, pool)
    except SwiftError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    finally:
        pool.close()
    print(container)
    return 0


def _enqueue(options: argparse.Namespace, pool: ConnectionPool) -> str:
    """Write the entry on the primaries; the queue's container. Yields.

    Raises InvalidInput, also when no majority took it.
    """
    index, path, time = options.words
    cluster = Cluster.load(options.swift_dir)
    policy = cluster.policies.by_index(index)
    if policy is None:
        raise InvalidInput(f"no policy of index {index}")
    name = split_name(path)
    if not isinstance(name, ObjectName):
        raise InvalidInput(f"{path} names no object")
    at = Timestamp.parse(time).internal
    container = queue_container(at)
    entry = ObjectName(QUEUE_ACCOUNT, container, queue_name(policy.index, name.path))
    headers = {
        h.X_TIMESTAMP: Timestamp.at(green.now()).internal if options.force else at,
        h.X_ETAG: at,
        h.X_SIZE: "0",
        h.X_CONTENT_TYPE: DELETE_TYPE if options.op == "DELETE" else PUT_TYPE,
        h.X_BACKEND_STORAGE_POLICY_INDEX: "0",
    }
    ring = cluster.container_ring()
    partition = ring.partition(cluster.salt.digest_of(entry.container_name))
    nodes = ring.primaries(partition)
    client = DirectClient(pool, user_agent="swift-reconciler-enqueue")
    taken, failures = 0, []
    for node in nodes:
        try:
            client.put(node, partition, entry, headers)
            taken += 1
        except PeerError as error:
            failures.append(str(error))
    if taken <= len(nodes) // 2:
        reasons = "; ".join(failures)
        raise InvalidInput(f"{taken} of {len(nodes)} nodes took the entry: {reasons}")
    return container
