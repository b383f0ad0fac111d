# SPDX-License-Identifier: Apache-2.0
"""swift-init: starts, stops and watches the servers and daemons of one machine.

A server has one process a configuration; which configurations there are, is read from
the configuration directory, and what runs, from pid files. Contract cli §2.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from swift.cli.processes import command_line
from swift.core.errors import ConfigError
from swift.runtime import green
from swift.runtime.config import DEFAULT_SWIFT_DIR, read_conf

RUN_DIR = "/var/run/swift"
KILL_WAIT_S = 15
POLL_S = 0.05
DEATH_WATCH_S = 3.0
"""How long a process that printed something at its start is watched."""

MAIN = ("proxy-server", "account-server", "container-server", "object-server")
REST = (
    *(f"account-{name}" for name in ("auditor", "replicator", "reaper")),
    *(
        f"container-{name}"
        for name in (
            "auditor", "replicator", "reconciler", "sharder", "sync", "updater",
        )
    ),
    *(
        f"object-{name}"
        for name in ("auditor", "expirer", "replicator", "reconstructor", "updater")
    ),
)  # fmt: skip
ALIASES = {"all": (*MAIN, *REST), "main": MAIN, "rest": REST}
SHORT = ("proxy", "account", "container", "object")

LIMITS = (
    (resource.RLIMIT_NOFILE, 32768, "file descriptor"),
    (resource.RLIMIT_DATA, 2 << 30, "memory size"),
    (resource.RLIMIT_NPROC, 8192, "process"),
)


class UsageError(Exception):
    """The command line cannot be followed."""


@dataclass(frozen=True, slots=True)
class Dirs:
    """Where configurations, pid files and programs are. path: of executables."""

    swift: Path
    run: Path
    path: str


@dataclass(frozen=True)
class Options:
    """What was asked for beside servers and command."""

    verbose: bool = False
    wait: bool = True
    once: bool = False
    daemon: bool = True
    graceful: bool = False
    config_number: int = 0
    kill_wait_s: float = KILL_WAIT_S
    strict: bool = True
    kill_after_timeout: bool = False


@dataclass
class Started:
    """A process that this run has started."""

    server: Server
    conf: Path
    process: subprocess.Popen[bytes]


@dataclass
class Server:
    """One server or daemon of this machine.

    name: as `object-updater`. only: stem of the one configuration to use, or nothing.
    """

    name: str
    only: str
    dirs: Dirs
    pids: dict[int, Path] = field(default_factory=dict)

    @property
    def is_main(self) -> bool:
        """True for the four that serve requests."""
        return self.name in MAIN

    @property
    def program(self) -> str:
        """Name of its executable."""
        return f"swift-{self.name}"

    @property
    def conf_stem(self) -> str:
        """What the names of its configurations begin with."""
        if self.name == "container-reconciler":
            return self.name
        return f"{self.name.partition('-')[0]}-server"

    def confs(self) -> list[Path]:
        """Its configurations, sorted."""
        found = list(self._confs_of(self.conf_stem))
        if self.name == "object-expirer":
            found = [path for path in found if _has_section(path, self.name)]
            if not found:
                found = list(self._confs_of(self.name))
                if found:
                    print(
                        f"WARNING: {self.name}.conf is deprecated: move "
                        f"[{self.name}] to object-server.conf"
                    )
        return found

    def _confs_of(self, stem: str) -> Iterator[Path]:
        for path in _found(self.dirs.swift, stem, ".conf"):
            name = path.name.removesuffix(".d").removesuffix(".conf")
            if not self.only or name == self.only:
                yield path

    def pid_file_of(self, conf: Path) -> Path:
        """Where the pid of the process with that configuration is kept."""
        inside = conf.relative_to(self.dirs.swift).as_posix()
        if not inside.startswith(self.name):
            inside = inside.replace(self.conf_stem, self.name, 1)
        head, _, tail = inside.rpartition(".conf")
        return self.dirs.run / f"{head}.pid{tail}"

    def conf_of(self, pid_file: Path) -> Path:
        """The configuration whose pid file that is."""
        inside = pid_file.relative_to(self.dirs.run).as_posix()
        head, _, tail = inside.rpartition(".pid")
        own = self.dirs.swift / f"{head}.conf{tail}"
        if own.exists():
            return own
        head = head.replace(self.name, self.conf_stem, 1)
        return self.dirs.swift / f"{head}.conf{tail}"

    def running(self, options: Options) -> dict[int, Path]:
        """Pid → pid file of what runs; pid files of what does not are removed."""
        alive: dict[int, Path] = {}
        for pid_file in _found(self.dirs.run, self.name, ".pid"):
            stem = pid_file.name.removesuffix(".d").removesuffix(".pid")
            if self.only and stem != self.only:
                continue
            pid = _read_pid(pid_file)
            if pid is not None and self.is_ours(pid):
                alive[pid] = pid_file
                continue
            if options.verbose:
                print(f"Removing stale pid file {pid_file}")
            pid_file.unlink(missing_ok=True)
        if options.config_number:
            chosen = self.chosen(options, quiet=True)
            wanted = {self.pid_file_of(conf) for conf in chosen}
            alive = {pid: path for pid, path in alive.items() if path in wanted}
        return alive

    def is_ours(self, pid: int) -> bool:
        return any(self.program in word for word in command_line(pid))

    def chosen(self, options: Options, *, quiet: bool = False) -> list[Path]:
        """The configurations that this command is about; says so when none is."""
        confs = self.confs()
        if options.verbose and confs and not quiet:
            print(f"Found configs for {self.name}:")
            for index, conf in enumerate(confs, 1):
                print(f"  {index}: {conf}")
        if options.config_number:
            if options.config_number <= len(confs):
                return [confs[options.config_number - 1]]
            if not quiet:
                number = options.config_number
                print(f"Unable to locate config number {number} for {self.name}")
            return []
        if not confs and not quiet:
            print(f"Unable to locate config for {self.name}")
        return confs

    # --- Starting ---------------------------------------------------------------------

    def launch(self, options: Options) -> tuple[list[Started], bool]:
        """Start what is configured: the processes, and whether all went well."""
        running = self.running(options)
        if running and not options.config_number:
            self._print_running(running)
            print(f"{self.name} already started...")
            return [], not options.strict
        confs = self.chosen(options)
        if not confs:
            return [], not options.strict
        started: list[Started] = []
        for conf in confs:
            pid_file = self.pid_file_of(conf)
            pid = next((pid for pid, path in running.items() if path == pid_file), None)
            if pid is not None:
                print(f"{self.name} running ({pid} - {conf})")
                print(f"{self.name} already started...")
                return started, not options.strict
            started.append(self._spawn(conf, pid_file, options))
        return started, True

    def _spawn(self, conf: Path, pid_file: Path, options: Options) -> Started:
        is_pass = options.once and not self.is_main
        command = [_executable(self.program, self.dirs) or self.program, str(conf)]
        if is_pass:
            command.append("once")
            print(f"Running {self.name} once...({conf})", flush=True)
        else:
            print(f"Starting {self.name}...({conf})", flush=True)
        output: int | None = None
        if not options.daemon:
            command.append("verbose")
        else:
            output = subprocess.PIPE if options.wait else subprocess.DEVNULL
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
        )  # fmt: skip
        pid_file.parent.mkdir(parents=True, exist_ok=True)
        pid_file.write_text(str(process.pid))
        return Started(self, conf, process)

    # --- Stopping ---------------------------------------------------------------------

    def signal(self, number: int, options: Options) -> dict[int, Path]:
        """Send a signal to all that run; whom it reached."""
        reached: dict[int, Path] = {}
        for pid, pid_file in self.running(options).items():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pid_file.unlink(missing_ok=True)
                continue
            except PermissionError:
                print(f"No permission to signal PID {pid}")
                continue
            print(f"Signal {self.name}  pid: {pid}  signal: {int(number)}")
            reached[pid] = pid_file
        if not reached:
            print(f"No {self.name} running")
        return reached

    def print_status(self, options: Options) -> bool:
        """One line a process; whether there is any."""
        running = self.running(options)
        if running:
            self._print_running(running)
            return True
        if options.config_number:
            for conf in self.chosen(options):
                print(f"{self.name} #{options.config_number} not running ({conf})")
        else:
            print(f"No {self.name} running")
        return False

    def _print_running(self, running: dict[int, Path]) -> None:
        for pid, pid_file in running.items():
            print(f"{self.name} running ({pid} - {self.conf_of(pid_file)})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 or 1."""
    parser = _parser()
    try:
        arguments = parser.parse_intermixed_args(argv)
        words, command = _split(arguments.words)
    except UsageError as error:
        parser.print_help()
        print(f"ERROR: {error}")
        return 1
    # The programs of a checkout stand beside this one.
    beside = os.path.dirname(os.path.abspath(sys.argv[0]))
    path = os.pathsep.join(filter(None, (os.environ.get("PATH", ""), beside)))
    dirs = Dirs(Path(arguments.swift_dir), Path(arguments.run_dir), path)
    found, by_group = chosen_servers(words, dirs)
    if not found:
        return 1
    options = Options(
        verbose=arguments.verbose,
        wait=not arguments.no_wait,
        once=arguments.once,
        daemon=not arguments.no_daemon,
        graceful=arguments.graceful,
        config_number=arguments.config_num,
        kill_wait_s=arguments.kill_wait,
        strict=not by_group if arguments.strict is None else arguments.strict,
        kill_after_timeout=arguments.kill_after_timeout,
    )
    return 0 if COMMANDS[command](found, options) else 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parser() -> argparse.ArgumentParser:
    commands = "\n".join(
        f"  {name:<16}{(act.__doc__ or '').splitlines()[0]}"
        for name, act in COMMANDS.items()
    )
    parser = _Parser(
        prog="swift-init",
        usage="%(prog)s <server>[.<config>] [<server>[.<config>] ...] <command> "
        "[options]",
        description="Start, stop and watch the servers and daemons of this machine. "
        "Servers: all, main, rest, a name as object-server (object for short), or a "
        "glob as 'object-*'.",
        epilog=f"commands:\n{commands}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = "store_true"
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("-v", "--verbose", action=flag, help="say more")
    parser.add_argument("-w", "--no-wait", action=flag, help="do not wait for starts")
    parser.add_argument("-o", "--once", action=flag, help="only one pass of daemons")
    parser.add_argument("-n", "--no-daemon", action=flag, help="stay in the terminal")
    parser.add_argument("-g", "--graceful", action=flag, help="finish requests first")
    parser.add_argument(
        "-c", "--config-num", type=int, default=0, metavar="N",
        help="only the N-th configuration; 0 is all",
    )  # fmt: skip
    parser.add_argument(
        "-k", "--kill-wait", type=float, default=KILL_WAIT_S, metavar="N",
        help="seconds to wait for processes to end",
    )  # fmt: skip
    parser.add_argument(
        "-r", "--run-dir", default=RUN_DIR, help="where pid files are kept"
    )
    parser.add_argument(
        "--swift-dir", default=DEFAULT_SWIFT_DIR, help="where configurations are"
    )
    parser.add_argument(
        "--strict", dest="strict", action=flag, default=None,
        help="fail when a configuration is missing or a server runs already",
    )  # fmt: skip
    parser.add_argument(
        "--non-strict", dest="strict", action="store_false", help="do not"
    )
    parser.add_argument(
        "--kill-after-timeout", action=flag, help="KILL what outlives --kill-wait"
    )
    return parser


def _split(words: list[str]) -> tuple[list[str], str]:
    """(servers, command); the command is the last word, or the first."""
    if len(words) < 2:
        raise UsageError("a server and a command are needed")
    if words[-1] in COMMANDS:
        return words[:-1], words[-1]
    if words[0] in COMMANDS:
        return words[1:], words[0]
    raise UsageError(f"unknown command {words[-1]}")


def chosen_servers(words: Iterable[str], dirs: Dirs) -> tuple[list[Server], bool]:
    """The servers that are meant and installed; whether a group or glob was named."""
    names: dict[tuple[str, str], None] = {}
    by_group = False
    for word in words:
        name, _, only = word.partition(".")
        if name in ALIASES:
            by_group = True
            names.update(dict.fromkeys((each, only) for each in ALIASES[name]))
        elif "*" in name:
            by_group = True
            matches = fnmatch.filter(ALIASES["all"], name)
            names.update(dict.fromkeys((each, only) for each in matches))
        else:
            names[f"{name}-server" if name in SHORT else name, only] = None
    servers = [Server(name, only, dirs) for name, only in names]
    return [one for one in servers if _executable(one.program, dirs)], by_group


def _executable(program: str, dirs: Dirs) -> str | None:
    return shutil.which(program, path=dirs.path)


def _found(root: Path, stem: str, suffix: str) -> Iterator[Path]:
    """Paths `<stem>*` below root that end in suffix or suffix + `.d`, sorted.

    A directory `<stem>*` that is none of these is searched to its depth.
    """
    if not root.is_dir():
        return
    for path in sorted(root.iterdir()):
        if path.name.startswith(stem):
            yield from _found_at(path, suffix)


def _found_at(path: Path, suffix: str) -> Iterator[Path]:
    if path.name.startswith("."):
        return
    if path.name.endswith((suffix, f"{suffix}.d")):
        yield path
    elif path.is_dir():
        for inner in sorted(path.iterdir()):
            yield from _found_at(inner, suffix)


def _has_section(path: Path, section: str) -> bool:
    try:
        return section in read_conf(str(path)).sections
    except ConfigError:
        return False


def _read_pid(path: Path) -> int | None:
    try:
        pid = int(path.read_text())
    except (OSError, ValueError):
        return None
    return pid if pid > 0 else None


# --- Commands -------------------------------------------------------------------------
# Each takes the servers and options and returns whether all went well.


def start(servers: Sequence[Server], options: Options) -> bool:
    """start what is configured"""
    raise_limits()
    os.environ.setdefault("PYTHON_EGG_CACHE", tempfile.gettempdir())
    good = True
    started: list[Started] = []
    for server in servers:
        processes, fine = server.launch(options)
        started += processes
        good &= fine
    if not options.daemon:
        return _wait_attached(started) and good
    if options.wait:
        for one in started:
            good &= _wait_for_start(one, options)
    return good


def _wait_for_start(one: Started, options: Options) -> bool:
    """Echo what the process prints until it is ready; False if it died of that."""
    assert one.process.stdout is not None, "waited for with a pipe"
    text = one.process.stdout.read().decode("utf-8", "replace")
    if options.once and not one.server.is_main:
        code = one.process.wait()
        if text:
            print(text.rstrip("\n"))
        return code == 0
    if not text:
        return True
    end = green.monotonic() + DEATH_WATCH_S
    while one.process.poll() is None and green.monotonic() < end:
        green.sleep(POLL_S)
    code_now = one.process.returncode
    ending = "" if code_now is None else f" (exited with {code_now})"
    print(f"{text.rstrip()}{ending}")
    return code_now is None


def _wait_attached(started: Sequence[Started]) -> bool:
    try:
        codes = [one.process.wait() for one in started]
        return not any(codes)
    except KeyboardInterrupt:
        for one in started:
            one.process.terminate()
        for one in started:
            one.process.wait()
        return True


def no_wait(servers: Sequence[Server], options: Options) -> bool:
    """start, and do not wait until they are ready"""
    return start(servers, replace(options, wait=False))


def no_daemon(servers: Sequence[Server], options: Options) -> bool:
    """start in this terminal; Ctrl-C stops them"""
    return start(servers, replace(options, daemon=False))


def once(servers: Sequence[Server], options: Options) -> bool:
    """run one pass of daemons and wait for its end; start servers"""
    return start(servers, replace(options, once=True))


def stop(servers: Sequence[Server], options: Options) -> bool:
    """stop what runs, and wait until it has stopped"""
    watched = _signalled(servers, options)
    return bool(watched) and _wait_stopped(watched, options)


def _signalled(
    servers: Sequence[Server], options: Options
) -> dict[int, tuple[Server, Path]]:
    """Tell all to end; who was there to hear it."""
    watched: dict[int, tuple[Server, Path]] = {}
    for server in servers:
        number = signal.SIGTERM
        if options.graceful and server.is_main:
            number = signal.SIGHUP
        for pid, pid_file in server.signal(number, options).items():
            watched[pid] = (server, pid_file)
    return watched


def _wait_stopped(watched: dict[int, tuple[Server, Path]], options: Options) -> bool:
    end = green.monotonic() + options.kill_wait_s
    while watched and green.monotonic() < end:
        _drop_stopped(watched)
        if watched:
            green.sleep(POLL_S)
    for pid, (server, _pid_file) in watched.items():
        wait = f"Waited {options.kill_wait_s:g} seconds for {server.name} to die; "
        print(wait + ("killing" if options.kill_after_timeout else "giving up"))
        if options.kill_after_timeout:
            _kill_group(pid)
    return not watched


def _drop_stopped(watched: dict[int, tuple[Server, Path]]) -> None:
    for pid, (server, pid_file) in list(watched.items()):
        # A child of ours stays in the table of processes until it is waited for; its
        # command line is empty by then.
        if not server.is_ours(pid):
            print(f"{server.name} ({pid}) appears to have stopped")
            pid_file.unlink(missing_ok=True)
            del watched[pid]


def _kill_group(pid: int) -> None:
    try:
        os.killpg(os.getpgid(pid), signal.SIGKILL)
    except (ProcessLookupError, PermissionError) as error:
        print(f"Signal to the process group of {pid} failed: {error.strerror}")


def shutdown(servers: Sequence[Server], options: Options) -> bool:
    """stop; servers finish their requests first"""
    return stop(servers, replace(options, graceful=True))


def kill(servers: Sequence[Server], options: Options) -> bool:
    """stop; no failure when nothing runs"""
    return _wait_stopped(_signalled(servers, options), options)


def restart(servers: Sequence[Server], options: Options) -> bool:
    """stop, then start"""
    stopped = stop(servers, options)
    return start(servers, options) and stopped


def reload(servers: Sequence[Server], options: Options) -> bool:
    """shutdown, then start, one server after the other"""
    good = True
    for server in servers:
        good &= shutdown([server], options)
        good &= start([server], options)
    return good


def reload_seamless(servers: Sequence[Server], options: Options) -> bool:
    """servers run themselves anew while the old workers finish; daemons stop"""
    good = True
    for server in servers:
        number = signal.SIGUSR1 if server.is_main else signal.SIGTERM
        good &= bool(server.signal(number, options))
    return good


def status(servers: Sequence[Server], options: Options) -> bool:
    """show what runs; fails when a server does not"""
    found = [server.print_status(options) for server in servers]
    return all(found)


COMMANDS: dict[str, Callable[[Sequence[Server], Options], bool]] = {
    "start": start,
    "stop": stop,
    "shutdown": shutdown,
    "restart": restart,
    "reload": reload,
    "force-reload": reload,
    "reload-seamless": reload_seamless,
    "kill": kill,
    "status": status,
    "once": once,
    "no-wait": no_wait,
    "no-daemon": no_daemon,
}


def raise_limits() -> None:
    """Raise the limits that the servers inherit; each that is refused is named."""
    for which, wanted, name in LIMITS:
        soft, hard = resource.getrlimit(which)
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            continue
        try:
            top = hard if hard == resource.RLIM_INFINITY else max(hard, wanted)
            resource.setrlimit(which, (wanted, top))
        except (ValueError, OSError):
            print(f"WARNING: Unable to modify {name} limit.  Running as non-root?")
