# SPDX-License-Identifier: Apache-2.0
"""What swift-recon can ask for, and how it sums up the answers.

The answers are those of `services/recon`. Contract cli §3.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from swift.cli.recon_survey import KINDS, Answer, Survey
from swift.runtime import green
from swift.runtime.recon import checksum

GRAPH_WIDTH = 69

_NUMBER_MAX = 1 << 60
_TIME_MAX = 100_000_000_000  # far beyond any clock, and printable


def is_number(value: Any) -> TypeGuard[int | float]:
    """True for a finite number: what a host sends may be anything."""
    return isinstance(value, int | float) and abs(value) < _NUMBER_MAX


def stats_line(name: str, values: Sequence[Any], *, bare_name: str = "") -> str:
    """Low, high, average and total of what hosts answered; None is no result.

    bare_name: what it is called when nobody reported.
    """
    numbers = [value for value in values if is_number(value)]
    if not numbers:
        return f"[{bare_name or name}] - No hosts returned valid data."
    missing = len(values) - len(numbers)
    return (
        f"[{name}] low: {int(min(numbers))}, high: {int(max(numbers))}, "
        f"avg: {sum(numbers) / len(numbers):.1f}, total: {int(sum(numbers))}, "
        f"Failed: {missing * 100.0 / len(values):.1f}%, no_result: {missing}, "
        f"reported: {len(numbers)}"
    )


def local_time() -> str:
    """What the clock says, for people."""
    return _time(green.now())


def _time(seconds: float) -> str:
    moment = datetime.fromtimestamp(int(seconds), tz=timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _is_time(value: Any) -> bool:
    return is_number(value) and 0 <= value < _TIME_MAX


def age(seconds: float) -> str:
    """A span in whole days, hours, minutes or seconds, the largest that fits."""
    span = max(0, int(seconds))
    for unit_s, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if span >= unit_s:
            return f"{span // unit_s} {unit}"
    return f"{span} seconds"


def size(count: int, *, human: bool) -> str:
    """Bytes as a number, or in the largest unit that fits."""
    if not human:
        return str(count)
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if value < 1000 or unit == "PB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("the last unit takes all")


def completions(answers: Sequence[Answer], key: str, now: float) -> Iterator[str]:
    """Who completed a pass first and last; nothing when nobody answered."""
    known = [(a.value(key) or 0, a.host) for a in answers if not a.failed]
    known = [(when, host) for when, host in known if _is_time(when)]
    if not known:
        return
    oldest, host = min(known, key=lambda pair: pair[0])
    if not oldest:
        yield f"Oldest completion was NEVER by {host}."
    else:
        since = age(now - oldest)
        yield f"Oldest completion was {_time(oldest)} ({since} ago) by {host}."
    newest, host = max(known, key=lambda pair: pair[0])
    if newest:
        since = age(now - newest)
        yield f"Most recent completion was {_time(newest)} ({since} ago) by {host}."


# --- Checks ---------------------------------------------------------------------------


def _of_keys(question: str, names: Mapping[str, str], survey: Survey) -> Iterator[str]:
    """A line a key of the answers. names: key → name shown."""
    answers = survey.ask(question.format(kind=survey.kind))
    for key, name in names.items():
        yield stats_line(name, [answer.value(key) for answer in answers])


def _replication(survey: Survey) -> Iterator[str]:
    answers = survey.ask(f"replication/{survey.kind}")
    prefix = "object_" if survey.kind == "object" else ""
    times = [answer.value(f"{prefix}replication_time") for answer in answers]
    yield stats_line("replication_time", times, bare_name="time")
    for name in ("failure", "success", "attempted"):
        values = [answer.values("replication_stats").get(name) for answer in answers]
        yield stats_line(f"replication_{name}", values, bare_name=name)
    yield from completions(answers, f"{prefix}replication_last", green.now())


def _reconstruction(survey: Survey) -> Iterator[str]:
    answers = survey.ask("reconstruction/object")
    key = "object_reconstruction_time"
    yield stats_line(key, [answer.value(key) for answer in answers])
    yield from completions(answers, "object_reconstruction_last", green.now())


def _sharding(survey: Survey) -> Iterator[str]:
    answers = survey.ask("sharding")
    yield stats_line("sharding_time", [a.value("sharding_time") for a in answers])
    for name in ("attempted", "failure", "success"):
        values = [answer.values("sharding_stats").get(name) for answer in answers]
        yield stats_line(name, values)
    yield from completions(answers, "sharding_last", green.now())


def _auditor(survey: Survey) -> Iterator[str]:
    answers = survey.ask(f"auditor/{survey.kind}")
    if survey.kind == "object":
        yield from _object_auditor(answers)
        return
    kind = survey.kind
    for name in ("auditor_pass_completed", "audits_failed", "audits_passed"):
        key = f"{kind}_{name}"
        yield stats_line(key, [answer.value(key) for answer in answers])
    since = [answer.value(f"{kind}_audits_since") for answer in answers]
    known = [value for value in since if _is_time(value)]
    if known:
        yield (
            f"[last_pass] oldest: {_time(min(known))}, newest: {_time(max(known))}, "
            f"avg: {_time(sum(known) / len(known))}"
        )
    else:
        yield "[last_pass] - No hosts returned valid data."


def _object_auditor(answers: Sequence[Answer]) -> Iterator[str]:
    names = ("audit_time", "bytes_processed", "passes", "errors", "quarantined")
    for run in ("ALL", "ZBF"):
        passes: list[Mapping[str, Any]] = []
        for answer in answers:
            stats = answer.values(f"object_auditor_stats_{run}")
            inner = [value for value in stats.values() if isinstance(value, dict)]
            # A pass over some devices only is kept below their names.
            passes += inner or [stats]
        for name in names:
            if run == "ZBF" and name == "passes":
                continue
            values = [stats.get(name) for stats in passes]
            yield stats_line(f"{run}_{name}_last_path", values)


def _updater(survey: Survey) -> Iterator[str]:
    key = f"{survey.kind}_updater_sweep"
    yield from _of_keys("updater/{kind}", {key: "updater_last_sweep"}, survey)


def _unmounted(survey: Survey) -> Iterator[str]:
    for answer in survey.ask("unmounted"):
        yield from _absent(answer)


def _absent(answer: Answer) -> Iterator[str]:
    for device in answer.devices():
        if device["mounted"] is False:
            yield f"Not mounted: {device['device']} on {answer.host}"
        elif device["mounted"] is not True:
            yield f"Device errors: {device['device']} on {answer.host}"


@dataclass(frozen=True, slots=True)
class Usage:
    """How full one device is."""

    host: str
    device: str
    used: int
    size: int

    @property
    def percent(self) -> float:
        """Share of the space in use."""
        return round(self.used * 100.0 / self.size, 2) if self.size else 0.0


def _disk_usage(survey: Survey) -> Iterator[str]:
    found: list[Usage] = []
    for answer in survey.ask("diskusage", each_ip_once=True):
        for entry in answer.devices():
            used, total = entry.get("used"), entry.get("size")
            if entry["mounted"] is True and is_number(used) and is_number(total):
                host = answer.host.rpartition(":")[0].strip("[]")
                found.append(Usage(host, str(entry["device"]), int(used), int(total)))
            elif entry["mounted"] is not False:
                yield f"Device errors: {entry['device']} on {answer.host}"
    if not found:
        yield "No hosts returned valid data."
        return
    yield from usage_lines(
        found,
        human=survey.options.human_readable,
        top=survey.options.top,
        lowest=survey.options.lowest,
    )


def usage_lines(
    found: Sequence[Usage], *, human: bool, top: int, lowest: int
) -> Iterator[str]:
    """How full the devices are: a graph, the sums, the extremes. found: not empty."""
    yield "Distribution Graph:"
    counts = Counter(int(usage.percent) for usage in found)
    most = max(counts.values())
    for percent, count in sorted(counts.items()):
        yield f"{percent:3d}%{count:5d} {'*' * (count * GRAPH_WIDTH // most)}"
    total, used = sum(one.size for one in found), sum(one.used for one in found)
    of_all = f"of {size(total, human=human)}"
    yield f"Disk usage: space used: {size(used, human=human)} {of_all}"
    yield f"Disk usage: space free: {size(total - used, human=human)} {of_all}"
    percents = [usage.percent for usage in found]
    average = used * 100.0 / total if total else 0.0
    yield (
        f"Disk usage: lowest: {min(percents)}%, highest: {max(percents)}%, "
        f"avg: {average:f}%"
    )
    by_percent = sorted(found, key=lambda usage: usage.percent)
    for title, shown in (
        (f"TOP {top}", by_percent[::-1][:top]),
        (f"LOWEST {lowest}", by_percent[:lowest]),
    ):
        if shown:
            yield title
        for usage in shown:
            yield f"{usage.percent:.2f}%  {usage.host:<15} {usage.device}"


def _ring_checksums(survey: Survey) -> Iterator[str]:
    folder = Path(survey.options.swiftdir)
    pattern = re.compile(rf"{survey.kind}(-\d+)?\.ring\.gz")
    own = {
        path.name: checksum(str(path))
        for path in folder.glob(f"{survey.kind}*.ring.gz")
        if pattern.fullmatch(path.name)
    }
    yield from _compared(survey.ask("ringmd5"), own)


def _conf_checksum(survey: Survey) -> Iterator[str]:
    path = Path(survey.options.swiftdir) / "swift.conf"
    yield from _compared(survey.ask("swiftconfmd5"), {path.name: checksum(str(path))})


def _compared(answers: Sequence[Answer], own: Mapping[str, str]) -> Iterator[str]:
    matched = 0
    for answer in answers:
        if answer.failed:
            continue
        remote = answer.content if isinstance(answer.content, dict) else {}
        differing = {
            path: digest
            for path, digest in remote.items()
            # Hosts may keep their files elsewhere; the name says what a file is.
            if os.path.basename(path) in own and own[os.path.basename(path)] != digest
        }
        for path, digest in differing.items():
            yield (f"!! {answer.url} ({path} => {digest}) doesn't match on disk md5sum")
        matched += not differing
    yield _matched(answers, matched)


def _matched(answers: Sequence[Answer], matched: int, word: str = "matched") -> str:
    return f"{matched}/{len(answers)} hosts {word}, {_errors(answers)}"


def _errors(answers: Sequence[Answer]) -> str:
    count = sum(answer.failed for answer in answers)
    return f"{count} error[s] while checking hosts."


def _load(survey: Survey) -> Iterator[str]:
    names = {span: f"{span}_load_avg" for span in ("1m", "5m", "15m")}
    yield from _of_keys("load", names, survey)


def _quarantined(survey: Survey) -> Iterator[str]:
    answers = survey.ask("quarantined")
    for kind in ("objects", "containers", "accounts"):
        values = [answer.value(kind) for answer in answers]
        yield stats_line(f"quarantined_{kind}", values)
    policies = [answer.values("policies") for answer in answers]
    indexes = {index for one in policies for index in one if index.isdecimal()}
    for index in sorted(indexes, key=int):
        counts = [one.get(index) for one in policies]
        values = [c.get("objects") if isinstance(c, dict) else None for c in counts]
        yield stats_line(f"quarantined_objects_{index}", values)


def _validate(survey: Survey) -> Iterator[str]:
    answers = survey.ask_servers()
    matched = 0
    for answer in answers:
        if answer.failed:
            continue
        if str(answer.content).startswith(f"{survey.kind}-server"):
            matched += 1
        else:
            yield f"Invalid: {answer.url} is {answer.content}"
    yield _matched(answers, matched, "ok")


def _clocks(survey: Survey) -> Iterator[str]:
    answers = survey.ask("time")
    jitter = survey.options.jitter
    matched = 0
    for answer in answers:
        if answer.failed or not _is_time(answer.content):
            continue
        early, late = answer.began - jitter, answer.ended + jitter
        if early <= answer.content <= late:
            matched += 1
            continue
        off = max(early - answer.content, answer.content - late)
        yield (
            f"!! {answer.url} current time is {_time(answer.ended)}, but remote is "
            f"{_time(answer.content)}, differs by {off:.4f} sec"
        )
    yield _matched(answers, matched)


def _versions(survey: Survey) -> Iterator[str]:
    answers = survey.ask("version")
    known = sorted({str(a.value("version")) for a in answers if not a.failed})
    verdict = "matched" if len(known) == 1 else "not matched"
    yield f"Versions {verdict} ({', '.join(known)}), {_errors(answers)}"


Report = Callable[[Survey], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Check:
    """An option that asks for something.

    reports: titles, and what is printed below each. kinds: to which types it applies.
    of_one_type: --all shows it before what all types have.
    """

    flags: tuple[str, ...]
    help: str
    reports: tuple[tuple[str, Report], ...]
    kinds: tuple[str, ...] = KINDS
    of_one_type: bool = False

    @property
    def name(self) -> str:
        """Attribute of the parsed options."""
        return self.flags[-1].removeprefix("--").replace("-", "_")


_SOCKETS = {
    name: name
    for name in (
        "tcp_in_use", "tcp_mem_allocated_bytes", "tcp6_in_use", "time_wait", "orphan",
    )
}  # fmt: skip
_EXPIRATION = {name: name for name in ("object_expiration_pass", "expired_last_pass")}
_ASYNC: Report = partial(_of_keys, "async", {"async_pending": "async_pending"})
_EXPIRER: Report = partial(_of_keys, "expirer/object", _EXPIRATION)
_SOCKSTAT: Report = partial(_of_keys, "sockstat", _SOCKETS)
_DRIVES: Report = partial(
    _of_keys, "driveaudit", {"drive_audit_errors": "drive_audit_errors"}
)

CHECKS = (
    Check(
        ("-a", "--async"), "updates of containers that wait",
        (("Checking async pendings", _ASYNC),), ("object",), True,
    ),
    Check(
        ("-u", "--unmounted"), "devices that are not mounted",
        (("Getting unmounted drives", _unmounted),),
    ),
    Check(
        ("-r", "--replication"), "passes of replicators",
        (("Checking on replication", _replication),),
    ),
    Check(
        ("--auditor",), "passes of auditors", (("Checking auditor stats", _auditor),),
        of_one_type=True,
    ),
    Check(
        ("--updater",), "passes of updaters", (("Checking updater times", _updater),),
        ("container", "object"), True,
    ),
    Check(
        ("--expirer",), "passes of the expirer",
        (("Checking on expirers", _EXPIRER),), ("object",), True,
    ),
    Check(
        ("--sharding",), "passes of sharders", (("Checking on sharders", _sharding),),
        ("container",), True,
    ),
    Check(
        ("-R", "--reconstruction"), "passes of reconstructors",
        (("Checking on reconstructors", _reconstruction),), ("object",), True,
    ),
    Check(
        ("--validate-servers",), "whether servers are of the type that rings say",
        (("Validating server type", _validate),),
    ),
    Check(("-l", "--loadstats"), "load", (("Checking load averages", _load),)),
    Check(
        ("-d", "--diskusage"), "space on devices",
        (("Checking disk usage now", _disk_usage),),
    ),
    Check(
        ("--md5",), "rings and swift.conf against those here",
        (
            ("Checking ring md5sums", _ring_checksums),
            ("Checking swift.conf md5sum", _conf_checksum),
        ),
    ),
    Check(
        ("-q", "--quarantined"), "what was moved aside",
        (("Checking quarantine", _quarantined),),
    ),
    Check(("--sockstat",), "sockets", (("Checking socket usage", _SOCKSTAT),)),
    Check(
        ("--driveaudit",), "errors of drives",
        (("Checking drive-audit errors", _DRIVES),),
    ),
    Check(("-T", "--time"), "clocks", (("Checking time-sync", _clocks),)),
    Check(
        ("--swift-versions",), "versions", (("Checking versions", _versions),)
    ),
)  # fmt: skip
"""In the order in which they are made."""
