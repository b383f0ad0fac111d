# SPDX-License-Identifier: Apache-2.0
"""Commands of swift-ring-builder that show a builder or its ring and change neither."""

from __future__ import annotations

import re
import traceback

from swift.cli import ring_files, ring_tables
from swift.cli.ring_arguments import (
    EXIT_ERROR,
    EXIT_OK,
    EXIT_WARNING,
    CommandFailed,
    HelpWanted,
    Parser,
    Session,
    parse,
)
from swift.core.errors import SwiftError
from swift.core.ring.codec import ring_file_info
from swift.core.ring.devices import parse_search
from swift.core.ring.ring import Ring
from swift.runtime import green


def default(session: Session) -> int:
    """
    Show the builder and its devices.
    """
    builder = session.builder
    state = _ring_state(session)
    print(
        *ring_tables.summary(session.shown_path, builder, state, green.now()), sep="\n"
    )
    if builder.present_devices:
        print(*ring_tables.device_table(builder), sep="\n")
    else:
        print("There are no devices in this ring, or all devices have been deleted")
    for line in ring_tables.part_power_lines(builder):
        print(line)
    return EXIT_OK


def _ring_state(session: Session) -> str:
    path = session.ring_path
    try:
        ring = ring_files.read_ring_file(path)
    except FileNotFoundError:
        return f"Ring file {path} not found, probably it hasn't been written yet"
    except (OSError, SwiftError) as error:
        return f"Ring file {path} is invalid: {error}"
    if _same_content(ring, session.builder.ring()):
        return f"Ring file {path} is up-to-date"
    return f"Ring file {path} is obsolete"


def _same_content(one: Ring, other: Ring) -> bool:
    return (
        one.part_power == other.part_power
        and one.version == other.version
        and one.next_part_power == other.next_part_power
        and one.devices == other.devices
        and one.rows == other.rows
    )


def search(session: Session) -> int:
    """search <search-value>
    Show the devices that match. Exit code 2 when there is none.
    """
    arguments = parse(session.arguments)
    wanted = arguments.search
    if (wanted is None) != (len(arguments.words) == 1):
        raise HelpWanted
    if wanted is None:
        wanted = parse_search(arguments.words[0])
    devices = wanted.select(session.builder.devices)
    if not devices:
        raise CommandFailed("No matching devices found")
    print(*ring_tables.search_table(session.builder, devices), sep="\n")
    return EXIT_OK


def list_parts(session: Session) -> int:
    """list_parts <search-value> [<search-value>] ...
    Show the partitions of all devices that match any of the values, those with most
    replicas there first.
    """
    arguments = parse(session.arguments)
    builder = session.builder
    if (arguments.search is None) == (not arguments.words):
        raise HelpWanted
    searches = [parse_search(word) for word in arguments.words]
    if arguments.search is not None:
        searches = [arguments.search]
    devices = {d.id for each in searches for d in each.select(builder.devices)}
    if builder.rows is None:
        raise CommandFailed(
            f'Specified builder file "{session.shown_path}" is not rebalanced yet. '
            'Please run "rebalance" first.'
        )
    counts = builder.partitions_of(devices)
    if not counts:
        raise CommandFailed("No matching devices found")
    print(*ring_tables.partition_table(counts), sep="\n")
    return EXIT_OK


def validate(session: Session) -> int:
    """validate
    Check the builder's table against the rules of every ring.
    """
    try:
        session.builder.validate()
    except SwiftError:
        traceback.print_exc()
        return EXIT_ERROR
    return EXIT_OK


def version(session: Session) -> int:
    """version
    Show the versions of the ring file.
    """
    info = ring_file_info(session.ring_path.read_bytes())
    print(
        f"{session.ring_path}: Serialization version: {info.version} "
        f"({info.dev_id_bytes}-byte IDs), build version: {info.build_version}"
    )
    return EXIT_OK


def dispersion(session: Session) -> int:
    """dispersion [<regex>] [-v|--verbose] [--recalculate]
    Show how well replicas are apart. The regex chooses tiers, matched from the start
    of names like r1z2-10.0.0.1/sda. Exit code 1 when replicas are too close together.
    """
    parser = Parser()
    parser.add_argument("regex", nargs="?")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("--recalculate", action="store_true")
    options = parser.parse_intermixed_args(session.arguments)
    builder = session.builder
    if builder.rows is None:
        raise CommandFailed(
            f'Specified builder file "{session.shown_path}" is not rebalanced yet. '
            'Please run "rebalance" first.'
        )
    try:
        pattern = re.compile(options.regex or "")
    except re.error as error:
        raise CommandFailed(f"Invalid regex: {error}") from error
    if builder.dispersion is None or options.recalculate:
        builder.update_dispersion()
        session.save()
    plan = builder.plan()
    print(
        f"Dispersion is {builder.dispersion:.6f}, "
        f"Balance is {builder.balance():.6f}, Overload is {builder.overload * 100:.2f}%"
    )
    print(f"Required overload is {plan.required_overload * 100:.6f}%")
    tiers = {}
    for tier in sorted(builder.dispersion_graph):
        name = ring_tables.tier_name(tier, builder)
        if pattern.match(name):
            tiers[name] = tier
    worst = 0.0
    worst_name = ""
    for name, tier in tiers.items():
        counts = builder.dispersion_graph[tier]
        excess = ring_tables.tier_excess(counts, plan.evenly_most(tier))
        if excess > worst:
            worst, worst_name = excess, name
    if worst_name:
        print(f"Worst tier is {worst:.06f} ({worst_name})")
    if options.verbose:
        print(*ring_tables.dispersion_table(builder, plan, tiers), sep="\n")
    return EXIT_WARNING if worst_name else EXIT_OK
