# SPDX-License-Identifier: Apache-2.0
"""swift-drive-audit: takes drives out of service that the kernel complains of.

Run from cron, as root. Reads the kernel's log of the last hour; a device with too many
errors is unmounted and commented out in fstab, so that the servers answer 507 for it
and the cluster makes up for it. Contract cli §8.
"""

from __future__ import annotations

import codecs
import glob
import locale
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from swift.core.errors import ConfigError, SwiftError
from swift.core.settings import bind, boolean, option, positive_int
from swift.runtime import green
from swift.runtime.config import ConfFile, read_conf
from swift.runtime.logs import Logger, get_logger
from swift.runtime.process import current_user
from swift.runtime.recon import CACHE_PATH, mounts, update_cache

SECTION = "drive-audit"
RECON_FILE = "drive.recon"
TOTAL = "drive_audit_errors"
DEFAULT_PATTERNS = (
    r"\berror\b.*\b(sd[a-z]{1,2}\d?)\b",
    r"\b(sd[a-z]{1,2}\d?)\b.*\berror\b",
)
BOOT_MARK = re.compile(r"\[\s*0\.000000\]")

_PATTERN_OPTION = re.compile(r"regex_pattern_\d+")
_SYSLOG_TIME = re.compile(r"([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d)")
_ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:?\d\d|Z)?")
_MONTHS = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun",
    "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
_BLOCK = 1 << 16


@dataclass(frozen=True)
class DriveAuditConfig:
    """[drive-audit] of drive-audit.conf."""

    device_dir: str = option("/srv/node", doc="Where the devices are mounted.")
    minutes: int = option(
        60, parse=positive_int, doc="How far to look back in the log."
    )
    error_limit: int = option(
        1, parse=positive_int, doc="Errors after which a device goes."
    )
    log_file_pattern: str = option(
        "/var/log/kern.*[!.][!g][!z]", doc="The log files, as a glob."
    )
    log_file_encoding: str = option("auto", doc="Of the log files; auto is the locale.")
    log_to_console: bool = option(False, parse=boolean, doc="Log to standard error.")
    unmount_failed_device: bool = option(
        True, parse=boolean, doc="false: only log which devices are bad."
    )
    recon_cache_path: str = option(CACHE_PATH, doc="Where facts for recon are left.")
    user: str = option("swift", doc="Who owns the recon file.")


@dataclass(frozen=True)
class Host:
    """The files of the machine that are read and changed; tests have their own."""

    mounts: str = "/proc/mounts"
    fstab: str = "/etc/fstab"


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted device. kernel_device: as kernel messages name it, `sdb1`."""

    point: str
    device: str
    kernel_device: str


def main(argv: Sequence[str] | None = None, host: Host | None = None) -> int:
    """Run the command; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    usage = "usage: swift-drive-audit CONF"
    if not words:
        print(usage)
        return 1
    if words[0] in ("-h", "--help"):
        print(f"{usage}\n\nUnmount drives that the kernel's log complains of.")
        return 0
    try:
        conf = read_conf(words[0])
        values = conf.section(SECTION)
        config = bind(DriveAuditConfig, values, source=conf.source, section=SECTION)
        patterns = patterns_of(conf, values)
        log = get_logger(
            values, SECTION, console=config.log_to_console, source=conf.source
        )
        return _audit(config, patterns, log, host or Host())
    except (SwiftError, OSError, LookupError) as error:
        print(f"swift-drive-audit: {error}", file=sys.stderr)
        return 1


def patterns_of(conf: ConfFile, values: Mapping[str, str]) -> list[re.Pattern[str]]:
    """The patterns of error lines; group 1 is the kernel's name of the device.

    Raises ConfigError.
    """
    found = []
    own = {key: text for key, text in values.items() if _PATTERN_OPTION.fullmatch(key)}
    for key, text in own.items() or dict.fromkeys(DEFAULT_PATTERNS, "").items():
        try:
            pattern = re.compile(text or key)
        except re.error as error:
            raise ConfigError(conf.source, SECTION, key, str(error)) from error
        if not pattern.groups:
            raise ConfigError(conf.source, SECTION, key, "has no group for the device")
        found.append(pattern)
    return found


def _audit(
    config: DriveAuditConfig,
    patterns: Sequence[re.Pattern[str]],
    log: Logger,
    host: Host,
) -> int:
    devices = list(mounted(config.device_dir, host.mounts))
    if not devices:
        log.error("no devices are mounted below %s", config.device_dir)
        return 0
    now = datetime.fromtimestamp(green.now())  # noqa: DTZ006 (logs are in local time)
    found = errors_by_device(config, patterns, now)
    counts = {
        device.point: sum(count for name, count in found.items() if is_of(device, name))
        for device in devices
    }
    for device in devices:
        if counts[device.point] >= config.error_limit:
            _take_out(device, counts[device.point], config, log, host)
    path = f"{config.recon_cache_path}/{RECON_FILE}"
    update_cache(path, {**counts, TOTAL: sum(counts.values())}, log)
    if os.geteuid() == 0 and config.user != current_user():
        with suppress(LookupError, OSError):
            shutil.chown(path, config.user)
    return 0


def mounted(device_dir: str, table: str) -> Iterator[Mount]:
    """What is mounted below the devices root."""
    for entry in mounts(table):
        if entry["path"].startswith(f"{device_dir.rstrip('/')}/"):
            real = os.path.realpath(entry["device"])
            yield Mount(entry["path"], entry["device"], os.path.basename(real))


def is_of(mount: Mount, kernel_device: str) -> bool:
    """True when a message on that device is about the mount: itself, or its disk."""
    own = mount.kernel_device
    return kernel_device in (own, own.rstrip("0123456789"))


# --- The log --------------------------------------------------------------------------


def errors_by_device(
    config: DriveAuditConfig, patterns: Sequence[re.Pattern[str]], now: datetime
) -> Counter[str]:
    """Lines that tell of an error, by the kernel's name of the device.

    From the newest back to the window's begin, or the last boot. Raises OSError for a
    log that cannot be read, LookupError for an unknown encoding.
    """
    since = now - timedelta(minutes=config.minutes)
    encoding = config.log_file_encoding
    if encoding == "auto":
        encoding = locale.getpreferredencoding(False)
    codecs.lookup(encoding)
    files = sorted(glob.glob(config.log_file_pattern), key=os.path.getmtime)
    errors: Counter[str] = Counter()
    for path in reversed(files):
        for line in lines_backwards(path, encoding):
            at = time_of(line, now)
            if at is not None and at < since:
                return errors
            for pattern in patterns:
                match = pattern.search(line)
                if match is not None:
                    errors[match[1]] += 1
                    break
            if BOOT_MARK.search(line):
                return errors
    return errors


def lines_backwards(path: str, encoding: str) -> Iterator[str]:
    """The lines of a file from the last to the first, in the memory of a few."""
    with Path(path).open("rb") as stream:
        position = stream.seek(0, os.SEEK_END)
        rest = b""
        while position:
            size = min(_BLOCK, position)
            position -= size
            stream.seek(position)
            lines = (stream.read(size) + rest).split(b"\n")
            rest = lines.pop(0)
            for line in reversed(lines):
                if line:
                    yield line.decode(encoding, "replace")
        if rest:
            yield rest.decode(encoding, "replace")


def time_of(line: str, now: datetime) -> datetime | None:
    """The local time at the begin of a line, None when it has none that we know.

    Syslog's old form leaves the year out: it is the last one that is not ahead.
    """
    iso = _ISO_TIME.match(line)
    if iso is not None:
        try:
            at = datetime.fromisoformat(iso[0].replace("Z", "+00:00"))
        except ValueError:
            return None
        return at if at.tzinfo is None else at.astimezone().replace(tzinfo=None)
    old = _SYSLOG_TIME.match(line)
    if old is None or old[1] not in _MONTHS:
        return None
    month = _MONTHS.index(old[1]) + 1
    day, hour, minute, second = (int(old[group]) for group in range(2, 6))
    for year in (now.year, now.year - 1):
        try:
            at = datetime(year, month, day, hour, minute, second)  # noqa: DTZ001
        except ValueError:
            continue
        if at <= now + timedelta(days=1):
            return at
    return None


# --- A bad drive ----------------------------------------------------------------------


def _take_out(
    device: Mount, count: int, config: DriveAuditConfig, log: Logger, host: Host
) -> None:
    """Unmount a device and keep it from being mounted at the next boot."""
    if not config.unmount_failed_device:
        log.info("%s has %d errors; it stays mounted", device.point, count)
        return
    log.info("unmounting %s with %d errors", device.point, count)
    _run(["umount", "-fl", device.point], log)
    path = Path(host.fstab)
    try:
        before = path.read_text()
        after = "".join(without_mount(before.splitlines(keepends=True), device))
        if after != before:
            log.info("commenting out %s in %s", device.point, path)
            temporary = path.with_name(f".{path.name}.new")
            temporary.write_text(after)
            shutil.copymode(path, temporary)
            temporary.replace(path)
            # systemd made units of the file's lines, and would mount it again.
            _run(["systemctl", "daemon-reload"], log)
    except OSError as error:
        log.error("%s was not changed: %s", path, error)


def without_mount(lines: Iterable[str], device: Mount) -> Iterator[str]:
    """The lines of fstab, those that mount the device commented out."""
    for line in lines:
        words = line.split()
        is_its = len(words) > 1 and words[1].rstrip("/") == device.point
        yield f"#{line}" if is_its and not line.startswith("#") else line


def _run(command: Sequence[str], log: Logger) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        log.error("%s: %s", command[0], error)
        return
    if done.returncode:
        log.error("%s: %s", " ".join(command), done.stderr.strip())
