# SPDX-License-Identifier: Apache-2.0
"""Options of a policy that changed under objects which are there already."""

from __future__ import annotations

import os

import pytest

from swift.core.erasure import ErasureCoding
from swift.core.errors import ConfigError
from swift.core.headers import Headers
from swift.core.policy import StoragePolicies, StoragePolicy
from swift.core.redundancy import Replication
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.storage.devices import Devices
from swift.storage.object.conflicts import check_stored_objects
from test.support.nodes import FixedRing, make_cluster, make_ring
from test.support.objects import Disks

CODING = ErasureCoding("isa_l_rs_vand", 4, 2, segment_size=4096)


def cluster_of(redundancy):
    plain = make_cluster()
    policies = StoragePolicies([StoragePolicy(0, ("deep",), redundancy, True)])
    rings = {**plain.rings, "object": FixedRing(make_ring("object", 8, 6))}
    return Cluster(plain.swift_dir, plain.salt, plain.limits, policies, rings)


@pytest.fixture
def disks(tmp_path):
    made = Disks(tmp_path, devices=("sda1", "sdb1"), cluster=cluster_of(CODING))
    disk = made.diskfile("o", device="sdb1")
    encoder = CODING.encoder(6)
    encoder.feed(b"x")
    archive = encoder.finish()[2]
    record = Headers({"Content-Type": "x/y", **(encoder.footers(2, None) or {})})
    with disk.writer(None) as writer:
        writer.write(archive)
        writer.commit(record, Timestamp.at(green.now()), fragment_index=2, durable=True)
    return made


def check(disks, redundancy):
    check_stored_objects(
        Devices(str(disks.root), mount_check=False), cluster_of(redundancy)
    )


def test_what_was_made_by_the_same_options_is_no_matter(disks):
    check(disks, CODING)
    check(disks, ErasureCoding("isa_l_rs_vand", 4, 2, segment_size=4096, duplication=2))


def test_another_kind_of_policy_is_refused_by_name(disks, tmp_path):
    said = (
        r"storage-policy:0\] policy_type: policy deep: copies, but there are fragments"
    )
    with pytest.raises(ConfigError, match=said):
        check(disks, Replication())
    (tmp_path / "other").mkdir()
    copies = Disks(tmp_path / "other")
    copies.put("o")
    said = r"policy_type: policy deep: fragments, but there are whole copies"
    with pytest.raises(ConfigError, match=said):
        check(copies, CODING)


@pytest.mark.parametrize(
    ("changed", "option"),
    [
        pytest.param(("isa_l_rs_cauchy", 4, 2, 4096), "ec_type", id="another code"),
        pytest.param(
            ("isa_l_rs_vand", 3, 2, 4096), "ec_num_data_fragments", id="less data"
        ),
        pytest.param(
            ("isa_l_rs_vand", 4, 3, 4096), "ec_num_parity_fragments", id="more parity"
        ),
        pytest.param(
            ("isa_l_rs_vand", 4, 2, 8192),
            "ec_object_segment_size",
            id="longer segments",
        ),
    ],
)
def test_other_options_are_refused_by_name(disks, changed, option):
    ec_type, data, parity, segment_size = changed
    with pytest.raises(ConfigError) as error:
        check(disks, ErasureCoding(ec_type, data, parity, segment_size=segment_size))
    said = str(error.value)
    assert f"swift.conf [storage-policy:0] {option}: policy deep: " in said
    assert "sdb1" in said


def test_a_record_that_may_be_damaged_says_nothing(disks):
    [path] = disks.root.glob("sdb1/objects/*/*/*/*.data")
    record = os.getxattr(path, "user.swift.metadata")
    os.setxattr(path, "user.swift.metadata", record.replace(b"4+2", b"5+2"))
    check(disks, CODING)


def test_devices_that_are_away_are_passed_over(disks):
    check_stored_objects(Devices(str(disks.root), mount_check=True), cluster_of(CODING))
    check_stored_objects(Devices("/nonexistent", mount_check=False), cluster_of(CODING))
