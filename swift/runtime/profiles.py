# SPDX-License-Identifier: Apache-2.0
"""Profiles of code: measuring one call, adding profiles up, files that hold them.

Figures are those of the standard library's pstats, as are the files, so that
`python -m pstats FILE` reads them. For developers; nothing here is on in production.
"""

from __future__ import annotations

import importlib
import marshal
import os
import pstats
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

Code = tuple[str, int, str]
"""File, line, name of a function."""

Figures = dict[Code, tuple[int, int, float, float, dict[Code, Any]]]
"""Function → (calls that are no recursion, calls, own seconds, seconds with callees,
figures by caller)."""

_ID = re.compile(r"[0-9]+(-[0-9.]+)?")


class Profiler:
    """The sum of the calls that were measured in this process.

    module: one with a `Profile` class like that of `profile`. That of eventlet tells
    green threads apart; cProfile costs less, and counts whatever runs meanwhile.
    """

    def __init__(self, module: str) -> None:
        self._make = importlib.import_module(module).Profile
        self._sum: pstats.Stats | None = None
        self._is_busy = False

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """function(*args), measured unless another call is being measured. Yields.

        The interpreter has one place for a profiler.
        """
        if self._is_busy:
            return function(*args)
        self._is_busy = True
        profile = self._make()
        try:
            return profile.runcall(function, *args)  # type: ignore[no-any-return]
        finally:
            self._is_busy = False
            one = pstats.Stats(profile)
            self._sum = one if self._sum is None else self._sum.add(one)

    @property
    def figures(self) -> Figures:
        """The sum so far."""
        return {} if self._sum is None else dict(self._sum.stats)  # type: ignore[attr-defined]


def added(profiles: list[Figures]) -> Figures:
    """The sum of profiles."""
    total = pstats.Stats()
    for figures in profiles:
        one = pstats.Stats()
        one.stats = figures  # type: ignore[attr-defined]
        # Its `add` skips a profile that came from no file.
        one.files = ["-"]  # type: ignore[attr-defined]
        total.add(one)
    return dict(total.stats)  # type: ignore[attr-defined]


def dumped(figures: Figures) -> bytes:
    """The bytes of a file that pstats reads."""
    return marshal.dumps(figures)


class ProfileFiles:
    """The files of all workers: PREFIX-PID or PREFIX-PID-TIME. All methods block."""

    def __init__(self, prefix: str) -> None:
        self._folder, self._stem = os.path.split(os.path.abspath(prefix))

    def _path(self, identity: str) -> str:
        return os.path.join(self._folder, f"{self._stem}-{identity}")

    def write(self, identity: str, figures: Figures) -> None:
        """Write a profile whole or not at all. Raises OSError."""
        os.makedirs(self._folder, exist_ok=True)
        path = self._path(identity)
        with open(path + ".new", "wb") as file:
            file.write(dumped(figures))
        os.replace(path + ".new", path)

    def identities(self) -> list[str]:
        """PID or PID-TIME of the profiles there are, sorted."""
        try:
            names = os.listdir(self._folder)
        except OSError:
            return []
        start = f"{self._stem}-"
        found = [name.removeprefix(start) for name in names if name.startswith(start)]
        return sorted(name for name in found if _ID.fullmatch(name))

    def read(self, identity: str) -> Figures | None:
        """One profile; None when there is none of that name or it is broken."""
        if not _ID.fullmatch(identity):
            return None
        try:
            with open(self._path(identity), "rb") as file:
                # The form that pstats has; the folder is as trusted as the program.
                loaded = marshal.loads(file.read())  # noqa: S302
        except (OSError, ValueError, EOFError, TypeError):
            return None
        return loaded if isinstance(loaded, dict) else None

    def clear_ended(self) -> None:
        """Remove the profiles of processes that are no more."""
        for identity in self.identities():
            if not _lives(int(identity.partition("-")[0])):
                with suppress(OSError):
                    os.unlink(self._path(identity))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's, and alive
    return True
