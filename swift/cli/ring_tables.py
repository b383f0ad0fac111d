# SPDX-License-Identifier: Apache-2.0
"""What swift-ring-builder prints of a builder: tables and summaries as text.

Scripts of operators read these lines; widths and spelling are contract.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta

from swift.core.ring.builder import RingBuilder
from swift.core.ring.devices import Device, Tier, bracketed
from swift.core.ring.plan import Plan


def remaining(seconds: int) -> str:
    """`H:MM:SS`, with days in front above 24 hours."""
    return str(timedelta(seconds=seconds))


def summary(path: str, builder: RingBuilder, ring_state: str, now: float) -> list[str]:
    """The lines above the table of devices."""
    devices = builder.present_devices
    facts = (
        f"{builder.parts} partitions, {builder.replicas:.6f} replicas, "
        f"{len({d.region for d in devices})} regions, "
        f"{len({(d.region, d.zone) for d in devices})} zones, "
        f"{len(devices)} devices, {builder.dev_id_bytes}-byte IDs, "
        f"{builder.balance():.2f} balance"
    )
    if builder.dispersion is not None:
        facts += f", {builder.dispersion:.2f} dispersion"
    left = remaining(builder.min_part_seconds_left(now))
    return [
        f"{path}, build version {builder.version}, id {builder.id or '(not assigned)'}",
        facts,
        "The minimum number of hours before a partition can be reassigned is "
        f"{builder.min_part_hours} ({left} remaining)",
        f"The overload factor is {builder.overload * 100:.2f}% "
        f"({builder.overload:.6f})",
        ring_state,
    ]


def device_table(builder: RingBuilder) -> Iterator[str]:
    """The default display: sorted by region, zone, ip and name."""
    devices = sorted(
        builder.present_devices, key=lambda d: (d.region, d.zone, d.ip, d.name)
    )
    ip_width = _address_width(10, (d.ip for d in devices))
    replication_width = _address_width(14, (d.replication_ip for d in devices))
    port_width = max([4, *(len(str(d.port)) for d in devices)])
    replication_port_width = max([4, *(len(str(d.replication_port)) for d in devices)])
    weight_width = max([6, *(len(f"{d.weight:.2f}") for d in devices)])
    yield (
        f"Devices:{'id':>5} {'region':>6} {'zone':>4} "
        f"{'ip address':>{ip_width}}:{'port':<{port_width}} "
        f"{'replication ip':>{replication_width}}:{'port':<{replication_port_width}} "
        f"{'name':>5} {'weight':>{weight_width}} {'partitions':>10} {'balance':>7} "
        f"{'flags':>5} meta"
    )
    for device in devices:
        flags = "DEL" if device.id in builder.removed else ""
        yield (
            f"{device.id:>13} {device.region:>6} {device.zone:>4} "
            f"{bracketed(device.ip):>{ip_width}}:{device.port:<{port_width}} "
            f"{bracketed(device.replication_ip):>{replication_width}}"
            f":{device.replication_port:<{replication_port_width}} "
            f"{device.name:>5} {device.weight:>{weight_width}.2f} "
            f"{builder.part_count(device.id):>10} "
            f"{builder.device_balance(device.id):>7.2f} {flags:>5} {device.meta}"
        )


def _address_width(least: int, addresses: Iterable[str]) -> int:
    found = list(addresses)
    brackets = 2 if any(":" in address for address in found) else 0
    return max([least, *map(len, found)]) + brackets


def search_table(builder: RingBuilder, devices: Iterable[Device]) -> Iterator[str]:
    """What `search` prints."""
    yield (
        f"Devices:{'id':>6} {'region':>7} {'zone':>5} {'ip address':>15} {'port':>5} "
        f"{'replication ip':>15} {'replication port':>17} {'name':>9} {'weight':>6} "
        f"{'partitions':>10} {'balance':>7} meta"
    )
    for device in devices:
        yield (
            f"{device.id:>14} {device.region:>7} {device.zone:>5} {device.ip:>15} "
            f"{device.port:>5} {device.replication_ip:>15} "
            f"{device.replication_port:>17} {device.name:>9} {device.weight:>6.2f} "
            f"{builder.part_count(device.id):>10} "
            f"{builder.device_balance(device.id):>7.2f} {device.meta}"
        )


def partition_table(counts: Mapping[int, int]) -> Iterator[str]:
    """What `list_parts` prints: partitions with most matches first."""
    yield f"{'Partition':>9}   {'Matches':>7}"
    for partition, matches in sorted(counts.items(), key=lambda i: (-i[1], i[0])):
        yield f"{partition:>9}   {matches:>7}"


def tier_name(tier: Tier, builder: RingBuilder) -> str:
    """`r1`, `r1z2`, `r1z2-10.0.0.1` or `r1z2-10.0.0.1/sda`."""
    name = f"r{tier[0]}"
    if len(tier) > 1:
        name += f"z{tier[1]}"
    if len(tier) > 2:
        name += f"-{tier[2]}"
    if len(tier) > 3:
        device = builder.devices[tier[3]] if tier[3] < len(builder.devices) else None
        name += f"/{device.name if device is not None else tier[3]}"
    return name


def tier_excess(counts: list[int], most: int) -> float:
    """Percent of a tier's replicas that are beyond `most` of one partition."""
    held = sum(n * times for n, times in enumerate(counts))
    beyond = sum((n - most) * times for n, times in enumerate(counts) if n > most)
    return 100.0 * beyond / held if held else 0.0


def dispersion_table(
    builder: RingBuilder, plan: Plan, tiers: Mapping[str, Tier]
) -> Iterator[str]:
    """What `dispersion -v` prints; tiers: name → tier, in the order to show."""
    width = max([30, *map(len, tiers)])
    columns = range(math.ceil(builder.replicas) + 1)
    header = f"{'Tier':<{width}} {'Parts':>5} {'%':>6} {'Max':>6}" + "".join(
        f" {n:>5}" for n in columns
    )
    line = "-" * len(header)
    yield line
    yield header
    yield line
    for name, tier in tiers.items():
        counts = builder.dispersion_graph[tier]
        most = plan.evenly_most(tier)
        held = sum(n * times for n, times in enumerate(counts))
        yield (
            f"{name:<{width}} {held:>5} {tier_excess(counts, most):>6.2f} {most:>6}"
            + "".join(f" {times:>5}" for times in counts)
        )


def part_power_lines(builder: RingBuilder) -> list[str]:
    """What the default display adds while the partition power is being changed."""
    following = builder.next_part_power
    if following is None:
        return []
    step = f"({builder.part_power} -> {following})"
    if following != builder.part_power:
        return [
            "",
            f"Preparing increase of partition power {step}",
            'Run "swift-object-relinker relink" on all nodes before moving on to '
            "increase_partition_power.",
        ]
    return [
        "",
        f"Increased partition power {step}",
        'Run "swift-object-relinker cleanup" on all nodes before moving on to '
        "finish_increase_partition_power.",
    ]
