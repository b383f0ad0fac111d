# SPDX-License-Identifier: Apache-2.0
"""The `wsgi.input` of uploads that a filter makes out of a larger body: the files of an
archive, of a form."""

from __future__ import annotations

from collections.abc import Iterator

READ_BYTES = 256 * 1024
"""Asked for at once when nobody says how much."""


class UploadInput:
    """What an application reads a body from, made of `read_some`."""

    content_length: int | None = None

    def read_some(self, size: int) -> bytes:
        """Up to `size` bytes as they come, none at the end. Yields."""
        raise NotImplementedError

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, fewer at the end only; all that is left for -1. Yields."""
        pieces = []
        left = size
        while left != 0:
            piece = self.read_some(left if left > 0 else READ_BYTES)
            if not piece:
                break
            pieces.append(piece)
            left = max(0, left - len(piece)) if left > 0 else left
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readline(self, size: int = -1) -> bytes:
        """As `read`: nobody reads an object by lines."""
        return self.read(size)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The next chunk. Yields."""
        chunk = self.read_some(READ_BYTES)
        if not chunk:
            raise StopIteration
        return chunk
