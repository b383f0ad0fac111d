# SPDX-License-Identifier: Apache-2.0
"""Tokens that carry, encrypted, what they stand for. Contract: middleware 29."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from cryptography.fernet import Fernet, InvalidToken

_INFLATED_MAX = 64 * 1024


class FernetTokens:
    """Tokens that carry their groups: `<prefix>ftk…`, or `zftk…` when deflated.

    keys: id → key; the one with the id `active` encrypts, all decrypt. Raises
    ValueError for a bad key.
    """

    def __init__(
        self, prefix: str, keys: Mapping[str, str | bytes], active: str
    ) -> None:
        self._plain = f"{prefix}ftk"
        self._deflated = f"{prefix}zftk"
        self._keys = [Fernet(key) for key in keys.values()]
        self._active = Fernet(keys[active]) if active else None

    @property
    def issues(self) -> bool:
        """True when there is a key for new tokens."""
        return self._active is not None

    def owns(self, token: str) -> bool:
        """True for a token of this form."""
        return token.startswith((self._plain, self._deflated))

    def make(self, groups: str, now: float) -> str:
        """A new token."""
        assert self._active is not None, "a key for new tokens"
        raw = groups.encode()
        small = zlib.compress(raw)
        prefix, raw = (
            (self._deflated, small) if len(small) < len(raw) else (self._plain, raw)
        )
        return prefix + self._active.encrypt_at_time(raw, int(now)).decode("ascii")

    def read(self, token: str, life_s: int, now: float) -> tuple[str, float] | None:
        """Groups and the time of expiry; None for a token that is not good."""
        deflated = token.startswith(self._deflated)
        prefix = self._deflated if deflated else self._plain
        try:
            sealed = token[len(prefix) :].encode("ascii")
        except UnicodeError:
            return None
        for key in self._keys:
            try:
                raw = key.decrypt_at_time(sealed, life_s, int(now))
                if deflated:
                    raw = zlib.decompressobj().decompress(raw, _INFLATED_MAX)
                return raw.decode("utf-8"), key.extract_timestamp(sealed) + life_s
            except (InvalidToken, zlib.error, UnicodeError):
                continue
        return None
