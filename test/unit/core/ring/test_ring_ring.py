# SPDX-License-Identifier: Apache-2.0
"""Lookup in rings made by hand, and ring files that are not what they claim."""

from __future__ import annotations

import gzip
import json
import struct
from array import array
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.errors import FormatError
from swift.core.ring.codec import read_ring, write_ring
from swift.core.ring.devices import Device
from swift.core.ring.ring import Ring


def device(
    device_id: int, region: int = 1, zone: int = 1, ip: str | None = None
) -> Device:
    ip = ip or f"10.0.0.{device_id}"
    return Device(
        id=device_id,
        region=region,
        zone=zone,
        ip=ip,
        port=6200,
        replication_ip=ip,
        replication_port=6200,
        name=f"sd{device_id}",
        weight=1.0,
    )


def small_ring(**changes: object) -> Ring:
    facts: dict[str, object] = {
        "part_power": 2,
        "devices": [device(0), device(1, zone=2), None, device(3, region=2)],
        "rows": [array("H", [0, 1, 3, 0]), array("H", [1, 3])],
        "version": 7,
    }
    return Ring(**{**facts, **changes})  # type: ignore[arg-type]


def test_a_partition_is_the_first_bits_of_the_hash() -> None:
    ring = small_ring()
    assert ring.partition(b"\x00" * 16) == 0
    assert ring.partition(b"\x40" + b"\x00" * 15) == 1
    assert ring.partition(b"\xff" * 16) == 3


def test_a_part_power_of_zero_has_one_partition() -> None:
    ring = small_ring(part_power=0, rows=[array("H", [0])])
    assert ring.partition(b"\xff" * 16) == 0
    assert [node.id for node in ring.primaries(0)] == [0]


def test_a_fractional_ring_has_fewer_primaries_for_some_partitions() -> None:
    ring = small_ring()
    assert ring.replica_count == 1.5
    assert [[n.id for n in ring.primaries(p)] for p in range(4)] == [
        [0, 1],
        [1, 3],
        [3],
        [0],
    ]


def test_a_device_twice_on_a_partition_counts_once() -> None:
    ring = small_ring(
        rows=[array("H", [0] * 4), array("H", [0] * 4), array("H", [1] * 4)]
    )
    assert [(n.id, n.index) for n in ring.primaries(0)] == [(0, 0), (1, 1)]


def test_handoffs_prefer_regions_then_zones_then_servers() -> None:
    devices = [
        device(0),
        device(1, ip="10.0.0.0"),
        device(2),
        device(3, zone=2),
        device(4, region=2),
    ]
    rows = [array("H", [0] * 8 + [1, 2, 3, 4] * 2)]
    ring = Ring(part_power=4, devices=devices, rows=rows)
    assert [n.id for n in ring.handoffs(0)] == [4, 3, 2, 1]


def test_devices_without_assignments_are_no_handoffs() -> None:
    ring = small_ring(rows=[array("H", [0, 1, 0, 1])])
    assert [n.id for n in ring.handoffs(0)] == [1]


@pytest.mark.parametrize("partition", [-1, 4])
def test_partitions_outside_the_ring_are_refused(partition: int) -> None:
    with pytest.raises(IndexError):
        small_ring().primaries(partition)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([array("H", [0, 1, 2, 0])], id="hole"),
        pytest.param([array("H", [0, 1, 9, 0])], id="beyond the list"),
        pytest.param([array("H", [0, 1]), array("H", [0] * 4)], id="short first row"),
        pytest.param([array("H", [0] * 5)], id="long row"),
    ],
)
def test_tables_that_do_not_fit_are_refused(rows: list[array[int]]) -> None:
    with pytest.raises(FormatError):
        small_ring(rows=rows)


@pytest.mark.parametrize("version", [1, 2])
def test_a_ring_survives_writing_and_reading(version: int) -> None:
    ring = small_ring(next_part_power=3)
    again = read_ring(write_ring(ring, version))
    assert again.rows == ring.rows
    assert again.devices == ring.devices
    assert (again.version, again.next_part_power) == (7, 3)


def test_wide_ids_need_version_2() -> None:
    devices: list[Device | None] = [None] * 65536
    devices[65535] = device(65535)
    ring = small_ring(devices=devices, rows=[array("I", [65535] * 4)])
    assert read_ring(write_ring(ring, 2)).rows == ring.rows
    with pytest.raises(FormatError):
        write_ring(ring, 1)
    with pytest.raises(FormatError):
        write_ring(ring, 2, dev_id_bytes=2)


def test_the_highest_id_of_version_1() -> None:
    devices: list[Device | None] = [None] * 65535
    devices[65534] = device(65534)
    ring = small_ring(devices=devices, rows=[array("H", [65534] * 4)])
    assert read_ring(write_ring(ring, 1)).rows == ring.rows


@given(st.data(), st.sampled_from([1, 2]))
def test_a_damaged_ring_file_is_refused_and_nothing_else(
    data: st.DataObject, version: int
) -> None:
    whole = bytearray(gzip.decompress(write_ring(small_ring(), version)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for raw in (bytes(whole), bytes(whole[:cut])):
        try:
            ring = read_ring(gzip.compress(raw, 1))
        except FormatError:
            continue
        for partition in range(ring.partition_count)[:64]:
            ring.primaries(partition)


@given(st.binary(max_size=64))
def test_other_bytes_are_no_ring(data: bytes) -> None:
    for raw in (data, gzip.compress(data, 1), gzip.compress(b"R1NG" + data, 1)):
        with pytest.raises(FormatError):
            read_ring(raw, allow_v0=True)


@pytest.mark.parametrize("cut", [1, 9, 40])
def test_a_file_cut_short_is_refused(cut: int) -> None:
    for version in (1, 2):
        with pytest.raises(FormatError):
            read_ring(write_ring(small_ring(), version)[:-cut])


def v1_file(facts: dict[str, object], table: bytes) -> bytes:
    text = json.dumps(facts).encode()
    return gzip.compress(b"R1NG\x00\x01" + struct.pack(">L", len(text)) + text + table)


def test_a_replica_count_that_does_not_fit_the_table_is_refused() -> None:
    facts = {
        "devs": [device(0).as_dict()],
        "part_shift": 30,
        "replica_count": 2,
        "byteorder": "little",
    }
    with pytest.raises(FormatError):
        read_ring(v1_file(facts, b"\0\0" * 4))
    assert read_ring(v1_file(facts, b"\0\0" * 6)).replica_count == 1.5


def test_unknown_sections_of_version_2_are_ignored() -> None:
    raw = gzip.decompress(write_ring(small_ring(), 2))
    index_at = int.from_bytes(raw[-16:-8], "big")
    length = int.from_bytes(raw[index_at : index_at + 8], "big")
    index = json.loads(raw[index_at + 8 : index_at + 8 + length])
    extra = struct.pack(">Q", 3) + b"abc"
    index["other/thing"] = [None, index_at, None, None, None, None]
    text = json.dumps(index).encode()
    tail = struct.pack(">Q", index_at + len(extra)) + bytes(8)
    content = raw[:index_at] + extra + struct.pack(">Q", len(text)) + text + tail
    assert read_ring(gzip.compress(content)).rows == small_ring().rows


def test_a_wrong_checksum_of_version_2_is_refused() -> None:
    raw = bytearray(gzip.decompress(write_ring(small_ring(), 2)))
    at = raw.index(b'"version": 7')
    raw[at + len(b'"version": ')] = ord("8")
    with pytest.raises(FormatError, match="checksum"):
        read_ring(gzip.compress(bytes(raw)))


def test_a_ring_for_replication_differs_in_addresses_only() -> None:
    devices = [
        replace(device(number, region=number, ip="10.0.0.1"), replication_ip=address)
        for number, address in ((1, "10.1.0.1"), (2, "10.1.0.2"), (3, "10.1.0.1"))
    ]
    ring = small_ring(
        devices=[None, *devices], rows=[array("H", [1, 2, 3, 1])], part_power=2
    )

    other = ring.for_replication()

    for partition in range(4):
        for node, twin in zip(
            ring.part_nodes(partition, 2), other.part_nodes(partition, 2), strict=True
        ):
            assert (twin.id, twin.index) == (node.id, node.index)
            assert (twin.ip, twin.port) == (node.replication_ip, node.replication_port)
