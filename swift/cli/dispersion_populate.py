# SPDX-License-Identifier: Apache-2.0
"""swift-dispersion-populate: one thing on each of a share of the partitions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from swift.cli.dispersion import (
    CLEAR_LINE,
    Progress,
    Setup,
    command_parser,
    each,
    load,
    open_setup,
)
from swift.core import headers as h
from swift.core.errors import SwiftError
from swift.core.ring.ring import Ring


def populate(argv: Sequence[str] | None = None) -> int:
    """Run swift-dispersion-populate; the exit code."""
    parser = command_parser(
        "swift-dispersion-populate",
        "Spread containers and objects over the partitions, for later reports.",
    )
    for kind in ("container", "object"):
        parser.add_argument(
            f"--{kind}-suffix-start", type=int, default=0, metavar="N",
            help=f"{kind}s of lower numbers are there already",
        )  # fmt: skip
    parser.add_argument(
        "--no-overlap", action="store_true", help="add as many again, elsewhere"
    )
    options = parser.parse_args(argv)
    try:
        config, cluster = load(options)
        setup = open_setup(options, config, cluster)
        try:
            print(f"Using storage policy: {setup.policy.name} ")
            if config.container_populate:
                _populate_containers(setup, options)
            if config.object_populate:
                _populate_objects(setup, options)
        finally:
            setup.account.close()
    except SwiftError as error:
        print(f"swift-dispersion-populate: {error}", file=sys.stderr)
        return 1
    return 0


def _populate_containers(setup: Setup, options: argparse.Namespace) -> None:
    ring = setup.cluster.container_ring()
    prefix = setup.container_prefix

    def make(name: str) -> None:
        setup.account.put(f"/{name}", {h.X_STORAGE_POLICY: setup.policy.name})

    existing = setup.account.names("", prefix) if options.no_overlap else []
    _spread(
        setup,
        "container",
        ring,
        numbered=lambda n: f"{prefix}{n}",
        partition=lambda name: setup.container_partition(ring, name),
        make=make,
        start=options.container_suffix_start,
        existing=existing,
        show_coverage=options.no_overlap,
    )


def _populate_objects(setup: Setup, options: argparse.Namespace) -> None:
    ring = setup.cluster.object_ring(setup.policy.index)
    container = setup.object_container
    headers = {h.X_STORAGE_POLICY: setup.policy.name}
    setup.account.put(f"/{container}", headers)

    def make(name: str) -> None:
        mark = {h.OBJECT_META + "Dispersion": name}
        setup.account.put(f"/{container}/{name}", mark, name.encode())

    existing = setup.account.names(f"/{container}", "") if options.no_overlap else []
    _spread(
        setup,
        "object",
        ring,
        numbered=lambda n: f"dispersion_{n}",
        partition=lambda name: setup.object_partition(ring, name),
        make=make,
        start=options.object_suffix_start,
        existing=existing,
        show_coverage=options.no_overlap,
    )


def _spread(
    setup: Setup,
    kind: str,
    ring: Ring,
    *,
    numbered: Callable[[int], str],
    partition: Callable[[str], int],
    make: Callable[[str], None],
    start: int,
    existing: Iterable[str],
    show_coverage: bool,
) -> None:
    """Make things on partitions that have none, until enough are covered. Yields.

    start: numbers below are there already. existing: what is, beside.
    """
    covered = {partition(name) for name in existing}
    wanted = int(ring.partition_count * setup.config.dispersion_coverage / 100)
    goal = min(ring.partition_count, len(covered) + wanted)
    progress = Progress(
        f"Creating {kind}s", f"Created {{count}} {kind}s", wanted, setup.account
    )

    def one(name: str) -> None:
        make(name)
        progress.step()

    names = uncovered(numbered, partition, covered, goal, start)
    each(setup.config.concurrency, names, one)
    progress.end()
    if show_coverage:
        percent = 100.0 * len(covered) / ring.partition_count
        print(f"{CLEAR_LINE}Total {kind} coverage is now {percent:.2f}%.")


def uncovered(
    numbered: Callable[[int], str],
    partition: Callable[[str], int],
    covered: set[int],
    goal: int,
    start: int,
) -> Iterator[str]:
    """Names on partitions that are not yet in `covered`, which is filled up to goal."""
    n = 0
    while len(covered) < goal:
        name = numbered(n)
        place = partition(name)
        if place not in covered:
            covered.add(place)
            if n >= start:
                yield name
        n += 1
