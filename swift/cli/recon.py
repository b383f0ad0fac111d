# SPDX-License-Identifier: Apache-2.0
"""swift-recon: what the servers of a cluster say of themselves, summed up.

Every server of a type is asked the same question over HTTP, many at a time; its recon
filter answers. Contract cli §3; the questions: `services/recon`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

from swift.cli.recon_checks import CHECKS, local_time
from swift.cli.recon_survey import KINDS, Survey
from swift.core.errors import SwiftError
from swift.runtime.cluster import Cluster
from swift.runtime.config import DEFAULT_SWIFT_DIR
from swift.wire.client import ConnectionPool, TcpConnector

RULE = "=" * 79


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 for an unknown type."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    kinds = options.types or ["object"]
    if not arguments or len(kinds) > len(KINDS):
        parser.print_help()
        return 0
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.print_help()
        print(f"Error: unknown server type {unknown[0]!r}")
        return 1
    try:
        cluster = Cluster.load(options.swiftdir)
    except SwiftError as error:
        print(f"Error: {error}")
        return 1
    policies = list(cluster.policies)
    if options.policy is not None:
        policy = cluster.policies.by_name(options.policy)
        if policy is None and options.policy.isdecimal():
            policy = cluster.policies.by_index(options.policy)
        if policy is None:
            parser.print_help()
            return 0
        policies = [policy]
    pool = ConnectionPool(TcpConnector())
    try:
        for kind in kinds:
            rings = [f"{kind}"]
            if kind == "object":
                rings = [policy.ring_name for policy in policies]
            hosts = hosts_of(cluster, rings, region=options.region, zone=options.zone)
            _survey(Survey(kind, hosts, options, pool))
    finally:
        pool.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swift-recon",
        usage="%(prog)s [account] [container] [object] [options]",
        description="Ask all servers of a type (object when none is given) for what "
        "they know of themselves.",
    )
    parser.add_argument("types", nargs="*", help=argparse.SUPPRESS)
    for check in CHECKS:
        parser.add_argument(*check.flags, action="store_true", help=check.help)
    parser.add_argument("--all", action="store_true", help="every check that applies")
    parser.add_argument("-v", "--verbose", action="store_true", help="show answers")
    parser.add_argument("--suppress", action="store_true", help="hide failures")
    parser.add_argument("--human-readable", action="store_true", help="sizes in units")
    parser.add_argument(
        "--top", type=int, default=0, metavar="N", help="show the N fullest devices"
    )
    parser.add_argument(
        "--lowest", type=int, default=0, metavar="N", help="show the N emptiest devices"
    )
    parser.add_argument(
        "--jitter", type=float, default=0.0, metavar="S", help="allowed clock error"
    )
    parser.add_argument("--region", type=int, help="only servers of this region")
    parser.add_argument("-z", "--zone", type=int, help="only servers of this zone")
    parser.add_argument(
        "-t", "--timeout", type=float, default=5.0, metavar="S", help="for an answer"
    )
    parser.add_argument("--swiftdir", default=DEFAULT_SWIFT_DIR, help="where rings are")
    parser.add_argument("-p", "--policy", help="only servers of this policy")
    return parser


def hosts_of(
    cluster: Cluster, rings: Iterable[str], *, region: int | None, zone: int | None
) -> list[tuple[str, int]]:
    """The distinct (ip, port) of the devices of some rings, sorted."""
    found: set[tuple[str, int]] = set()
    for name in rings:
        try:
            ring = cluster.rings[name].get()
        except SwiftError as error:
            print(f"Error: {error}")
            continue
        found |= {
            (device.ip, device.port)
            for device in ring.devices
            if device is not None
            and (region is None or device.region == region)
            and (zone is None or device.zone == zone)
        }
    return sorted(found)


def _survey(survey: Survey) -> None:
    print(RULE)
    print(f"--> Starting reconnaissance on {len(survey.hosts)} hosts ({survey.kind})")
    print(RULE)
    if survey.options.all:
        chosen = [c for c in CHECKS if c.of_one_type and survey.kind in c.kinds]
        names = (
            "replication", "unmounted", "loadstats", "diskusage", "md5", "quarantined",
            "sockstat", "validate_servers", "driveaudit", "time", "swift_versions",
        )  # fmt: skip
        by_name = {check.name: check for check in CHECKS}
        chosen += [by_name[name] for name in names]
    else:
        chosen = [c for c in CHECKS if getattr(survey.options, c.name)]
    for check in chosen:
        if survey.kind not in check.kinds:
            what = check.flags[-1].removeprefix("--")
            print(f"Error: Can't check {what} on {survey.kind} servers.")
            print(RULE)
            continue
        for title, report in check.reports:
            print(f"[{local_time()}] {title}")
            for line in report(survey):
                print(line)
            print(RULE)
