# SPDX-License-Identifier: Apache-2.0
"""One run of the system's rsync: its arguments, its time limit, what came of it.

The peer is a module of an rsync daemon; where that is, the operator's template says.
Contract daemons §8, backend-http §10.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swift.core.ring.devices import Device
from swift.runtime import green

PROGRAM = "rsync"
EXCLUDE = "--exclude=.*." + "[0-9a-zA-Z]" * 6
"""rsync's own temporary files, which are not to travel on."""

COULD_NOT_RUN = -1
"""The exit code of an rsync that was not found or took too long."""

_PLACEHOLDER = re.compile(r"\{([a-z_]*)\}")
_FIELDS = frozenset(
    (
        "ip",
        "port",
        "replication_ip",
        "replication_port",
        "region",
        "zone",
        "device",
        "meta",
    )
)


def module_template(text: str) -> str:
    """The option `rsync_module`; raises ValueError for an unknown placeholder."""
    text = text.strip().rstrip("/")
    for field in _PLACEHOLDER.findall(text):
        if field not in _FIELDS:
            raise ValueError(f"has no placeholder {{{field}}}")
    if not text:
        raise ValueError("must not be empty")
    return text


def module_of(template: str, device: Device) -> str:
    """The module of a device's node; IPv6 addresses are written in brackets.

    Raises ValueError for an unknown placeholder.
    """
    values = {
        "ip": _bracketed(device.ip),
        "port": str(device.port),
        "replication_ip": _bracketed(device.replication_ip),
        "replication_port": str(device.replication_port),
        "region": str(device.region),
        "zone": str(device.zone),
        "device": device.name,
        "meta": device.meta,
    }
    template = module_template(template)
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def is_remote(target: str) -> bool:
    """True when a target is in a module of an rsync daemon, False for a folder here.

    rsync refuses the options about connecting for a folder, which one-machine clusters
    have in the place of a module.
    """
    return "::" in target or target.startswith("rsync://")


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds an rsync back.

    io_timeout_s: of no progress, whole seconds. bandwidth: KB a second, 0 for any, in
    rsync's own spelling.
    """

    io_timeout_s: int
    bandwidth: str


def object_arguments(
    sources: Sequence[str], target: str, limits: Limits, *, compress: bool
) -> list[str]:
    """What rsync is called with to push suffix directories to a peer's partition."""
    arguments = [
        "--recursive",
        "--whole-file",
        "--human-readable",
        "--xattrs",
        "--itemize-changes",
        "--ignore-existing",
        f"--timeout={limits.io_timeout_s}",
    ]
    if is_remote(target):
        arguments.append(f"--contimeout={limits.io_timeout_s}")
    arguments += [f"--bwlimit={limits.bandwidth}", EXCLUDE]
    if compress:
        arguments.append("--compress")
    return [*arguments, *sources, target]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    argv: the whole command. code: its exit code. output: what it printed, on either
    stream.
    """

    argv: Sequence[str]
    code: int
    output: str
    elapsed_s: float

    @property
    def succeeded(self) -> bool:
        """True when everything was copied."""
        return self.code == 0

    @property
    def lines(self) -> list[str]:
        """The lines of the output that say something."""
        return [line for line in self.output.splitlines() if line.strip()]


def run_rsync(arguments: Sequence[str], limit_s: float) -> Outcome:
    """Run rsync to its end, or kill it after limit_s. Yields."""
    return green.in_thread(_runner, arguments, limit_s)


def run_rsync_blocking(arguments: Sequence[str], limit_s: float) -> Outcome:
    """As `run_rsync`, on a thread of the caller's."""
    argv = [PROGRAM, *arguments]
    started = green.monotonic()
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        code, output = COULD_NOT_RUN, f"killed after {limit_s}s"
    except OSError as error:
        code, output = COULD_NOT_RUN, f"{PROGRAM}: {error.strerror}"
    else:
        code, output = done.returncode, done.stdout.decode("utf-8", "replace")
    return Outcome(argv, code, output, green.monotonic() - started)


Runner = Callable[[Sequence[str], float], Outcome]

_runner: Runner = run_rsync_blocking


def install(runner: Runner | None) -> None:
    """Let another than the real rsync copy, for simulations; None ends that."""
    global _runner
    _runner = runner or run_rsync_blocking
