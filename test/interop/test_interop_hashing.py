# SPDX-License-Identifier: Apache-2.0
"""Path hashes and timestamps equal those of the system we replace."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from swift.core.hashing import HashSalt, partition_of, partition_of_hex
from swift.core.timestamp import (
    Timestamp,
    decode_explicit,
    decode_triple,
    encode_triple,
    normal_delete_at,
)

GOLDEN = Path(__file__).parent / "golden" / "hashing"
TIMES = json.loads((GOLDEN / "timestamps.json").read_text())


def path_hash_rows():
    with (GOLDEN / "path_hash.csv").open(newline="", encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


@pytest.mark.parametrize("row", list(path_hash_rows()))
def test_a_path_hashes_to_the_golden_partition(row):
    parts = [
        row[key].replace("\\0", "\0") for key in ("account", "container", "object")
    ]
    salt = HashSalt(row["prefix"].encode(), row["suffix"].encode())
    digest = salt.digest(*parts)
    assert digest.hex() == row["md5_hex"]
    assert digest.hex()[-3:] == row["suffix_dir"]
    for power in (1, 8, 10, 18, 20, 32):
        expected = int(row[f"part_power_{power}"])
        assert partition_of(digest, power) == expected
        assert partition_of_hex(digest.hex(), power) == expected


def made(value):
    return Timestamp.parse(value) if isinstance(value, str) else Timestamp.at(value)


@pytest.mark.parametrize("row", TIMES["decode"], ids=lambda row: str(row["input"]))
def test_a_timestamp_reads_and_writes_every_form(row):
    stamp = made(row["input"])
    assert stamp.raw == row["raw"]
    assert stamp.internal == row["internal"]
    assert stamp.normal == row["normal"]
    assert stamp.short == row["short"]
    assert stamp.iso == row["isoformat"]
    assert stamp.ceil == row["ceil"]
    assert stamp.seconds == row["float"]
    assert bool(stamp) is row["bool"]
    assert stamp.inverted().internal == row["inverted_internal"]


@pytest.mark.parametrize("row", TIMES["rejected_or_accepted_oddities"], ids=str)
def test_odd_texts_are_refused(row):
    assert row["error"] == "ValueError"
    with pytest.raises(ValueError, match="timestamp"):
        made(row["input"])


@pytest.mark.parametrize("row", TIMES["decode_multi"], ids=lambda r: r["encoded"])
def test_triples_decode(row):
    assert [stamp.internal for stamp in decode_triple(row["encoded"])] == row["decoded"]
    explicit = decode_explicit(row["encoded"])
    assert [stamp and stamp.internal for stamp in explicit] == row["decoded_explicit"]


@pytest.mark.parametrize("row", TIMES["encode_multi"], ids=lambda r: r["encoded"])
def test_triples_encode(row):
    times = [row[key] and Timestamp.parse(row[key]) for key in ("t1", "t2", "t3")]
    assert encode_triple(*times, explicit=row["explicit"]) == row["encoded"]


@pytest.mark.parametrize("row", TIMES["arithmetic"], ids=str)
def test_arithmetic_counts_in_raw_units(row):
    moved = made(row["base"]).plus(row["delta"], offset=row["offset"])
    assert moved.internal == row["internal"]


@pytest.mark.parametrize("row", TIMES["delete_at_normalised"], ids=str)
def test_delete_at_has_ten_digits(row):
    assert normal_delete_at(float(row["in"])) == row["low"]


def test_headers_round_up_to_the_second():
    for row in TIMES["last_modified"]:
        stamp = Timestamp.parse(row["timestamp"])
        assert stamp.http_date == row["last_modified_header"]


def test_listing_times_are_read_back():
    for row in TIMES["from_isoformat"]:
        assert Timestamp.from_iso(row["isoformat"]).normal == row["normal"]


def test_string_order_is_time_order():
    texts = TIMES["string_sort_equals_time_sort"]
    stamps = [Timestamp.parse(text) for text in texts]
    assert sorted(stamps) == stamps
    assert [stamp.internal for stamp in stamps] == sorted(texts)
