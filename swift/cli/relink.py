# SPDX-License-Identifier: Apache-2.0
"""swift-object-relinker: one step of a part power increase on this node's devices.

What a step does is `daemons/relinker`'s; here are arguments, workers and recon.
Contract cli §7.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TextIO

from swift.core.errors import InvalidInput, SwiftError
from swift.core.policy import StoragePolicy
from swift.core.settings import auto_or, bind, natural
from swift.daemons.relinker import (
    CLEANUP,
    RELINK,
    SECTION,
    Phase,
    Relinker,
    RelinkerConfig,
    Stats,
)
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.config import DEFAULT_SWIFT_DIR, read_conf
from swift.runtime.logs import DEBUG, INFO, Logger, get_logger
from swift.runtime.metrics import NO_METRICS
from swift.runtime.process import current_user, drop_privileges
from swift.runtime.recon import update_cache
from swift.storage.devices import Devices
from swift.storage.fs import FileSystem
from swift.storage.object.context import DiskConfig, DiskContext

EXIT_NOTHING = 2
RECON_FILE = "relinker.recon"


@dataclass(frozen=True)
class Task:
    """What one run does.

    policies: those in the needed phase, each with its part power and the next one.
    """

    step: str
    config: RelinkerConfig
    disks: DiskConfig
    cluster: Cluster
    log: Logger
    policies: Sequence[tuple[StoragePolicy, int, int]]
    partitions: tuple[int, ...]

    @property
    def recon_path(self) -> str:
        """The cache file for recon."""
        return f"{self.config.recon_cache_path}/{RECON_FILE}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 1 with errors, 2 nothing to do or wrong usage."""
    options = _parser().parse_intermixed_args(argv)
    output: TextIO | None = None
    try:
        if options.logfile:
            output = open(options.logfile, "a", encoding="utf-8")  # noqa: SIM115
        config, disks, log = _configured(options, output or sys.stderr)
        cluster = Cluster.load(config.swift_dir, log=log)
        cluster.check_object_rings()
        if config.user and config.user != current_user():
            drop_privileges(config.user)
        policies = policies_in_phase(cluster, options.step, options.policy)
        if not policies:
            log.warning("No policy found to %s", options.step)
            return EXIT_NOTHING
        task = Task(
            options.step, config, disks, cluster, log, policies,
            tuple(options.partition or ()),
        )  # fmt: skip
        return 1 if run(task, options.device or ()) else 0
    except (SwiftError, OSError) as error:
        print(f"swift-object-relinker: {error}", file=sys.stderr)
        return 1
    finally:
        if output is not None:
            output.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swift-object-relinker",
        description="Link the objects of this node where the next part power wants "
        "them (relink), or remove their old names after the increase (cleanup).",
    )
    parser.add_argument("step", choices=(RELINK, CLEANUP))
    parser.add_argument("conf", nargs="?", help="with a section [object-relinker]")
    parser.add_argument("--swift-dir", help=f"default {DEFAULT_SWIFT_DIR}")
    parser.add_argument(
        "--policy", action="append", metavar="P", help="only this policy (repeat)"
    )
    parser.add_argument("--devices", metavar="DIR", help="where devices are mounted")
    parser.add_argument("--user", help="run as this user")
    parser.add_argument(
        "--device", action="append", metavar="D", help="only this device (repeat)"
    )
    parser.add_argument(
        "-p", "--partition", action="append", type=int, metavar="N",
        help="only this partition (repeat)",
    )  # fmt: skip
    parser.add_argument(
        "--skip-mount-check", action="store_true", help="devices may be plain folders"
    )
    parser.add_argument(
        "--files-per-second", type=float, metavar="F", help="limit of a process"
    )
    parser.add_argument(
        "--stats-interval", type=float, metavar="S", help="between progress lines"
    )
    parser.add_argument(
        "--workers", type=auto_or(natural), default=-1, metavar="N|auto",
        help="processes; auto is one a device, 0 none",
    )  # fmt: skip
    parser.add_argument("--logfile", metavar="F", help="instead of standard error")
    parser.add_argument("--debug", action="store_true", help="say more")
    parser.add_argument(
        "--clobber-hardlink-collisions", action="store_true",
        help="let a different file in the new place give way",
    )  # fmt: skip
    return parser


class StreamSink:
    """Plain lines, to standard error or a file."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, level: int, line: str) -> None:
        """Print one line."""
        self._stream.write(f"{line}\n")
        self._stream.flush()


def _configured(
    options: argparse.Namespace, stream: TextIO
) -> tuple[RelinkerConfig, DiskConfig, Logger]:
    """The options of the file, those of the command line over them. ConfigError."""
    values: dict[str, str] = {}
    source = "-"
    if options.conf:
        conf = read_conf(options.conf)
        source = conf.source
        values = conf.section(SECTION)
    config = bind(RelinkerConfig, values, source=source, section=SECTION)
    disks = bind(DiskConfig, values, source=source, section=SECTION)
    if not options.conf:
        config = replace(config, user="")
    given: dict[str, Any] = {
        "swift_dir": options.swift_dir,
        "user": options.user,
        "files_per_second": options.files_per_second,
        "stats_interval_s": options.stats_interval,
        "clobber_hardlink_collisions": options.clobber_hardlink_collisions or None,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if options.workers != -1:
        changes["workers"] = options.workers
    config = replace(config, **changes)
    if options.devices:
        disks = replace(disks, devices=options.devices)
    if options.skip_mount_check:
        disks = replace(disks, mount_check=False)
    if options.conf and not options.logfile:
        log = get_logger(values, SECTION, source=source, section=SECTION)
    else:
        log = Logger(SECTION, [StreamSink(stream)])
    log.level = DEBUG if options.debug else min(log.level, INFO)
    return config, disks, log


def policies_in_phase(
    cluster: Cluster, step: str, wanted: Iterable[str] | None
) -> list[tuple[StoragePolicy, int, int]]:
    """The policies whose ring is where the step is due: part power and the next one.

    wanted: names or indexes, None for all. Raises InvalidInput for an unknown one.
    """
    policies = list(cluster.policies)
    if wanted is not None:
        policies = []
        for word in wanted:
            policy = cluster.policies.by_name(word) or (
                cluster.policies.by_index(word) if word.isdecimal() else None
            )
            if policy is None:
                raise InvalidInput(f"no policy {word!r}")
            policies.append(policy)
    found = []
    for policy in policies:
        ring = cluster.object_ring(policy.index)
        following = ring.next_part_power
        due = ring.part_power + 1 if step == RELINK else ring.part_power
        if following is not None and following == due:
            found.append((policy, ring.part_power, following))
    return found


def run(task: Task, only: Sequence[str]) -> bool:
    """Do the step on the devices, or on `only` some; True when anything failed."""
    names = Devices(task.disks.devices, task.disks.mount_check).names()
    if only:
        task.log.debug("devices that are not here: %s", set(only) - set(names))
        names = list(only)
    update_cache(task.recon_path, {"devices": {}, "workers": {}}, task.log)
    workers = task.config.workers
    count = len(names) if workers is None else min(workers, len(names))
    if not count:
        return _work(task, names)
    pids = []
    for index in range(count):
        share = names[index::count]
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        code = 1
        try:
            green.after_fork()
            code = int(_work(task, share))
        finally:
            # The parent's handlers and buffers are not this process's to run.
            os._exit(code)
    failed = False
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            task.log.error("worker %d was killed", pid)
            done = {str(pid): {"return_code": -os.WTERMSIG(status)}}
            update_cache(task.recon_path, {"workers": done}, task.log)
        failed |= status != 0
    return failed


def _work(task: Task, devices: Sequence[str]) -> bool:
    """Do the step on some devices, in this process; True when anything failed."""
    log = task.log.with_prefix(
        f"[step={task.step}, pid={os.getpid()}, devs={','.join(devices)}] "
    )

    def tell_end(return_code: int | None) -> None:
        facts = {
            "devices": list(devices),
            "timestamp": green.now(),
            "return_code": return_code,
        }
        update_cache(task.recon_path, {"workers": {str(os.getpid()): facts}}, log)

    tell_end(None)
    log.info("Starting step=%s", task.step)
    total = Stats()
    for device in devices:
        total.add(_work_on(task, device, log))
    log.log(
        INFO,
        "Finished step=%s: %d hash dirs processed (%d files, %d linked, %d removed, "
        "%d errors)",
        task.step,
        total.hash_dirs,
        total.files,
        total.linked,
        total.removed,
        total.errors,
    )
    tell_end(int(total.failed))
    return total.failed


def _work_on(task: Task, device: str, log: Logger) -> Stats:
    """All policies of one device."""
    fs = FileSystem()
    done: dict[str, Phase] = {}

    def tell(phase: Phase, index: str) -> None:
        done[index] = phase
        whole = summed(done.values())
        policies = {each: one.as_dict() for each, one in done.items()}
        facts = {device: {**whole, "policies": policies}}
        update_cache(task.recon_path, {"devices": facts}, log)

    for policy, part_power, next_part_power in task.policies:
        context = DiskContext(
            fs, Devices(task.disks.devices, task.disks.mount_check, fs), task.disks,
            policy, task.cluster.salt, log, NO_METRICS,
        )  # fmt: skip
        index = str(policy.index)
        Relinker(
            task.config,
            context,
            device,
            Phase(task.step, part_power, next_part_power),
            only=task.partitions,
            tell=lambda phase, index=index: tell(phase, index),  # type: ignore[misc]
        ).run()
    total = Stats()
    for phase in done.values():
        total.add(phase.stats)
    return total


def summed(phases: Iterable[Phase]) -> dict[str, Any]:
    """What the policies of a device come to, as recon shows it."""
    phases = list(phases)
    stats = Stats()
    for phase in phases:
        stats.add(phase.stats)
    start = min(phase.start_time for phase in phases)
    end = max(phase.timestamp for phase in phases)
    return {
        "parts_done": sum(phase.parts_done for phase in phases),
        "total_parts": sum(phase.total_parts for phase in phases),
        "start_time": start,
        "timestamp": end,
        "total_time": end - start,
        "stats": stats.as_dict(),
    }
