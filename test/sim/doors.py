# SPDX-License-Identifier: Apache-2.0
"""What stands in the doors of a simulated cluster: clock, threads, disk and network.

All of it is driven by one seeded generator and runs in one thread, so that a seed makes
the same history each time. Files lie in a real directory (in memory where there is
one); SQLite works on it directly, objects go through `SimDisk`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from dataclasses import dataclass, field

import greenlet

from swift.core.errors import LockTimeout, PeerError, PeerTimeout
from swift.daemons import rsync
from swift.runtime import green
from swift.runtime.logs import NULL_LOG
from swift.storage.fs import FileSystem
from swift.wire.client import HttpConnection, peer_name
from swift.wire.heads import HttpLimits
from swift.wire.protocol import ServerConnection, Serving, base_environ
from swift.wire.request import Response
from test.sim.layout import PORTS
from test.sim.pipes import connected

START = 1_700_000_000.0
TICK_S = 1e-6
KINDS = {port: kind for kind, port in PORTS.items()}


class Stuck(Exception):
    """The cluster waits for something that will never come."""


class SimClock:
    """Time that passes only when all wait, but for a tick at each look.

    The ticks keep timers that are set at one moment in the order in which they were
    set, whatever their addresses in memory are.
    """

    patience_s = 0.0
    SLEEPS_MAX = 200_000

    def __init__(self, record=None):
        self._passed = 0.0
        self._sleeps = 0
        self._record = record

    def monotonic(self):
        self._passed += TICK_S
        return 1000.0 + self._passed

    def now(self):
        self._passed += TICK_S
        return START + self._passed

    def sleep(self, seconds):
        self._sleeps += 1
        if self._sleeps > self.SLEEPS_MAX:
            raise Stuck(f"{self._sleeps} sleeps")
        if self._record is not None:
            self._record(f"all wait for {seconds:.6f}")
        self._passed += seconds

    def seconds(self):
        """As `now`, but for who does not count as looking."""
        return START + self._passed

    def leap(self, seconds):
        """Let time pass without asking who waits for it."""
        self._passed += seconds


class DiskThreads:
    """Runs the calls of `in_thread`: at once, or on green threads of their own.

    apart: most calls get such a thread. It is one of `running`, lets others run between
    the steps of a disk, and goes on when nobody waits for it any more.
    """

    def __init__(self, rng, *, apart=False):
        self._rng = rng
        self._apart = apart
        self.running = set()

    def call(self, function, args, kwargs):
        drawn = self._rng.random()
        if drawn < 0.2:
            green.yield_now()
        run = self._call_apart if self._apart and drawn < 0.7 else _call
        result = run(function, args, kwargs)
        if drawn > 0.9:
            # What is done is not yet known to who asked for it.
            green.yield_now()
        return result

    def _call_apart(self, function, args, kwargs):
        outcome = []
        thread = green.spawn(self._run, function, args, kwargs, outcome)
        self.running.add(thread)
        thread.wait()
        if not outcome:
            raise green.Killed  # with its process
        result, error = outcome[0]
        if error is not None:
            raise error
        return result

    def _run(self, function, args, kwargs, outcome):
        try:
            outcome.append((function(*args, **kwargs), None))
        except Exception as error:
            outcome.append((None, error))
        finally:
            self.running.discard(this_thread())


def _call(function, args, kwargs):
    return function(*args, **kwargs)


def this_thread():
    """The green thread that runs."""
    return greenlet.getcurrent()


# --- The disk -------------------------------------------------------------------------


class PowerCut(green.Killed):
    """The node is gone in the middle of a step; nothing may catch this."""


CHANGES = frozenset(
    (
        "make_directory", "remove_directory", "open_unnamed", "open_temporary",
        "open_append", "write", "truncate", "set_xattr", "set_time", "link_unnamed",
        "link", "symlink", "rename", "unlink", "sync", "sync_data", "preallocate",
        "lock",
    )
)  # fmt: skip
"""The steps between which the power can be cut."""

_OPENING = frozenset(
    (
        "open_directory", "open_unnamed", "open_temporary", "open_read", "open_append",
        "open_write", "open_cached", "lock",
    )
)  # fmt: skip
_CREATING = frozenset(("open_unnamed", "open_temporary"))
STEPS = (
    CHANGES
    | _OPENING
    | {
        "list", "read", "read_into", "size", "get_xattr", "status", "is_directory",
        "is_file", "read_link", "space", "read_cached", "bypass_cache",
    }
)  # fmt: skip
"""What fails on a node that is off, and on a sick disk."""

_DATABASES = frozenset(("accounts", "containers", "tmp", "quarantined"))
"""Directories of a device that SQLite works in, past this disk."""


UNSYNCED = frozenset(("hashes.invalid", "hashes.pkl"))
"""Files that nothing syncs: their bytes may be lost with the power, but not their names
and times, which a file system logs in order with the names of objects."""


class Kept:
    """What the platter holds of one file or directory.

    synced: it was ever synced. data, attributes: of a file; entries: of a directory.
    """

    __slots__ = ("attributes", "data", "entries", "is_directory", "synced")

    def __init__(self):
        self.synced = False
        self.is_directory = False
        self.data = b""
        self.attributes = {}
        self.entries = {}


@dataclass
class DiskState:
    """How the disk of one node does.

    errors: method → errno. room: bytes that can still be written, None for enough.
    cut_in: steps until the power goes, None for never. on_cut: called then. threads:
    of those in DiskThreads.running, which work for the node.
    """

    down: bool = False
    errors: dict = field(default_factory=dict)
    room: int | None = None
    cut_in: int | None = None
    on_cut: object = None
    threads: dict = field(default_factory=dict)


class SimDisk(FileSystem):
    """The disks of all nodes: `<root>/<node>/<device>/…`.

    broken: names of rules that it breaks, to see that the simulation notices:
    "fsync" does not sync, and nothing is on the platter by luck; "tombstones" loses
    them, "pending" loses container updates. (Databases break "rows".) threads: see
    DiskThreads.running. record: takes a line for each step. is_calm: no disk will fail
    and no power go any more, so that nothing need be watched.
    """

    is_calm = False

    def __init__(self, root, rng, broken=(), record=None):
        super().__init__()
        self._record = record
        self.root = root
        self.broken = frozenset(broken)
        self.nodes = {}
        self.threads = frozenset()
        self._rng = rng
        self._fds = {}
        self._kept = {}
        self._ordered_names = rng.random() < 0.5
        self._luck = 0.0 if "fsync" in broken else 0.5
        """How likely the kernel has written something back by itself."""

    def add(self, node, device):
        """Begin with the empty device of a node."""
        self.nodes[node] = DiskState()
        self._known(os.stat(f"{self.root}/{node}/{device}").st_ino).synced = True

    def _known(self, inode):
        kept = self._kept.get(inode)
        if kept is None:
            kept = self._kept[inode] = Kept()
        return kept

    def _node_of(self, arguments, keywords):
        for given in (*arguments, keywords.get("directory_fd")):
            if isinstance(given, str):
                if given.startswith(self.root):
                    return given[len(self.root) + 1 :].partition("/")[0]
            elif isinstance(given, int):
                found = self._fds.get(given)
                if found is not None:
                    return found
        return None

    def errors_of(self, path):
        """What fails on the node of a path, method → errno."""
        state = self.nodes.get(self._node_of((path,), {}))
        return {} if state is None else state.errors

    def step(self, name, arguments, keywords):
        """Fail as the node's disk does now; the node."""
        node = self._node_of(arguments, keywords)
        if self._record is not None:
            shown = (each for each in arguments if isinstance(each, str))
            self._record(" ".join((f"disk {node}: {name}", *shown)))
        state = self.nodes.get(node)
        if state is None:
            return node
        if self.threads and not self.is_calm:
            self._let_others_run(state)
        if state.down:
            raise OSError(errno.EIO, "the node is off")
        if name in state.errors:
            raise OSError(state.errors[name], os.strerror(state.errors[name]))
        if state.cut_in is not None and name in CHANGES:
            state.cut_in -= 1
            if state.cut_in < 0:
                state.cut_in = None
                state.on_cut()
                raise PowerCut
        return node

    def _let_others_run(self, state):
        """On a disk thread: take a while, at times. Yields."""
        thread = this_thread()
        if thread not in self.threads:
            return
        state.threads[thread] = None
        drawn = self._rng.random()
        if drawn < 0.15:
            green.yield_now()
        elif drawn < 0.18:
            green.sleep(self._rng.choice((0.002, 0.1, 1.5)))

    def opened(self, name, result, node):
        """Remember whose a descriptor is, and that a new file is new."""
        fd = result[0] if isinstance(result, tuple) else result
        if fd is None:
            return
        self._fds[fd] = node
        if name in _CREATING:
            self._kept.pop(os.fstat(fd).st_ino, None)

    def close(self, fd):
        self._fds.pop(fd, None)
        super().close(fd)

    # In a fixed order, whatever the file system.
    def list(self, path):
        return sorted(super().list(path))

    def make_directory(self, path):
        super().make_directory(path)
        self._kept.pop(os.stat(path).st_ino, None)

    def open_temporary(self, directory):
        path = f"{directory}/{self.random_bytes(8).hex()}"
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), path

    def open_append(self, path):
        is_new = not os.path.exists(path)
        fd = super().open_append(path)
        if is_new:
            self._kept.pop(os.fstat(fd).st_ino, None)
        return fd

    def link_unnamed(self, fd, name, directory_fd):
        if "tombstones" in self.broken and name.endswith(".ts"):
            return
        super().link_unnamed(fd, name, directory_fd)

    def rename(self, source, target):
        if "pending" in self.broken and "/async_pending" in target:
            os.unlink(source)
            return
        super().rename(source, target)

    def random_bytes(self, count):
        return self._rng.randbytes(count)

    def orders_names(self, fd):
        return self._ordered_names

    def keeps_log(self, fd):
        return False

    def start_sync(self, fd):
        """Nothing to begin."""

    def bypass_cache(self, fd, on):
        return False

    def write(self, fd, chunks):
        room = self._room_of(fd)
        if room is None:
            return super().write(fd, chunks)
        data = b"".join(chunks)
        self.nodes[self._fds[fd]].room = max(0, room - len(data))
        written = super().write(fd, [data[:room]]) if room else 0
        if written < len(data):
            raise _no_space()
        return written

    def _room_of(self, fd):
        """The bytes that a file may still grow by, None for enough."""
        state = self.nodes.get(self._fds.get(fd))
        return None if state is None else state.room

    def preallocate(self, fd, size):
        room = self._room_of(fd)
        if room is not None and size > room:
            raise _no_space()

    def space(self, fd):
        room = self._room_of(fd)
        return 1 << 40 if room is None else room, 1 << 41

    def read_once(self, fd):
        """Nothing to advise."""

    def drop_cache(self, fd, offset, length):
        """Nothing to advise."""

    def lock(self, path, timeout_s):
        is_new = not os.path.exists(path)
        if is_new and "make_directory" in self.errors_of(path):
            raise _no_space()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        if is_new:
            self._kept.pop(os.fstat(fd).st_ino, None)
        waited_s, pause_s = 0.0, 0.01
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd
            except BlockingIOError:
                if waited_s >= timeout_s:
                    os.close(fd)
                    raise LockTimeout(path, timeout_s) from None
            try:
                # The holder is another green thread of ours.
                green.sleep(pause_s)
            except BaseException:
                os.close(fd)
                raise
            waited_s += pause_s

    # --- What survives ----------------------------------------------------------------

    def sync(self, fd):
        if "fsync" in self.broken or self.is_calm:
            return
        facts = os.fstat(fd)
        kept = self._known(facts.st_ino)
        kept.synced = True
        kept.is_directory = os.path.isdir(f"/proc/self/fd/{fd}")
        if kept.is_directory:
            kept.entries = {
                entry.name: self._known(entry.inode()) for entry in os.scandir(fd)
            }
            if self._ordered_names:
                self._sync_above(os.readlink(f"/proc/self/fd/{fd}"))
            return
        # A writer's descriptor cannot be read from; another of the same file can.
        with open(f"/proc/self/fd/{fd}", "rb") as again:
            kept.data = again.read()
        kept.attributes = {name: os.getxattr(fd, name) for name in os.listxattr(fd)}

    sync_data = sync

    def _sync_above(self, path):
        """A log of names in order: the parents' older entries are down too."""
        while path.count("/") > self.root.count("/") + 2:
            parent, _, name = path.rpartition("/")
            try:
                inode = os.stat(path).st_ino
                above = self._known(os.stat(parent).st_ino)
            except FileNotFoundError:
                return
            above.synced = above.is_directory = True
            above.entries[name] = self._known(inode)
            path = parent

    def lose_power(self, node, device):
        """Leave on a device what a restart finds; what was not synced is a gamble."""
        top = f"{self.root}/{node}/{device}"
        if not os.path.isdir(top):
            return
        kept = self._known(os.stat(top).st_ino)
        names = {*os.listdir(top), *kept.entries} - _DATABASES
        for name in sorted(names):
            self._settle(kept, top, name)

    def _settle(self, parent, path, name):
        """Make one entry of a directory what it is after the power went."""
        place = f"{path}/{name}"
        if name in UNSYNCED and os.path.exists(place):
            self._lose_end(place)
            return
        entry = parent.entries.get(name)
        try:
            live = self._known(os.lstat(place).st_ino)
        except FileNotFoundError:
            live = None
        if entry is not live and self._rng.random() < self._luck:
            entry = live  # the kernel had written it back
        if entry is not live:
            _remove(place)
            live = None
        if entry is None:
            parent.entries.pop(name, None)
            return
        is_directory = entry.is_directory if live is None else os.path.isdir(place)
        if live is not None and is_directory:
            for child in sorted({*os.listdir(place), *entry.entries}):
                self._settle(entry, place, child)
        elif is_directory:
            os.mkdir(place)
            for child in sorted(entry.entries):
                self._settle(entry, place, child)
        elif live is not None and self._rng.random() < self._luck:
            pass  # all of it had been written back
        elif live is None and not entry.synced and not _is_file_name(name):
            os.mkdir(place)
        else:
            _remove(place)
            with open(place, "wb") as stream:
                stream.write(entry.data)
            for key, value in entry.attributes.items():
                os.setxattr(place, key, value)
        found = os.stat(place).st_ino
        entry.synced = True
        entry.is_directory = os.path.isdir(place)
        self._kept[found] = entry
        parent.entries[name] = entry

    def _lose_end(self, place):
        """Leave of a file what had been written back, and its time."""
        facts = os.stat(place)
        if self._rng.random() < 0.5:
            os.truncate(place, self._rng.randint(0, facts.st_size))
            os.utime(place, (facts.st_atime, facts.st_mtime))

    def forget(self, path):
        """The device was replaced by an empty one."""
        kept = self._known(os.stat(path).st_ino)
        kept.synced = kept.is_directory = True
        kept.entries = {}


def _no_space():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_file_name(name):
    return "." in name or "-" in name


def _remove(place):
    if os.path.isdir(place) and not os.path.islink(place):
        shutil.rmtree(place)
    elif os.path.lexists(place):
        os.unlink(place)


def _stepped(name):
    inner = getattr(SimDisk, name)
    opens = name in _OPENING

    def method(self, *arguments, **keywords):
        if self.is_calm and self._record is None:
            return inner(self, *arguments, **keywords)
        node = self.step(name, arguments, keywords)
        result = inner(self, *arguments, **keywords)
        if opens:
            self.opened(name, result, node)
        return result

    return method


for _name in sorted(STEPS):
    setattr(SimDisk, _name, _stepped(_name))


# --- The network ----------------------------------------------------------------------

FAULTS = ("refused", "silent", "error", "slow", "unheard", "cut")
"""What can become of one message: no connection; it is lost on its way there; answered
by 503; late; done, but the answer is lost; done, but the answer breaks off."""


@dataclass
class Network:
    """All messages between the servers.

    chances: fault → how likely one message meets it. side: numbers of nodes that are
    cut off from all others; empty while the network is whole. deaf: the kind of servers
    that storage nodes cannot reach, "" for none. delays: number of a node → seconds
    that it takes to answer. record: takes a line for each message.
    """

    rng: object
    nodes: dict = field(default_factory=dict)
    chances: dict = field(default_factory=dict)
    counts: dict = field(default_factory=dict)
    side: frozenset = frozenset()
    deaf: str = ""
    delays: dict = field(default_factory=dict)
    record: object = None

    def is_cut(self, one, other):
        """True when two nodes, by number, cannot reach each other."""
        return (one in self.side) != (other in self.side)

    def draw(self):
        """The fault of the next message, None for none."""
        if not self.chances:
            return None
        drawn = self.rng.random()
        for fault, chance in self.chances.items():
            drawn -= chance
            if drawn < 0:
                self.counts[fault] = self.counts.get(fault, 0) + 1
                return fault
        return None


class SimConnector:
    """The Connector of one node, of a proxy, or of the judge (no faults).

    near: the number of the node on whose side a proxy is when the network is split.
    """

    def __init__(self, network, source=None, *, near=0, calm=False):
        self._network = network
        self._source = source
        self._near = source.number if source is not None else near
        self._calm = calm

    def connect(self, ip, port, timeout_s):
        """A connection whose other end is the peer's application."""
        if self._network.record is not None:
            self._network.record(f"from {self._near} to {ip}:{port}")
        peer = peer_name(ip, port)
        node = self._network.nodes[ip]
        kind = KINDS[port]
        source = self._source
        if source is not None and source.down:
            raise PeerError(peer, "our own node is off")
        if node.down:
            raise PeerError(peer, "refused")
        fault = self._fault(node, kind)
        if fault == "refused":
            raise PeerError(peer, "refused")
        if fault == "silent":
            green.sleep(timeout_s)
            raise PeerTimeout(peer, f"no connection within {timeout_s}s")
        ours, theirs = connected()
        served = _Served(node, kind, theirs, lambda: self._fault(node, kind))
        served.start(source.ip if source is not None else "10.0.0.99")
        return HttpConnection(ours, peer)

    def _fault(self, node, kind):
        """What the next message to a server of a node meets, None for nothing."""
        if self._calm:
            return None
        if self._network.deaf == kind and self._source is not None:
            return "refused"
        if self._network.is_cut(self._near, node.number):
            return "silent"
        return self._network.draw()


class _Served:
    """The peer's end of one connection. draw: gives the fault of the next message."""

    def __init__(self, node, kind, channel, draw):
        self._node = node
        self._rng = node.world.rng
        self._app = node.apps[kind]
        self._draw = draw
        self.channel = channel
        self.thread = None

    def start(self, address):
        serving = Serving(
            self._answer,
            NULL_LOG,
            HttpLimits(client_timeout_s=600.0, keepalive_timeout_s=600.0),
            base_environ(NULL_LOG),
        )
        connection = ServerConnection(self.channel, serving, (address, "0"))
        self._node.served.append(self)
        self.thread = green.spawn(self._run, connection)

    def _run(self, connection):
        try:
            connection.run()
        finally:
            if self in self._node.served:
                self._node.served.remove(self)

    def _hang_up(self):
        self.channel.close()
        raise green.Killed

    def _answer(self, environ, start_response):
        fault = self._draw()
        record = self._node.world.network.record
        if record is not None:
            call = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
            record(f"{self._node.name} gets {call} ({fault})")
        delay_s = self._node.world.network.delays.get(self._node.number)
        if delay_s:
            green.sleep(delay_s * self._rng.random() * 2)
        if fault in ("refused", "silent"):
            if fault == "silent":
                green.sleep(self._rng.choice((0.7, 5.0, 40.0)))
            self._hang_up()
        if fault == "error":
            return Response(503)(environ, start_response)
        if fault == "slow":
            green.sleep(self._rng.choice((0.01, 0.3, 2.0, 15.0)))
        if fault == "unheard":
            for _ in self._app(environ, lambda *_: None):
                pass
            green.sleep(self._rng.choice((0.0, 20.0)))
            self._hang_up()
        result = self._app(environ, start_response)
        if fault == "cut":
            return self._broken(result)
        return result

    def _broken(self, result):
        try:
            for chunk in result:
                yield chunk[: len(chunk) // 2]
                break
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        self._hang_up()


class SimRsync:
    """In the place of rsync: copies one file to the module of a node, `<ip>::…`."""

    def __init__(self, network, root):
        self._network = network
        self._root = root

    def __call__(self, arguments, _limit_s):
        source, target = arguments[-2:]
        ip, _, rest = target.partition("::")
        place = rest.partition("/")[2]
        node = self._network.nodes[ip]
        code = 0
        is_full = node.world.disk.nodes[node.name].room is not None
        if node.down or is_full or self._network.draw() is not None:
            code = 10
        else:
            try:
                shutil.copyfile(source, f"{node.root}/{place}")
            except OSError:
                code = 11
        return rsync.Outcome(("rsync", *arguments), code, "", 0.0)
