# SPDX-License-Identifier: Apache-2.0
"""The mains of the four servers: from a command line to worker processes that serve.

Parsing, exit codes and messages: contract cli §0. Processes and signals are
`wire/server`'s; what a server is made of, its .conf file says.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swift.core.errors import ConfigError, SwiftError
from swift.core.settings import auto_or, bind, option, positive_int
from swift.runtime import green
from swift.runtime.cluster import Cluster, RingFile, RingUnavailable
from swift.runtime.config import ServerConfig, read_conf
from swift.runtime.logs import NULL_LOG, Logger, bridge_stdlib, get_logger
from swift.runtime.process import (
    Notifier,
    capture_streams,
    drop_privileges,
    is_local,
    keep_freed_memory,
    own_addresses,
    raise_limits,
    set_priority,
)
from swift.wire.filter import Process
from swift.wire.heads import HttpLimits
from swift.wire.master import Master
from swift.wire.pipeline import app_section_name, load_pipeline
from swift.wire.request import WsgiApp
from swift.wire.server import ServerOptions

_CHECK_S = 120.0  # for a new process to load its application


def proxy_server(argv: Sequence[str] | None = None) -> int:
    """swift-proxy-server."""
    return _main("proxy-server", argv)


def account_server(argv: Sequence[str] | None = None) -> int:
    """swift-account-server."""
    return _main("account-server", argv)


def container_server(argv: Sequence[str] | None = None) -> int:
    """swift-container-server."""
    return _main("container-server", argv)


def object_server(argv: Sequence[str] | None = None) -> int:
    """swift-object-server."""
    return _main("object-server", argv, has_device_ports=True)


# --- Command line -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Command:
    """A parsed command line. words: the bare words that name no option."""

    conf_path: str
    verbose: bool = False
    test_config: bool = False
    words: tuple[str, ...] = ()


class UsageError(Exception):
    """The command cannot begin; its text, usage included, goes to stdout."""


def parse_command(program: str, argv: Sequence[str]) -> Command:
    """Read the arguments of a server.

    A bare word that equals an option's long name sets it. Raises UsageError without a
    configuration that exists; exits with 2 for options that are unknown.
    """
    parser = argparse.ArgumentParser(
        prog=f"swift-{program}", usage="%(prog)s CONFIG [options] [words]"
    )
    parser.add_argument("config", nargs="?", help="file, or directory of *.conf files")
    parser.add_argument("words", nargs="*", help="names of options to switch on")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log to the console too"
    )
    parser.add_argument(
        "-t",
        "--test-config",
        action="store_true",
        help="load and check the configuration, then exit",
    )
    found = parser.parse_intermixed_args(list(argv))
    words = {word.replace("_", "-") for word in found.words}
    usage = parser.format_usage()
    if not found.config:
        raise UsageError(f"{usage}Error: missing config path argument")
    path = os.path.abspath(found.config)
    if not Path(path).exists():
        raise UsageError(f"{usage}Error: unable to locate {found.config}")
    return Command(
        path,
        verbose=found.verbose or "verbose" in words,
        test_config=found.test_config or "test-config" in words,
        words=tuple(w for w in found.words if w not in ("verbose", "test-config")),
    )


# --- From configuration to processes ------------------------------------------------


@dataclass(frozen=True)
class ThreadConfig:
    """How many real threads a worker has for calls that block."""

    threads: int | None = option(
        None,
        name="eventlet_tpool_num_threads",
        parse=auto_or(positive_int),
        doc="Threads for disk calls; auto is 20, or 1 with servers_per_port.",
    )


@dataclass(frozen=True)
class Setup:
    """Everything that is settled before a process forks or binds.

    device_ports: the ports to serve for servers_per_port, None without it.
    """

    process: Process
    cluster: Cluster
    config: ServerConfig
    options: ServerOptions
    threads: int | None
    device_ports: Callable[[], set[int]] | None

    @property
    def log(self) -> Logger:
        """The log of the server."""
        return self.process.log


def _main(
    program: str, argv: Sequence[str] | None, *, has_device_ports: bool = False
) -> int:
    try:
        command = parse_command(program, sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        print(error)
        return 1
    try:
        section = app_section_name(command.conf_path)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    log = NULL_LOG
    try:
        setup = load_setup(program, command, section, has_device_ports)
        log = setup.log
        # Built here once, so that what is wrong is said before anything runs, and so
        # that the workers share the memory of all modules.
        app = load_pipeline(command.conf_path, setup.process).app
        if command.test_config:
            return 0
        return _serve(command, limited(setup), app)
    except SwiftError as error:
        print(error)
        # Nobody sees what a server prints that systemd has started.
        if not command.test_config:
            log.critical("cannot start: %s", error)
        return 1
    except KeyboardInterrupt:
        return 0


def load_setup(
    program: str, command: Command, section: str, has_device_ports: bool
) -> Setup:
    """Read the server's file and swift.conf. Raises ConfigError."""
    conf = read_conf(command.conf_path)
    values = conf.app_section(section)
    config = bind(ServerConfig, values, source=conf.source, section="DEFAULT")
    threads = bind(ThreadConfig, values, source=conf.source, section=section).threads
    per_port = config.servers_per_port if has_device_ports else 0
    if not per_port and config.bind_port is None:
        raise ConfigError(conf.source, "DEFAULT", "bind_port", "is missing")
    log = get_logger(
        values,
        program,
        console=command.verbose,
        source=conf.source,
        section=section,
    )
    cluster = Cluster.load(config.swift_dir, log=log)
    cluster.check_object_rings()
    process = Process(
        values,
        source=conf.source,
        cluster=cluster,
        log=log,
        log_name=program,
        console=command.verbose,
    )
    if threads is None and per_port:
        threads = 1
    return Setup(
        process,
        cluster,
        config,
        server_options(config, cluster, values, per_port, source=conf.source),
        threads,
        DevicePorts(cluster, config, log) if per_port else None,
    )


def server_options(
    config: ServerConfig,
    cluster: Cluster,
    values: Mapping[str, str],
    per_port: int = 0,
    *,
    source: str = "-",
) -> ServerOptions:
    """What wire/server needs, out of the server's options and the cluster's limits.

    source: the file that they are from.
    """
    workers = config.workers
    if per_port:
        workers = per_port
    elif workers is None:
        workers = os.cpu_count() or 1
    keepalive_timeout_s = config.keepalive_timeout_s
    if keepalive_timeout_s is None:
        keepalive_timeout_s = config.client_timeout_s
    return ServerOptions(
        source=source,
        bind_ip=config.bind_ip,
        bind_port=config.bind_port or 0,
        bind_timeout_s=config.bind_timeout_s,
        backlog=config.backlog,
        keep_idle_s=config.keep_idle_s,
        workers=workers,
        max_clients=config.max_clients,
        cert_file=config.cert_file,
        key_file=config.key_file,
        stale_worker_timeout_s=config.stale_worker_timeout_s,
        port_check_interval_s=config.ring_check_interval_s,
        limits=HttpLimits(
            client_timeout_s=config.client_timeout_s,
            keepalive_timeout_s=keepalive_timeout_s,
            max_request_line=cluster.limits.max_request_line,
            max_header_size=cluster.limits.max_header_size,
            max_header_count=cluster.limits.max_headers,
            require_proxy_protocol=config.require_proxy_protocol,
            trans_id_suffix=values.get("trans_id_suffix", ""),
        ),
    )


def limited(setup: Setup) -> Setup:
    """The set-up with no more workers than the loaded application can do with."""
    most = setup.process.workers_max
    if most is None or setup.options.workers <= most:
        return setup
    setup.log.warning(
        "%d of %d workers serve: more would not share what they keep in memory",
        most,
        setup.options.workers,
    )
    return replace(setup, options=replace(setup.options, workers=most))


class DevicePorts:
    """The ports that the object rings give to the devices of this machine.

    Called again and again by the master; a ring is read anew when its file changed.
    """

    def __init__(self, cluster: Cluster, config: ServerConfig, log: Logger) -> None:
        self._addresses = own_addresses(config.ring_ip or config.bind_ip)
        self._log = log
        self._files = [
            cluster.rings[policy.ring_name].path for policy in cluster.policies
        ]
        self._read: dict[str, tuple[RingFile, set[int]]] = {}

    def __call__(self) -> set[int]:
        ports: set[int] = set()
        for path in self._files:
            known = self._read.get(path)
            if known is None or known[0].has_changed:
                known = self._read_again(path, known)
            if known is not None:
                ports |= known[1]
        return ports

    def _read_again(
        self, path: str, known: tuple[RingFile, set[int]] | None
    ) -> tuple[RingFile, set[int]] | None:
        file = RingFile(path, self._log)
        try:
            ring = file.get()
        except RingUnavailable as error:
            self._log.warning("%s", error)
            return known
        ports = {
            device.port
            for device in ring.devices
            if device is not None
            and is_local(self._addresses, None, device.ip, device.port)
        }
        self._read[path] = (file, ports)
        return self._read[path]


def start_complaint(directory: str) -> str:
    """Why this very program, started anew in `directory`, would refuse to; or blank.

    The question goes to a new process: a program that has been upgraded reads its
    configuration by its own rules, not by those of the one that runs.
    """
    command = [sys.executable, *sys.orig_argv[1:], "--test-config"]
    try:
        check = subprocess.run(
            command, check=False, cwd=directory, timeout=_CHECK_S, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if check.returncode == 0:
        return ""
    lines = [line for line in check.stdout.splitlines() if line.strip()]
    return lines[-1] if lines else f"the check ended with status {check.returncode}"


def settled(app: WsgiApp) -> WsgiApp:
    """The app, and all that was loaded for it kept out of the garbage collector's way.

    Modules and options live as long as the process; to look through them again and
    again would cost more than the garbage of requests.
    """
    gc.collect()
    gc.freeze()
    return app


def _serve(command: Command, setup: Setup, app: WsgiApp) -> int:
    """Bind, become the user that serves, and run the workers; the exit code."""
    config, log = setup.config, setup.log
    directory = os.getcwd()
    notifier = Notifier()
    serves_alone = setup.options.workers == 0 and setup.device_ports is None

    def make_app() -> WsgiApp:
        # The app that was built to check the configuration serves if nobody forks.
        # Anything in it that a fork would have shared is made anew in a worker.
        if serves_alone:
            return settled(app)
        process = Process(
            setup.process.conf,
            source=setup.process.source,
            cluster=setup.cluster,
            log=log,
            log_name=setup.process.log_name,
            console=command.verbose,
        )
        return settled(load_pipeline(command.conf_path, process).app)

    green.show_hub_errors(config.eventlet_debug)
    if setup.threads is not None:
        green.set_threads(setup.threads)
    master = Master(
        make_app,
        setup.options,
        log,
        notifier=notifier,
        ports=setup.device_ports,
        directory=directory,
        complaint=lambda: start_complaint(directory),
    )
    master.bind()
    keep_freed_memory()
    raise_limits(log)
    set_priority(
        log,
        nice=config.nice_priority,
        io_class=config.ionice_class,
        io_priority=config.ionice_priority,
    )
    drop_privileges(config.user, source=setup.process.source)
    bridge_stdlib(log)
    capture_streams(log, keep_console=command.verbose)
    log.notice(
        "pid %d serves %s",
        os.getpid(),
        ", ".join(f"{config.bind_ip}:{port}" for port in master.bound_ports),
    )
    return master.run()
