# SPDX-License-Identifier: Apache-2.0
"""Where a name lives: path hash, partition, and the directories they make.

hash = MD5(prefix + path + suffix), with the cluster's secret prefix and suffix; the
partition is its first `part_power` bits. Format: doc/source/formats/ring.md; golden:
path_hash.csv.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import md5

from swift.core.names import Name

HASH_HEX_LENGTH = 32
SUFFIX_LENGTH = 3


@dataclass(frozen=True, slots=True)
class HashSalt:
    """The secret bytes around every path; at least one part is not empty."""

    prefix: bytes
    suffix: bytes

    def __post_init__(self) -> None:
        if not self.prefix and not self.suffix:
            raise ValueError("hash path prefix and suffix are both empty")

    def digest(self, account: str, container: str = "", obj: str = "") -> bytes:
        """The 16 bytes that place a name; empty parts count as absent."""
        path = f"/{account}"
        if container:
            path += f"/{container}"
        if obj:
            path += f"/{obj}"
        return self.digest_of_path(path)

    def digest_of(self, name: Name) -> bytes:
        """The 16 bytes that place a name."""
        return self.digest_of_path(name.path)

    def digest_of_path(self, path: str) -> bytes:
        """The 16 bytes that place a decoded `/account[/container[/object]]`."""
        encoded = path.encode("utf-8", "surrogateescape")
        return md5(self.prefix + encoded + self.suffix, usedforsecurity=False).digest()

    def hex_of(self, name: Name) -> str:
        """The digest as 32 hex digits, the name of the hash directory."""
        return self.digest_of(name).hex()


def partition_of(digest: bytes, part_power: int) -> int:
    """The partition of a path hash: its first `part_power` bits, 0 to 32 of them."""
    return int.from_bytes(digest[:4], "big") >> (32 - part_power)


def partition_of_hex(path_hash: str, part_power: int) -> int:
    """The partition of a hash directory's name."""
    return int(path_hash[:8], 16) >> (32 - part_power)


def hash_directory(data_dir: str, partition: int | str, path_hash: str) -> str:
    """`<data_dir>/<partition>/<suffix>/<hash>`, relative to a device."""
    return f"{data_dir}/{partition}/{path_hash[-SUFFIX_LENGTH:]}/{path_hash}"


# Replicators ask these once for each suffix and object of a pass, and a look at each
# character takes ten times as long.
_SUFFIXES = frozenset(f"{number:03x}" for number in range(16**SUFFIX_LENGTH))
_PATH_HASH = re.compile(f"[0-9a-f]{{{HASH_HEX_LENGTH}}}").fullmatch


def is_path_hash(text: str) -> bool:
    """True for 32 lower-case hex digits."""
    return _PATH_HASH(text) is not None


def is_suffix(text: str) -> bool:
    """True for the name of a suffix directory: 3 lower-case hex digits."""
    return text in _SUFFIXES
