# SPDX-License-Identifier: Apache-2.0
"""swift-object-relinker through a whole part power increase, with golden rings."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from swift.cli.relink import main
from swift.core.hashing import HashSalt, hash_directory, partition_of_hex
from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.core.policy import StoragePolicy
from swift.core.redundancy import Replication
from swift.core.settings import Reserve
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.logs import NULL_LOG
from swift.runtime.metrics import NO_METRICS
from swift.runtime.recon import read_cache
from swift.storage.object.context import DiskConfig
from swift.storage.object.manager import DiskFileManager

RINGS = Path(__file__).resolve().parents[2] / "interop" / "golden" / "ring"
SALT = HashSalt(b"goldenprefix", b"goldensuffix")
POWER = 5
"""Before the increase, as in the golden rings."""

BEFORE, PREPARED, INCREASED, FINISHED = (
    "ppi-0-before", "ppi-1-prepared", "ppi-2-increased", "ppi-3-finished",
)  # fmt: skip


class Node:
    """A node with devices p0 and p1, and what an object server does on it."""

    def __init__(self, folder: Path) -> None:
        self.etc, self.srv, self.cache = (
            folder / "etc",
            folder / "srv",
            folder / "cache",
        )
        for path in (self.etc, self.cache, self.srv / "p0", self.srv / "p1"):
            path.mkdir(parents=True)
        (self.etc / "swift.conf").write_text(
            "[swift-hash]\nswift_hash_path_prefix = goldenprefix\n"
            "swift_hash_path_suffix = goldensuffix\n"
            "[storage-policy:0]\nname = gold\ndefault = yes\n"
        )
        self.conf = self.etc / "object-server.conf"
        self.conf.write_text(
            f"[object-relinker]\nswift_dir = {self.etc}\ndevices = {self.srv}\n"
            f"mount_check = false\nrecon_cache_path = {self.cache}\nuser =\n"
            "log_address = /nowhere\n"
        )
        config = DiskConfig(
            devices=str(self.srv), mount_check=False, fallocate_reserve=Reserve()
        )
        policy = StoragePolicy(0, ("gold",), Replication(), is_default=True)
        self.disks = DiskFileManager(config, policy, SALT, NULL_LOG, NO_METRICS)
        self.use(BEFORE)

    def use(self, ring: str) -> None:
        shutil.copyfile(RINGS / f"{ring}.v1.ring.gz", self.etc / "object.ring.gz")

    def relink(self, step: str, *words: str) -> int:
        return main([step, str(self.conf), *words])

    def disk(self, name: str, power: int, device: str = "p0", following=None):
        path_hash = SALT.digest("a", "c", name).hex()
        return self.disks.diskfile(
            device, partition_of_hex(path_hash, power), ObjectName("a", "c", name),
            next_part_power=following,
        )  # fmt: skip

    def put(self, name: str, power: int, at: float = 0.0, **more) -> None:
        with self.disk(name, power, **more).writer(len(name)) as writer:
            writer.write(name.encode())
            writer.commit(
                Headers({"Content-Type": "text/plain"}), Timestamp.at(green.now() + at)
            )

    def get(self, name: str, power: int, device: str = "p0") -> bytes:
        opened = self.disk(name, power, device).open(green.now())
        with opened:
            return b"".join(opened.reader())

    def directory(self, name: str, power: int, device: str = "p0") -> Path:
        path_hash = SALT.digest("a", "c", name).hex()
        place = hash_directory("objects", partition_of_hex(path_hash, power), path_hash)
        return self.srv / device / place

    def state(self, device: str = "p0") -> dict[str, object]:
        return json.loads((self.srv / device / "relink.objects.json").read_text())


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


NAMES = [f"object-{number}" for number in range(24)]


def test_an_increase_loses_nothing_and_leaves_nothing_behind(node):
    for index, name in enumerate(NAMES):
        node.put(name, POWER, device=f"p{index % 2}")
    node.disk("gone", POWER).delete(Timestamp.at(green.now()))
    at = [(name, f"p{index % 2}") for index, name in enumerate(NAMES)]

    # The ring is prepared; servers link what they write, the relinker the rest.
    node.use(PREPARED)
    node.put("written meanwhile", POWER, following=POWER + 1)
    node.put(NAMES[0], POWER, at=1, following=POWER + 1)
    assert node.relink("relink") == 0
    for name, device in at:
        old, new = (node.directory(name, power, device) for power in (POWER, POWER + 1))
        for file in old.iterdir():
            assert (new / file.name).stat().st_ino == file.stat().st_ino
        assert node.get(name, POWER, device) == node.get(name, POWER + 1, device)

    # The ring has the new part power; the old names go.
    node.use(INCREASED)
    node.put("written later", POWER + 1, following=POWER + 1)
    assert node.relink("cleanup") == 0
    for name, device in [*at, ("written meanwhile", "p0"), ("written later", "p0")]:
        assert node.get(name, POWER + 1, device) == name.encode()
        old, new = (node.directory(name, power, device) for power in (POWER, POWER + 1))
        assert old == new or not old.exists()
    assert list(node.directory("gone", POWER + 1).iterdir())

    # No partition is left without objects, and the next pass has its hashes.
    for device in ("p0", "p1"):
        for partition in (node.srv / device / "objects").iterdir():
            assert [path for path in partition.glob("*/*") if path.is_dir()]
            found = node.disks.suffix_hashes(device, partition.name)
            listed = {path.name for path in partition.iterdir() if path.is_dir()}
            assert set(found) == listed
    node.use(FINISHED)
    assert node.relink("cleanup") == 2


def test_recon_and_state_tell_how_far_it_is(node):
    node.put("one", POWER)
    node.use(PREPARED)
    assert node.relink("relink") == 0

    partition = int(node.directory("one", POWER).parent.parent.name)
    assert node.state() == {
        "part_power": POWER,
        "next_part_power": POWER + 1,
        "state": {str(partition): True},
    }
    recon = read_cache(str(node.cache / "relinker.recon"))
    device = recon["devices"]["p0"]
    moved = int(node.directory("one", POWER + 1) != node.directory("one", POWER))
    assert device["parts_done"] == device["total_parts"] == 1
    assert device["stats"] == {
        "hash_dirs": moved, "files": moved, "linked": moved, "removed": 0, "errors": 0,
    }  # fmt: skip
    assert device["policies"]["0"]["step"] == "relink"
    assert device["policies"]["0"]["next_part_power"] == POWER + 1
    workers = list(recon["workers"].values())
    assert sorted(worker["devices"] for worker in workers) == [["p0"], ["p1"]]
    assert [worker["return_code"] for worker in workers] == [0, 0]


def test_a_rerun_goes_on_where_the_last_one_stopped(node):
    for name in NAMES:
        node.put(name, POWER)
    node.use(PREPARED)
    first = node.directory(NAMES[0], POWER)
    only = ["-p", first.parent.parent.name]
    assert node.relink("relink", "--device", "p0", "--workers", "0", *only) == 0
    state = node.state()["state"]
    assert state == {first.parent.parent.name: True}

    # What is marked done is not looked at again, so what is put back stays.
    for name in NAMES:
        if node.directory(name, POWER) != node.directory(name, POWER + 1):
            assert node.directory(name, POWER + 1).exists() == (
                node.directory(name, POWER).parent.parent == first.parent.parent
            )
    (node.srv / "p0/relink.objects.json").write_text("{half a file")
    assert node.relink("relink") == 0
    assert all(node.directory(name, POWER + 1).exists() for name in NAMES)


def collide(node: Node, extension: str = ".data") -> tuple[Path, Path]:
    """An object whose new place is taken by another file of the same name."""
    name = next(
        each
        for each in NAMES
        if node.directory(each, POWER) != node.directory(each, POWER + 1)
    )
    node.put(name, POWER)
    old, new = node.directory(name, POWER), node.directory(name, POWER + 1)
    file = next(old.iterdir())
    if extension != ".data":
        file = file.rename(file.with_suffix(extension))
    new.mkdir(parents=True)
    (new / file.name).write_bytes(b"another")
    return file, new / file.name


def test_a_collision_is_an_error_and_both_files_stay(node):
    old, new = collide(node)
    node.use(PREPARED)
    assert node.relink("relink") == 1
    assert new.read_bytes() == b"another"
    assert old.exists()
    path = node.srv / "p0/relink.objects.json"
    if path.exists():  # another partition, of the new place, is done
        assert node.state()["state"][old.parent.parent.parent.name] is False
    node.use(INCREASED)
    assert node.relink("cleanup") == 1
    assert old.exists()


def test_clobbering_quarantines_in_relink_and_keeps_the_new_in_cleanup(node):
    old, new = collide(node)
    node.use(PREPARED)
    assert node.relink("relink", "--clobber-hardlink-collisions") == 0
    assert new.stat().st_ino == old.stat().st_ino
    aside = node.srv / "p0/quarantined/objects" / new.parent.name / new.name
    assert aside.read_bytes() == b"another"

    new.unlink()
    new.write_bytes(b"another")
    node.use(INCREASED)
    assert node.relink("cleanup", "--clobber-hardlink-collisions") == 0
    assert new.read_bytes() == b"another"
    assert not old.exists()


def test_tombstones_of_one_time_do_not_collide(node):
    old, new = collide(node, ".ts")
    node.use(PREPARED)
    assert node.relink("relink") == 0
    node.use(INCREASED)
    assert node.relink("cleanup") == 0
    assert new.exists()
    assert not old.exists()


def test_what_a_newer_file_has_replaced_is_not_linked(node):
    name = NAMES[3]
    node.put(name, POWER, at=-10)
    stale = next(node.directory(name, POWER).iterdir())
    node.use(INCREASED)
    node.put(name, POWER + 1)
    assert node.relink("cleanup") == 0
    new = node.directory(name, POWER + 1)
    assert len(list(new.iterdir())) == 1
    assert stale.name not in os.listdir(new)
    assert not stale.exists()


def test_devices_that_are_away_or_cannot_be_listed_are_errors(node, capfd):
    node.put("one", POWER)
    node.use(PREPARED)
    assert node.relink("relink", "--device", "p7", "--workers", "0") == 1
    (node.srv / "p0/objects/3").write_bytes(b"no directory")
    assert node.relink("relink") == 1
    recon = read_cache(str(node.cache / "relinker.recon"))
    assert recon["devices"]["p0"]["stats"]["unlistable_partitions"] == 1
    assert capfd.readouterr().out == ""


def test_another_run_on_the_device_is_an_error(node):
    node.put("one", POWER)
    node.use(PREPARED)
    with node.disks.devices.fs.locked(f"{node.srv}/p0/.relink.objects.lock", 1):
        assert node.relink("relink") == 1
    assert node.relink("relink") == 0


def test_exit_codes_without_work(node, capsys, tmp_path):
    assert node.relink("relink") == 2
    node.use(PREPARED)
    assert node.relink("cleanup") == 2
    assert node.relink("relink", "--policy", "lead") == 1
    assert node.relink("relink", "--policy", "gold") == 0
    (tmp_path / "other.conf").write_text("[DEFAULT]\n")
    assert main(["relink", str(tmp_path / "other.conf")]) == 1
    assert "object-relinker" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["dance"])
    assert stop.value.code == 2


def test_options_may_stand_before_the_configuration(node):
    node.use(PREPARED)
    assert main(["relink", "--policy", "gold", "--device", "p0", str(node.conf)]) == 0
    assert main(["--policy", "gold", "relink", str(node.conf)]) == 0


def test_without_a_file_it_tells_a_log_of_its_own(node, tmp_path):
    node.put("one", POWER)
    node.use(PREPARED)
    log = tmp_path / "relink.log"
    words = ["--swift-dir", str(node.etc), "--devices", str(node.srv)]
    code = main(
        [
            "relink",
            *words,
            "--skip-mount-check",
            "--workers",
            "0",
            "--logfile",
            str(log),
        ]
    )
    assert code == 0
    text = log.read_text()
    assert f"[step=relink, pid={os.getpid()}, devs=p0,p1] " in text
    assert "Device: p0 Policy: gold Partitions: 1/1" in text
    assert " hash dirs processed (" in text
