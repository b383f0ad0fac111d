# SPDX-License-Identifier: Apache-2.0
"""swift-reload, swift-oldies and swift-orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swift.cli.processes import (
    command_line,
    is_python,
    is_script,
    oldies,
    orphans,
    reload,
    signal_number,
)
from test.support.cluster import wait_until


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that was started as `…/bin/swift-napper`."""
    script = tmp_path / "bin" / "swift-napper"
    script.parent.mkdir()
    script.write_text("import signal\nprint('up', flush=True)\nsignal.pause()\n")
    process = subprocess.Popen(
        [sys.executable, str(script), "a.conf"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def row_of(text: str, pid: int) -> str:
    rows = [line for line in text.splitlines() if f" {pid} " in line]
    return rows[0] if rows else ""


def test_oldies_lists_by_age(daemon, capsys):
    assert oldies(["-a", "0"]) == 0
    table = capsys.readouterr().out
    assert table.splitlines()[0].split() == ["Hours", "PID", "Command"]
    assert row_of(table, daemon.pid).split() == [
        "0",
        str(daemon.pid),
        "napper",
        "a.conf",
    ]
    assert all(len(line) <= 80 for line in table.splitlines())

    assert oldies(["-a", "0", "-p"]) == 0
    assert str(daemon.pid) in capsys.readouterr().out.splitlines()
    assert oldies(["-a", "10000000"]) == 0
    assert capsys.readouterr().out == ""


def test_orphans_are_those_that_no_pid_file_knows(daemon, tmp_path, capsys):
    run = tmp_path / "run"
    (run / "napper").mkdir(parents=True)
    assert orphans(["-a", "0", "-r", str(run)]) == 0
    assert row_of(capsys.readouterr().out, daemon.pid)

    (run / "napper" / "1.pid").write_text(str(daemon.pid))
    assert orphans(["-a", "0", "-r", str(run)]) == 0
    assert not row_of(capsys.readouterr().out, daemon.pid)

    # A child of a known process is known as well.
    (run / "napper" / "1.pid").write_text(str(os.getpid()))
    assert orphans(["-a", "0", "-r", str(run)]) == 0
    assert not row_of(capsys.readouterr().out, daemon.pid)


def test_orphans_refuses_signals_that_do_not_exist(capsys):
    assert orphans(["-k", "DANCE"]) == 1
    assert "DANCE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", signal.SIGTERM),
        ("sigterm", signal.SIGTERM),
        ("15", signal.SIGTERM),
        ("9", signal.SIGKILL),
        ("0", None),
        ("999", None),
        ("", None),
    ],
)
def test_signals_by_name_and_number(text, number):
    assert signal_number(text) == number


def test_reload_refuses_what_is_no_server(daemon, capsys):
    assert reload([str(daemon.pid)]) == 2
    assert "swift-napper" in capsys.readouterr().err
    daemon.kill()
    wait_until(lambda: not command_line(daemon.pid), 5, "end of the process")
    assert reload([str(daemon.pid)]) == 2
    with pytest.raises(SystemExit) as stop:
        reload(["not-a-pid"])
    assert stop.value.code == 2


def test_programs_are_known_by_their_paths():
    assert is_python("/usr/bin/python3")
    assert not is_python("/bin/sh")
    assert is_script("/usr/local/bin/swift-object-server")
    assert not is_script("/usr/local/bin/swifty")


def server(tmp_path: Path, on_signal: str) -> subprocess.Popen[bytes]:
    """A stand-in for a server's manager; on_signal: its code for USR1."""
    script = tmp_path / "bin" / "swift-object-server"
    script.parent.mkdir()
    script.write_text(
        "import os, signal, socket, sys\n"
        "if '--test-config' in sys.argv:\n    sys.exit('bad' in sys.argv)\n"
        "def say(text):\n"
        "    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:\n"
        "        out.sendto(text, '\\0swift-notifications\\0%d' % os.getpid())\n"
        f"def act(*_):\n    {on_signal}\n"
        "signal.signal(signal.SIGUSR1, act)\n"
        "print('up', flush=True)\n"
        "while True:\n    signal.pause()\n"
    )
    words = [sys.executable, str(script), "a.conf"]
    if on_signal == "bad":
        words.append("bad")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.mark.parametrize(
    ("on_signal", "code", "said"),
    [
        pytest.param(
            "say(b'RELOADING=1'); say(b'READY=1')", 0,
            "Reloaded swift-object-server\n", id="ready",
        ),
        pytest.param("os._exit(0)", 1, "", id="ended"),
        pytest.param("say(b'RELOADING=1')", 238, "", id="late"),
        pytest.param("bad", 1, "", id="bad configuration"),
    ],
)  # fmt: skip
def test_reload_waits_for_what_the_server_says(tmp_path, capsys, on_signal, code, said):
    process = server(tmp_path, on_signal)
    try:
        assert reload(["-t", "1.5", str(process.pid)]) == code
        found = capsys.readouterr()
        assert found.out == said
        assert bool(found.err) == bool(code)
    finally:
        process.kill()
        process.communicate()
