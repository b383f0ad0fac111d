# SPDX-License-Identifier: Apache-2.0
"""The mains of every background daemon: from a command line to passes that run.

Parsing, exit codes and messages: contract cli §0; how a daemon runs: `runtime/daemon`.
A daemon is a row in the table below; its class says the rest.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from swift.core.errors import ConfigError, SwiftError
from swift.core.settings import bind, csv, integer, unknown_options
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.config import ConfFile, read_conf
from swift.runtime.daemon import Daemon, DaemonConfig, Frame, Scope, run
from swift.runtime.logs import NULL_LOG, Logger, bridge_stdlib, get_logger
from swift.runtime.metrics import get_metrics
from swift.runtime.process import (
    READY,
    STOPPING,
    Notifier,
    capture_streams,
    detach,
    drop_privileges,
    set_priority,
)


@dataclass(frozen=True)
class Switch:
    """An option that only some daemons have.

    flags: as on the command line. field: of Scope, or a key of its `extra`. once_only:
    it is honoured only in a single pass.
    """

    flags: tuple[str, ...]
    field: str
    parse: Callable[[str], Any]
    help: str
    once_only: bool = True


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(item) for item in csv(text))


def _flag(_text: str) -> bool:
    return True


DEVICES = Switch(("-d", "--devices"), "devices", csv, "only these devices (CSV)")
PARTITIONS = Switch(
    ("-p", "--partitions"), "partitions", _numbers, "only these partitions (CSV)"
)
POLICIES = Switch(
    ("-i", "--policies"), "policies", _numbers, "only these policy indexes (CSV)"
)
PROCESSES = Switch(
    ("--processes",), "processes", integer, "processes that share the work", False
)
PROCESS = Switch(
    ("--process",), "process", integer, "which of them this is, from 0", False
)
ZERO_BYTE_FPS = Switch(
    ("-z", "--zero_byte_fps"),
    "zero_byte_fps",
    integer,
    "only the zero-byte pass, at this many files a second",
    False,
)


@dataclass(frozen=True)
class Program:
    """One daemon, and the switches beyond the common ones.

    path: of its class, `module:Class` below swift.daemons. It is imported when it is
    asked for: a command that begins often needs one daemon, not all of them.
    """

    path: str
    switches: tuple[Switch, ...] = ()

    @property
    def daemon(self) -> type[Daemon[Any]]:
        """The class."""
        module, _, name = self.path.partition(":")
        found: type[Daemon[Any]] = getattr(
            import_module(f"swift.daemons.{module}"), name
        )
        return found


class UsageError(Exception):
    """The command cannot begin; its text, usage included, goes to stdout."""


def parse(
    name: str, switches: Sequence[Switch], argv: Sequence[str]
) -> tuple[str, bool, Scope]:
    """(configuration, verbose, scope) of a command line.

    A bare word that equals an option's long name sets it; others are ignored. Raises
    UsageError; exits with 2 for unknown options.
    """
    parser = argparse.ArgumentParser(
        prog=f"swift-{name}", usage="%(prog)s CONFIG [options] [words]"
    )
    parser.add_argument("config", nargs="?", help="file, or directory of *.conf files")
    parser.add_argument("words", nargs="*", help="names of options to switch on")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log to the console too"
    )
    parser.add_argument("-o", "--once", action="store_true", help="one pass, then end")
    for switch in switches:
        parser.add_argument(*switch.flags, dest=switch.field, help=switch.help)
    found = parser.parse_intermixed_args(list(argv))
    usage = parser.format_usage()
    if not found.config:
        raise UsageError(f"{usage}Error: missing config path argument")
    path = os.path.abspath(found.config)
    if not Path(path).exists():
        raise UsageError(f"{usage}Error: unable to locate {found.config}")
    once = found.once or "once" in found.words
    scope = Scope(once=once)
    for switch in switches:
        text = getattr(found, switch.field)
        if text is None or (switch.once_only and not once):
            continue
        try:
            value = switch.parse(text)
        except ValueError:
            parser.error(f"{switch.flags[-1]}: {text!r} is not valid")
        if switch.field in ("devices", "partitions", "policies"):
            scope = replace(scope, **{switch.field: value})
        else:
            scope.extra[switch.field] = value
    return path, found.verbose or "verbose" in found.words, scope


def daemon_main(program: Program, argv: Sequence[str] | None) -> int:
    """Run a daemon's command; its exit code."""
    kind = program.daemon
    name = kind.section
    try:
        path, verbose, scope = parse(
            name, program.switches, sys.argv[1:] if argv is None else argv
        )
    except UsageError as error:
        print(error)
        return 1
    log = NULL_LOG
    try:
        conf = read_conf(path)
        values = conf.section(name)
        log = get_logger(
            {"log_name": name, **values},
            name,
            console=verbose,
            source=conf.source,
            section=name,
        )
        daemon = make_daemon(kind, values, conf, log)
        daemon.check(scope)
    except SwiftError as error:
        print(error, file=sys.stderr)
        log.critical("cannot start: %s", error)
        return 1
    if not getattr(daemon.config, "daemonize", True):
        scope = replace(scope, once=True)
    return _run(daemon, scope, values, conf.source, log, verbose=verbose)


def make_daemon(
    kind: type[Daemon[Any]], values: Mapping[str, str], conf: ConfFile, log: Logger
) -> Daemon[Any]:
    """A daemon of the options of its section. Raises ConfigError."""
    source = conf.source
    for option in unknown_options([DaemonConfig, kind.Config], values):
        if not option.startswith(("log_", "statsd_", "__", "here")):
            log.debug("%s [%s]: option %s is unknown", source, kind.section, option)
    common = bind(DaemonConfig, values, source=source, section=kind.section)
    config = bind(kind.Config, values, source=source, section=kind.section)
    cluster = Cluster.load(common.swift_dir, log=log)
    cluster.check_object_rings()
    metrics = get_metrics(values, values.get("log_name", kind.section), source=source)
    return kind(config, Frame(cluster, log, metrics, conf))


def _run(
    daemon: Daemon[Any],
    scope: Scope,
    values: Mapping[str, str],
    source: str,
    log: Logger,
    *,
    verbose: bool,
) -> int:
    common = bind(DaemonConfig, values, source=source, section=daemon.section)
    green.show_hub_errors(common.eventlet_debug)
    notifier = Notifier()
    try:
        set_priority(
            log,
            nice=common.nice_priority,
            io_class=common.ionice_class,
            io_priority=common.ionice_priority,
        )
        drop_privileges(common.user, source=source)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    detach()
    bridge_stdlib(log)
    capture_streams(log, keep_console=verbose)
    own_pid = os.getpid()

    def end(*_signal: object) -> None:
        if os.getpid() == own_pid:
            log.notice("%s: SIGTERM, pid %d ends", daemon.section, own_pid)
            notifier.send(STOPPING)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.killpg(0, signal.SIGTERM)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    log.notice("%s: pid %d starts", daemon.section, own_pid)
    notifier.send(READY)
    try:
        green.spawn(run, daemon, scope).wait()
    except KeyboardInterrupt:
        log.notice("%s: interrupted", daemon.section)
    notifier.send(STOPPING)
    log.notice("%s: pid %d ends", daemon.section, own_pid)
    return 0


PROGRAMS = {
    "account-auditor": Program("db_auditor:AccountAuditor"),
    "account-reaper": Program("account_reaper:AccountReaper"),
    "account-replicator": Program(
        "account_replicator:AccountReplicator", (DEVICES, PARTITIONS)
    ),
    "container-auditor": Program("db_auditor:ContainerAuditor"),
    "container-reconciler": Program("container_reconciler:ContainerReconciler"),
    "container-replicator": Program(
        "container_replicator:ContainerReplicator", (DEVICES, PARTITIONS)
    ),
    "container-sync": Program("container_sync:ContainerSync"),
    "container-updater": Program("container_updater:ContainerUpdater"),
    "object-auditor": Program("object_auditor:ObjectAuditor", (DEVICES, ZERO_BYTE_FPS)),
    "object-expirer": Program("object_expirer:ObjectExpirer", (PROCESSES, PROCESS)),
    "object-reconstructor": Program(
        "object_reconstructor:ObjectReconstructor", (DEVICES, PARTITIONS)
    ),
    "object-replicator": Program(
        "object_replicator:ObjectReplicator", (DEVICES, PARTITIONS, POLICIES)
    ),
    "object-updater": Program("object_updater:ObjectUpdater"),
}
"""Every daemon, by the name of its section."""


def account_auditor(argv: Sequence[str] | None = None) -> int:
    """swift-account-auditor."""
    return daemon_main(PROGRAMS["account-auditor"], argv)


def account_reaper(argv: Sequence[str] | None = None) -> int:
    """swift-account-reaper."""
    return daemon_main(PROGRAMS["account-reaper"], argv)


def account_replicator(argv: Sequence[str] | None = None) -> int:
    """swift-account-replicator."""
    return daemon_main(PROGRAMS["account-replicator"], argv)


def container_auditor(argv: Sequence[str] | None = None) -> int:
    """swift-container-auditor."""
    return daemon_main(PROGRAMS["container-auditor"], argv)


def container_reconciler(argv: Sequence[str] | None = None) -> int:
    """swift-container-reconciler."""
    return daemon_main(PROGRAMS["container-reconciler"], argv)


def container_replicator(argv: Sequence[str] | None = None) -> int:
    """swift-container-replicator."""
    return daemon_main(PROGRAMS["container-replicator"], argv)


def container_sync(argv: Sequence[str] | None = None) -> int:
    """swift-container-sync."""
    return daemon_main(PROGRAMS["container-sync"], argv)


def container_updater(argv: Sequence[str] | None = None) -> int:
    """swift-container-updater."""
    return daemon_main(PROGRAMS["container-updater"], argv)


def object_auditor(argv: Sequence[str] | None = None) -> int:
    """swift-object-auditor."""
    return daemon_main(PROGRAMS["object-auditor"], argv)


def object_expirer(argv: Sequence[str] | None = None) -> int:
    """swift-object-expirer."""
    return daemon_main(PROGRAMS["object-expirer"], argv)


def object_reconstructor(argv: Sequence[str] | None = None) -> int:
    """swift-object-reconstructor."""
    return daemon_main(PROGRAMS["object-reconstructor"], argv)


def object_replicator(argv: Sequence[str] | None = None) -> int:
    """swift-object-replicator."""
    return daemon_main(PROGRAMS["object-replicator"], argv)


def object_updater(argv: Sequence[str] | None = None) -> int:
    """swift-object-updater."""
    return daemon_main(PROGRAMS["object-updater"], argv)
