# SPDX-License-Identifier: Apache-2.0
"""What temporary URLs, form posts and container sync sign, and how that is compared.

Each of the three signs a few lines of text with a key that the owner has set. Here is
what the lines are, how a signature is written, and the one comparison, whose time says
nothing of the keys. Who may use a key for what is for the filters to say.

Contract: middleware 7, 14, 30. Golden: signatures/signatures.json.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swift.core.errors import InvalidInput

DIGESTS = ("sha1", "sha256", "sha512")
"""The digests that can be allowed, weakest first."""

DEPRECATED_DIGESTS = frozenset(("sha1",))

TEXT_MAX = 512
"""Characters of a written signature; the longest good one has 135."""

_BY_HEX_LENGTH = {40: "sha1", 64: "sha256", 128: "sha512"}
_MAC_BYTES = {"sha1": 20, "sha256": 32, "sha512": 64}


class BadSignature(InvalidInput):
    """A text that is no signature in any of the written forms."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature as it was sent. digest: one of DIGESTS; mac: its bytes."""

    digest: str
    mac: bytes

    @classmethod
    def parse(cls, text: str) -> Signature:
        """Read hex digits, whose number tells the digest, or `digest:base64`.

        Base64 in either alphabet, padded or not. Raises BadSignature, which does not
        repeat the text.
        """
        if len(text) > TEXT_MAX:
            raise BadSignature("the signature is too long")
        digest, colon, encoded = text.partition(":")
        try:
            if colon:
                mac = _from_base64(encoded)
            else:
                digest = _BY_HEX_LENGTH[len(text)]
                mac = bytes.fromhex(text)
        except (KeyError, ValueError, binascii.Error):
            raise BadSignature("the signature has no known form") from None
        if _MAC_BYTES.get(digest) != len(mac):
            raise BadSignature("the signature has no known form")
        return cls(digest, mac)

    def signed_by(self, key: str, messages: Iterable[bytes]) -> list[bool]:
        """Which of the messages the key has signed so; all are looked at, always."""
        return [
            hmac.compare_digest(self.mac, mac(self.digest, key, message))
            for message in messages
        ]


def mac(digest: str, key: str, message: bytes) -> bytes:
    """The HMAC of a message. key: text, used as UTF-8; digest: one of DIGESTS."""
    return hmac.digest(key.encode("utf-8", "surrogateescape"), message, digest)


def allowed_digests(text: str) -> tuple[str, ...]:
    """The option `allowed_digests`: those named that exist, blank-separated.

    Raises ValueError when none is left.
    """
    named = {word.lower() for word in text.split()}
    found = tuple(digest for digest in DIGESTS if digest in named)
    if not found:
        raise ValueError(f"must name some of {', '.join(DIGESTS)}")
    return found


def deprecated_among(digests: Iterable[str]) -> list[str]:
    """Those of the allowed digests that /info warns of, sorted."""
    return sorted(DEPRECATED_DIGESTS.intersection(digests))


def temp_url_message(
    method: str, expires: int, path: bytes, ip_range: bytes | None = None
) -> bytes:
    """What a temporary URL signs.

    path: decoded `/v1/a/c/o`, or `prefix:/v1/a/c/<prefix>`; expires: Unix seconds.
    """
    lines = [method.encode("latin-1"), b"%d" % expires, path]
    if ip_range is not None:
        lines.insert(0, b"ip=" + ip_range)
    return b"\n".join(lines)


def form_message(
    path: bytes,
    *,
    redirect: bytes,
    max_file_size: bytes,
    max_file_count: bytes,
    expires: bytes,
) -> bytes:
    """What a form signs: the fields as they were sent, and the path it posts to."""
    return b"\n".join((path, redirect, max_file_size, max_file_count, expires))


def sync_message(
    method: str, quoted_path: str, timestamp: str, nonce: str, user_key: str
) -> bytes:
    """What a sync request to another cluster signs; quoted_path: percent-encoded."""
    lines = (method, quoted_path, timestamp, nonce, user_key)
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def sync_signature(realm_key: str, message: bytes) -> str:
    """The signature of a sync request: HMAC-SHA1 in hex."""
    return mac("sha1", realm_key, message).hex()


def sync_signed(signature: str, realm_keys: Sequence[str], message: bytes) -> bool:
    """True when one of the realm's keys gives that signature (a WSGI string)."""
    sent = signature.encode("latin-1", "replace")
    matches = [
        hmac.compare_digest(sent, sync_signature(key, message).encode("ascii"))
        for key in realm_keys
    ]
    return any(matches)


def _from_base64(text: str) -> bytes:
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    padded = plain + "=" * (-len(plain) % 4)
    return base64.b64decode(padded, validate=True)
