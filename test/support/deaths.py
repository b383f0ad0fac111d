# SPDX-License-Identifier: Apache-2.0
"""A process dies before each change that an operation makes to files, one by one.

`deaths_of` repeats an operation once for each of its changes, in a forked process that
is killed with SIGKILL just before that change: system calls are counted (`mortal.c`,
which has to be preloaded), so that those of SQLite are among them. After each death
what lies there is opened again and must be as before the operation or as after it; then
the operation is repeated and must come to its end.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import struct
import subprocess
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from test.support.cluster import ROOT

NEVER = -1
_TEMPORARY = ("/tmp/", ".tmp")
"""What daemons remove once it is older than the reclaim age."""


@dataclass(frozen=True)
class Operation:
    """Something that a process may die of.

    prepare: makes what is there before, in a folder. act: does it; done twice, it does
    no harm. look: opens what is there and says what matters of it.
    """

    name: str
    prepare: Callable[[Path], object]
    act: Callable[[Path], object]
    look: Callable[[Path], Any]


def build(folder: Path) -> Path:
    """Compile what is preloaded. Raises FileNotFoundError without a compiler."""
    library = folder / "mortal.so"
    source = str(ROOT / "test" / "support" / "mortal.c")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"],
        check=True,
    )
    return library


def deaths_of(operation: Operation, folder: Path) -> tuple[int, list[str]]:
    """(number of changes, what went wrong after a death before one of them)."""
    start, run = folder / "start", folder / "run"
    start.mkdir(parents=True)
    operation.prepare(start)
    _copy(start, run)
    before = operation.look(run)
    _copy(start, run)
    count = _in_child(operation, run, NEVER)
    assert count is not None, f"{operation.name} does not come to its end"
    after = operation.look(run)
    names = _names(run)
    problems = []
    for death in range(count):
        _copy(start, run)
        if _in_child(operation, run, death) is not None:
            problems.append(f"{death}: it lives")
            continue
        try:
            found = operation.look(run)
            if found not in (before, after):
                problems.append(f"{death}: {found}, not {before} or {after}")
            operation.act(run)
            found = operation.look(run)
        except Exception:
            problems.append(f"{death}: {traceback.format_exc(limit=-3)}")
            continue
        if found != after:
            problems.append(f"{death}: {found} after another try, not {after}")
        left = _names(run) - names
        problems += [f"{death}: {name} is left" for name in sorted(left)]
    shutil.rmtree(folder)
    return count, problems


def _in_child(operation: Operation, root: Path, death: int) -> int | None:
    """Act in a child that dies before a change; how many there were if it lives."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            mortal = ctypes.CDLL(None)
            mortal.mortal_arm(ctypes.c_long(death))
            operation.act(root)
            mortal.mortal_count.restype = ctypes.c_long
            os.write(writer, struct.pack("l", mortal.mortal_count()))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, "rb") as stream:
        data = stream.read()
    status = os.waitpid(pid, 0)[1]
    if data:
        return int(struct.unpack("l", data)[0])
    assert os.WIFSIGNALED(status), f"{operation.name} fails; its traceback is above"
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    return None


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def _names(root: Path) -> set[str]:
    """The files below a folder, but for temporary ones and directories."""
    found = set()
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)[len(str(root)) :]
            if not any(part in path for part in _TEMPORARY):
                found.add(path)
    return found
