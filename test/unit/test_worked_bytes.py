# SPDX-License-Identifier: Apache-2.0
"""The worked examples in doc/source/formats are what the code makes."""

import pickle
import re
from hashlib import md5
from pathlib import Path

from swift.core import metadata
from swift.core.fragmentformat import FragmentHeader, read_header
from swift.core.hashing import HashSalt, hash_directory, partition_of
from swift.core.headers import Headers
from swift.core.misplaced import queue_container
from swift.core.objectfiles import choose_replicated
from swift.core.timestamp import Timestamp, encode_triple

FORMATS = Path(__file__).resolve().parents[2] / "doc" / "source" / "formats"
SALT = HashSalt(b"goldenprefix", b"goldensuffix")


def page(name: str) -> str:
    return (FORMATS / f"{name}.md").read_text()


def test_the_forms_of_a_time():
    text = page("timestamps")
    plain = Timestamp.parse("1700000000.12345")
    second = plain.plus(offset=1)
    for form in (
        plain.normal, second.internal, second.short, plain.iso, plain.http_date,
        plain.inverted().internal,
    ):  # fmt: skip
        assert f"`{form}`" in text
    row = Timestamp.parse("1700000005")
    triple = encode_triple(row, row.plus(100_000), row.plus(300_000))
    assert triple in text
    posted = encode_triple(row, row.plus(-1000), explicit=True)
    assert f"{posted}.meta" in text


def test_the_place_of_an_object():
    text = page("object-files")
    digest = SALT.digest("AUTH_test", "c", "o")
    partition = partition_of(digest, 8)
    assert digest.hex() in text
    assert hash_directory("objects", partition, digest.hex()) in text


def test_which_files_make_the_object():
    block = re.search(
        r"```\n(1700000001\.00000\.data.*?)```", page("object-files"), re.S
    )
    told = dict(line.split(maxsplit=1) for line in block[1].splitlines())
    files = choose_replicated(told)
    assert told[files.data.name] == "the object"
    assert told[files.meta.name].startswith("its metadata")
    obsolete = {part.name for part in files.obsolete}
    assert obsolete == {name for name, what in told.items() if what == "obsolete"}


def test_the_header_of_a_fragment():
    cells = re.findall(r"^\| \d+ \| ([^|]*) \|", page("object-files"), re.M)
    data = b"".join(
        bytes.fromhex(" ".join(re.findall(r"`([0-9a-f ]+)`", cell)))
        + bytes({"32 zero": 32, "nine zero": 9}.get(_zeros(cell), 0))
        for cell in cells
    )
    assert len(data) == 80
    assert read_header(data) == FragmentHeader(0, 26, 100, (6, 0x10000))


def _zeros(cell: str) -> str:
    found = re.search(r"(\S+ zero) bytes", cell)
    return found[1] if found else ""


def test_the_record_of_an_object():
    record = Headers(
        {
            "Content-Length": "5",
            "Etag": md5(b"hello", usedforsecurity=False).hexdigest(),
            "X-Timestamp": "1700000000.00000",
            "Content-Type": "text/plain",
            metadata.NAME: "/AUTH_test/c/o",
        }
    )
    data = metadata.encode(record)
    text = page("object-metadata")
    assert f"{len(data)} bytes" in text
    assert metadata.checksum(data).decode() in text
    assert data.startswith(bytes.fromhex("80 02 7d 71 00 28 63 5f 63 6f"))


def test_the_digest_of_a_suffix():
    text = page("suffix-hashes")
    digest = md5(b"1700000000.00000.data", usedforsecurity=False).hexdigest()
    assert digest in text
    stored = {"231": digest, "valid": True, "updated": 1700000001.5}
    tail = pickle.dumps(stored, protocol=2)[-11:].hex(" ")
    assert tail[: 9 * 3 - 1] in text


def test_the_queue_of_the_reconciler():
    rows = re.findall(
        r"^\| `([0-9.+a-f]+)` \| `(\d+)` \|", page("reconciler-queue"), re.M
    )
    assert len(rows) == 3
    for created_at, container in rows:
        assert queue_container(created_at) == container
