# SPDX-License-Identifier: Apache-2.0
"""swift-dispersion-report: how many of the copies are where they should be?"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from swift.cli.dispersion import (
    RETRY_PAUSE_S,
    Progress,
    Setup,
    command_parser,
    each,
    load,
    open_setup,
)
from swift.core import headers as h
from swift.core.errors import InvalidInput, PeerError, SwiftError
from swift.core.names import ContainerName, ObjectName
from swift.core.ring.devices import Node
from swift.runtime import green
from swift.wire.client import ConnectionPool, TcpConnector
from swift.wire.direct import DirectClient, DirectError


@dataclass
class Findings:
    """What the nodes said. missing: copies that a partition lacks → partitions."""

    retries: int = 0
    overlapping: int = 0
    copies_found: int = 0
    copies_expected: int = 0
    copies_most: int = 0
    missing: Counter[int] = field(default_factory=Counter)

    @property
    def percent_found(self) -> float:
        """Share of the copies that are where they should be."""
        return 100.0 * self.copies_found / self.copies_expected

    def as_json(self, *, show_complete: bool) -> dict[str, Any]:
        """The fields of the report; missing_0 with show_complete only."""
        return {
            "retries": self.retries,
            "overlapping": self.overlapping,
            "pct_found": self.percent_found,
            "copies_found": self.copies_found,
            "copies_expected": self.copies_expected,
            **{
                f"missing_{copies}": count
                for copies, count in sorted(self.missing.items())
                if copies or show_complete
            },
        }

    def missing_lines(self, *, show_complete: bool) -> Iterator[str]:
        """How many partitions lack how many copies."""
        for copies, count in sorted(self.missing.items()):
            if not copies and not show_complete:
                continue
            left = self.copies_most - copies
            mark = "!!! " if left <= 0 else "! " if left == 1 else ""
            subject = (
                "There was 1 partition"
                if count == 1
                else f"There were {count} partitions"
            )
            yield f"{mark}{subject} missing {_copies(copies, left)}."


def _copies(missing: int, left: int) -> str:
    if left <= 0:
        return "all copies"
    return f"{missing} {'copy' if missing == 1 else 'copies'}"


def report(argv: Sequence[str] | None = None) -> int:
    """Run swift-dispersion-report; the exit code."""
    parser = command_parser(
        "swift-dispersion-report",
        "Ask every node for its copy of what swift-dispersion-populate has spread.",
    )
    parser.add_argument("-j", "--dump-json", action="store_true", help="one JSON line")
    parser.add_argument(
        "-d", "--debug", action="store_true", help="404s to standard error"
    )
    parser.add_argument(
        "-p", "--partitions", action="store_true",
        help="partitions that lack copies to standard error",
    )  # fmt: skip
    options = parser.parse_args(argv)
    try:
        config, cluster = load(options)
        if not config.container_report and not config.object_report:
            raise InvalidInput("neither containers nor objects are to be reported on")
        setup = open_setup(options, config, cluster)
        try:
            _report(setup, options)
        finally:
            setup.account.close()
    except SwiftError as error:
        print(f"swift-dispersion-report: {error}", file=sys.stderr)
        return 1
    return 0


def _report(setup: Setup, options: argparse.Namespace) -> None:
    config = setup.config
    as_json = options.dump_json or config.dump_json
    if not as_json:
        print(f"Using storage policy: {setup.policy.name} ")
    pool = ConnectionPool(TcpConnector())
    client = DirectClient(
        pool, user_agent="swift-dispersion-report", over_replication=False
    )
    findings: dict[str, Any] = {}
    try:
        for kind, wanted in (
            ("container", config.container_report),
            ("object", config.object_report),
        ):
            if not wanted:
                continue
            survey = Survey(setup, kind, client, options)
            found = survey.run(quiet=as_json)
            findings[kind] = None
            if found is not None:
                findings[kind] = found.as_json(show_complete=kind == "object")
    finally:
        pool.close()
    if as_json:
        print(json.dumps(findings))


class Survey:
    """Asks all primaries for the copies of one kind of thing."""

    def __init__(
        self,
        setup: Setup,
        kind: str,
        client: DirectClient,
        options: argparse.Namespace,
    ) -> None:
        self._setup = setup
        self._kind = kind
        self._client = client
        self._debug = options.debug
        self._show_partitions = options.partitions or setup.config.partitions
        cluster = setup.cluster
        if kind == "container":
            self._ring = cluster.container_ring()
        else:
            self._ring = cluster.object_ring(setup.policy.index)

    def run(self, *, quiet: bool) -> Findings | None:
        """Ask, and print unless `quiet`; None when there is nothing to ask. Yields."""
        kind, setup = self._kind, self._setup
        places, overlapping = self._places()
        if not places:
            print(
                f"No {kind}s to query. Has swift-dispersion-populate been run?",
                file=sys.stderr,
            )
            return None
        findings = Findings(overlapping=overlapping)
        retried_before = setup.account.retried
        progress = Progress(
            f"Querying {kind}s", f"Queried {{count}} {kind}s", len(places),
            setup.account,
        )  # fmt: skip

        def one(place: tuple[int, ContainerName | ObjectName]) -> None:
            self._ask_primaries(*place, findings)
            if quiet:
                progress.count += 1
            else:
                progress.step()

        each(setup.config.concurrency, sorted(places.items()), one)
        findings.retries = setup.account.retried - retried_before
        if not quiet:
            progress.end()
            self._print(findings, len(places))
        return findings

    def _places(self) -> tuple[dict[int, ContainerName | ObjectName], int]:
        """Partition → one thing on it, and how many more share a partition."""
        setup, ring = self._setup, self._ring
        account = setup.account.account
        places: dict[int, ContainerName | ObjectName] = {}
        overlapping = 0
        if self._kind == "container":
            names = setup.account.names("", setup.container_prefix)
        else:
            names = setup.account.names(f"/{setup.object_container}", "dispersion_")
        for text in names:
            name: ContainerName | ObjectName
            if self._kind == "container":
                name = ContainerName(account, text)
                partition = setup.container_partition(ring, text)
            else:
                name = ObjectName(account, setup.object_container, text)
                partition = setup.object_partition(ring, text)
            overlapping += partition in places
            places.setdefault(partition, name)
        return places, overlapping

    def _ask_primaries(
        self, partition: int, name: ContainerName | ObjectName, findings: Findings
    ) -> None:
        nodes = self._ring.primaries(partition)
        found = sum(self._has_copy(node, partition, name) for node in nodes)
        missing = len(nodes) - found
        findings.copies_expected += len(nodes)
        findings.copies_found += found
        findings.copies_most = max(findings.copies_most, len(nodes))
        findings.missing[missing] += 1
        if missing and self._show_partitions:
            label = f"# {self._kind.capitalize()} partition {partition}"
            copies = "copy" if missing == 1 else "copies"
            print(f"{label} missing {missing} {copies}", file=sys.stderr)

    def _has_copy(
        self, node: Node, partition: int, name: ContainerName | ObjectName
    ) -> bool:
        setup = self._setup
        headers = {h.X_BACKEND_STORAGE_POLICY_INDEX: str(setup.policy.index)}
        where = f"{node.ip}:{node.port}/{node.name}"
        tries = 0
        while True:
            try:
                self._client.head(node, partition, name, headers)
            except DirectError as error:
                if error.status == 404:
                    if self._debug:
                        print(f"ERROR: {where}: 404 for {name.path}", file=sys.stderr)
                    return False
                if error.status == 507:
                    print(f"ERROR: {where} is unmounted", file=sys.stderr)
                    return False
                problem = str(error)
            except PeerError as error:
                problem = str(error)
            else:
                return True
            if tries >= setup.config.retries:
                print(f"ERROR: {where}: {problem}", file=sys.stderr)
                return False
            tries += 1
            setup.account.retried += 1
            green.sleep(RETRY_PAUSE_S * tries)

    def _print(self, findings: Findings, queried: int) -> None:
        kind = self._kind
        if findings.overlapping == 1:
            print("There was 1 overlapping partition")
        elif findings.overlapping:
            print(f"There were {findings.overlapping} overlapping partitions")
        for line in findings.missing_lines(show_complete=kind == "object"):
            print(line)
        print(
            f"{findings.percent_found:.2f}% of {kind} copies found "
            f"({findings.copies_found} of {findings.copies_expected})"
        )
        percent = 100.0 * queried / self._ring.partition_count
        print(f"Sample represents {percent:.2f}% of the {kind} partition space")
