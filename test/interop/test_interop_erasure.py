# SPDX-License-Identifier: Apache-2.0
"""Fragments that OpenStack Swift wrote are decoded, and ours are the same bytes."""

from __future__ import annotations

import json
from hashlib import md5
from itertools import combinations
from pathlib import Path

import pytest

from swift.core.erasure import ErasureCoding
from swift.core.fragmentfiles import choose_fragments
from swift.core.fragmentformat import read_header
from swift.core.objectfiles import Preference
from swift.core.ranges import RangeSpec
from swift.core.timestamp import Timestamp

GOLDEN = Path(__file__).parent / "golden"
EC = json.loads((GOLDEN / "ec" / "ec.json").read_text())
TREE = json.loads((GOLDEN / "object" / "device-tree.expected.json").read_text())
CASES = [pytest.param(case, id=case["file"]) for case in EC["cases"]]


def plaintext(size):
    return bytes((7 * i + (i >> 8)) % 256 for i in range(size))


def coding_of(case):
    return ErasureCoding(
        case["type"], case["k"], case["m"], segment_size=case["segment_size"]
    )


def golden_archives(case):
    data = (GOLDEN / "ec" / case["file"]).read_bytes()
    archives = []
    for length in case["fragment_archive_lengths"]:
        archives.append(data[:length])
        data = data[length:]
    assert not data
    return archives


def decoded(coding, archives, indexes):
    size = coding.fragment_size
    return b"".join(
        coding.decode({index: archives[index][at : at + size] for index in indexes})
        for at in range(0, len(archives[0]), size)
    )


@pytest.mark.parametrize("case", CASES)
def test_golden_archives_give_the_object_back(case):
    coding, archives = coding_of(case), golden_archives(case)
    k, unique = case["k"], case["k"] + case["m"]
    assert coding.fragment_size == case["full_segment_fragment_size"]
    assert coding.archive_size(case["size"]) == len(archives[0])
    chosen = [range(k), range(unique - k, unique)]
    if unique == 6:
        chosen = list(combinations(range(unique), k))
    for indexes in chosen:
        if case["type"].startswith("flat_xor"):
            indexes = range(2, unique)
        assert decoded(coding, archives, indexes) == plaintext(case["size"])


@pytest.mark.parametrize("case", CASES)
def test_our_archives_are_the_golden_ones(case):
    coding = coding_of(case)
    encoder = coding.encoder(coding.unique)
    made = [b""] * coding.unique
    body = plaintext(case["size"])
    for at in range(0, len(body), 1000):
        pieces = encoder.feed(body[at : at + 1000])
        made = [have + more for have, more in zip(made, pieces, strict=True)]
    last = encoder.finish()
    made = [have + more for have, more in zip(made, last, strict=True)]
    assert made == golden_archives(case)
    assert encoder.etag == case["plaintext_md5"]
    if case["size"] <= case["segment_size"]:
        sums = [encoder.footers(i, None)["Etag"] for i in range(coding.unique)]
        assert sums == case["fragment_archive_md5"]


@pytest.mark.parametrize("case", [c for c in CASES if c.values[0]["size"] > 1])
def test_a_golden_fragment_is_rebuilt(case):
    coding, archives = coding_of(case), golden_archives(case)
    size = coding.fragment_size
    for at in range(0, len(archives[0]), size):
        pieces = {i: archives[i][at : at + size] for i in range(1, coding.unique)}
        assert coding.rebuild(pieces, 0) == archives[0][at : at + size]


def test_golden_headers_are_read():
    for told in EC["decoded_headers"]:
        case = next(c for c in EC["cases"] if c["file"] == told["case"])
        header = read_header(golden_archives(case)[told["idx"]])
        assert header.index == told["idx"]
        assert header.segment_size == told["orig_data_size"]
        assert header.coder == (told["backend_id"], told["backend_version"])


@pytest.mark.parametrize("vector", EC["range_mapping"])
def test_client_ranges_become_archive_ranges(vector):
    coding = ErasureCoding(
        "liberasurecode_rs_vand", 4, 2, segment_size=vector["segment_size"]
    )
    if coding.fragment_size != vector["fragment_size"]:
        pytest.skip("a vector of other parameters")
    spec = coding.archive_spec(RangeSpec(*vector["client"]))
    assert [spec.first, spec.last] == vector["fragment_range"]


def test_a_put_says_what_a_captured_one_said():
    captured = json.loads((GOLDEN / "wire" / "object-put-ec.json").read_text())
    texts = [
        "".join(
            event["bytes_latin1"]
            for event in connection["events"]
            if event["from"] == "client"
        )
        for connection in captured["connections"]
    ]
    coding = ErasureCoding("liberasurecode_rs_vand", 4, 2, segment_size=65536)
    encoder = coding.encoder(6)
    encoder.feed(plaintext(1000))
    encoder.finish()
    assert str(coding.archive_size(1000)) == "330"
    seen = 0
    for text in texts:
        if "X-Document: object metadata" not in text:
            continue
        document = text.split("\r\n\r\n{", 1)[1].split("}")[0]
        footers = json.loads("{" + document + "}")
        index = int(footers["X-Object-Sysmeta-Ec-Frag-Index"])
        assert encoder.footers(index, None) == footers
        assert list(encoder.footers(index, None)) == list(footers)
        seen += 1
    assert seen == 6


@pytest.mark.parametrize(
    ("key", "preferences", "name"),
    [
        ("ec-durable", None, "1700000040.00000#2#d.data"),
        ("ec-nondurable", None, None),
        ("ec-nondurable", [], "1700000041.00000#1.data"),
        ("ec-two-frags", None, "1700000042.00000#5#d.data"),
        ("ec-two-frags", [("1700000042", [5])], "1700000042.00000#0#d.data"),
        ("ec-two-frags", [("1700000042", [0, 5])], None),
        ("ec-durable-and-newer-nondurable", None, "1700000043.00000#3#d.data"),
        ("ec-durable-and-newer-nondurable", [], "1700000044.00000#4.data"),
        (
            "ec-durable-and-newer-nondurable",
            [("1700000043", [])],
            "1700000043.00000#3#d.data",
        ),
        (
            "ec-durable-and-newer-nondurable",
            [("1700000043", [3])],
            "1700000044.00000#4.data",
        ),
        ("ec-mixed", None, "1700000045.00000#1#d.data"),
        ("ec-mixed", [("1700000045", [1])], "1700000045.00000#0.data"),
        ("ec-legacy", None, "1700000046.00000#2.data"),
        ("ec-posted", None, "1700000047.00000#0#d.data"),
        ("ec-deleted", None, None),
    ],
)
def test_the_golden_tree_gives_the_preferred_fragment(key, preferences, name):
    wanted = None
    if preferences is not None:
        wanted = [
            Preference(Timestamp.parse(when), frozenset(exclude))
            for when, exclude in preferences
        ]
    files = choose_fragments(
        TREE["objects"][f"objects-1:{key}"]["files"], 6, preferences=wanted
    )
    assert (files.data.name if files.data else None) == name
    assert not files.unexpected


def test_md5_of_a_case_is_that_of_its_plaintext():
    for case in EC["cases"]:
        assert md5(plaintext(case["size"])).hexdigest() == case["plaintext_md5"]
