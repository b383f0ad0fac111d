# SPDX-License-Identifier: Apache-2.0
"""SQLite behind the fake disk: what of a database survives a loss of power.

SQLite does its own input and output, so a shim stands between it and its layer of
system calls (its VFS). The shim learns of each sync, and keeps what the file was then;
it learns of each removed journal, whose removal nobody syncs; it gives the time and
random bytes. When the power goes, a page that was written since the last sync is there
or not, by chance. The power may go at any sync, in the middle of a transaction, and a
sync fails where the disk is sick.

A loss of what was acknowledged (lines of a pending file, a transaction whose journal is
back) happens on one node of a history, for nobody promises rows that all nodes lose at
once. Not modelled: a file that is made and renamed as a whole is down once it has its
name; pages are never torn. Where Python does not use the shared libsqlite3, nothing is
lost.
"""

from __future__ import annotations

import ctypes
import os
import random
from contextlib import suppress
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from functools import cache

PAGE_BYTES = 4096
FULL = 13
IOERR_FSYNC = 1034
_JOURNAL = "-journal"
_DIRECTORIES = ("accounts", "containers")

_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_Delete = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)
_Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Randomness = CFUNCTYPE(c_int, c_void_p, c_int, c_void_p)
_Time = CFUNCTYPE(c_int, c_void_p, POINTER(c_int64))
_EPOCH_MS = 210_866_760_000_000
"""From the beginning of SQLite's time to that of Unix."""


class _Vfs(Structure):
    """sqlite3_vfs, https://www.sqlite.org/c3ref/vfs.html."""

    _fields_ = (
        ("version", c_int),
        ("file_size", c_int),
        ("path_size", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", _Open),
        ("delete", _Delete),
        ("between", c_void_p * 6),
        ("randomness", _Randomness),
        ("sleep", c_void_p),
        ("current_time", c_void_p),
        ("last_error", c_void_p),
        ("current_time_ms", _Time),
        ("after", c_void_p * 3),
    )


class _Methods(Structure):
    """sqlite3_io_methods, https://www.sqlite.org/c3ref/io_methods.html."""

    _fields_ = (
        ("version", c_int),
        ("before", c_void_p * 2),
        ("write", _Write),
        ("truncate", c_void_p),
        ("sync", _Sync),
        ("after", c_void_p * 13),
    )


class _File(Structure):
    _fields_ = (("methods", POINTER(_Methods)),)


class _Shim:
    """The VFS of this process. target: a SimDatabases that is told, None for none."""

    def __init__(self, library):
        self.target = None
        self._library = library
        library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        self._below = library.sqlite3_vfs_find(None)
        self._paths = {}
        self._ours = {}
        self._real_sync = {}
        self._real_write = {}
        self._is_tight = False
        self._vfs = _Vfs.from_buffer_copy(self._below.contents)
        self._vfs.name = b"simulated"
        self._open_callback = _Open(self._open)
        self._delete_callback = _Delete(self._delete)
        self._vfs.randomness = _Randomness(self._randomness)
        self._vfs.current_time_ms = _Time(self._time)
        self._sync_callback = _Sync(self._sync)
        self._write_callback = _Write(self._write)
        # SQLite keeps the address for as long as the process lives, as we do.
        library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1)

    def aim(self, target):
        """Tell another of what happens from now on."""
        self.target = target
        self.watch(target is not None)
        self.tighten(False)
        # SQLite asks for random bytes but once, and makes more of them itself.
        self._library.sqlite3_randomness(0, None)

    def watch(self, on):
        """Learn of syncs and of removed journals, or leave files alone."""
        below = self._below.contents
        self._vfs.open = self._open_callback if on else below.open
        self._vfs.delete = self._delete_callback if on else below.delete

    def tighten(self, on):
        """Learn of writes too, as some disk may have no room, or no more."""
        self._is_tight = on
        for methods in self._ours.values():
            real = self._real_write[ctypes.addressof(methods)]
            methods.write = self._write_callback if on else real

    def _randomness(self, _vfs, count, place):
        target = self.target
        data = os.urandom(count) if target is None else target.randomness(count)
        ctypes.memmove(place, data, count)
        return count

    def _time(self, _vfs, place):
        target = self.target
        if target is None:
            below = ctypes.cast(self._below, c_void_p)
            return self._below.contents.current_time_ms(below, place)
        place[0] = _EPOCH_MS + int(target.seconds() * 1000)
        return 0

    def _open(self, _vfs, name, file, flags, out_flags):
        below = ctypes.cast(self._below, c_void_p)
        code = self._below.contents.open(below, name, file, flags, out_flags)
        if code == 0 and name is not None:
            opened = _File.from_address(file)
            opened.methods = ctypes.pointer(self._with_our_sync(opened.methods))
            self._paths[file] = os.fsdecode(ctypes.string_at(name))
        return code

    def _with_our_sync(self, methods):
        address = ctypes.addressof(methods.contents)
        ours = self._ours.get(address)
        if ours is None:
            ours = self._ours[address] = _Methods.from_buffer_copy(methods.contents)
            self._real_sync[ctypes.addressof(ours)] = methods.contents.sync
            self._real_write[ctypes.addressof(ours)] = methods.contents.write
            ours.sync = self._sync_callback
            if self._is_tight:
                ours.write = self._write_callback
        return ours

    def _sync(self, file, flags):
        target, path = self.target, self._paths[file]
        if target is None or not target.is_watched:
            target = None
        elif target.fails(path):
            return IOERR_FSYNC
        methods = ctypes.addressof(_File.from_address(file).methods.contents)
        code = self._real_sync[methods](file, flags)
        if code == 0 and target is not None:
            target.synced(path)
        return code

    def _write(self, file, data, size, offset):
        path = self._paths[file]
        if not self.target.has_room(path, size, offset):
            return FULL
        methods = ctypes.addressof(_File.from_address(file).methods.contents)
        return self._real_write[methods](file, data, size, offset)

    def _delete(self, _vfs, name, is_synced):
        self.target.removed(os.fsdecode(ctypes.string_at(name)))
        below = ctypes.cast(self._below, c_void_p)
        return self._below.contents.delete(below, name, is_synced)


@cache
def _shim():
    """The shim, None where SQLite is not a shared library."""
    try:
        return _Shim(ctypes.CDLL("libsqlite3.so.0"))
    except OSError:
        return None


def watch(databases, on):
    """Let it know of what SQLite does, or no more."""
    databases.is_watched = on
    shim = _shim()
    if shim is not None:
        shim.watch(on)


def tighten(on):
    """Ask SimDatabases whether there is room for what SQLite writes, or no more."""
    shim = _shim()
    if shim is not None:
        shim.tighten(on)


def install(databases):
    """Have SQLite tell of what it does; None: nobody."""
    shim = _shim()
    if shim is not None:
        shim.aim(databases)


class SimDatabases:
    """What the platters hold of databases.

    fails: path → True when its disk cannot sync now. takes: path and bytes → True when
    there is room for them. seconds: tells the time. broken: with "rows" in it, all
    nodes lose what waits in pending files at each fault. record:
    takes a line for each sync and removal. forgetful: names of the nodes that may lose
    what was acknowledged. is_watched: False once no power will go any more.
    """

    def __init__(self, rng, fails, takes, seconds, *, broken=(), record=None):
        self.fails = fails
        self._takes = takes
        self.seconds = seconds
        self.randomness = random.Random(rng.random()).randbytes
        self._record = record
        self.forgetful = set()
        self._forgets_all = "rows" in broken
        self.is_watched = True
        self._rng = rng
        self._kept = {}
        self._removed = {}

    def synced(self, path):
        """Keep what a file is now. A journal that is synced ends that of before."""
        if self._record is not None:
            self._record(f"SQLite syncs {path}")
        self._kept[path] = (os.stat(path).st_ino, _content(path))
        self._removed.pop(path, None)

    def has_room(self, path, size, offset):
        """False when a file would have to grow on a disk that is full."""
        try:
            more = offset + size - os.stat(path).st_size
        except FileNotFoundError:
            more = size
        return more <= 0 or self._takes(path, more)

    def removed(self, path):
        """Keep what a journal was, as the directory may not know that it is gone."""
        if self._record is not None:
            self._record(f"SQLite removes {path}")
        kept = self._kept.pop(path, None)
        if kept is not None:
            self._removed[path] = kept[1]

    def after_power_loss(self, device_path, node):
        """path → bytes that a restart would find there now, None for no file."""
        found = {}
        for kind in _DIRECTORIES:
            for folder, _, names in sorted(os.walk(f"{device_path}/{kind}")):
                for name in sorted(names):
                    self._settle(f"{folder}/{name}", node, found)
        return found

    def _settle(self, path, node, found):
        forgets = node in self.forgetful
        if path.endswith(".pending"):
            lines = _content(path)
            kept = self._rng.randint(0, len(lines)) if forgets else len(lines)
            found[path] = lines[:kept]
        elif path.endswith((".db", _JOURNAL)):
            inode, kept = self._kept.get(path, (None, b""))
            live = _content(path)
            if inode == os.stat(path).st_ino or path.endswith(_JOURNAL):
                live = self._mixed(kept, live)
            found[path] = live
            journal = self._removed.get(f"{path}{_JOURNAL}")
            if journal is not None and forgets and self._rng.random() < 0.5:
                found[f"{path}{_JOURNAL}"] = journal

    def _mixed(self, kept, live):
        """Some pages as they were synced, and some as they were written later."""
        if kept == live or self._rng.random() < 0.3:
            return live
        size = self._rng.choice((len(kept), len(live)))
        pages = []
        for start in range(0, size, PAGE_BYTES):
            page = self._rng.choice((kept, live))[start : start + PAGE_BYTES]
            pages.append(page.ljust(min(PAGE_BYTES, size - start), b"\0"))
        return b"".join(pages)

    def forget_pending(self, device_paths):
        """Break the rule, if it is to be broken, that no row is lost on all nodes."""
        if not self._forgets_all:
            return
        for device_path in device_paths:
            for folder, _, names in os.walk(f"{device_path}/containers"):
                for name in names:
                    if name.endswith(".pending"):
                        os.truncate(f"{folder}/{name}", 0)

    def settle(self, image):
        """Make the files what a restart finds."""
        for path, content in image.items():
            with suppress(FileNotFoundError):
                os.unlink(path)
            # The directory may have been moved aside since.
            if os.path.isdir(os.path.dirname(path)):
                with open(path, "wb") as stream:
                    stream.write(content)
                self._kept[path] = (os.stat(path).st_ino, content)
            self._removed.pop(path, None)


def _content(path):
    # A descriptor of ours that is closed drops the locks that SQLite has on the file;
    # all is one thread and one process, and nobody else waits for them.
    with open(path, "rb") as stream:
        return stream.read()
