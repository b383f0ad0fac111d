# SPDX-License-Identifier: Apache-2.0
"""A Unix process as a server or daemon: its user, limits, priority, streams, addresses.

Also how it tells those who started it that it is ready (systemd's protocol). Rules:
contracts config §3 and §7, daemons §1.
"""

from __future__ import annotations

import ctypes
import io
import os
import platform
import pwd
import resource
import socket
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import netifaces

from swift.core.errors import ConfigError
from swift.runtime.config import IO_CLASSES
from swift.runtime.logs import Logger

READY = b"READY=1"
RELOADING = b"RELOADING=1"
STOPPING = b"STOPPING=1"
NOTIFY_SOCKET = "NOTIFY_SOCKET"
LEGACY_FRAGMENT_CRC = "LIBERASURECODE_WRITE_LEGACY_CRC"
NOTIFY_ABSTRACT = "\0swift-notifications\0"
"""The abstract socket that `swift-reload` listens on: this and our pid."""

DESCRIPTORS = 32768
KEPT_BYTES = 64 * 1024 * 1024
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_WILDCARDS = ("", "0.0.0.0", "::", "0::0", "::0", "0::")  # noqa: S104 (compared with)
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "i686": 289, "ppc64le": 273, "s390x": 282}


def keep_freed_memory() -> None:
    """Have malloc reuse large blocks instead of giving each back to the kernel.

    By default glibc takes blocks of a few hundred KiB fresh from the kernel, and every
    page of them is cleared and mapped again for each chunk of a body: more work than
    to erasure-code it. What stays is KEPT_BYTES a process at the most. Without glibc
    nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES // 2)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def drop_privileges(user: str, *, source: str = "-") -> None:
    """Become `user` if root started us, and stand on our own feet.

    New session, working directory `/`, umask 022. Raises ConfigError, which names
    `source` as the file, for a user that does not exist.
    """
    if os.geteuid() == 0:
        try:
            entry = pwd.getpwnam(user)
        except KeyError as error:
            raise ConfigError(source, "DEFAULT", "user", f"no user {user!r}") from error
        if entry.pw_uid != 0:
            os.setgroups(os.getgrouplist(user, entry.pw_gid))
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
        os.environ["HOME"] = entry.pw_dir
    detach()


def detach() -> None:
    """A session of our own (unless we lead one), directory `/`, umask 022."""
    # Refused to the leader of a process group: started by a shell or systemd.
    with suppress(PermissionError):
        os.setsid()
    os.chdir("/")
    os.umask(0o022)
    os.environ["TZ"] = "UTC+0"


def choose_fragment_checksum(legacy: bool | None) -> None:
    """Have liberasurecode guard the headers of fragments by the CRC of its early
    versions (True), or by the one that everybody else knows (False).

    None leaves it to the environment. Both are read everywhere; readers with a library
    of up to 1.5.0 know the early one only.
    """
    if legacy is not None:
        os.environ[LEGACY_FRAGMENT_CRC] = "1" if legacy else "0"


def raise_limits(log: Logger) -> None:
    """As many open files as a busy server may need, as far as we are let."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            except (ValueError, OSError):
                wanted = hard
                log.info("open files limited to %d by the system", hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        except (ValueError, OSError) as error:
            log.warning("open files stay limited to %d: %s", soft, error)


def set_priority(
    log: Logger,
    *,
    nice: int | None = None,
    io_class: str = "",
    io_priority: int | None = None,
) -> None:
    """Apply nice_priority, ionice_class and ionice_priority; failing is only logged.

    io_class: a word of IO_CLASSES, or blank.
    """
    if nice is not None:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        except OSError as error:
            log.warning("nice_priority %d was refused: %s", nice, error)
    if not io_class and io_priority is None:
        return
    number = _IOPRIO_SET.get(platform.machine())
    if number is None:
        log.warning("ionice is not known on %s", platform.machine())
        return
    # ioprio_set(2) has no wrapper in the C library. 1 = IOPRIO_WHO_PROCESS.
    value = IO_CLASSES.get(io_class, IO_CLASSES["IOPRIO_CLASS_BE"]) << 13 | (
        io_priority or 0
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, 1, 0, value) != 0:
        log.warning("ionice was refused: %s", os.strerror(ctypes.get_errno()))


class Notifier:
    """Tells systemd and swift-reload how this process is doing.

    Made once by the main process, before it forks: NOTIFY_SOCKET leaves the environment
    here, so that children do not speak for the service.
    """

    def __init__(self) -> None:
        self._addresses = [f"{NOTIFY_ABSTRACT}{os.getpid()}"]
        service = os.environ.pop(NOTIFY_SOCKET, "")
        self.service_socket = service
        if service:
            if service.startswith("@"):
                service = "\0" + service[1:]
            self._addresses.insert(0, service)

    def send(self, message: bytes) -> None:
        """Send READY, RELOADING or STOPPING; nobody listening is no error."""
        for address in self._addresses:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                    sender.setblocking(False)
                    sender.connect(address)
                    sender.send(message)
            except OSError:
                continue

    def restore_environment(self) -> None:
        """Put NOTIFY_SOCKET back, for the program that takes our place (reload)."""
        if self.service_socket:
            os.environ[NOTIFY_SOCKET] = self.service_socket


class NotifyListener:
    """Hears what a `Notifier` of another process says; used in a `with` statement.

    Raises OSError when somebody listens for that process already.
    """

    def __init__(self, pid: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(f"{NOTIFY_ABSTRACT}{pid}")
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> NotifyListener:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._socket.close()

    def receive(self, timeout_s: float) -> bytes | None:
        """The next message, None when none comes in time. Blocks."""
        self._socket.settimeout(timeout_s)
        try:
            return self._socket.recv(4096)
        except TimeoutError:
            return None


class _LogStream(io.TextIOBase):
    """A text stream whose lines become log lines."""

    def __init__(self, log: Logger, label: str) -> None:
        self._log = log
        self._label = label
        self._busy = False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        # A sink that itself prints must not come back here.
        if not self._busy:
            self._busy = True
            try:
                for line in text.splitlines():
                    if line.strip():
                        self._log.error("%s: %s", self._label, line)
            finally:
                self._busy = False
        return len(text)


def capture_streams(log: Logger, *, keep_console: bool = False) -> None:
    """Send what is printed to the log, and let go of the terminal.

    keep_console: --verbose; descriptors 1 and 2 stay, for the log itself uses them.
    """
    sys.stdout = _LogStream(log, "STDOUT")
    sys.stderr = _LogStream(log, "STDERR")

    def log_uncaught(kind: type[BaseException], error: BaseException, at: Any) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            trace = "".join(traceback.format_exception(kind, error, at))
            log.critical("uncaught: %s", trace.rstrip())

    sys.excepthook = log_uncaught
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0,) if keep_console else (0, 1, 2):
        os.dup2(null, descriptor)
    if null > 2:
        os.close(null)


def own_addresses(bind_ip: str = "") -> list[str]:
    """The addresses of this machine, or just `bind_ip` when it names one."""
    if bind_ip not in _WILDCARDS:
        return [expanded(bind_ip)]
    found = []
    for interface in netifaces.interfaces():
        known = netifaces.ifaddresses(interface)
        for family in (netifaces.AF_INET, netifaces.AF_INET6):
            for entry in known.get(family, ()):
                address = entry.get("addr", "").partition("%")[0]
                if address:
                    found.append(expanded(address))
    return found


def expanded(address: str) -> str:
    """An address in the one form in which it can be compared; host names stay."""
    if ":" not in address:
        return address
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.strip("[]"))
    except OSError:
        return address
    return socket.inet_ntop(socket.AF_INET6, packed)


def resolved(address: str) -> list[str]:
    """The addresses behind a host name or an address; none if it is unknown."""
    if address.replace(".", "").isdigit() or ":" in address:
        return [expanded(address)]
    try:
        found = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [expanded(str(entry[4][0]).partition("%")[0]) for entry in found]


def is_local(
    own: Iterable[str], own_port: int | None, address: str, port: int | None
) -> bool:
    """True when a device at address:port is ours; without own port, any port is."""
    if own_port is not None and port != own_port:
        return False
    mine = set(own)
    return any(candidate in mine for candidate in resolved(address))


def current_user() -> str:
    """The login name of this process's user, or its number when it has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def port_is_free(ip: str, port: int) -> bool:
    """True when a server could listen there now."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError:
            return False
    return True


def free_port(ip: str) -> int:
    """A TCP port of that address that nothing listens on."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((ip, 0))
        port: int = probe.getsockname()[1]
        return port
