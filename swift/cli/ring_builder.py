# SPDX-License-Identifier: Apache-2.0
"""swift-ring-builder: make and change rings.

Each command is a function that changes the builder in memory and returns an exit code;
`main` loads before and saves after, and only when the code says so. Output, exit codes
and the search grammar are what operators' scripts know.
"""

from __future__ import annotations

import random
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import swift
from swift.cli import ring_files, ring_tables
from swift.cli.ring_arguments import (
    EXIT_ERROR,
    EXIT_OK,
    EXIT_WARNING,
    Arguments,
    CommandFailed,
    HelpWanted,
    Parser,
    confirm,
    number,
    pairs,
    parse,
    selected,
)
from swift.core.errors import LockTimeout, SwiftError
from swift.core.ring.builder import RingBuilder
from swift.core.ring.codec import ring_file_info
from swift.core.ring.devices import (
    BadDevice,
    Device,
    NewDevice,
    new_device,
    parse_change,
    parse_new_device,
    parse_search,
)
from swift.core.ring.ring import Ring
from swift.runtime import green
from swift.storage.fs import FileSystem

LOCK_TIMEOUT_S = 15.0
_SHORT_LINE = "-" * 79
_DEFAULT_MIN_PART_HOURS = 24
# Above this a ring counts as unbalanced, in percent.
_BALANCE_TO_REPORT = 5.0
# A rebalance that changes less than this, in percent, is not worth new rings.
_LEAST_CHANGE = 1.0


@dataclass
class Session:
    """One run of the command.

    changed: whether the builder is to be saved; builder is None for commands that do
    not need one.
    """

    builder_path: Path
    ring_path: Path
    shown_path: str
    arguments: list[str]
    builder: RingBuilder = field(default_factory=lambda: RingBuilder(0, 1, 0))

    def save(self) -> None:
        ring_files.write_builder_file(self.builder_path, self.builder)


Command = Callable[[Session], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `swift-ring-builder <file> [command] [arguments]`; the exit code."""
    program = Path(sys.argv[0]).name
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return EXIT_OK
    try:
        builder_path = ring_files.builder_path_of(Path(words[0]))
        if not program.endswith("-safe"):
            return _run(words)
        with FileSystem().locked(str(builder_path.parent / ".lock"), LOCK_TIMEOUT_S):
            return _run(words)
    except LockTimeout:
        print(f"Ring/builder dir currently locked: {builder_path.parent}")
        return EXIT_ERROR
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_ERROR
    except KeyboardInterrupt:
        print("\nAborting.")
        return EXIT_ERROR
    # Scripts take 1 for "done, with a warning": a crash must not end with Python's 1.
    except Exception:
        traceback.print_exc()
        return EXIT_ERROR


def _run(words: list[str]) -> int:
    given = Path(words[0])
    name = words[1] if len(words) > 1 else ""
    builder_path = ring_files.builder_path_of(given)
    if builder_path != given and name not in ("version", "write_builder"):
        print(f"Note: using {builder_path} instead of {given} as builder file")
    session = Session(
        builder_path=builder_path,
        ring_path=ring_files.ring_path_of(builder_path),
        shown_path=str(builder_path),
        arguments=words[2:],
    )
    command = _COMMANDS.get(name, _unknown(name))
    if name not in _WITHOUT_BUILDER:
        try:
            session.builder = ring_files.read_builder_file(builder_path)
        except FileNotFoundError:
            print(f"Ring Builder file does not exist: {builder_path}")
            return EXIT_ERROR
        except (OSError, SwiftError) as error:
            print(
                f"Problem occurred while reading builder file {builder_path}: {error}"
            )
            return EXIT_ERROR
        ring_files.backup_directory(builder_path)
    try:
        return command(session)
    except HelpWanted:
        print(f"swift-ring-builder <builder_file> {_help_of(command)}")
        return EXIT_ERROR
    except (CommandFailed, SwiftError) as error:
        print(error)
        return EXIT_ERROR


def _unknown(name: str) -> Command:
    def fail(_session: Session) -> int:
        raise CommandFailed(f"Unknown command: {name}")

    return fail


def _help_of(command: Command) -> str:
    return textwrap.dedent(f"    {command.__doc__ or ''}").strip()


def _overview() -> str:
    lines = [f"swift-ring-builder {swift.__version__}", ""]
    for name, command in _COMMANDS.items():
        if name:
            lines += [f"swift-ring-builder <builder_file> {_help_of(command)}", ""]
    quick = textwrap.fill(
        " ".join(sorted(name for name in _COMMANDS if name)),
        width=79,
        initial_indent="Quick list: ",
        subsequent_indent="            ",
    )
    return "\n".join([*lines, _SEARCH_HELP, "", quick, _EXIT_HELP])


_SEARCH_HELP = """\
A <search-value> is one word of any of these parts, in this order; a device must match
all of them:
    d<id> r<region> z<zone> [-]<ip> :<port> R[<r_ip>][:<r_port>] /<device> _<meta>
IPv6 addresses stand in brackets; the - is needed only after a d, r or z part; _<meta>
matches a part of the meta text. For example:
    d74              the device of id 74
    r1z5-1.2.3.4     devices of region 1, zone 5 on one server
    z5:5678          devices of all zones 5 on port 5678
    /sdb1_rack7      devices sdb1 with "rack7" in their meta text
Or options: --id --region --zone --ip --port --replication-ip --replication-port
--device --weight --meta (-u -r -z -i -p -j -q -d -w -m)."""

_EXIT_HELP = "Exit codes: 0 = ok, 1 = done with a warning or nothing done, 2 = error"


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


def create(session: Session) -> int:
    """create <part_power> <replicas> <min_part_hours>
    Make a builder of 2^<part_power> partitions and <replicas>, which may be fractional.
    <min_part_hours> is the least time between two moves of a partition. An existing
    builder is overwritten.
    """
    if len(session.arguments) < 3:
        raise HelpWanted
    power, replicas, hours = session.arguments[:3]
    builder = RingBuilder(
        number(power, int, "part_power"),
        _whole(number(replicas, float, "replica count")),
        number(hours, int, "min_part_hours"),
    )
    session.builder = builder
    ring_files.backup_directory(session.builder_path)
    session.save()
    ring_files.back_up(session.builder_path, green.now())
    return EXIT_OK


def _whole(number: float) -> float:
    """3 for 3.0, so that files hold what other tools write."""
    return int(number) if number == number // 1 and abs(number) < 1e9 else number


def add(session: Session) -> int:
    """add <device> <weight> [<device> <weight>] ...
        device: [r<region>]z<zone>-<ip>:<port>[R<r_ip>:<r_port>]/<device>[_<meta>]
    add --region <r> --zone <z> --ip <ip> --port <port> --device <name>
        --weight <weight> [--replication-ip <ip>] [--replication-port <port>]
        [--meta <text>]
    Add devices. Nothing moves there before the next rebalance.
    """
    arguments = parse(session.arguments)
    builder = session.builder
    try:
        for device, weight in _new_devices(arguments):
            region = device.region
            if region is None:
                region = 1
                print(
                    f"WARNING: No region specified for {device.ip}:{device.port}"
                    f"/{device.name}. Defaulting to region 1.",
                    file=sys.stderr,
                )
            device_id = builder.add_device(
                region=region,
                zone=device.zone,
                ip=device.ip,
                port=device.port,
                replication_ip=device.replication_ip,
                replication_port=device.replication_port,
                name=device.name,
                meta=device.meta,
                weight=weight,
            )
            added = builder.device(device_id)
            print(f"Device {added} with {weight} weight got id {device_id}")
    except SwiftError as error:
        raise CommandFailed(
            f"{error}\nThe on-disk ring builder is unchanged."
        ) from error
    session.save()
    return EXIT_OK


def _new_devices(arguments: Arguments) -> list[tuple[NewDevice, float]]:
    words = arguments.words
    if arguments.search is not None:
        if words:
            raise HelpWanted
        options = dict(arguments.options)
        missing = [
            key
            for key in ("zone", "ip", "port", "name", "weight")
            if options.get(key) is None
        ]
        if missing or "id" in options:
            raise BadDevice(f"Required options are missing: {', '.join(missing)}")
        weight = options.pop("weight")
        return [(new_device(**options), weight)]
    if not words or len(words) % 2:
        raise HelpWanted
    return [
        (parse_new_device(value), number(weight, float, "weight value"))
        for value, weight in zip(words[::2], words[1::2], strict=True)
    ]


def set_weight(session: Session) -> int:
    """set_weight <search-value> <weight> [<search-value> <weight>] ... [--yes]
    Change how much devices are to hold. 0 drains a device; nothing moves before the
    next rebalance.
    """

    def change(device: Device, weight: float) -> None:
        session.builder.set_weight(device.id, weight)
        print(f"{device} weight set to {weight}")

    return _set_each(session, float, "weight", change)


def set_region(session: Session) -> int:
    """set_region <search-value> <region> [<search-value> <region>] ... [--yes]
    Move devices to another region.
    """

    def change(device: Device, region: int) -> None:
        session.builder.set_region(device.id, region)
        print(f"{device} region set to {region}")

    return _set_each(session, int, "region", change)


def set_zone(session: Session) -> int:
    """set_zone <search-value> <zone> [<search-value> <zone>] ... [--yes]
    Move devices to another zone.
    """

    def change(device: Device, zone: int) -> None:
        session.builder.set_zone(device.id, zone)
        print(f"{device} zone set to {zone}")

    return _set_each(session, int, "zone", change)


def _set_each(
    session: Session,
    kind: Callable[[str], Any],
    what: str,
    change: Callable[[Device, Any], None],
) -> int:
    arguments = parse(session.arguments)
    for devices, text in pairs(session.builder, arguments):
        value = number(text, kind, f"{what} value")
        confirm(
            devices,
            f"Are you sure you want to update the {what} to {value}?",
            arguments,
        )
        for device in devices:
            change(device, value)
    session.save()
    return EXIT_OK


def set_info(session: Session) -> int:
    """set_info <search-value> <change> [<search-value> <change>] ... [--yes]
        change: [<ip>][:<port>][R[<r_ip>][:<r_port>]][/<device>][_<meta>]
    set_info <search options> [--change-ip <ip>] [--change-port <port>]
        [--change-replication-ip <ip>] [--change-replication-port <port>]
        [--change-device <name>] [--change-meta <text>] [--yes]
    Change what a device is called and where it is reached. Assignments stay as they
    are: write_ring is enough afterwards.
    """
    arguments = parse(session.arguments)
    builder = session.builder
    if arguments.search is not None:
        if arguments.words or not arguments.changes:
            raise HelpWanted
        devices = selected(builder, arguments.search, "given by options")
        todo = [(devices, arguments.changes)]
    else:
        if arguments.changes:
            raise HelpWanted
        todo = [
            (devices, parse_change(word)) for devices, word in pairs(builder, arguments)
        ]
    for devices, changes in todo:
        confirm(devices, "Are you sure you want to update the info?", arguments)
        for device in devices:
            # As the new description reads: with the changes that came before.
            before = str(builder.device(device.id))
            after = builder.set_info(device.id, changes)
            print(f"Device {before} is now {after}")
    session.save()
    return EXIT_OK


def remove(session: Session) -> int:
    """remove <search-value> [<search-value>] ... [--yes]
    Mark devices for removal; the next rebalance moves all that they hold, whatever
    min_part_hours says, and removes them.
    """
    arguments = parse(session.arguments)
    builder = session.builder
    if (arguments.search is None) == (not arguments.words):
        raise HelpWanted
    if arguments.search is not None:
        groups = [selected(builder, arguments.search, "given by options")]
    else:
        groups = [
            selected(builder, parse_search(word), repr(word))
            for word in arguments.words
        ]
    marked = set()
    for devices in groups:
        confirm(devices, "Are you sure you want to remove these devices?", arguments)
        for device in devices:
            if device.id in marked:
                continue
            marked.add(device.id)
            builder.remove_device(device.id)
            print(f"{device} marked for removal and will be removed next rebalance.")
    session.save()
    return EXIT_OK


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


_FORMAT_NOTE = """\
Defaulting to --format-version=1. This ensures the ring written will be readable by
servers of every version. When all nodes read version 2, use --format-version=2:
it names its checksums and allows device ids above 65534.
Give --format-version=1 to keep this format without this note.
"""


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


def set_min_part_hours(session: Session) -> int:
    """set_min_part_hours <hours>
    Change the least time between two moves of a partition: at least as long as a
    replication pass takes.
    """
    hours = number(_only_word(session), int, "min_part_hours")
    session.builder.set_min_part_hours(hours)
    print(
        "The minimum number of hours before a partition can be reassigned is now "
        f"set to {hours}"
    )
    session.save()
    return EXIT_OK


def set_replicas(session: Session) -> int:
    """set_replicas <replicas>
    Change the replica count, which may be fractional: 3.25 gives a quarter of the
    partitions a fourth replica.
    """
    replicas = number(_only_word(session), float, "replica count")
    session.builder.set_replicas(_whole(replicas))
    print(f"The replica count is now {replicas:.6f}.")
    print("The change will take effect after the next rebalance.")
    session.save()
    return EXIT_OK


def set_overload(session: Session) -> int:
    """set_overload <overload>[%]
    Change how much more than by its weight a device may hold to keep replicas apart:
    0.1 and 10% mean the same.
    """
    text = _only_word(session)
    percent = text.endswith("%")
    overload = number(text.removesuffix("%"), float, "overload value")
    if percent:
        overload *= 0.01
    code = EXIT_OK
    if overload > 1 and not percent:
        print(
            f"!?! Warning overload is greater than 100% !?! Did you mean {overload:g}%?"
        )
        code = EXIT_WARNING
    session.builder.set_overload(overload)
    print(f"The overload factor is now {overload * 100:.2f}% ({overload:.6f})")
    print("The change will take effect after the next rebalance.")
    session.save()
    return code


def pretend_min_part_hours_passed(session: Session) -> int:
    """pretend_min_part_hours_passed
    Let the next rebalance move every partition. Data is at risk when replication has
    not finished since the last one.
    """
    session.builder.pretend_min_part_hours_passed()
    session.save()
    return EXIT_OK


def _only_word(session: Session) -> str:
    if not session.arguments:
        raise HelpWanted
    return session.arguments[0]


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


_COMMANDS: dict[str, Command] = {
    "": default,
    "default": default,
    "add": add,
    "cancel_increase_partition_power": cancel_increase_partition_power,
    "create": create,
    "dispersion": dispersion,
    "finish_increase_partition_power": finish_increase_partition_power,
    "increase_partition_power": increase_partition_power,
    "list_parts": list_parts,
    "prepare_increase_partition_power": prepare_increase_partition_power,
    "pretend_min_part_hours_passed": pretend_min_part_hours_passed,
    "rebalance": rebalance,
    "remove": remove,
    "search": search,
    "set_info": set_info,
    "set_min_part_hours": set_min_part_hours,
    "set_overload": set_overload,
    "set_region": set_region,
    "set_replicas": set_replicas,
    "set_weight": set_weight,
    "set_zone": set_zone,
    "validate": validate,
    "version": version,
    "write_builder": write_builder,
    "write_ring": write_ring,
}
_WITHOUT_BUILDER = ("create", "write_builder", "version")
