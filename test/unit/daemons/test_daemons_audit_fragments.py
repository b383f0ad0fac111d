# SPDX-License-Identifier: Apache-2.0
"""What an auditor makes of fragments: each is looked at, header by header."""

from __future__ import annotations

import os
import struct
from random import Random
from typing import ClassVar
from zlib import crc32

import pytest

from swift.core.erasure import ErasureCoding
from swift.core.headers import Headers
from swift.core.policy import StoragePolicies, StoragePolicy
from swift.core.timestamp import Timestamp
from swift.daemons import audit_watchers
from swift.daemons.object_auditor import (
    ALL,
    ZBF,
    AuditorConfig,
    ReplicatorOptions,
    Scan,
    ScanRun,
)
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.storage.devices import Devices
from test.support.nodes import FixedRing, make_cluster, make_ring
from test.support.objects import Disks

SEGMENT = 4096
CODING = ErasureCoding("isa_l_rs_vand", 4, 2, segment_size=SEGMENT)
BODY = os.urandom(2 * SEGMENT + 1000)
CRC_AT, HEADER_SIZE = 67, 80


@pytest.fixture
def disks(tmp_path):
    plain = make_cluster()
    policies = StoragePolicies([StoragePolicy(0, ("deep",), CODING, True)])
    rings = {**plain.rings, "object": FixedRing(make_ring("object", 8, 6))}
    cluster = Cluster(plain.swift_dir, plain.salt, plain.limits, policies, rings)
    return Disks(tmp_path, cluster=cluster)


def put(disks, *indexes, body=BODY, durable=True, change=None, **record):
    """Store fragments of `/a/c/o`, their bytes changed before they are summed up."""
    encoder = CODING.encoder(6)
    pieces = zip(encoder.feed(body), encoder.finish(), strict=True)
    archives = [bytearray(first + last) for first, last in pieces]
    disk = disks.diskfile("o")
    when = Timestamp.at(green.now())
    for index in indexes:
        footers = encoder.footers(index, None) or {}
        with disk.writer(None) as writer:
            if change is not None:
                change(archives[index])
            writer.write(bytes(archives[index]))
            headers = Headers({"Content-Type": "x/y", "ETag": writer.etag})
            names = [name for name in footers if name.startswith("X-Object-Sysmeta")]
            headers.update({name: footers[name] for name in names})
            headers.update(record)
            writer.commit(
                Headers({name: value for name, value in headers.items() if value}),
                when,
                fragment_index=index,
                durable=durable,
            )
    return disk


def scan(disks, kind=ALL, **options):
    config = AuditorConfig(
        devices=str(disks.root),
        mount_check=False,
        recon_cache_path=str(disks.root),
        files_per_second=0.0,
        bytes_per_second=0.0,
        **options,
    )
    counts = ScanRun(
        config,
        disks.frame,
        Scan(kind, ("sda1",), 0.0),
        Devices(str(disks.root), mount_check=False),
        ReplicatorOptions(),
        rng=Random(3),
    ).run()
    return counts.passes, counts.quarantined, counts.errors


@pytest.mark.parametrize("kind", [ALL, ZBF])
@pytest.mark.parametrize("body", [b"", b"x", BODY], ids=["empty", "tiny", "segments"])
def test_good_fragments_pass(disks, kind, body):
    put(disks, 0, 3, 5, body=body)

    assert scan(disks, kind) == (1, 0, 0)
    assert disks.quarantined() == []


def with_new_crc(archive, at):
    guarded = bytes(archive[at : at + 59])
    struct.pack_into("<I", archive, at + CRC_AT, crc32(guarded))


def break_magic(archive):
    archive[59] ^= 1


def break_crc(archive):
    archive[CRC_AT] ^= 1


def break_the_last_header(archive):
    archive[2 * CODING.fragment_size + 12] ^= 1


def claim_another_index(archive):
    archive[0] ^= 1
    with_new_crc(archive, 0)


def claim_another_size(archive):
    archive[4] ^= 1
    with_new_crc(archive, 0)


@pytest.mark.parametrize(
    "harm",
    [
        break_magic,
        break_crc,
        break_the_last_header,
        claim_another_index,
        claim_another_size,
    ],
)
@pytest.mark.parametrize("index", [1, 5])
def test_a_wrong_header_under_a_right_checksum_is_found(disks, harm, index):
    disk = put(disks, index, change=harm)

    assert scan(disks, ZBF) == (1, 0, 0), "it reads no bytes"
    assert scan(disks) == (0, 1, 0)
    assert disks.quarantined() == [disk.path_hash]
    assert "MD5" not in disks.lines()


def test_a_harmed_fragment_beside_a_good_one_is_found(disks):
    disk = put(disks, 2, 4)
    path = next((disks.root / disk.directory).glob("*#2#d.data"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    with path.open("r+b") as stream:
        stream.write(data)

    assert scan(disks) == (0, 1, 0)
    assert disks.quarantined() == [disk.path_hash]


@pytest.mark.parametrize("kind", [ALL, ZBF])
@pytest.mark.parametrize(
    "record",
    [
        {"X-Object-Sysmeta-Ec-Etag": ""},
        {"X-Object-Sysmeta-Ec-Frag-Index": ""},
        {"X-Object-Sysmeta-Ec-Frag-Index": "3"},
        {"X-Object-Sysmeta-Ec-Frag-Index": "6"},
        {"X-Object-Sysmeta-Ec-Frag-Index": "one"},
    ],
)
def test_a_record_of_no_use_is_found_by_either_scan(disks, kind, record):
    put(disks, 1, **record)

    assert scan(disks, kind) == (0, 1, 0)


def test_fragments_that_await_their_commit_are_left_alone(disks):
    put(disks, 1, durable=False, change=break_magic)

    assert scan(disks) == (1, 0, 0)


def test_fragments_of_other_parameters_are_not_judged_by_ours(disks):
    put(disks, 1, change=break_magic, **{"X-Object-Sysmeta-Ec-Segment-Size": "512"})

    assert scan(disks) == (1, 0, 0)


def test_all_fragments_are_given_the_checksum_they_lack(disks):
    disk = put(disks, 1, 4)
    name = "user.swift.metadata_checksum"
    paths = sorted((disks.root / disk.directory).glob("*.data"))
    for path in paths:
        os.removexattr(path, name)

    assert scan(disks) == (1, 0, 0)
    assert all(name in os.listxattr(path) for path in paths)


class Onlooker:
    """A watcher that writes down what it is shown."""

    seen: ClassVar[list[tuple[dict[str, str], str]]] = []

    def __init__(self, conf, logger):
        pass

    def start(self, audit_type):
        self.seen.clear()

    def see_object(self, object_metadata, data_file_path, **_more):
        self.seen.append((object_metadata, data_file_path))

    def end(self):
        pass


def test_a_watcher_is_told_of_which_fragment_it_sees(disks, monkeypatch):
    monkeypatch.setattr(audit_watchers, "load_plugin", lambda group, name: Onlooker)
    put(disks, 2, 4)

    assert scan(disks, watchers=("onlooker",)) == (1, 0, 0)
    [(metadata, path)] = Onlooker.seen
    assert path.endswith("#4#d.data")
    assert metadata["X-Object-Sysmeta-Ec-Frag-Index"] == "4"
    assert metadata["X-Object-Sysmeta-Ec-Scheme"] == CODING.scheme
    assert metadata["X-Object-Sysmeta-Ec-Content-Length"] == str(len(BODY))
    assert metadata["name"] == "/a/c/o"


@pytest.mark.parametrize("beside", [True, False], ids=["beside an object", "alone"])
def test_fragments_whose_commit_never_came_are_announced(disks, beside):
    if beside:
        put(disks, 1)
    disk = put(disks, 3, durable=False)
    invalid = (disks.root / disk.directory).parent.parent / "hashes.invalid"
    invalid.write_bytes(b"")

    assert scan(disks) == (1, 0, 0)
    assert invalid.read_text() == "", "it may come yet"
    assert scan(disks, reclaim_age=0) == (1, 0, 0)
    assert disk.suffix in invalid.read_text()
