# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from swift.core.ring.devices import Device
from swift.daemons import rsync
from swift.daemons.rsync import (
    Limits,
    module_of,
    module_template,
    object_arguments,
    run_rsync,
)

DEVICE = Device(1, 2, 3, "10.0.0.1", 6200, "::1", 6300, "sdb", 1.0, "note")


@pytest.mark.parametrize(
    ("template", "module"),
    [
        ("{replication_ip}::object", "[::1]::object"),
        ("{ip}::object_{device}", "10.0.0.1::object_sdb"),
        (
            "rsync://{ip}:{port}/{region}-{zone}/{meta}/",
            "rsync://10.0.0.1:6200/2-3/note",
        ),
        ("{replication_ip}:{replication_port}", "[::1]:6300"),
    ],
)
def test_where_a_module_is(template, module):
    assert module_of(template, DEVICE) == module


@pytest.mark.parametrize("template", ["", " / ", "{host}::object", "{ip.__class__}{}"])
def test_templates_that_cannot_be_filled_are_refused(template):
    with pytest.raises(ValueError, match=r"placeholder|empty"):
        module_template(template)


def test_the_arguments_are_those_that_receivers_know():
    limits = Limits(30, "0")
    found = object_arguments(["/d/a", "/d/b"], "m::t/1", limits, compress=True)
    assert found == [
        "--recursive",
        "--whole-file",
        "--human-readable",
        "--xattrs",
        "--itemize-changes",
        "--ignore-existing",
        "--timeout=30",
        "--contimeout=30",
        "--bwlimit=0",
        "--exclude=.*.[0-9a-zA-Z][0-9a-zA-Z][0-9a-zA-Z]"
        "[0-9a-zA-Z][0-9a-zA-Z][0-9a-zA-Z]",
        "--compress",
        "/d/a",
        "/d/b",
        "m::t/1",
    ]
    plain = object_arguments(["a"], "/folder", limits, compress=False)
    assert "--compress" not in plain
    assert "--contimeout=30" not in plain, "rsync refuses it without a daemon"


def test_a_run_tells_its_command_code_and_output(tmp_path, monkeypatch):
    program = tmp_path / "fake"
    program.write_text("#!/bin/sh\necho one $1\necho two >&2\necho\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(rsync, "PROGRAM", str(program))
    found = run_rsync(["x"], 5)
    assert (found.code, found.succeeded) == (3, False)
    assert found.argv == [str(program), "x"]
    assert found.lines == ["one x", "two"]


def test_a_run_that_takes_too_long_is_killed(tmp_path, monkeypatch):
    program = tmp_path / "fake"
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    monkeypatch.setattr(rsync, "PROGRAM", str(program))
    found = run_rsync([], 0.1)
    assert not found.succeeded
    assert "killed" in found.output


def test_a_machine_without_rsync_is_a_failure_and_no_more(monkeypatch):
    monkeypatch.setattr(rsync, "PROGRAM", "/nonexistent/rsync")
    found = run_rsync([], 1)
    assert not found.succeeded
    assert "/nonexistent/rsync" in found.output
