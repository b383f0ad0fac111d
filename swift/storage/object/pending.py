# SPDX-License-Identifier: Apache-2.0
"""Container updates that could not be delivered, kept on disk for the updater.

One file an update: a protocol 0 pickle in the form that existing nodes write, put in
place by one rename. The updater of any node reads it, this project's or another.

Format: doc/source/formats/async-pending.md (contract object-on-disk 9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from swift.core.errors import InvalidInput
from swift.core.hashing import SUFFIX_LENGTH
from swift.core.headers import X_META_TIMESTAMP, X_TIMESTAMP, Headers
from swift.core.names import ObjectName
from swift.runtime import green
from swift.storage.fs import as_domain_error, replace_file
from swift.storage.object.context import DiskContext

_TRIES = 5
"""The updater removes directories that it finds empty, also between our making one and
our rename into it."""


class PendingUpdates:
    """The updates that wait on the devices of this node, for one policy."""

    def __init__(self, context: DiskContext) -> None:
        self._context = context

    def save(
        self,
        device: str,
        op: str,
        name: ObjectName,
        headers: Headers,
        *,
        db_state: str | None = None,
        container_path: str | None = None,
        successes: Sequence[int] | None = None,
        redirect_history: Sequence[str] | None = None,
    ) -> None:
        """Keep one update; durable on return. Yields.

        op: PUT or DELETE. name: of the row, also when it is an expirer's. headers:
        those of the update, X-Timestamp among them. container_path: the shard to send
        to, as `account/container`. Raises DiskFull, DeviceUnavailable, InvalidInput.
        """
        update: dict[str, Any] = {
            "op": op,
            "account": name.account,
            "container": name.container,
            "obj": name.obj,
            "headers": headers,
            "db_state": db_state,
        }
        if container_path is not None:
            update["container_path"] = container_path
        if successes is not None:
            update["successes"] = list(successes)
        if redirect_history is not None:
            update["redirect_history"] = list(redirect_history)
        when = headers.timestamp(X_META_TIMESTAMP) or headers.timestamp(X_TIMESTAMP)
        if when is None:
            raise InvalidInput("an update without X-Timestamp")
        path_hash = self._context.salt.hex_of(name)
        green.in_thread(
            self._write, device, path_hash, f"{path_hash}-{when.internal}", dump(update)
        )

    def _write(self, device: str, path_hash: str, file_name: str, data: bytes) -> None:
        context = self._context
        device_path = context.devices.path(device)
        temporary_dir = f"{device_path}/{context.policy.tmp_dir}"
        pending_dir = f"{device_path}/{context.policy.pending_dir}"
        directory = f"{pending_dir}/{path_hash[-SUFFIX_LENGTH:]}"
        changed = [directory]
        fs = context.fs
        try:
            for attempt in range(_TRIES):
                try:
                    replace_file(fs, f"{directory}/{file_name}", data, temporary_dir)
                    break
                except FileNotFoundError:
                    if attempt == _TRIES - 1:
                        raise
                    for path in (temporary_dir, pending_dir, directory):
                        with suppress(FileExistsError):
                            fs.make_directory(path)
                    changed = [directory, pending_dir, device_path]
            # The client is told that its write stands, and this file may be the only
            # thing that will ever tell the container: its name must survive too.
            for path in changed:
                fs.sync_directory(path)
        except OSError as error:
            raise as_domain_error(error, device) from error


def dump(update: Mapping[str, Any]) -> bytes:
    """The bytes of an update: text, None, lists of text or numbers, and headers.

    A Headers becomes the HeaderKeyDict that existing nodes pickle.
    """
    emitter = _Emitter()
    emitter.value(dict(update))
    return emitter.finish()


class _Emitter:
    """Writes plain values as protocol 0 does, memo numbers included."""

    def __init__(self) -> None:
        self._out: list[bytes] = []
        self._memo_count = 0

    def finish(self) -> bytes:
        """All that was written, closed by a full stop."""
        return b"".join(self._out) + b"."

    def value(self, value: object) -> None:
        """Write one value of a kind that updates are made of."""
        if value is None:
            self._out.append(b"N")
        elif isinstance(value, str):
            self._text(value)
        elif isinstance(value, int):
            self._out.append(b"I%d\n" % value)
        elif isinstance(value, Headers):
            self._headers(value)
        elif isinstance(value, dict):
            self._dict(value)
        elif isinstance(value, list):
            self._list(value)
        else:
            raise TypeError(f"no part of an update: {type(value).__name__}")

    def _put(self) -> None:
        self._out.append(b"p%d\n" % self._memo_count)
        self._memo_count += 1

    def _text(self, text: str) -> None:
        escaped = text
        for char in ("\\", "\0", "\n", "\r", "\x1a"):
            escaped = escaped.replace(char, f"\\u{ord(char):04x}")
        self._out.append(b"V%b\n" % escaped.encode("raw-unicode-escape"))
        self._put()

    def _dict(self, items: Mapping[str, object]) -> None:
        self._out.append(b"(d")
        self._put()
        for name, value in items.items():
            self._text(name)
            self.value(value)
            self._out.append(b"s")

    def _list(self, items: Sequence[object]) -> None:
        self._out.append(b"(l")
        self._put()
        for item in items:
            self.value(item)
            self._out.append(b"a")

    def _headers(self, headers: Headers) -> None:
        self._global(b"copy_reg\n_reconstructor")
        self._out.append(b"(")
        self._global(b"swift.common.header_key_dict\nHeaderKeyDict")
        self._global(b"__builtin__\ndict")
        self._dict(headers)
        self._out.append(b"t")
        self._put()
        self._out.append(b"R")
        self._put()

    def _global(self, name: bytes) -> None:
        self._out.append(b"c%b\n" % name)
        self._put()
