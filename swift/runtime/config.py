# SPDX-License-Identifier: Apache-2.0
"""The .conf files: reading, merging, interpolation, and the options of every program.

A configuration is one INI file or a directory of `*.conf`. `[DEFAULT]` is inherited by
every section. Rules: contract config §1. Text is UTF-8; bytes that are not survive as
surrogates, so that a secret read here and encoded again is the bytes of the file.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import Any

from swift.core.errors import ConfigError
from swift.core.settings import (
    boolean,
    natural,
    option,
    positive_int,
    seconds,
)

DEFAULT = "DEFAULT"
DEFAULT_SWIFT_DIR = "/etc/swift"

_REFERENCE = re.compile(r"%\(([^)]+)\)s")
_DEPTH_MAX = 10

IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
"""Words of ionice_class, and the kernel's numbers for them."""

_IO_PRIORITY_MAX = 7


@dataclass(frozen=True)
class ConfFile:
    """What one configuration file or directory says, nothing inherited yet.

    source: absolute path, for messages. defaults, sections: texts as written.
    """

    source: str
    defaults: Mapping[str, str]
    sections: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def section(self, name: str) -> dict[str, str]:
        """The options of a section over the defaults, interpolated.

        Raises ConfigError when the section is missing.
        """
        if name not in self.sections:
            raise ConfigError(self.source, name, "-", "no such section")
        return self._resolved(self.sections[name])

    def app_section(self, name: str) -> dict[str, str]:
        """The options of an app or filter section, by the rules of paste files.

        A default wins over a plain assignment, `set name = value` over a default.
        Raises ConfigError when the section is missing.
        """
        if name not in self.sections:
            raise ConfigError(self.source, name, "-", "no such section")
        own: dict[str, str] = {}
        for key, value in self.sections[name].items():
            if key.startswith("set "):
                own[key[4:].strip()] = value
            elif key not in self.defaults:
                own.setdefault(key, value)
        return self._resolved(own)

    def interpolated(self, name: str) -> dict[str, str]:
        """A section's own options only, references resolved, `set` words kept."""
        own = self.sections[name]
        values = {**self.defaults, **own}
        return {key: interpolate(value, values) for key, value in own.items()}

    def interpolated_defaults(self) -> dict[str, str]:
        """[DEFAULT], references resolved."""
        return self._resolved({})

    def _resolved(self, own: Mapping[str, str]) -> dict[str, str]:
        values = {**self.defaults, **own}
        return {key: interpolate(value, values) for key, value in values.items()}


def interpolate(text: str, values: Mapping[str, str]) -> str:
    """Replace each `%(name)s` whose name is in `values`; any other `%` stays."""
    for _ in range(_DEPTH_MAX):
        if "%(" not in text:
            break
        replaced = _REFERENCE.sub(lambda match: values.get(match[1], match[0]), text)
        if replaced == text:
            break
        text = replaced
    return text


def conf_files(path: str) -> list[str]:
    """The files that make up a configuration, in the order of reading."""
    if not os.path.isdir(path):
        return [path]
    names = sorted(os.listdir(path))
    return [
        os.path.join(path, name)
        for name in names
        if name.endswith(".conf") and not name.startswith(".")
    ]


def read_conf(path: str) -> ConfFile:
    """Read a file or directory. Raises ConfigError naming the file and the fault."""
    source = os.path.abspath(path)
    parser = configparser.RawConfigParser(
        strict=False,
        delimiters=("=", ":"),
        comment_prefixes=("#", ";"),
        inline_comment_prefixes=None,
        default_section="\0",  # [DEFAULT] is inherited by our rules, not the parser's
        interpolation=None,
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    for file in conf_files(source):
        try:
            with open(file, "rb") as stream:
                text = stream.read().decode("utf-8", "surrogateescape")
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(file, "-", "-", reason) from error
        try:
            parser.read_string(text.removeprefix("\ufeff"), source=file)
        except configparser.Error as error:
            reason = " ".join(str(error).split())
            raise ConfigError(file, "-", "-", reason) from error
    sections = {name: dict(parser.items(name)) for name in parser.sections()}
    defaults = {"here": os.path.dirname(source), "__file__": source}
    defaults.update(sections.pop(DEFAULT, {}))
    return ConfFile(source, defaults, sections)


def read_sections(path: str) -> dict[str, dict[str, str]]:
    """Section → its options over [DEFAULT], interpolated; [DEFAULT] itself too.

    For swift.conf and daemons' sections, where a section wins over [DEFAULT]. Raises
    ConfigError.
    """
    conf = read_conf(path)
    found = {name: conf.section(name) for name in conf.sections}
    found[DEFAULT] = conf.interpolated_defaults()
    return found


@cache
def load_plugin(group: str, spec: str) -> Any:
    """The object behind `egg:package#name` or a bare name of an entry-point group.

    Raises LookupError when nothing of that name is installed.
    """
    package, _, name = spec.removeprefix("egg:").rpartition("#")
    for entry in metadata.entry_points(group=group, name=name or spec):
        if not package or (entry.dist and entry.dist.name == package):
            return entry.load()
    raise LookupError(f"no {spec!r} in {group}")


def port(text: str) -> int:
    """A TCP port, 1–65535."""
    value = int(text.strip())
    if not 1 <= value <= 65535:
        raise ValueError("must be a port, 1-65535")
    return value


def keep_idle(text: str) -> int:
    """Seconds before a silent peer is probed, in the range that Linux takes."""
    value = int(text.strip())
    if not 1 <= value <= 32766:
        raise ValueError("must be 1-32766")
    return value


def worker_count(text: str) -> int | None:
    """A number of processes; `auto` (None) means one a CPU."""
    return None if text.strip().lower() == "auto" else natural(text)


def io_class(text: str) -> str:
    """A scheduling class for disk requests, or blank."""
    value = text.strip()
    if value and value not in IO_CLASSES:
        raise ValueError(f"is not one of {', '.join(IO_CLASSES)}")
    return value


def io_priority(text: str) -> int:
    """A priority within the scheduling class."""
    value = int(text.strip())
    if not 0 <= value <= _IO_PRIORITY_MAX:
        raise ValueError(f"must be 0-{_IO_PRIORITY_MAX}")
    return value


def optional(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A parser that reads blank text as None."""

    def parse_optional(text: str) -> Any:
        return parse(text) if text.strip() else None

    return parse_optional


@dataclass(frozen=True)
class ServerConfig:
    """[DEFAULT] of a server's file: what the process and its sockets need."""

    bind_ip: str = option("0.0.0.0", doc="Address to listen on.")  # noqa: S104
    bind_port: int | None = option(None, parse=port, doc="Port to listen on.")
    bind_timeout_s: float = option(
        30.0, name="bind_timeout", parse=seconds, doc="Time to wait for a busy port."
    )
    backlog: int = option(
        4096, parse=positive_int, doc="Queue of the listening socket."
    )
    keep_idle_s: int = option(
        600, name="keep_idle", parse=keep_idle, doc="Silence before TCP probes."
    )
    workers: int | None = option(
        None,
        parse=worker_count,
        doc="Processes; auto is one a CPU, 0 serves in the main.",
    )
    max_clients: int = option(
        1024, parse=positive_int, doc="Requests at a time in one worker."
    )
    user: str = option("swift", doc="Whom the server runs as, when started by root.")
    swift_dir: str = option(DEFAULT_SWIFT_DIR, doc="Where swift.conf and rings are.")
    cert_file: str = option("", doc="TLS certificate; for tests only.")
    key_file: str = option("", doc="TLS key; for tests only.")
    client_timeout_s: float = option(
        60.0,
        name="client_timeout",
        parse=seconds,
        doc="Silence of a client in a request.",
    )
    keepalive_timeout_s: float | None = option(
        None,
        name="keepalive_timeout",
        parse=optional(seconds),
        doc="Silence between requests; client_timeout when unset, 0 closes at once.",
    )
    eventlet_debug: bool = option(
        False,
        parse=boolean,
        doc="Log what is raised in the scheduler itself, where no request is.",
    )
    nice_priority: int | None = option(
        None, parse=optional(int), doc="Niceness of the process, -20 to 19."
    )
    ionice_class: str = option("", parse=io_class, doc="IOPRIO_CLASS_RT, _BE or _IDLE.")
    ionice_priority: int | None = option(
        None, parse=optional(io_priority), doc="Priority within the class, 0 to 7."
    )
    stale_worker_timeout_s: float = option(
        86400.0,
        name="stale_worker_timeout",
        parse=seconds,
        doc="Life of old workers after a seamless reload.",
    )
    require_proxy_protocol: bool = option(
        False, parse=boolean, doc="Connections begin with a PROXY v1 line."
    )
    servers_per_port: int = option(
        0, parse=natural, doc="Object server: workers a port of the ring; 0 is off."
    )
    ring_ip: str = option("", doc="Our address in the rings, if not bind_ip.")
    ring_check_interval_s: float = option(
        15.0,
        name="ring_check_interval",
        parse=seconds,
        doc="Time between looks for changed ports in the rings.",
    )
