# SPDX-License-Identifier: Apache-2.0
"""A run of swift-ring-builder: its files, and the words and options of its command.

Two ways say which devices are meant: one search word, or options. They do not mix.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from swift.cli import ring_files
from swift.core.errors import SwiftError
from swift.core.ring.builder import RingBuilder
from swift.core.ring.devices import (
    Device,
    Search,
    checked_address,
    parse_search,
)

EXIT_OK = 0
EXIT_WARNING = 1
EXIT_ERROR = 2


class CommandFailed(SwiftError):
    """A command that stops with a message and exit code 2; nothing is saved."""


class HelpWanted(Exception):
    """The arguments are not what the command takes."""


class Parser(argparse.ArgumentParser):
    """Options of one command; a wrong word ends with exit code 2, on stderr."""

    def __init__(self) -> None:
        super().__init__(prog="swift-ring-builder", add_help=False)

    def error(self, message: str) -> NoReturn:
        print(f"swift-ring-builder: error: {message}", file=sys.stderr)
        raise SystemExit(EXIT_ERROR)


_SEARCH_OPTIONS: list[tuple[str, str, str, Callable[[str], Any]]] = [
    ("-u", "--id", "id", int),
    ("-r", "--region", "region", int),
    ("-z", "--zone", "zone", int),
    ("-i", "--ip", "ip", str),
    ("-p", "--port", "port", int),
    ("-j", "--replication-ip", "replication_ip", str),
    ("-q", "--replication-port", "replication_port", int),
    ("-d", "--device", "name", str),
    ("-w", "--weight", "weight", float),
    ("-m", "--meta", "meta", str),
]
_CHANGE_OPTIONS: list[tuple[str, str, str, Callable[[str], Any]]] = [
    ("-I", "--change-ip", "change_ip", str),
    ("-P", "--change-port", "change_port", int),
    ("-J", "--change-replication-ip", "change_replication_ip", str),
    ("-Q", "--change-replication-port", "change_replication_port", int),
    ("-D", "--change-device", "change_name", str),
    ("-M", "--change-meta", "change_meta", str),
]
_ADDRESSES = ("ip", "replication_ip")


@dataclass
class Session:
    """One run of the command.

    shown_path: the builder's path as it is printed; arguments: the words behind the
    command; builder: an empty one for commands that make theirs.
    """

    builder_path: Path
    ring_path: Path
    shown_path: str
    arguments: list[str]
    builder: RingBuilder = field(default_factory=lambda: RingBuilder(0, 1, 0))

    def save(self) -> None:
        """Write the builder, as the last step of a command that succeeds."""
        ring_files.write_builder_file(self.builder_path, self.builder)


Command = Callable[[Session], int]


@dataclass
class Arguments:
    """What stood behind a command.

    words: the bare words; search: options that say which devices, None when there were
    none; changes: --change-* options; yes: ask no questions.
    """

    words: list[str]
    search: Search | None
    changes: dict[str, Any]
    options: dict[str, Any]
    yes: bool


def parse(arguments: list[str]) -> Arguments:
    parser = Parser()
    for short, long, target, kind in (*_SEARCH_OPTIONS, *_CHANGE_OPTIONS):
        parser.add_argument(short, long, dest=target, type=kind)
    parser.add_argument("-y", "--yes", action="store_true")
    parser.add_argument("words", nargs="*")
    found = vars(parser.parse_intermixed_args(arguments))
    options = {
        target: found[target]
        for _, _, target, _ in _SEARCH_OPTIONS
        if found[target] is not None
    }
    changes = {
        target.removeprefix("change_"): found[target]
        for _, _, target, _ in _CHANGE_OPTIONS
        if found[target] is not None
    }
    for given in (options, changes):
        for key in _ADDRESSES:
            if key in given:
                given[key] = checked_address(given[key])
    return Arguments(
        words=found["words"],
        search=Search(**options) if options else None,
        changes=changes,
        options=options,
        yes=found["yes"],
    )


def selected(builder: RingBuilder, search: Search, what: str) -> list[Device]:
    devices = search.select(builder.devices)
    if not devices:
        raise CommandFailed(
            f"Search value {what} matched 0 devices.\nbuilder unchanged"
        )
    return devices


def pairs(builder: RingBuilder, arguments: Arguments) -> list[tuple[list[Device], str]]:
    """Devices and the value for them: one pair of words each, or options and a word."""
    words = arguments.words
    if arguments.search is not None:
        if len(words) != 1:
            raise HelpWanted
        return [(selected(builder, arguments.search, "given by options"), words[0])]
    if not words or len(words) % 2:
        raise HelpWanted
    return [
        (selected(builder, parse_search(search), repr(search)), value)
        for search, value in zip(words[::2], words[1::2], strict=True)
    ]


def confirm(devices: list[Device], question: str, arguments: Arguments) -> None:
    """Ask before several devices change; CommandFailed unless the answer is y."""
    if len(devices) < 2 or arguments.yes:
        return
    print(f"Matched more than one device:\n{_listed(devices)}")
    try:
        answer = input(f"{question} (y/N) ")
    except (EOFError, KeyboardInterrupt):
        answer = ""
    if answer != "y":
        raise CommandFailed("Aborting device modifications")


def _listed(devices: list[Device]) -> str:
    return "\n".join(f"    {device}" for device in devices)


def number(text: str, kind: Callable[[str], Any], what: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise CommandFailed(f"Invalid {what}: {text!r}") from None
