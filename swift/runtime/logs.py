# SPDX-License-Identifier: Apache-2.0
"""The log of a process.

Lines go to syslog and, when asked for, to the console. A disabled level costs one
comparison; a line that syslog does not take at once is dropped and counted, for a full
socket must never hold up requests. Rules: contract config §9.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from swift.core.errors import ConfigError
from swift.core.settings import bind, boolean, csv, natural, option
from swift.runtime import green
from swift.runtime.config import load_plugin, port

CRITICAL = 50
ERROR = 40
WARNING = 30
NOTICE = 25
INFO = 20
DEBUG = 10

LEVELS = {
    "CRITICAL": CRITICAL,
    "FATAL": CRITICAL,
    "ERROR": ERROR,
    "WARNING": WARNING,
    "WARN": WARNING,
    "NOTICE": NOTICE,
    "INFO": INFO,
    "DEBUG": DEBUG,
    "NOTSET": 0,
}
FACILITIES = {
    name: number
    for number, name in enumerate(
        [
            "KERN",
            "USER",
            "MAIL",
            "DAEMON",
            "AUTH",
            "SYSLOG",
            "LPR",
            "NEWS",
            "UUCP",
            "CRON",
            "AUTHPRIV",
            "FTP",
        ]
    )
} | {f"LOCAL{number}": 16 + number for number in range(8)}

_SEVERITIES = ((50, 2), (40, 3), (30, 4), (25, 5), (20, 6), (0, 7))
_RETRY_S = 1.0
_LINE_MAX = 60000  # a datagram that any syslog takes
_CUT = " ... "
_FALLBACK = ("127.0.0.1", 514)


def log_level(text: str) -> int:
    """A level's name, with or without `LOG_`, as its number."""
    name = text.strip().upper().removeprefix("LOG_")
    if name not in LEVELS:
        raise ValueError("is no log level")
    return LEVELS[name]


def log_facility(text: str) -> int:
    """A syslog facility's name, with or without `LOG_`, as its number."""
    name = text.strip().upper().removeprefix("LOG_")
    if name not in FACILITIES:
        raise ValueError("is no syslog facility")
    return FACILITIES[name]


@dataclass(frozen=True)
class LogConfig:
    """The log_* options."""

    log_name: str = option("", doc="What lines begin with; the server's name if unset.")
    log_facility: int = option(
        FACILITIES["LOCAL0"], parse=log_facility, doc="Syslog facility."
    )
    log_level: int = option(INFO, parse=log_level, doc="Least level that is logged.")
    log_address: str = option("/dev/log", doc="Socket of the syslog daemon.")
    log_udp_host: str = option("", doc="Syslog over UDP to this host instead.")
    log_udp_port: int = option(514, parse=port, doc="UDP port of that host.")
    log_max_line_length: int = option(
        0, parse=natural, doc="Longer lines lose their middle; 0 is no limit."
    )
    log_headers: bool = option(False, parse=boolean, doc="Access lines hold headers.")
    log_custom_handlers: tuple[str, ...] = option(
        (), parse=csv, doc="Functions that add handlers, as module.function."
    )


class Sink(Protocol):
    """Where finished lines go."""

    def write(self, level: int, line: str) -> None:
        """Take one line; never blocks, never raises."""


class SyslogSink:
    """The syslog daemon behind a datagram socket (RFC 3164 without the time).

    address: a socket's path, or (host, port). A path that is not there falls back to
    UDP on this machine. dropped: lines lost since the last one that went through.
    """

    def __init__(
        self, name: str, facility: int, address: str | tuple[str, int]
    ) -> None:
        self.name = name
        self.address = address
        self.dropped = 0
        self._prefixes = {
            level: f"<{facility * 8 + severity}>{name}: "
            for level, severity in _SEVERITIES
        }
        self._socket: socket.socket | None = None
        self._resolved: tuple[str, int] | None = None
        self._retry_at = 0.0

    def write(self, level: int, line: str) -> None:
        """Send one line, or count it as dropped."""
        if self._socket is None and not self._connect():
            self.dropped += 1
            return
        if self.dropped:
            lost, self.dropped = self.dropped, 0
            if not self._send(WARNING, f"{lost} log lines were lost"):
                self.dropped = lost + 1
                return
        if not self._send(level, line):
            self.dropped += 1

    def close(self) -> None:
        """Close the socket; the next line opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> bool:
        now = green.monotonic()
        if now < self._retry_at:
            return False
        self._retry_at = now + _RETRY_S
        address = self._resolved or self.address
        if isinstance(address, str) and not os.path.exists(address):
            address = _FALLBACK
        try:
            if isinstance(address, str):
                made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            else:
                family, kind, protocol, _, address = socket.getaddrinfo(  # type: ignore[assignment]
                    address[0], address[1], type=socket.SOCK_DGRAM
                )[0]
                made = socket.socket(family, kind, protocol)
            made.setblocking(False)
            made.connect(address)
        except OSError:
            return False
        if not isinstance(self.address, str):
            # A name server that hangs may hold us up once, not at every loss.
            self._resolved = (address[0], address[1])  # type: ignore[assignment]
        self._socket = made
        return True

    def _send(self, level: int, line: str) -> bool:
        data = (self._prefix(level) + line).encode("utf-8", "surrogateescape")
        assert self._socket is not None
        try:
            self._socket.send(data[:_LINE_MAX])
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                # The daemon is away: leave it alone for a while, or every line would
                # cost a failing system call.
                self.close()
                self._retry_at = green.monotonic() + _RETRY_S
            return False
        return True

    def _prefix(self, level: int) -> str:
        found = self._prefixes.get(level)
        if found is None:
            near = next(floor for floor, _ in _SEVERITIES if level >= floor)
            found = self._prefixes[near]
        return found


class ConsoleSink:
    """The console, for --verbose and tools."""

    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, level: int, line: str) -> None:
        """Print one line on stderr."""
        try:
            sys.__stderr__.write(f"{self.name}: {line}\n")  # type: ignore[union-attr]
            sys.__stderr__.flush()  # type: ignore[union-attr]
        except (OSError, ValueError, AttributeError):
            return


class StdlibSink:
    """The standard library's logging, for handlers that operators bring along."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger

    def write(self, level: int, line: str) -> None:
        """Hand on one line."""
        self.logger.log(level, "%s", line)


class ListSink:
    """Keeps (level, line) pairs in memory, for tests and tools."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []

    def write(self, level: int, line: str) -> None:
        """Keep one line."""
        self.lines.append((level, line))


class Logger:
    """The log of a process.

    `txn` and `client_ip` are appended to a line that does not hold them yet.
    """

    __slots__ = ("level", "log_headers", "max_length", "name", "prefix", "sinks")

    def __init__(
        self,
        name: str,
        sinks: Iterable[Sink] = (),
        *,
        level: int = INFO,
        max_length: int = 0,
        prefix: str = "",
        log_headers: bool = False,
    ) -> None:
        self.name = name
        self.sinks = list(sinks)
        self.level = level
        self.max_length = max_length
        self.prefix = prefix
        self.log_headers = log_headers

    def with_prefix(self, prefix: str) -> Logger:
        """The same log, each line begun by `prefix`."""
        return Logger(
            self.name,
            self.sinks,
            level=self.level,
            max_length=self.max_length,
            prefix=self.prefix + prefix,
            log_headers=self.log_headers,
        )

    def is_enabled(self, level: int) -> bool:
        """True when lines of that level are written; ask before costly arguments."""
        return level >= self.level

    def debug(
        self, message: str, *args: object, txn: str = "", client_ip: str = ""
    ) -> None:
        """A decision and its facts."""
        if self.level <= DEBUG:
            self._write(DEBUG, message, args, txn, client_ip)

    def info(
        self, message: str, *args: object, txn: str = "", client_ip: str = ""
    ) -> None:
        """A pass or a server changed state; progress."""
        if self.level <= INFO:
            self._write(INFO, message, args, txn, client_ip)

    def notice(
        self, message: str, *args: object, txn: str = "", client_ip: str = ""
    ) -> None:
        """Starts and stops."""
        if self.level <= NOTICE:
            self._write(NOTICE, message, args, txn, client_ip)

    def warning(
        self, message: str, *args: object, txn: str = "", client_ip: str = ""
    ) -> None:
        """Degraded; it will be tried again."""
        if self.level <= WARNING:
            self._write(WARNING, message, args, txn, client_ip)

    def error(
        self, message: str, *args: object, txn: str = "", client_ip: str = ""
    ) -> None:
        """Someone must look."""
        if self.level <= ERROR:
            self._write(ERROR, message, args, txn, client_ip)

    def critical(
        self, message: str, *args: object, txn: str = "", client_ip: str = ""
    ) -> None:
        """The process cannot go on."""
        self._write(CRITICAL, message, args, txn, client_ip)

    def exception(
        self, message: str, *args: object, txn: str = "", client_ip: str = ""
    ) -> None:
        """An error with the traceback of the exception being handled."""
        if self.level <= ERROR:
            trace = traceback.format_exc().rstrip()
            self._write(ERROR, f"{message}: \n%s", (*args, trace), txn, client_ip)

    def log(
        self,
        level: int,
        message: str,
        *args: object,
        txn: str = "",
        client_ip: str = "",
    ) -> None:
        """A line of any level."""
        if self.level <= level:
            self._write(level, message, args, txn, client_ip)

    def line(self, level: int, text: str) -> None:
        """A finished line without arguments: access lines."""
        if self.level <= level:
            self._emit(level, text)

    def _write(
        self,
        level: int,
        message: str,
        args: tuple[object, ...],
        txn: str,
        client_ip: str,
    ) -> None:
        if args:
            try:
                message = message % args
            except (TypeError, ValueError):
                message = f"{message} {args!r}"
        if txn and txn not in message:
            message = f"{message} (txn: {txn})"
        if client_ip and client_ip not in message:
            message = f"{message} (client_ip: {client_ip})"
        self._emit(level, message)

    def _emit(self, level: int, text: str) -> None:
        if self.prefix:
            text = self.prefix + text
        if "\n" in text:
            text = text.replace("\n", "#012")
        if self.max_length and len(text) > self.max_length:
            text = cut_middle(text, self.max_length)
        for sink in self.sinks:
            sink.write(level, text)


NULL_LOG = Logger("-", level=CRITICAL + 1)
"""A log that goes nowhere."""


def cut_middle(text: str, length: int) -> str:
    """The text without its middle, `length` characters; a tiny limit cuts the end."""
    if length < len(_CUT) + 2:
        return text[:length]
    half, odd = divmod(length - len(_CUT), 2)
    return text[: half + odd] + _CUT + text[-half:]


def get_logger(
    conf: Mapping[str, str],
    name: str,
    *,
    console: bool = False,
    source: str = "-",
    section: str = "DEFAULT",
) -> Logger:
    """The log that the log_* options of `conf` describe.

    name: what lines begin with unless log_name is set. console: to stderr as well.
    Never fails for want of a syslog daemon; raises ConfigError for a bad option.
    """
    config = bind(LogConfig, conf, source=source, section=section)
    name = config.log_name or name
    address: str | tuple[str, int] = config.log_address
    if config.log_udp_host:
        address = (config.log_udp_host, config.log_udp_port)
    sinks: list[Sink] = [SyslogSink(name, config.log_facility, address)]
    if console:
        sinks.append(ConsoleSink(name))
    if config.log_custom_handlers:
        try:
            sinks.append(_custom_sink(config, conf, name, console))
        except LookupError as error:
            raise ConfigError(
                source, section, "log_custom_handlers", str(error)
            ) from error
    return Logger(
        name,
        sinks,
        level=config.log_level,
        max_length=config.log_max_line_length,
        log_headers=config.log_headers,
    )


def _custom_sink(
    config: LogConfig, conf: Mapping[str, str], name: str, console: bool
) -> StdlibSink:
    logger = logging.getLogger(f"swift.{name}")
    logger.propagate = False
    logger.setLevel(config.log_level)
    for spec in config.log_custom_handlers:
        hook = load_plugin_function(spec)
        hook(conf, name, console, name, "%(message)s", logger, logger)
    return StdlibSink(logger)


def load_plugin_function(spec: str) -> Callable[..., Any]:
    """The function named `module.function`, `module:function` or by an entry point."""
    if spec.startswith("egg:"):
        found: Callable[..., Any] = load_plugin("swift.log_handler", spec)
        return found
    dotted = spec.replace(":", ".")
    from_module, _, function = dotted.rpartition(".")
    try:
        hook: Callable[..., Any] = getattr(import_module(from_module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise LookupError(f"no log handler {spec!r}") from error
    return hook


class _Bridge(logging.Handler):
    def __init__(self, log: Logger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.line(record.levelno, f"{record.name}: {record.getMessage()}")


def bridge_stdlib(log: Logger) -> None:
    """Send what libraries warn of through the standard library to `log`."""
    root = logging.getLogger()
    for handler in [item for item in root.handlers if isinstance(item, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge(log))
