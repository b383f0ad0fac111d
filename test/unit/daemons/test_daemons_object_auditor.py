# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from random import Random

import pytest

from swift.core.errors import ConfigError, QuarantineRequest
from swift.core.headers import Headers
from swift.core.metadata import attributes
from swift.core.settings import bind
from swift.core.timestamp import Timestamp
from swift.daemons import audit_watchers
from swift.daemons.object_auditor import (
    ALL,
    ZBF,
    AuditorConfig,
    ObjectAuditor,
    ReplicatorOptions,
    Scan,
    ScanRun,
)
from swift.runtime import green
from swift.runtime.config import ConfFile
from swift.runtime.daemon import Frame, Scope, run_pass
from swift.storage.devices import Devices
from test.support.objects import Disks

CHECKSUM = "user.swift.metadata_checksum"


@pytest.fixture
def disks(tmp_path):
    return Disks(tmp_path)


def config(disks, **options):
    values = {"files_per_second": 0.0, "bytes_per_second": 0.0, **options}
    return AuditorConfig(
        devices=str(disks.root),
        mount_check=False,
        recon_cache_path=str(disks.root),
        **values,
    )


def scan(disks, kind=ALL, devices=("sda1",), replicator=None, **options):
    return ScanRun(
        config(disks, **options),
        disks.frame,
        Scan(kind, tuple(devices), 0.0),
        Devices(str(disks.root), mount_check=False),
        replicator or ReplicatorOptions(),
        rng=Random(3),
    ).run()


def numbers(counts):
    return counts.passes, counts.quarantined, counts.errors


def test_good_objects_pass_and_stay(disks):
    disks.put("small", b"x" * 10)
    disks.put("large", b"y" * 700_000, policy=1)
    disks.put("empty", b"")
    disks.put("gone").delete(Timestamp.at(green.now()))
    disks.put("expired", X_Delete_At=str(int(green.now()) - 10))

    counts = scan(disks)

    assert numbers(counts) == (5, 0, 0)
    assert counts.bytes == 700_010
    assert disks.quarantined() == []


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_found_by_the_full_scan_only(disks):
    disk = disks.put("o", b"x" * 100_000)
    disks.put("other")
    path = disks.data_file(disk)
    attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    flip_a_bit(path)
    for name, value in attributes.items():
        os.setxattr(path, name, value)

    assert numbers(scan(disks, ZBF)) == (2, 0, 0)
    assert numbers(scan(disks)) == (1, 1, 0)
    assert disks.quarantined() == [disk.path_hash]
    assert "MD5" in disks.lines()


@pytest.mark.parametrize("kind", [ALL, ZBF])
@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda path: os.truncate(path, 2), id="truncated"),
        pytest.param(lambda path: os.truncate(path, 0), id="emptied"),
        pytest.param(
            lambda path: os.removexattr(path, "user.swift.metadata"), id="no metadata"
        ),
        pytest.param(
            lambda path: os.setxattr(path, "user.swift.metadata", b"cos\nsystem\n."),
            id="hostile metadata",
        ),
        pytest.param(
            lambda path: os.setxattr(path, CHECKSUM, b"0" * 32), id="wrong checksum"
        ),
    ],
)
def test_a_harmed_object_is_quarantined_by_either_scan(disks, kind, harm):
    disk = disks.put("o")
    harm(disks.data_file(disk))

    assert numbers(scan(disks, kind)) == (0, 1, 0)
    assert disks.quarantined() == [disk.path_hash]
    assert (
        disk.suffix
        in ((disks.root / disk.directory).parent.parent / "hashes.invalid").read_text()
    )


def test_an_empty_file_that_should_not_be_is_quarantined(disks):
    disk = disks.put("o", b"")
    path = disks.data_file(disk)
    record = Headers(
        {
            "name": "/a/c/o",
            "Content-Length": "0",
            "ETag": "9" * 32,
            "Content-Type": "text/plain",
            "X-Timestamp": path.stem,
        }
    )
    for name, value in attributes(record):
        os.setxattr(path, name, value)

    assert numbers(scan(disks)) == (0, 1, 0)


def test_a_file_in_the_place_of_a_hash_directory_is_quarantined(disks):
    disk = disks.put("o")
    other = (disks.root / disk.directory).parent / ("f" * 29 + disk.suffix)
    other.write_bytes(b"junk")
    (other.parent / "no-hash").write_bytes(b"junk")

    assert numbers(scan(disks)) == (1, 1, 0)
    assert disks.quarantined() == [other.name]


def test_junk_beside_partitions_and_suffixes_is_passed_over(disks):
    disk = disks.put("o")
    objects = disks.root / "sda1" / "objects"
    (objects / "junk").mkdir()
    (objects / "7777").write_bytes(b"")
    (objects / disk.partition / "zzz").mkdir()
    (objects / disk.partition / "abc").write_bytes(b"")

    assert numbers(scan(disks)) == (1, 0, 0)


def test_metadata_without_checksum_is_given_one(disks):
    disk = disks.put("o")
    path = disks.data_file(disk)
    expected = os.getxattr(path, CHECKSUM)
    os.removexattr(path, CHECKSUM)

    assert numbers(scan(disks, ZBF)) == (1, 0, 0)
    assert os.getxattr(path, CHECKSUM) == expected


def test_old_tombstones_are_announced_to_replication(disks):
    old, fresh = disks.put("old"), disks.put("fresh")
    for disk in (old, fresh):
        disk.delete(Timestamp.at(green.now()))
    tombstone = next((disks.root / old.directory).glob("*.ts"))
    tombstone.rename(tombstone.with_name("0000002000.00000.ts"))
    for disk in (old, fresh):
        invalid = (disks.root / disk.directory).parent.parent / "hashes.invalid"
        invalid.write_bytes(b"")

    scan(disks, ZBF)
    assert invalid.read_text() == ""
    scan(disks)

    written = (disks.root / old.directory).parent.parent / "hashes.invalid"
    assert old.suffix in written.read_text()
    assert fresh.suffix not in invalid.read_text()


def test_files_that_rsync_left_are_removed_when_they_are_old(disks):
    directory = disks.root / disks.put("o").directory
    old = directory / ".1700000000.00000.data.aB3xY9"
    fresh = directory / ".1700000000.00000.data.zzzzzz"
    other = directory / ".hidden"
    for path in (old, fresh, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (1000, 1000))

    assert numbers(scan(disks)) == (1, 0, 0)
    assert not old.exists()
    assert fresh.exists()
    assert other.exists()


def test_the_age_of_rsync_files_follows_the_replicator():
    assert ReplicatorOptions().rsync_tempfile_age == 86400
    assert ReplicatorOptions(rsync_timeout=100).rsync_tempfile_age == 1000


def test_a_bad_option_of_the_replicator_stops_the_auditor(disks):
    conf = ConfFile("/x.conf", {}, {"object-replicator": {"rsync_timeout": "soon"}})
    frame = Frame(disks.cluster, disks.log, disks.frame.metrics, conf)

    with pytest.raises(ConfigError, match="rsync_timeout"):
        ObjectAuditor(config(disks), frame)


# --- Checkpoints ----------------------------------------------------------------------


def checkpoint(disks, kind=ALL):
    return disks.root / "sda1" / "objects" / f"auditor_status_{kind}.json"


def put_in_partitions(disks, count):
    found = {}
    number = 0
    while len(found) < count:
        disk = disks.diskfile(f"o{number}")
        if disk.partition not in found:
            found[disk.partition] = disks.put(f"o{number}")
        number += 1
    return found


def test_an_interrupted_scan_goes_on_with_what_is_left(disks):
    found = put_in_partitions(disks, 4)
    left = list(found)[:2]
    checkpoint(disks).write_text(json.dumps({"partitions": left}))

    assert numbers(scan(disks)) == (2, 0, 0)
    assert not checkpoint(disks).exists()
    assert numbers(scan(disks)) == (4, 0, 0)


def test_a_checkpoint_is_left_behind_by_a_scan_that_dies(disks, monkeypatch):
    found = put_in_partitions(disks, 4)
    seen = []

    def die(self, location):
        seen.append(location.partition)
        if len(seen) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(ScanRun, "_audit", die)
    with pytest.raises(KeyboardInterrupt):
        scan(disks)
    monkeypatch.undo()

    left = json.loads(checkpoint(disks).read_text())["partitions"]
    assert set(left) == set(found)
    assert numbers(scan(disks)) == (4, 0, 0)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"partitions": 3}', '{"partitions": ["../.."]}', "[" * 100_000],
    ids=["empty", "half", "list", "number", "path", "deep"],
)
def test_a_checkpoint_that_means_nothing_is_ignored(disks, text):
    disks.put("o")
    checkpoint(disks).write_text(text)

    assert numbers(scan(disks)) == (1, 0, 0)
    assert "is ignored" in disks.lines()


def test_a_device_that_is_away_is_skipped(disks):
    disks.put("o")

    assert numbers(scan(disks, devices=("away", "sda1"))) == (1, 0, 0)
    assert "away" in disks.lines()


# --- Pace and reports -----------------------------------------------------------------


def test_the_scan_goes_no_faster_than_its_options_say(disks):
    for number in range(20):
        disks.put(f"o{number}", b"x" * 1000)
    clock = green.JumpingClock()
    green.install(clock)
    try:
        began = clock.monotonic()
        ScanRun(
            config(disks),
            disks.frame,
            Scan(ALL, ("sda1",), 2.0),
            Devices(str(disks.root), mount_check=False),
            ReplicatorOptions(),
        ).run()
        by_files = clock.monotonic() - began
        began = clock.monotonic()
        scan(disks, bytes_per_second=500.0)
        by_bytes = clock.monotonic() - began
    finally:
        green.install(None)

    # Five seconds' worth may come at once.
    assert 4 <= by_files <= 10
    assert 30 <= by_bytes <= 40


def test_sizes_are_counted_when_wished(disks):
    for size in (0, 10, 11, 5000):
        disks.put(f"o{size}", b"x" * size)

    scan(disks, object_size_stats=(10, 100))

    assert '{"10": 2, "100": 1, "OVER": 1}' in disks.lines()


def test_options_parse_as_operators_write_them():
    values = {
        "object_size_stats": "100, 10",
        "rsync_tempfile_timeout": "auto",
        "watchers": "a, b",
    }
    found = bind(AuditorConfig, values, source="-", section="object-auditor")

    assert found.object_size_stats == (10, 100)
    assert found.rsync_tempfile_timeout is None
    assert found.watchers == ("a", "b")


def run_round(disks, scope=None, **options):
    auditor = ObjectAuditor(config(disks, **options), disks.frame)
    run_pass(auditor, scope or Scope(once=True))
    return json.loads((disks.root / "object.recon").read_text())


def test_a_round_scans_fully_and_quickly_and_tells_recon(disks):
    disks.put("o", b"x" * 100)
    (disks.root / "object.recon").write_text(
        json.dumps({"object_auditor_stats_ALL": {"gone": {}}})
    )

    facts = run_round(disks)

    full, quick = (facts[f"object_auditor_stats_{kind}"] for kind in (ALL, ZBF))
    assert set(full) == {
        "errors",
        "passes",
        "quarantined",
        "bytes_processed",
        "start_time",
        "audit_time",
    }
    assert (full["passes"], full["bytes_processed"]) == (1, 100)
    assert (quick["passes"], quick["bytes_processed"]) == (1, 0)


def test_with_concurrency_each_device_has_its_scan(tmp_path):
    disks = Disks(tmp_path, devices=("sda1", "sdb1"))
    disks.put("o")
    disks.put("p", device="sdb1")

    facts = run_round(disks, concurrency=2, zero_byte_files_per_second=0.0)

    full = facts["object_auditor_stats_ALL"]
    assert {name: found["passes"] for name, found in full.items()} == {
        "sda1": 1,
        "sdb1": 1,
    }
    assert "object_auditor_stats_ZBF" not in facts


def test_only_the_quick_scan_runs_when_asked_for(disks):
    disks.put("o")

    facts = run_round(disks, Scope(once=True, extra={"zero_byte_fps": 1000}))

    assert facts["object_auditor_stats_ZBF"]["passes"] == 1
    assert "object_auditor_stats_ALL" not in facts


# --- Watchers -------------------------------------------------------------------------


class Watcher:
    def __init__(self, conf, logger):
        if "broken" in conf:
            raise RuntimeError("cannot be made")
        self.conf = conf
        self.logger = logger
        self.seen = []
        self.ended = 0

    def start(self, audit_type, **_more):
        self.kind = audit_type
        if "no_start" in self.conf:
            raise RuntimeError("cannot start")

    def see_object(self, object_metadata, data_file_path, **_more):
        self.seen.append((object_metadata, data_file_path))
        self.logger.info("saw %s", object_metadata["name"])
        if object_metadata["name"] == self.conf.get("unwanted"):
            raise QuarantineRequest("unwanted")
        if "stumbles" in self.conf:
            raise RuntimeError("stumbled")

    def end(self, **_more):
        self.ended += 1


@pytest.fixture
def watcher(monkeypatch):
    made = []

    def load(group, name):
        assert group == "swift.object_audit_watcher"

        def make(conf, logger):
            made.append(Watcher(conf, logger))
            return made[-1]

        return make

    monkeypatch.setattr(audit_watchers, "load_plugin", load)
    return made


def watched(tmp_path, **options):
    conf = ConfFile(
        "-", {}, {"object-auditor": {"a": "1"}, "object-auditor:watcher:w": options}
    )
    disks = Disks(tmp_path, conf=conf)
    disks.put("o", X_Object_Meta_Colour="\u00c3\u00bc")
    disks.put("p")
    return disks


def test_a_watcher_sees_each_object_as_it_is_stored(tmp_path, watcher):
    disks = watched(tmp_path, b="2")

    counts = scan(disks, watchers=("w",))

    assert numbers(counts) == (2, 0, 0)
    seen = {metadata["name"]: (metadata, path) for metadata, path in watcher[0].seen}
    metadata, path = seen["/a/c/o"]
    assert metadata["ETag"] == "841a2d689ad86bd1611447453c22c6fc"
    assert metadata["X-Object-Meta-Colour"] == "\u00fc"
    assert path.endswith(".data")
    assert watcher[0].conf == {"a": "1", "b": "2"}
    assert (watcher[0].kind, watcher[0].ended) == (ALL, 1)
    assert "[audit-watcher w] saw /a/c/o" in disks.lines()


def test_a_watcher_may_have_an_object_quarantined(tmp_path, watcher):
    disks = watched(tmp_path, unwanted="/a/c/o")

    assert numbers(scan(disks, watchers=("w",))) == (1, 1, 0)
    assert disks.quarantined() == [disks.diskfile("o").path_hash]


@pytest.mark.parametrize("fault", ["broken", "no_start", "stumbles"])
def test_a_failing_watcher_stops_nothing(tmp_path, watcher, fault):
    disks = watched(tmp_path, **{fault: "yes"})

    assert numbers(scan(disks, watchers=("w",))) == (2, 0, 0)
    assert "watcher w" in disks.lines()


def test_an_unknown_watcher_is_left_out(disks):
    disks.put("o")

    assert numbers(scan(disks, watchers=("no such",))) == (1, 0, 0)
