# SPDX-License-Identifier: Apache-2.0
"""Commands of swift-ring-builder that move partitions or write rings."""

from __future__ import annotations

import random
import sys
import textwrap

from swift.cli import ring_files, ring_tables
from swift.cli.ring_arguments import (
    EXIT_ERROR,
    EXIT_OK,
    EXIT_WARNING,
    CommandFailed,
    Parser,
    Session,
    number,
)
from swift.core.errors import SwiftError
from swift.core.ring.builder import RingBuilder
from swift.runtime import green

_SHORT_LINE = "-" * 79
_DEFAULT_MIN_PART_HOURS = 24
# Above this a ring counts as unbalanced, in percent.
_BALANCE_TO_REPORT = 5.0
# A rebalance that changes less than this, in percent, is not worth new rings.
_LEAST_CHANGE = 1.0

_FORMAT_NOTE = """\
Defaulting to --format-version=1. This ensures the ring written will be readable by
servers of every version. When all nodes read version 2, use --format-version=2:
it names its checksums and allows device ids above 65534.
Give --format-version=1 to keep this format without this note.
"""


def rebalance(session: Session) -> int:
    """rebalance [-f|--force] [-s|--seed <seed>] [-d|--debug] [--format-version <1|2>]
    Assign partitions to devices, moving as little as min_part_hours and the weights ask
    for, and write the ring. The same builder with the same seed gives the same ring.
    """
    parser = Parser()
    parser.add_argument("positional_seed", nargs="?")
    parser.add_argument("-f", "--force", action="store_true")
    parser.add_argument("-s", "--seed")
    parser.add_argument("-d", "--debug", action="store_true")
    parser.add_argument("--format-version", type=int, choices=(1, 2))
    options = parser.parse_intermixed_args(session.arguments)
    builder = session.builder
    if builder.next_part_power is not None:
        raise CommandFailed(
            "Partition power increase in progress: finish it before a rebalance."
        )
    if options.format_version is None:
        print(_FORMAT_NOTE)
    seed = options.seed or options.positional_seed
    old_balance, old_dispersion = builder.balance(), builder.dispersion
    never_balanced = builder.rows is None
    devices_changed = builder.devices_changed
    left = builder.min_part_seconds_left(green.now())
    try:
        rng = random.Random(seed)  # noqa: S311 (lots are drawn, no secrets made)
        result = builder.rebalance(now=green.now(), rng=rng)
    except SwiftError as error:
        print(f"{_SHORT_LINE}\n{_wrapped(f'An error has occurred: {error}')}")
        print(_SHORT_LINE)
        return EXIT_ERROR
    if options.debug:
        _print_debug(builder)
    if not (result.moved or result.removed or options.force):
        print("No partitions could be reassigned.")
        if left:
            print(
                "The time between rebalances must be at least min_part_hours: "
                f"{builder.min_part_hours} hours ({ring_tables.remaining(left)} "
                "remaining)"
            )
        else:
            print("There is no need to do so at this time")
        return EXIT_WARNING
    now_dispersed = builder.dispersion or 0.0
    little_changed = (
        not never_balanced
        and old_dispersion is not None
        and abs(result.balance - old_balance) < _LEAST_CHANGE
        and abs(now_dispersed - old_dispersion) < _LEAST_CHANGE
    )
    if little_changed and not devices_changed and not options.force:
        print(
            "Refusing to save the rebalance: neither balance nor dispersion changed "
            "by 1%. Use --force to save it."
        )
        return EXIT_WARNING
    builder.validate()
    percent = 100.0 * result.moved / builder.parts
    print(
        f"Reassigned {result.moved} ({percent:.2f}%) partitions. "
        f"Balance is now {result.balance:.2f}.  "
        f"Dispersion is now {now_dispersed:.2f}"
    )
    code = _rebalance_note(builder, result.balance, now_dispersed)
    _save_both(session, options.format_version or 1)
    return code


def _rebalance_note(builder: RingBuilder, balance: float, dispersed: float) -> int:
    """Advice after a rebalance that left something to do; the exit code."""
    if dispersed > 0:
        note = (
            f"NOTE: Dispersion of {dispersed:.6f} indicates some parts are not "
            "optimally dispersed. You may want to adjust some device weights, "
            "increase the overload or review the dispersion report."
        )
    elif balance > _BALANCE_TO_REPORT and balance / 100.0 > builder.overload:
        note = (
            f"NOTE: Balance of {balance:.2f} indicates you should push this ring, "
            f"wait at least {builder.min_part_hours} hours, and rebalance/repush."
        )
    else:
        return EXIT_OK
    print(f"{_SHORT_LINE}\n{_wrapped(note)}\n{_SHORT_LINE}")
    return EXIT_WARNING


def _wrapped(text: str) -> str:
    return textwrap.fill(text, width=79)


def _print_debug(builder: RingBuilder) -> None:
    plan = builder.plan()
    print(f"DEBUG: required overload {plan.required_overload:.6f}")
    for tier in sorted(plan.target):
        if tier:
            print(
                f"DEBUG: {ring_tables.tier_name(tier, builder)} "
                f"weighted {plan.weighted[tier]:.6f} "
                f"wanted {plan.spread[tier]:.6f} target {plan.target[tier]:.6f}"
            )


def _save_both(session: Session, format_version: int) -> None:
    now = green.now()
    # The ring first: a ring that cannot be written must not leave a builder behind that
    # says it was.
    _write_ring(session, format_version, None, now)
    session.save()
    ring_files.back_up(session.builder_path, now)


def _write_ring(
    session: Session, format_version: int, dev_id_bytes: int | None, now: float
) -> None:
    ring = session.builder.ring()
    ring_files.write_ring_file(session.ring_path, ring, format_version, dev_id_bytes)
    ring_files.back_up(session.ring_path, now)


def write_ring(session: Session) -> int:
    """write_ring [--format-version <1|2>] [--dev-id-bytes <2|4>]
    Write the ring as it is, for example after set_info.
    """
    parser = Parser()
    parser.add_argument("--format-version", type=int, choices=(1, 2), default=1)
    parser.add_argument("--dev-id-bytes", type=int, choices=(2, 4))
    options = parser.parse_args(session.arguments)
    builder = session.builder
    if options.format_version == 1 and options.dev_id_bytes not in (None, 2):
        raise CommandFailed("--dev-id-bytes other than 2 needs --format-version=2")
    if not builder.present_devices:
        raise CommandFailed("Unable to write empty ring.")
    if builder.rows is None:
        print(
            "Warning: Writing a ring with no partition assignments but with devices; "
            'did you forget to run "rebalance"?',
            file=sys.stderr,
        )
    _write_ring(session, options.format_version, options.dev_id_bytes, green.now())
    return EXIT_OK


def write_builder(session: Session) -> int:
    """write_builder [<min_part_hours>]
    Make a builder from a ring when the builder is lost. Overload, the history of moves
    and the id are lost for good.
    """
    hours = _DEFAULT_MIN_PART_HOURS
    if session.arguments:
        hours = number(session.arguments[0], int, "min_part_hours")
    if session.builder_path.exists():
        raise CommandFailed(f"Cannot overwrite existing builder {session.builder_path}")
    if not session.arguments:
        print(f"WARNING: default of {hours} hours for min_part_hours", file=sys.stderr)
    try:
        ring = ring_files.read_ring_file(session.ring_path, allow_v0=True)
    except FileNotFoundError:
        raise CommandFailed(f"Ring file {session.ring_path} not found") from None
    session.builder = RingBuilder.from_ring(ring, hours)
    session.save()
    return EXIT_OK


def prepare_increase_partition_power(session: Session) -> int:
    """prepare_increase_partition_power
    Begin to double the partitions of an object ring; then write_ring, distribute it and
    run the relinker on all nodes.
    """
    if "object" not in session.builder_path.name:
        raise CommandFailed(
            "Partition power increase is only supported for object rings."
        )
    builder = session.builder
    builder.prepare_increase_partition_power()
    session.save()
    print(f"The next partition power is now {builder.next_part_power}.")
    print(
        "Now write_ring, distribute the ring to all nodes and run "
        '"swift-object-relinker relink" there.'
    )
    return EXIT_OK


def increase_partition_power(session: Session) -> int:
    """increase_partition_power
    Double the partitions; then write_ring and distribute it to all nodes.
    """
    builder = session.builder
    builder.increase_partition_power(now=green.now())
    session.save()
    print(f"The partition power is now {builder.part_power}.")
    print(
        "Now write_ring, distribute the ring to all nodes and run "
        '"swift-object-relinker cleanup" there.'
    )
    return EXIT_OK


def cancel_increase_partition_power(session: Session) -> int:
    """cancel_increase_partition_power
    Step back before the increase; then write_ring, distribute it, run the relinker's
    cleanup and finish.
    """
    builder = session.builder
    builder.cancel_increase_partition_power()
    session.save()
    print(f"The next partition power is now {builder.next_part_power}.")
    print(
        "Now write_ring, distribute the ring to all nodes and run "
        '"swift-object-relinker cleanup" there.'
    )
    return EXIT_OK


def finish_increase_partition_power(session: Session) -> int:
    """finish_increase_partition_power
    End a partition power change, after the relinker's cleanup; then write_ring.
    """
    builder = session.builder
    builder.finish_increase_partition_power()
    session.save()
    print(f"The partition power {builder.part_power} is final. Now write_ring.")
    return EXIT_OK
