# SPDX-License-Identifier: Apache-2.0
"""swift-init: which processes it starts, stops and shows, and how it ends."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swift.cli.init import main

LIVES = """\
#!/bin/sh
exec 1>&- 2>&-
while :; do sleep 0.1; done
"""
ENDS = """\
#!/bin/sh
echo "$0 $*" >> "$SEEN"
"""
COMPLAINS = """\
#!/bin/sh
echo 'no such device'
exit 3
"""


class Machine:
    """A machine with programs of our names; `run` is swift-init on it."""

    def __init__(self, folder: Path) -> None:
        self.etc, self.pids, self.bin = folder / "etc", folder / "run", folder / "bin"
        self.seen = folder / "seen"
        for path in (self.etc, self.bin):
            path.mkdir()

    def install(self, program: str, text: str) -> None:
        path = self.bin / f"swift-{program}"
        path.write_text(text)
        path.chmod(0o755)

    def configure(self, name: str, text: str = "[DEFAULT]\n") -> Path:
        path = self.etc / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        return path

    def run(self, *words: str) -> int:
        return main(
            [*words, "--swift-dir", str(self.etc), "-r", str(self.pids), "-k", "60"]
        )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(made.seen))
    yield made
    for path in made.pids.rglob("*.pid"):
        subprocess.run(["kill", "-9", path.read_text()], check=False)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """What was printed since the last call, without the warnings on limits."""

    def read() -> list[str]:
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if not line.startswith("WARNING: Unable")]

    return read


def test_a_server_starts_shows_and_stops_once_per_configuration(machine, said):
    machine.install("account-server", LIVES)
    one = machine.configure("account-server/1.conf")
    two = machine.configure("account-server/2.conf")

    assert machine.run("account", "start") == 0
    assert said() == [
        f"Starting account-server...({one})",
        f"Starting account-server...({two})",
    ]
    first = (machine.pids / "account-server" / "1.pid").read_text()
    second = (machine.pids / "account-server" / "2.pid").read_text()
    assert machine.run("account-server", "status") == 0
    assert said() == [
        f"account-server running ({first} - {one})",
        f"account-server running ({second} - {two})",
    ]
    assert machine.run("account", "start") == 1
    assert said()[-1] == "account-server already started..."
    assert machine.run("account", "start", "--non-strict") == 0
    said()
    assert machine.run("account.2", "stop") == 0
    assert said() == [
        f"Signal account-server  pid: {second}  signal: 15",
        f"account-server ({second}) appears to have stopped",
    ]
    assert machine.run("account", "status", "-c", "2") == 1
    assert said() == [f"account-server #2 not running ({two})"]
    assert machine.run("stop", "account") == 0
    said()
    assert machine.run("account", "stop") == 1
    assert said() == ["No account-server running"]
    assert machine.run("account", "kill") == 0


def test_restart_replaces_what_runs(machine, said):
    machine.install("object-updater", LIVES)
    machine.configure("object-server.conf")
    assert machine.run("object-updater", "start") == 0
    pid_file = machine.pids / "object-updater.pid"
    first = pid_file.read_text()

    assert machine.run("object-updater", "restart") == 0

    assert pid_file.read_text() != first
    assert machine.run("object-updater", "reload-seamless") == 0
    assert f"pid: {pid_file.read_text()}  signal: 15" in said()[-1]
    assert machine.run("object-updater", "kill") == 0


def test_once_waits_for_the_pass_and_passes_the_word(machine, said):
    machine.install("container-updater", ENDS)
    conf = machine.configure("container-server.conf.d/a.conf").parent

    assert machine.run("container-updater", "once") == 0

    assert said() == [f"Running container-updater once...({conf})"]
    program = machine.bin / "swift-container-updater"
    assert machine.seen.read_text() == f"{program} {conf} once\n"
    assert (machine.pids / "container-updater.pid.d").is_file()


def test_a_server_that_dies_of_its_configuration_is_a_failure(machine, said):
    machine.install("proxy-server", COMPLAINS)
    machine.configure("proxy-server.conf")

    assert machine.run("proxy", "start") == 1

    assert said()[-1] == "no such device (exited with 3)"


def test_a_stale_pid_file_is_removed(machine, said):
    machine.install("account-server", LIVES)
    machine.configure("account-server.conf")
    machine.pids.mkdir()
    pid_file = machine.pids / "account-server.pid"
    # Process 1 lives, but is not ours.
    pid_file.write_text("1")

    assert machine.run("account", "status", "-v") == 1

    assert said() == [
        f"Removing stale pid file {pid_file}",
        "No account-server running",
    ]
    assert not pid_file.exists()


def test_missing_configurations_fail_only_when_the_server_was_named(machine, said):
    machine.install("account-server", LIVES)

    assert machine.run("account", "start") == 1
    assert said() == ["Unable to locate config for account-server"]
    assert machine.run("account-serv*", "start") == 0
    assert machine.run("account-serv*", "start", "--strict") == 1
    machine.configure("account-server.conf")
    said()
    assert machine.run("account", "start", "-c", "3") == 1
    assert said() == ["Unable to locate config number 3 for account-server"]


def test_the_expirer_uses_object_servers_files_that_have_its_section(machine, said):
    machine.install("object-expirer", ENDS)
    machine.configure("object-server/1.conf")
    with_section = machine.configure("object-server/2.conf", "[object-expirer]\n")

    assert machine.run("object-expirer", "once") == 0
    assert said() == [f"Running object-expirer once...({with_section})"]

    with_section.unlink()
    old = machine.configure("object-expirer.conf", "[object-expirer]\n")
    assert machine.run("object-expirer", "once") == 0
    assert said()[1:] == [f"Running object-expirer once...({old})"]
    assert (machine.pids / "object-expirer.pid").exists()


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([], id="nothing"),
        pytest.param(["object"], id="no command"),
        pytest.param(["object", "dance"], id="unknown command"),
        pytest.param(["object", "start", "--dance"], id="unknown option"),
    ],
)
def test_bad_usage_shows_help_and_fails(machine, said, words):
    assert machine.run(*words) == 1
    lines = said()
    assert lines[0].startswith("usage:")
    assert lines[-1].startswith("ERROR: ")


def test_servers_that_are_not_installed_are_left_out(machine, said):
    assert machine.run("object-dancer", "start") == 1
    assert said() == []
