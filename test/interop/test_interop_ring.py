# SPDX-License-Identifier: Apache-2.0
"""Rings, builders and composites written by OpenStack Swift, read and written again."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from swift.core import pickles
from swift.core.errors import FormatError
from swift.core.hashing import HashSalt
from swift.core.ring.builder import RingBuilder
from swift.core.ring.codec import read_ring, ring_file_info, write_ring
from swift.core.ring.composite import CompositeBuilder
from swift.core.ring.ring import Ring

GOLDEN = Path(__file__).parent / "golden" / "ring"
SALT = HashSalt(b"goldenprefix", b"goldensuffix")
RINGS = sorted(path.name for path in GOLDEN.glob("*.ring.gz"))
USUAL_RINGS = [name for name in RINGS if ".v0." not in name and ".v1-" not in name]
BUILDERS = sorted(path.name for path in GOLDEN.glob("*.builder"))


def golden_ring(name: str) -> Ring:
    return read_ring((GOLDEN / name).read_bytes(), allow_v0=True)


def expected_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (GOLDEN / f"{name.partition('.')[0]}.json").read_text()
    )
    return found


def ids_text(ids: list[int]) -> bytes:
    return (",".join(map(str, ids)) + ";").encode()


@pytest.mark.parametrize("name", RINGS)
def test_primaries_of_every_partition_are_those_of_the_golden_ring(name: str) -> None:
    ring, expected = golden_ring(name), expected_of(name)
    for partition, ids in expected["primaries"].items():
        nodes = ring.primaries(int(partition))
        assert [node.id for node in nodes] == ids
        assert [node.index for node in nodes] == list(range(len(ids)))
    if "md5_of_all_primaries" in expected:
        digest = md5()
        for partition in range(ring.partition_count):
            digest.update(ids_text([node.id for node in ring.primaries(partition)]))
        assert digest.hexdigest() == expected["md5_of_all_primaries"]


@pytest.mark.parametrize("name", RINGS)
def test_handoffs_come_in_the_order_of_the_golden_ring(name: str) -> None:
    ring, expected = golden_ring(name), expected_of(name)
    for partition, ids in expected["handoffs"].items():
        nodes = list(ring.handoffs(int(partition)))
        assert [node.id for node in nodes] == ids
        assert [node.handoff_index for node in nodes] == list(range(len(ids)))
    if "md5_of_all_handoffs" in expected:
        digest = md5()
        for partition in range(expected["md5_of_all_handoffs_partitions"]):
            digest.update(ids_text([node.id for node in ring.handoffs(partition)]))
        assert digest.hexdigest() == expected["md5_of_all_handoffs"]


@pytest.mark.parametrize("name", USUAL_RINGS)
def test_facts_of_a_golden_ring(name: str) -> None:
    ring, expected = golden_ring(name), expected_of(name)
    assert ring.version == expected["version"]
    assert ring.replica_count == expected["replica_count"]
    if isinstance(expected["devs"], list):
        assert [d and d.as_dict() for d in ring.devices] == expected["devs"]
    for fact in (
        "part_power",
        "part_shift",
        "next_part_power",
        "dev_id_bytes",
        "device_count",
        "weighted_device_count",
        "assigned_device_count",
    ):
        if fact in expected:
            assert getattr(ring, fact) == expected[fact], fact
    if "files" in expected:
        assert ring.size_bytes == expected["files"][name]["uncompressed_size"]


@pytest.mark.parametrize("name", USUAL_RINGS)
def test_names_are_looked_up_as_in_the_golden_ring(name: str) -> None:
    ring = golden_ring(name)
    for entry in expected_of(name).get("get_nodes", []):
        partition = ring.partition(SALT.digest(*entry["path"]))
        assert partition == entry["partition"]
        assert [node.id for node in ring.primaries(partition)] == entry["ids"]


@pytest.mark.parametrize("name", USUAL_RINGS)
def test_a_ring_is_written_with_the_content_it_was_read_from(name: str) -> None:
    original = (GOLDEN / name).read_bytes()
    version = 2 if ".v2." in name else 1
    written = write_ring(golden_ring(name), version, file_name=name.removesuffix(".gz"))
    if version == 1:
        assert gzip.decompress(written) == gzip.decompress(original)
    else:
        # The index holds positions in the compressed file, which depend on the zlib
        # build: compare what lies before it.
        (index_at,) = {int.from_bytes(gzip.decompress(original)[-16:-8], "big")}
        assert (
            gzip.decompress(written)[:index_at] == gzip.decompress(original)[:index_at]
        )


def test_v2_index_can_be_found_by_seeking_from_the_end() -> None:
    data = write_ring(golden_ring("fractional.v2.ring.gz"), 2)

    def inflate(at: int, size: int) -> bytes:
        return zlib.decompressobj(-15).decompress(data[at:], size)

    index_at = int.from_bytes(inflate(len(data) - 31, 8), "big")
    length = int.from_bytes(inflate(index_at, 8), "big")
    index = json.loads(inflate(index_at, 8 + length)[8:])
    assert set(index) == {
        "swift/ring/metadata",
        "swift/ring/devices",
        "swift/ring/assignments",
    }
    start, raw_start, _stop, raw_stop, method, checksum = index["swift/ring/metadata"]
    section = inflate(start, raw_stop - raw_start)
    assert hashlib.new(method, section).hexdigest() == checksum


def test_a_recompressed_v2_ring_is_still_read() -> None:
    original = (GOLDEN / "fractional.v2.ring.gz").read_bytes()
    ring = read_ring(gzip.compress(gzip.decompress(original)))
    assert ring.rows == golden_ring("fractional.v2.ring.gz").rows


def test_v0_is_refused_by_servers_and_read_when_asked_for() -> None:
    data = (GOLDEN / "four-dev.v0.ring.gz").read_bytes()
    with pytest.raises(FormatError, match="Bad ring magic"):
        read_ring(data)
    assert (
        read_ring(data, allow_v0=True).rows == golden_ring("four-dev.v1.ring.gz").rows
    )


def test_odd_variants_are_read_as_the_original_reads_them() -> None:
    variants = json.loads((GOLDEN / "variants.json").read_text())
    usual = golden_ring("four-dev.v1.ring.gz")
    for name, expected in variants.items():
        if expected["loads"]:
            ring = golden_ring(name)
            assert ring.rows == usual.rows
            assert ring.version == expected["version"]
            device = ring.devices[0]
            assert device is not None
            assert device.as_dict() == expected["dev0"]


def test_version_of_a_ring_file() -> None:
    info = ring_file_info((GOLDEN / "wide-ids.v2.ring.gz").read_bytes())
    assert (info.version, info.dev_id_bytes) == (2, 4)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_builder_file_is_written_as_it_was_read(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    written = RingBuilder.load(data).dump()
    if not name.startswith(("ppi-2", "ppi-3")):
        assert written == data
        return
    before, after = pickles.loads_builder(data), pickles.loads_builder(written)
    # The original does not count anew after doubling the partitions; we do.
    for state in (before, after):
        for device in state["devs"]:
            del device["parts_wanted"]
    assert after == before


@pytest.mark.parametrize("name", BUILDERS)
def test_balance_and_dispersion_are_computed_as_the_original_does(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    builder = RingBuilder.load(data)
    expected = builder.dispersion
    graph = builder.dispersion_graph
    builder.validate()
    assert builder.update_dispersion() == expected
    if not name.startswith(("ppi-2", "ppi-3", "fractional")):
        assert builder.dispersion_graph == graph
    if (GOLDEN / f"{name.removesuffix('.builder')}.json").exists():
        facts = expected_of(name).get("builder", {})
        if "balance" in facts:
            assert builder.balance() == pytest.approx(facts["balance"])


@pytest.mark.parametrize(
    "name", [n for n in BUILDERS if (GOLDEN / f"{n[:-8]}.v1.ring.gz").exists()]
)
def test_a_builder_gives_the_ring_that_the_original_wrote(name: str) -> None:
    ring = RingBuilder.load((GOLDEN / name).read_bytes()).ring()
    original = golden_ring(f"{name.removesuffix('.builder')}.v1.ring.gz")
    assert ring.rows == original.rows
    assert ring.devices == original.devices
    assert ring.version == original.version
    assert ring.next_part_power == original.next_part_power


def test_components_compose_to_the_golden_composite() -> None:
    paths = ["composite-region1.builder", "composite-region2.builder"]
    builders = {
        f"/etc/swift/{path}": RingBuilder.load((GOLDEN / path).read_bytes())
        for path in paths
    }
    note = CompositeBuilder(saved_path="/etc/swift/composite.composite")
    ring = note.compose(builders, force=False)
    original = golden_ring("composite.v1.ring.gz")
    assert ring.rows == original.rows
    assert ring.devices == original.devices
    assert note.dump() == (GOLDEN / "composite.composite").read_bytes().strip()


def test_a_part_power_increase_goes_through_the_golden_stages() -> None:
    builder = RingBuilder.load((GOLDEN / "ppi-0-before.builder").read_bytes())
    builder.prepare_increase_partition_power()
    prepared = golden_ring("ppi-1-prepared.v1.ring.gz")
    assert builder.ring().rows == prepared.rows
    assert builder.next_part_power == prepared.next_part_power
    builder.increase_partition_power(now=1_700_000_000)
    increased = golden_ring("ppi-2-increased.v1.ring.gz")
    assert builder.ring().rows == increased.rows
    assert builder.version == increased.version
    builder.finish_increase_partition_power()
    finished = golden_ring("ppi-3-finished.v1.ring.gz")
    assert builder.ring().rows == finished.rows
    assert builder.ring().next_part_power is None
    assert builder.version == finished.version
