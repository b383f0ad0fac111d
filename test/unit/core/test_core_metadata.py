# SPDX-License-Identifier: Apache-2.0
"""Object metadata: bytes in both directions, and how records lie over each other."""

from __future__ import annotations

import pickle
import pickletools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core import metadata as records
from swift.core.errors import FormatError
from swift.core.headers import Headers
from swift.core.metadata import NAME

wire_text = st.binary(max_size=300).map(lambda raw: raw.decode("latin-1"))
meta_names = st.text("abcdefghij-", min_size=1, max_size=20).map(
    lambda name: f"X-Object-Meta-{name}"
)


def record_of(**more):
    record = Headers({"X-Timestamp": "1700000001.00000", **more})
    record[NAME] = "/AUTH_test/c/o"
    return record


@given(st.dictionaries(meta_names, wire_text, max_size=50))
def test_a_record_comes_back_as_it_was_stored(values):
    record = Headers({"X-Timestamp": "1700000001.00000", **values})
    record[NAME] = "/AUTH_test/c/ünïcødé ☃"
    data = records.encode(record)
    assert records.decode(data) == record
    assert list(records.decode(data)) == list(record)


@given(st.dictionaries(meta_names, wire_text, max_size=50))
def test_both_ways_of_reading_agree(values):
    data = records.encode(record_of(**values))
    quick = records._decode_own(data)
    if quick is not None:
        stored = pickle.loads(data)
        slow = [
            text.decode("utf-8", "surrogateescape")
            for pair in stored.items()
            for text in pair
        ]
        assert quick == slow


def test_the_plain_form_is_read_quickly():
    assert records._decode_own(records.encode(record_of(Etag="0" * 32))) is not None


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"X-Object-Meta-A": ""}, id="an empty value"),
        pytest.param({"X-Object-Meta-A": "1", "X-Object-Meta-B": "1"}, id="one twice"),
        pytest.param({"X-Object-Meta-A": "a\x02b"}, id="a control character"),
        pytest.param({f"X-Object-Meta-{n:03}": "v" for n in range(60)}, id="long memo"),
        pytest.param({f"X-Object-Meta-{n}": "v" for n in range(1100)}, id="batches"),
        pytest.param({"X-Object-Meta-Big": "b" * 70000}, id="a large value"),
    ],
)
def test_odd_records_are_read_all_the_same(values):
    record = record_of(**values)
    assert records.decode(records.encode(record)) == record


def test_only_permitted_names_are_written():
    record = record_of(**{"X-Object-Meta-A": "", "X-Object-Meta-B": "\xe9"})
    named = {
        argument
        for opcode, argument, _ in pickletools.genops(records.encode(record))
        if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST")
    }
    assert named == {"_codecs encode", "__builtin__ bytes"}
    assert b"_codecs\nencode" in records.encode(record)[:32]


def test_records_of_python_2_hold_wire_bytes():
    stored = (
        b"\x80\x02}q\x01(U\x0bX-Timestampq\x02U\x101700000001.00000q\x03"
        b"U\x04nameq\x04U\x05/a/\xc3\xa9q\x05U\x0fX-Object-Meta-Aq\x06U\x02\xc3\xa9q\x07u."
    )
    record = records.decode(stored)
    assert record[NAME] == "/a/é"
    assert record["X-Object-Meta-A"] == "Ã©"
    assert record["X-Timestamp"] == "1700000001.00000"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        pickle.dumps([1, 2], 2),
        pickle.dumps({b"a": [1]}, 2),
        b"cos\nsystem\n(S'true'\ntR.",
        records.encode(record_of())[:-3],
        records.encode(record_of()).replace(b"X\x04\x00", b"X\x09\x00"),
        records.encode(record_of()).replace(b"latin1", b"utf-16"),
    ],
)
def test_what_is_no_record_is_refused(data):
    with pytest.raises(FormatError):
        records.decode(data)


def test_a_large_record_is_cut_into_attributes():
    record = record_of(**{"X-Object-Meta-Big": "b" * 140000})
    stored = dict(records.attributes(record))
    assert list(stored) == [
        "user.swift.metadata",
        "user.swift.metadata1",
        "user.swift.metadata2",
        "user.swift.metadata_checksum",
    ]
    whole = b"".join(list(stored.values())[:3])
    assert len(stored["user.swift.metadata"]) == 65536
    assert whole == records.encode(record)
    assert stored["user.swift.metadata_checksum"] == records.checksum(whole)


def test_a_post_replaces_all_but_what_describes_the_body():
    data = record_of(
        **{
            "Content-Type": "text/plain",
            "Content-Length": "5",
            "ETag": "e",
            "X-Object-Meta-Old": "gone",
            "X-Delete-At": "1800000000",
            "Content-Encoding": "gzip",
            "X-Object-Sysmeta-S": "kept",
            "X-Static-Large-Object": "True",
            "X-Object-Transient-Sysmeta-T": "gone",
        }
    )
    meta = Headers(
        {"X-Timestamp": "1700000002.00000", NAME: "/x", "X-Object-Meta-New": "n"}
    )
    merged = records.merge(data, meta)
    assert merged.metadata == Headers(
        {
            "X-Timestamp": "1700000002.00000",
            NAME: "/AUTH_test/c/o",
            "X-Object-Meta-New": "n",
            "Content-Type": "text/plain",
            "Content-Length": "5",
            "Etag": "e",
            "X-Object-Sysmeta-S": "kept",
            "X-Static-Large-Object": "True",
        }
    )
    assert merged.timestamp.normal == "1700000002.00000"
    assert merged.data_timestamp == merged.content_type_timestamp
    assert merged.data_timestamp.normal == "1700000001.00000"


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        pytest.param("1700000002.00000", "image/png", id="newer"),
        pytest.param("1700000001.00000", "image/png", id="as old as the data"),
        pytest.param("1700000000.50000", "text/plain", id="older than the data"),
    ],
)
def test_the_newest_content_type_is_shown(when, expected):
    data = record_of(**{"Content-Type": "text/plain"})
    meta = Headers(
        {
            "X-Timestamp": "1700000002.00000",
            "Content-Type": "image/png",
            "Content-Type-Timestamp": when,
        }
    )
    assert records.merge(data, meta, meta).metadata["Content-Type"] == expected


@pytest.mark.parametrize("record", [{}, {"X-Timestamp": "soon"}])
def test_a_record_without_a_time_is_refused(record):
    with pytest.raises(FormatError):
        records.merge(Headers(record))


def test_what_is_read_may_be_changed_without_harm():
    data = records.encode(record_of())
    records.decode(data)["X-Timestamp"] = "changed"
    assert records.decode(data)["X-Timestamp"] == "1700000001.00000"
