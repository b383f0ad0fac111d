# SPDX-License-Identifier: Apache-2.0
"""Commands of swift-ring-builder that change devices and settings.

Each changes the builder in memory and saves it at the end: several values given at once
take effect together or not at all. Partitions move with the next rebalance.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from swift.cli import ring_files
from swift.cli.ring_arguments import (
    EXIT_OK,
    EXIT_WARNING,
    Arguments,
    CommandFailed,
    HelpWanted,
    Session,
    confirm,
    number,
    pairs,
    parse,
    selected,
)
from swift.core.errors import SwiftError
from swift.core.ring.builder import RingBuilder
from swift.core.ring.devices import (
    BadDevice,
    Device,
    NewDevice,
    new_device,
    parse_change,
    parse_new_device,
    parse_search,
)
from swift.runtime import green


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
