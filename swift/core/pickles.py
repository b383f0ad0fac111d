# SPDX-License-Identifier: Apache-2.0
"""The only reader of pickled formats, and it builds nothing but plain data.

Rings' builders, object metadata, suffix hashes and pending updates are pickles on disk
and on the wire. A pickle can name any callable of the interpreter; this loader knows a
short table of names and answers them with functions of its own, so a hostile pickle is
an error and nothing more. Formats: doc/source/formats/.
"""

from __future__ import annotations

import io
import pickle
from array import array
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from swift.core.errors import FormatError

SIZE_MAX = 256 * 1024 * 1024
"""Bytes of the largest pickle read; a builder of 2^20 partitions needs 30 MB."""


class UnsafePickle(FormatError):
    """A pickle that names something which is no plain data, or is broken."""

    def __init__(self, reason: str) -> None:
        super().__init__("pickle", reason)


def loads(data: bytes) -> Any:
    """Read a pickle of dicts, lists, tuples, numbers, text and bytes.

    HeaderKeyDict (async updates) comes back as a dict. Raises UnsafePickle for anything
    else and for bytes that are no pickle.
    """
    return _load(data, _PLAIN)


def loads_builder(data: bytes) -> Any:
    """Read a ring builder's pickle: plain data and arrays of numbers."""
    return _load(data, _BUILDER)


def _load(data: bytes, names: Mapping[tuple[str, str], Callable[..., Any]]) -> Any:
    if len(data) > SIZE_MAX:
        raise UnsafePickle(f"{len(data)} bytes are too many")
    try:
        return _Loader(io.BytesIO(data), names).load()
    except UnsafePickle:
        raise
    # Whatever a hostile stream of opcodes makes the machine trip over is the same to
    # the caller; the list is what CPython's unpickler is known to raise.
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
        ImportError,
    ) as error:
        raise UnsafePickle(f"does not load ({type(error).__name__})") from error


class _Loader(pickle.Unpickler):
    def __init__(
        self, stream: io.BytesIO, names: Mapping[tuple[str, str], Callable[..., Any]]
    ) -> None:
        super().__init__(stream, encoding="utf-8", errors="surrogateescape")
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._names[module, name]
        except KeyError:
            raise UnsafePickle(f"names {module}.{name}") from None

    def persistent_load(self, pid: Any) -> NoReturn:
        raise UnsafePickle("refers to outside objects")


class _PlainDict(dict[Any, Any]):
    """What a pickled dict subclass becomes; its instance state is dropped."""

    def __setstate__(self, state: Any) -> None:
        if state is not None and not isinstance(state, dict):
            raise UnsafePickle("has state of an unknown kind")


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise UnsafePickle("encodes in an unexpected way")
    return text.encode("latin-1")


def _bytes(*arguments: object) -> bytes:
    if arguments:
        raise UnsafePickle("makes bytes in an unexpected way")
    return b""


def _reconstruct(kind: object, base: object, state: object) -> _PlainDict:
    if kind is not _PlainDict or base is not _PlainDict or not isinstance(state, dict):
        raise UnsafePickle("reconstructs an unexpected kind")
    return _PlainDict(state)


def _array(code: object, items: object) -> array[int]:
    if code not in ("B", "H", "I", "L") or not isinstance(items, (list, bytes)):
        raise UnsafePickle("makes an unexpected array")
    return array(str(code), items)


def _array_from_bytes(kind: object, code: object, mformat: object, raw: object) -> Any:
    little_endian = {0: ("B", 1), 2: ("H", 2), 6: ("I", 4)}
    if mformat not in little_endian or not isinstance(raw, bytes):
        raise UnsafePickle("makes an unexpected array")
    letter, width = little_endian[mformat]
    values = [
        int.from_bytes(raw[at : at + width], "little")
        for at in range(0, len(raw) - width + 1, width)
    ]
    return array(letter, values)


_PLAIN: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,
    ("copy_reg", "_reconstructor"): _reconstruct,
    ("copyreg", "_reconstructor"): _reconstruct,
    ("swift.common.header_key_dict", "HeaderKeyDict"): _PlainDict,
    ("builtins", "dict"): _PlainDict,
    ("__builtin__", "dict"): _PlainDict,
    ("builtins", "bytes"): _bytes,
    ("__builtin__", "bytes"): _bytes,
}

_BUILDER: dict[tuple[str, str], Callable[..., Any]] = {
    ("array", "array"): _array,
    ("array", "_array_reconstructor"): _array_from_bytes,
}
