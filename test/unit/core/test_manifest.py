# SPDX-License-Identifier: Apache-2.0
"""Which segments hold which bytes, as a law over random manifests."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.errors import FormatError
from swift.core.manifest import (
    DataSegment,
    DloManifest,
    ManifestError,
    ObjectSegment,
    SloManifest,
    dlo_etag,
    parse_client_manifest,
)
from swift.core.ranges import ByteRange


@st.composite
def segments(draw):
    if draw(st.booleans()):
        return DataSegment(draw(st.binary(min_size=1, max_size=8)))
    size = draw(st.integers(1, 50))
    start = draw(st.integers(0, size - 1))
    stop = draw(st.integers(start + 1, size))
    span = draw(st.sampled_from([None, ByteRange(start, stop)]))
    return ObjectSegment(f"/c/{draw(st.integers(0, 9))}", size, "e" * 32, span=span)


def content(segment, span):
    if isinstance(segment, DataSegment):
        return segment.data[span.start : span.stop]
    return bytes((ord(segment.path[-1]) + i) % 256 for i in range(*slice_of(span)))


def slice_of(span):
    return span.start, span.stop


@given(st.lists(segments(), max_size=8), st.integers(0, 500), st.integers(0, 500))
def test_parts_within_a_range_are_those_bytes_of_the_whole(listed, start, length):
    manifest = SloManifest(tuple(listed))
    whole = b"".join(content(segment, segment.part) for segment in listed)
    assert len(whole) == manifest.size
    parts = manifest.parts_within(ByteRange(start, start + length))
    assert b"".join(content(*part) for part in parts) == whole[start : start + length]


@given(st.lists(segments(), max_size=8))
def test_the_stored_form_comes_back(listed):
    manifest = SloManifest(tuple(listed))
    assert SloManifest.load(manifest.dump()) == manifest


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_refused(data):
    with suppress(FormatError):
        SloManifest.load(data)
    with suppress(ManifestError):
        parse_client_manifest(data, own_path="/c/o", segments_max=3)


@pytest.mark.parametrize(
    ("value", "container", "prefix"),
    [
        ("c/p", "c", "p"),
        ("c/p/q/", "c", "p/q/"),
        ("c%20d/p%2Fq", "c d", "p/q"),
        ("c/%C3%A9", "c", "\xc3\xa9"),
    ],
)
def test_a_dynamic_manifest_names_container_and_prefix(value, container, prefix):
    assert DloManifest.parse(value) == DloManifest(container, prefix)


@pytest.mark.parametrize(
    "value",
    ["", "c", "c/", "/c/p", "c//p", "c/p?q", "c/p&q", "c/%FF", "c\xff/p", "c/p%00"],
)
def test_what_names_no_prefix_is_no_dynamic_manifest(value):
    with pytest.raises(ManifestError):
        DloManifest.parse(value)


def test_the_etag_of_a_dynamic_object_is_that_of_its_etags():
    assert dlo_etag([]) == "d41d8cd98f00b204e9800998ecf8427e"
