# SPDX-License-Identifier: Apache-2.0
"""What a process knows of its cluster, and rings that change under it."""

from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from swift.core.errors import ConfigError
from swift.core.ring.codec import write_ring
from swift.core.ring.devices import Device
from swift.core.ring.ring import Ring
from swift.runtime import green
from swift.runtime.cluster import Cluster, RingUnavailable
from swift.runtime.logs import ERROR, ListSink, Logger

CONF = """
[swift-hash]
swift_hash_path_suffix = salt
[swift-constraints]
max_file_size = 1000
[storage-policy:0]
name = gold
default = yes
[storage-policy:2]
name = silver
"""


def ring(version: int) -> Ring:
    device = Device(0, 1, 1, "127.0.0.1", 6200, "127.0.0.1", 6200, "sda", 100.0)
    return Ring(
        part_power=1, devices=[device], rows=[array("H", [0, 0])], version=version
    )


@pytest.fixture
def clock() -> Iterator[green.JumpingClock]:
    made = green.JumpingClock()
    green.install(made)
    yield made
    green.install(None)


def swift_dir(tmp_path: Path, text: str = CONF) -> str:
    (tmp_path / "swift.conf").write_text(text)
    return str(tmp_path)


def test_a_cluster_is_read_from_swift_conf(tmp_path: Path) -> None:
    cluster = Cluster.load(swift_dir(tmp_path))

    assert cluster.salt.suffix == b"salt"
    assert cluster.limits.max_file_size == 1000
    assert [policy.name for policy in cluster.policies] == ["gold", "silver"]
    assert "salt" not in repr(cluster).replace("swift", "")


def test_the_salt_is_the_bytes_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "swift.conf").write_bytes(
        b"[swift-hash]\nswift_hash_path_prefix = a%b\xff\xc3\xa4\n"
    )

    assert Cluster.load(str(tmp_path)).salt.prefix == b"a%b\xff\xc3\xa4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[x]\n", r"swift\.conf \[swift-hash\]", id="no salt at all"),
        pytest.param(
            "[swift-hash]\nswift_hash_path_suffix =\n", r"\[swift-hash\]", id="blank"
        ),
        pytest.param(
            CONF + "[swift-constraints]\nmax_meta_count = x\n",
            r"\[swift-constraints\] max_meta_count",
            id="a limit that is no number",
        ),
        pytest.param(
            CONF + "[storage-policy:2]\nname = gold\n",
            r"\[storage-policy:2\] name",
            id="two policies of one name",
        ),
    ],
)
def test_a_bad_swift_conf_is_refused_by_name(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Cluster.load(swift_dir(tmp_path, text))


def test_no_swift_conf_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"swift\.conf"):
        Cluster.load(str(tmp_path))


def test_rings_are_found_by_their_files(tmp_path: Path) -> None:
    cluster = Cluster.load(swift_dir(tmp_path))
    (tmp_path / "account.ring.gz").write_bytes(write_ring(ring(1)))
    (tmp_path / "object-2.ring.gz").write_bytes(write_ring(ring(2)))

    assert cluster.account_ring().version == 1
    assert cluster.object_ring(2).version == 2
    with pytest.raises(RingUnavailable, match="container"):
        cluster.container_ring()
    with pytest.raises(RingUnavailable, match="policy"):
        cluster.object_ring(7)


def test_a_changed_ring_is_seen_after_the_interval(
    tmp_path: Path, clock: green.JumpingClock
) -> None:
    cluster = Cluster.load(swift_dir(tmp_path), reload_s=15)
    path = tmp_path / "object.ring.gz"
    path.write_bytes(write_ring(ring(1)))
    first = cluster.object_ring(0)
    path.write_bytes(write_ring(ring(200)))

    clock.sleep(14)
    assert cluster.object_ring(0) is first
    clock.sleep(2)
    assert cluster.object_ring(0).version == 200


@pytest.mark.parametrize("broken", [b"", b"R1NGxx", None])
def test_a_broken_ring_keeps_the_old_one_and_is_told_once(
    tmp_path: Path, clock: green.JumpingClock, broken: bytes | None
) -> None:
    sink = ListSink()
    cluster = Cluster.load(swift_dir(tmp_path), log=Logger("x", [sink]), reload_s=15)
    path = tmp_path / "object.ring.gz"
    path.write_bytes(write_ring(ring(1)))
    first = cluster.object_ring(0)
    if broken is None:
        path.unlink()
    else:
        path.write_bytes(broken)

    for _ in range(3):
        clock.sleep(16)
        assert cluster.object_ring(0) is first

    assert len(sink.lines) == 1
    level, line = sink.lines[0]
    assert "object.ring.gz" in line
    assert level == ERROR or broken is None

    path.write_bytes(write_ring(ring(3)))
    clock.sleep(16)
    assert cluster.object_ring(0).version == 3


def test_a_ring_that_never_was_whole_is_an_error(tmp_path: Path) -> None:
    cluster = Cluster.load(swift_dir(tmp_path))
    (tmp_path / "account.ring.gz").write_bytes(b"nonsense")

    with pytest.raises(RingUnavailable, match=r"account\.ring\.gz"):
        cluster.account_ring()


def test_a_ring_that_is_too_small_for_its_policy_is_refused_by_name(
    tmp_path: Path,
) -> None:
    deep = """
[storage-policy:3]
name = deep
policy_type = erasure_coding
ec_type = isa_l_rs_vand
ec_num_data_fragments = 4
ec_num_parity_fragments = 2
"""
    cluster = Cluster.load(swift_dir(tmp_path, CONF + deep))
    cluster.check_object_rings()  # a ring that is not there yet is not judged
    (tmp_path / "object-3.ring.gz").write_bytes(write_ring(ring(1)))

    with pytest.raises(ConfigError, match=r"storage-policy:3.*deep needs 6"):
        cluster.check_object_rings()
