# SPDX-License-Identifier: Apache-2.0
"""swift-drive-audit on a machine made of files."""

# ruff: noqa: DTZ001, DTZ005
# Kernel logs are written in local time without a zone, and so are these.

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from swift.cli.drive_audit import Host, lines_backwards, main, time_of
from swift.runtime.recon import read_cache

NOW = datetime.now()
FSTAB = """\
# devices
/dev/sdb1 {srv}/sdb xfs noatime 0 0
/dev/sdc1 {srv}/sdc xfs noatime 0 0
"""


class Machine:
    """A machine with two mounted devices and a log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.srv = folder / "srv"
        self.log = folder / "kern.log"
        self.fstab = folder / "fstab"
        self.calls = folder / "calls"
        (folder / "mounts").write_text(
            f"/dev/sdb1 {self.srv}/sdb xfs rw 0 0\n"
            f"/dev/sdc1 {self.srv}/sdc xfs rw 0 0\n"
            "/dev/sda1 / ext4 rw 0 0\n"
        )
        self.fstab.write_text(FSTAB.format(srv=self.srv))
        (folder / "bin").mkdir()
        for name in ("umount", "systemctl"):
            program = folder / "bin" / name
            program.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.calls}\n')
            program.chmod(0o755)

    def run(self, **options: object) -> int:
        settings = {
            "device_dir": self.srv,
            "log_file_pattern": f"{self.folder}/kern.*[!.][!g][!z]",
            "recon_cache_path": self.folder,
            "log_address": "/nowhere",
            **options,
        }
        lines = [f"{key} = {value}" for key, value in settings.items()]
        conf = self.folder / "drive-audit.conf"
        conf.write_text("\n".join(["[drive-audit]", *lines]))
        host = Host(str(self.folder / "mounts"), str(self.fstab))
        return main([str(conf)], host)

    def write(self, *lines: tuple[int, str], name: str = "kern.log") -> None:
        """(minutes ago, message) in the order of time."""
        text = ""
        for minutes, message in lines:
            at = NOW - timedelta(minutes=minutes)
            text += f"{at.strftime('%b %d %H:%M:%S')} host kernel: {message}\n"
        (self.folder / name).write_text(text)

    @property
    def recon(self) -> dict[str, object]:
        found = read_cache(str(self.folder / "drive.recon"))
        return {key.removeprefix(f"{self.srv}/"): value for key, value in found.items()}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return made


def test_a_device_with_errors_is_unmounted_and_commented_out(machine):
    machine.write(
        (30, "sd 0:0: [sdb] I/O error, dev sdb, sector 1"),
        (20, "XFS (sdb1): metadata error"),
        (10, "nothing of interest"),
    )
    assert machine.run() == 0
    assert machine.recon == {"sdb": 2, "sdc": 0, "drive_audit_errors": 2}
    assert machine.calls.read_text() == (
        f"umount -fl {machine.srv}/sdb\nsystemctl daemon-reload\n"
    )
    assert machine.fstab.read_text().splitlines()[1] == (
        f"#/dev/sdb1 {machine.srv}/sdb xfs noatime 0 0"
    )
    assert machine.fstab.read_text().splitlines()[2].startswith("/dev/sdc1")


def test_below_the_limit_and_without_leave_nothing_is_unmounted(machine):
    machine.write((5, "error on sdb"))
    assert machine.run(error_limit=2) == 0
    assert machine.run(unmount_failed_device="false") == 0
    assert machine.recon["sdb"] == 1
    assert not machine.calls.exists()
    assert machine.fstab.read_text() == FSTAB.format(srv=machine.srv)


def test_the_window_and_the_last_boot_end_the_look_back(machine):
    machine.write((200, "error on sdb"), (90, "error on sdb"), (10, "error on sdc"))
    assert machine.run(error_limit=9) == 0
    assert machine.recon["drive_audit_errors"] == 1
    assert machine.run(error_limit=9, minutes=100) == 0
    assert machine.recon["drive_audit_errors"] == 2
    machine.write((20, "error on sdb"), (10, "[    0.000000] Linux version 6"))
    assert machine.run(error_limit=9) == 0
    assert machine.recon["drive_audit_errors"] == 0


def test_older_log_files_are_read_when_the_newest_does_not_reach_back(machine):
    machine.write((30, "error on sdb"), name="kern.log.1")
    os.utime(machine.folder / "kern.log.1", (1, 1))
    machine.write((10, "error on sdc"))
    (machine.folder / "kern.log.2.gz").write_bytes(b"\x1f\x8b")
    assert machine.run(error_limit=9) == 0
    assert machine.recon["drive_audit_errors"] == 2


def test_patterns_of_ones_own_take_the_place_of_the_default(machine):
    machine.write((5, "error on sdb"), (4, "sdc is on fire"))
    assert machine.run(regex_pattern_1=r"(sd\w) is on fire", error_limit=9) == 0
    assert machine.recon == {"sdb": 0, "sdc": 1, "drive_audit_errors": 1}


def test_what_cannot_be_audited_says_why(machine, capsys, tmp_path):
    assert main([]) == 1
    assert main([str(tmp_path / "absent.conf")]) == 1
    assert "absent.conf" in capsys.readouterr().err
    machine.write((5, "error on sdb"))
    assert machine.run(regex_pattern_1="(") == 1
    assert "regex_pattern_1" in capsys.readouterr().err
    assert machine.run(log_file_encoding="klingon") == 1
    (machine.folder / "kern.dir").mkdir()
    assert machine.run() == 1
    (machine.folder / "mounts").write_text("")
    assert machine.run() == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Mar  1 10:11:12 host kernel: x", datetime(2026, 3, 1, 10, 11, 12)),
        ("Dec 31 23:59:59 host kernel: x", datetime(2025, 12, 31, 23, 59, 59)),
        ("2026-03-01T10:11:12 host kernel: x", datetime(2026, 3, 1, 10, 11, 12)),
        ("Feb 30 10:11:12 host kernel: x", None),
        ("Foo 30 10:11:12 host kernel: x", None),
        ("no time at all", None),
    ],
)
def test_times_of_log_lines(line, expected):
    assert time_of(line, datetime(2026, 3, 2)) == expected


def test_a_time_with_zone_becomes_local():
    at = time_of("2026-03-01T10:11:12.5+00:00 host", datetime(2026, 3, 2))
    assert at is not None
    assert at.astimezone().timestamp() == 1772359872.5


def test_lines_come_from_the_last_to_the_first(tmp_path):
    path = tmp_path / "log"
    lines = [f"line {number} {'x' * (number % 200)}" for number in range(2000)]
    path.write_text("\n".join(lines))
    assert list(lines_backwards(str(path), "utf-8")) == lines[::-1]
    path.write_bytes(b"\xff\n")
    assert list(lines_backwards(str(path), "utf-8")) == ["\ufffd"]
