# SPDX-License-Identifier: Apache-2.0
"""MIME documents: what the writers write, the parser reads, in chunks of any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core import mime
from swift.core.errors import FormatError
from swift.core.ranges import ByteRange

BOUNDARY = "bb"


def parse(data, sizes, *, inside=False):
    """[(headers, content, last)] of a document fed in pieces, and the parser."""
    parser = mime.MimeParser(BOUNDARY.encode(), inside=inside)
    parts = []
    at, turn = 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        for event in parser.feed(data[at : at + size]):
            if isinstance(event, mime.PartStart):
                parts.append([dict(event.headers), b"", None])
            elif isinstance(event, mime.PartEnd):
                parts[-1][2] = event.last
            else:
                assert event
                parts[-1][1] += event
        at, turn = at + size, turn + 1
    return [tuple(part) for part in parts], parser


@given(st.binary(max_size=200), st.lists(st.integers(1, 90), min_size=1, max_size=5))
def test_a_body_with_footers_is_read_back_whatever_the_chunks(content, sizes):
    if b"\r\n--bb" in content:
        return
    document = mime.body_opening(BOUNDARY) + content
    document += mime.footer_document(BOUNDARY, {"Etag": "x"}, last=True)
    parts, parser = parse(document, sizes)
    assert [part[0].get("X-Document") for part in parts] == [
        "object body",
        "object metadata",
    ]
    assert parts[0][1] == content
    assert parts[1][1] == b'{"Etag": "x"}'
    assert [part[2] for part in parts] == [False, True]
    assert parser.finished


@given(st.lists(st.sampled_from([b"\r", b"\n", b"-", b"b", b"\r\n--b"]), max_size=30))
def test_content_that_looks_like_a_boundary_is_kept(pieces):
    content = b"".join(pieces)
    if b"\r\n--bb" in content:
        return
    document = mime.body_opening(BOUNDARY) + content
    document += mime.body_closing(BOUNDARY, last=True)
    for size in (1, 2, 3, 7, 1000):
        parts, _ = parse(document, [size])
        # A CRLF at the end of the content may itself begin the delimiter only when what
        # follows makes one, which is the delimiter's own.
        assert parts[0][1] == content


def test_the_bytes_of_the_contract_example():
    footers = {"Etag": "49f68a5c8493ec2c0bf489821c21fc3b"}
    assert len(mime.body_opening("bb")) == 0x21
    footer = mime.footer_document("bb", footers, last=False)
    assert len(footer) == 0x8A
    assert b"Content-MD5: 6b8a1bd6e2df9531c1732e9c9e3961bc\r\n" in footer
    assert len(mime.commit_document("bb")) == 0x39


def test_the_commit_follows_when_reading_resumes():
    first = mime.body_opening("bb") + b"hi" + mime.footer_document("bb", {}, last=False)
    parts, parser = parse(first, [1000])
    assert len(parts) == 2
    assert parser.between_parts
    assert not parser.finished
    events = parser.feed(mime.commit_document("bb"))
    assert isinstance(events[0], mime.PartStart)
    assert events[0].headers["X-Document"] == "put commit"
    assert events[1:] == [mime.COMMIT_CONFIRMATION, mime.PartEnd(last=True)]
    assert parser.finished


@pytest.mark.parametrize("data", [b"no boundary\r\n--bb\r\n", b"--bb junk\r\n"])
def test_a_document_that_begins_otherwise_is_an_error(data):
    with pytest.raises(FormatError):
        mime.MimeParser(b"bb").feed(data)


def test_endless_headers_are_an_error():
    parser = mime.MimeParser(b"bb")
    parser.feed(b"--bb\r\n")
    parser.feed(b"X-Long: " + b"x" * 60000)
    with pytest.raises(FormatError):
        parser.feed(b"x" * 10000)


def test_large_chunks_pass_without_a_copy():
    parser = mime.MimeParser(b"bb")
    parser.feed(mime.body_opening("bb"))
    chunk = bytes(65536)
    assert parser.feed(chunk)[0] is chunk


def test_ranges_have_the_length_that_is_promised():
    spans = [ByteRange(0, 3), ByteRange(5, 6)]
    data = b"abcdef"
    written = b""
    for span in spans:
        written += mime.range_opening("bb", "text/plain", span, 6)
        written += data[span.start : span.stop] + mime.RANGE_END
    written += mime.ranges_closing("bb")
    assert len(written) == mime.ranges_length("bb", "text/plain", spans, 6)
    parts, parser = parse(written, [4])
    assert [part[1] for part in parts] == [b"abc", b"f"]
    assert parts[1][0]["Content-Range"] == "bytes 5-5/6"
    assert parser.finished
