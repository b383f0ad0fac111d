# SPDX-License-Identifier: Apache-2.0
"""swift-reload, swift-oldies and swift-orphans: commands about processes that run.

What a process is, the kernel says in /proc. Contract cli §8.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from swift.runtime import green
from swift.runtime.process import NotifyListener

SERVERS = ("proxy-server", "account-server", "container-server", "object-server")
RUN_DIR = "/var/run/swift"
RELOAD_TIMEOUT_S = 300.0
EXIT_UNSUITABLE = 2
EXIT_TIMEOUT = 128 + errno.ETIMEDOUT

_LOOK_S = 1.0
_WIDTH = 80
_PROC = Path("/proc")


def command_line(pid: int) -> list[str]:
    """The words that a process was started with; none if it is gone or ended."""
    try:
        data = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(word) for word in data.split(b"\0")[:-1]]


# --- swift-reload ---------------------------------------------------------------------


class Unsuitable(Exception):
    """The process is not one that can be reloaded; the text says why."""


def reload(argv: Sequence[str] | None = None) -> int:
    """Run swift-reload; the exit code."""
    parser = argparse.ArgumentParser(
        prog="swift-reload",
        description="Make a running server run itself anew, without a request lost, "
        "and wait until the new one is ready.",
    )
    parser.add_argument("pid", type=int, help="of the server's manager process")
    waiting = parser.add_mutually_exclusive_group()
    waiting.add_argument(
        "-t", "--timeout", type=float, default=RELOAD_TIMEOUT_S, metavar="SECONDS",
        help="how long to wait (default %(default)s)",
    )  # fmt: skip
    waiting.add_argument("-w", "--no-wait", action="store_true", help="do not wait")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")
    options = parser.parse_args(argv)
    try:
        words, program = reloadable(options.pid)
    except Unsuitable as error:
        print(error, file=sys.stderr)
        return EXIT_UNSUITABLE
    if options.verbose:
        print(f"Checking config for {program}")
    check = subprocess.run(
        [*words, "--test-config"], check=False, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, cwd=_directory(options.pid), text=True,
    )  # fmt: skip
    if check.returncode:
        print(f"Config check failed:\n{check.stdout.rstrip()}", file=sys.stderr)
        return 1
    try:
        return _signal_and_wait(options, program)
    except OSError as error:
        print(f"Could not reload {program}: {error}", file=sys.stderr)
        return 1


def _directory(pid: int) -> str:
    try:
        return os.readlink(_PROC / str(pid) / "cwd")
    except OSError:
        return "/"


def reloadable(pid: int) -> tuple[list[str], str]:
    """(command line, name) of a server's manager. Raises Unsuitable."""
    words = command_line(pid)
    if not words:
        raise Unsuitable(
            f"Failed to get process information for {pid}: no such process"
        )
    scripts = [word for word in words if "/bin/" in word and "swift-" in word]
    if len(scripts) != 1:
        raise Unsuitable(f"PID {pid} does not seem to be a server: {' '.join(words)}")
    program = os.path.basename(scripts[0])
    if program.removeprefix("swift-") not in SERVERS:
        raise Unsuitable(f"{program} cannot be reloaded; servers can")
    try:
        leader = os.getsid(pid)
    except OSError as error:
        raise Unsuitable(f"PID {pid}: {error.strerror}") from error
    if leader != pid:
        raise Unsuitable(
            f"PID {pid} is a worker of {program}; did you mean its manager, {leader}?"
        )
    # A re-executed server says --test-config no more than it did the first time.
    return words, program


def _signal_and_wait(options: argparse.Namespace, program: str) -> int:
    pid = options.pid
    if options.verbose:
        print("Sending USR1 signal")
    if options.no_wait:
        os.kill(pid, signal.SIGUSR1)
        return 0
    with NotifyListener(pid) as listener:
        os.kill(pid, signal.SIGUSR1)
        deadline = green.monotonic() + options.timeout
        while True:
            left_s = deadline - green.monotonic()
            message = listener.receive(min(left_s, _LOOK_S)) if left_s > 0 else None
            if message is None and left_s > 0:
                if command_line(pid):
                    continue
                print(f"{program} ended instead of reloading", file=sys.stderr)
                return 1
            if message is None:
                print(f"Timed out reloading {program}", file=sys.stderr)
                return EXIT_TIMEOUT
            state = message.decode("ascii", "replace").rpartition("=")[0]
            if options.verbose and state in ("READY", "RELOADING"):
                print(f"Process is {state}")
            if state == "READY":
                print(f"Reloaded {program}")
                return 0


# --- swift-oldies, swift-orphans ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Process:
    """A process of ours. age_s: since its start. command: without `swift-`."""

    pid: int
    parent: int
    age_s: float
    command: str


def oldies(argv: Sequence[str] | None = None) -> int:
    """Run swift-oldies; the exit code."""
    parser = argparse.ArgumentParser(
        prog="swift-oldies", description="List processes that run for a long time."
    )
    parser.add_argument(
        "-a", "--age", type=float, default=720, metavar="HOURS",
        help="least age (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("-p", "--pids", action="store_true", help="only pids")
    options = parser.parse_args(argv)
    found = [one for one in running() if one.age_s >= options.age * 3600]
    if options.pids:
        for one in found:
            print(one.pid)
    else:
        print_table(found)
    return 0


def orphans(argv: Sequence[str] | None = None) -> int:
    """Run swift-orphans; the exit code."""
    parser = argparse.ArgumentParser(
        prog="swift-orphans",
        description="List processes that no pid file knows, and signal them.",
    )
    parser.add_argument(
        "-a", "--age", type=float, default=24, metavar="HOURS",
        help="least age (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("-k", "--kill", metavar="SIGNAL", help="send this to them")
    parser.add_argument("-w", "--wide", action="store_true", help="do not cut lines")
    parser.add_argument("-r", "--run-dir", default=RUN_DIR, help="where pid files are")
    options = parser.parse_args(argv)
    number = None
    if options.kill:
        number = signal_number(options.kill)
        if number is None:
            print(f"Unknown signal: {options.kill}", file=sys.stderr)
            return 1
    known = set(known_pids(Path(options.run_dir)))
    found = [
        one
        for one in running()
        if one.age_s >= options.age * 3600
        and one.pid not in known
        and one.pid != os.getpid()
        and one.parent not in known
        and "once" not in one.command.split()
    ]
    print_table(found, wide=options.wide)
    if found and number is not None:
        name = signal.Signals(number).name.removeprefix("SIG")
        print(f"Sending processes {name} ({number}) signal...", end="", flush=True)
        for one in found:
            try:
                os.kill(one.pid, number)
            except OSError as error:
                print(f"{one.pid}: {error.strerror}", file=sys.stderr)
        print("Done.")
    return 0


def signal_number(text: str) -> int | None:
    """The signal of a number or a name (`TERM`, `sigterm`); None if there is none."""
    try:
        if text.isdecimal():
            return signal.Signals(int(text))
        return signal.Signals[f"SIG{text.upper().removeprefix('SIG')}"]
    except (KeyError, ValueError):
        return None


def known_pids(run_dir: Path) -> Iterator[int]:
    """The pids in pid files, at any depth."""
    for path in run_dir.rglob("*"):
        if path.name.endswith((".pid", ".pid.d")) and path.is_file():
            text = path.read_text(errors="replace").strip()
            if text.isdecimal():
                yield int(text)


def running() -> Iterator[Process]:
    """Every process that runs one of our programs with Python, by pid."""
    uptime_s = float((_PROC / "uptime").read_text().split()[0])
    ticks = os.sysconf("SC_CLK_TCK")
    pids = sorted(int(path.name) for path in _PROC.iterdir() if path.name.isdecimal())
    for pid in pids:
        words = command_line(pid)
        if len(words) < 2 or not is_python(words[0]) or not is_script(words[1]):
            continue
        try:
            stat = (_PROC / str(pid) / "stat").read_text()
        except OSError:
            continue
        # Behind the name, which may hold blanks and brackets: state, parent, …
        fields = stat.rpartition(")")[2].split()
        age_s = max(0.0, uptime_s - int(fields[19]) / ticks)
        name = os.path.basename(words[1]).removeprefix("swift-")
        yield Process(pid, int(fields[1]), age_s, " ".join([name, *words[2:]]))


def is_python(word: str) -> bool:
    """True for the path or name of a Python interpreter."""
    return os.path.basename(word).startswith("python")


def is_script(word: str) -> bool:
    """True for the path of one of our programs."""
    folder, name = os.path.split(word)
    return name.startswith("swift-") and os.path.basename(folder) == "bin"


def print_table(found: Sequence[Process], *, wide: bool = False) -> None:
    """Hours, pid and command of each; nothing when there is none."""
    if not found:
        return
    rows = [(str(int(one.age_s // 3600)), str(one.pid), one.command) for one in found]
    hours = max(5, *(len(row[0]) for row in rows))
    pids = max(4, *(len(row[1]) for row in rows))
    print(f"{'Hours':>{hours}} {'PID':>{pids}} Command")
    for age, pid, command in rows:
        line = f"{age:>{hours}} {pid:>{pids}} {command}"
        print(line if wide else line[:_WIDTH])
