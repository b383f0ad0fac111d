# SPDX-License-Identifier: Apache-2.0
"""Listings: the query, the page, and the three forms."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.errors import FormatError, InvalidInput
from swift.core.listing import (
    JSON,
    PLAIN,
    TEXT_XML,
    XML,
    LimitTooLarge,
    ListingQuery,
    NotAcceptable,
    Span,
    containers_json,
    containers_records,
    containers_xml,
    listing_format,
    objects_json,
    objects_records,
    objects_xml,
    page,
    parse_json,
    plain,
    query_params,
    records_json,
    records_plain,
    successor,
)
from swift.core.timestamp import RAW_MAX, Timestamp

# --- The query ------------------------------------------------------------------------


def test_a_query_string_is_read():
    query = ListingQuery.parse(
        "limit=5&marker=a%2Fb&end_marker=%E2%98%83&prefix=x+y&delimiter=/&reverse=Yes"
    )
    assert query == ListingQuery(5, "a/b", "☃", "x y", "/", None, True)


def test_raw_utf8_in_a_query_string_is_read():
    raw = "prefix=ü".encode().decode("latin-1")
    assert ListingQuery.parse(raw).prefix == "ü"


@pytest.mark.parametrize("query", ["prefix=%FF", "marker=%C3", "prefix=\xff"])
def test_what_is_not_utf8_is_refused(query):
    with pytest.raises(InvalidInput):
        ListingQuery.parse(query)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("", 10000),
        ("x", 10000),
        ("-1", 10000),
        ("0", 0),
        ("10000", 10000),
        ("٣", 10000),
    ],
)
def test_a_limit_that_is_no_number_is_ignored(text, limit):
    assert ListingQuery.parse(f"limit={text}".encode().decode("latin-1")).limit == limit


@pytest.mark.parametrize("text", ["10001", "9" * 5000])
def test_a_limit_above_the_maximum_is_refused(text):
    with pytest.raises(LimitTooLarge, match="Maximum limit is 10000"):
        ListingQuery.parse(f"limit={text}")


def test_an_empty_path_is_not_an_absent_one():
    assert ListingQuery.parse("path=").path == ""
    assert ListingQuery.parse("").path is None


def test_the_last_of_equal_names_counts():
    assert query_params("a=1&a=2&&b") == {"a": "2", "b": ""}


@pytest.mark.parametrize(
    ("param", "accept", "expected"),
    [
        (None, None, PLAIN),
        (None, "", PLAIN),
        (None, "*/*", PLAIN),
        ("JSON", "text/plain", JSON),
        ("xml", None, XML),
        ("odd", "application/json", PLAIN),
        (None, "application/json", JSON),
        (None, "application/*", JSON),
        (None, "text/xml", TEXT_XML),
        (None, "*/*, application/xml", XML),
        (None, "application/xml;q=0.5, application/json;q=0.9", JSON),
        (None, "text/html, application/json;q=0.1", JSON),
        (None, "text/plain;q=0, */*", JSON),
        (None, "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", XML),
    ],
)
def test_the_format_follows_the_parameter_and_then_accept(param, accept, expected):
    assert listing_format(param, accept) == expected


def test_an_accept_that_takes_nothing_of_ours_is_not_acceptable():
    with pytest.raises(NotAcceptable):
        listing_format(None, "image/png, text/html;q=0.3")


@pytest.mark.parametrize("accept", ["json", "a/b/c", "*/json", "text/plain;q=x", "/"])
def test_an_accept_that_does_not_parse_is_refused(accept):
    with pytest.raises(InvalidInput) as caught:
        listing_format(None, accept)
    assert not isinstance(caught.value, NotAcceptable)


# --- The page -------------------------------------------------------------------------


def _names(names, query, *, allow_reserved=False):
    """The page over a set of names, as a list of names and subdirs."""

    def scan(span: Span, limit: int):
        rows = sorted(names, reverse=span.reverse)
        found = [
            (name, "", 0, "", "")
            for name in rows
            if (
                span.lower is None
                or name > span.lower
                or (span.lower_included and name == span.lower)
            )
            and (
                span.upper is None
                or name < span.upper
                or (span.upper_included and name == span.upper)
            )
        ]
        return found[:limit]

    entries = page(scan, query, allow_reserved=allow_reserved)
    return [entry[0] if len(entry) > 1 else entry for entry in entries]


def _expected(names, query):
    """The page by looking at every name."""
    low, high = query.marker, query.end_marker
    if query.reverse:
        low, high = high, low
    prefix, delimiter = query.prefix, query.delimiter
    if query.path is not None:
        stem = query.path.rstrip("/")
        prefix, delimiter = (stem + "/" if stem else ""), "/"
    found: list[object] = []
    for name in sorted(names, reverse=query.reverse):
        if not name.startswith(prefix) or name <= low or (high and name >= high):
            continue
        end = name.find(delimiter, len(prefix)) if delimiter else -1
        if query.path is not None:
            if name != prefix and (end < 0 or end == len(name) - 1):
                found.append(name)
        elif end < 0:
            found.append(name)
        else:
            subdir = (name[: end + len(delimiter)],)
            seen = query.end_marker if query.reverse else query.marker
            if subdir[0] != seen and subdir not in found:
                found.append(subdir)
    return found[: query.limit]


_texts = st.text(alphabet="ab/-", max_size=4)


@given(
    names=st.sets(st.text(alphabet="ab/-", min_size=1, max_size=6), max_size=12),
    query=st.builds(
        ListingQuery,
        limit=st.integers(0, 6),
        marker=_texts,
        end_marker=_texts,
        prefix=_texts,
        delimiter=st.sampled_from(["", "/", "-", "--", "a/"]),
        path=st.one_of(st.none(), st.text(alphabet="ab/", max_size=3)),
        reverse=st.booleans(),
    ),
)
def test_a_page_holds_what_a_look_at_every_name_finds(names, query):
    assert _names(names, query) == _expected(names, query)


_API_NAMES = ["a", "a/b", "a/b/c", "a/d", "b", "b--x", "b--y", "c/"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("delimiter=/", ["a", ("a/",), "b", "b--x", "b--y", ("c/",)]),
        ("delimiter=/&prefix=a/", ["a/b", ("a/b/",), "a/d"]),
        ("delimiter=--", ["a", "a/b", "a/b/c", "a/d", "b", ("b--",), "c/"]),
        ("path=a", ["a/b", "a/d"]),
        ("path=", ["a", "b", "b--x", "b--y", "c/"]),
        ("path=c", []),
        ("marker=a/&delimiter=/", ["b", "b--x", "b--y", ("c/",)]),
        ("reverse=on&limit=2", ["c/", "b--y"]),
        ("marker=b&end_marker=b--y", ["b--x"]),
        ("marker=c&end_marker=a", []),
    ],
)
def test_the_examples_of_the_api(query, expected):
    assert _names(_API_NAMES, ListingQuery.parse(query)) == expected


def test_reserved_names_are_seen_only_when_allowed():
    names = ["\x00hidden", "seen"]
    assert _names(names, ListingQuery()) == ["seen"]
    assert _names(names, ListingQuery(), allow_reserved=True) == names


@given(st.text(min_size=1, max_size=3), st.text(max_size=3))
def test_the_successor_is_above_every_text_that_begins_so(text, more):
    above = successor(text)
    if above is not None:
        assert above > text + more
        above.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("a", "b"),
        ("\ud7ff", "\ue000"),
        ("a\U0010ffff", "b"),
        ("\U0010ffff", None),
    ],
)
def test_the_successor_at_the_edges(text, expected):
    assert successor(text) == expected


# --- The forms ------------------------------------------------------------------------

_ROWS = [
    ("a", "1700000001.00000", 10, "text/plain", "e1"),
    ("b/",),
    ("c", "1700000004.00000", 40, "application/json;swift_bytes=4096", "e4"),
    ("posted", "1700000005.00000+186a0+186a0", 50, "text/html", "e5"),
    ('ü"☃\\\n', "1700000009.00000_2", 60, "text/plain", "e6"),
]


def test_json_of_objects():
    assert objects_json(_ROWS[:1]) == (
        b'[{"bytes": 10, "hash": "e1", "name": "a", "content_type": "text/plain", '
        b'"last_modified": "2023-11-14T22:13:21.000000"}]'
    )
    records = json.loads(objects_json(_ROWS))
    assert [r.get("bytes") for r in records] == [10, None, 4096, 50, 60]
    assert records[1] == {"subdir": "b/"}
    assert records[2]["content_type"] == "application/json"
    assert records[3]["last_modified"] == "2023-11-14T22:13:27.000000"
    assert objects_json([]) == b"[]"


_row = st.tuples(
    st.text(min_size=1, max_size=5),
    st.integers(0, RAW_MAX).map(lambda raw: Timestamp(raw).normal),
    st.integers(0, 2**63 - 1),
    st.text(max_size=5),
    st.text(max_size=5),
)


@given(st.lists(_row, max_size=4))
def test_the_fast_way_to_json_writes_what_the_plain_way_writes(rows):
    assert objects_json(rows) == records_json(objects_records(rows))


def test_json_of_containers_leaves_out_an_unknown_policy():
    rows = [("c", 1, 2, "1700000000.00000", 0), ("d", 0, 0, "1700000000.00000", 9)]
    assert json.loads(containers_json(rows, {0: "gold"})) == [
        {
            "name": "c",
            "count": 1,
            "bytes": 2,
            "last_modified": "2023-11-14T22:13:20.000000",
            "storage_policy": "gold",
        },
        {
            "name": "d",
            "count": 0,
            "bytes": 0,
            "last_modified": "2023-11-14T22:13:20.000000",
        },
    ]


def test_text_is_one_name_a_line():
    assert plain(_ROWS[:2]) == b"a\nb/\n"
    assert plain([]) == b""
    assert records_plain(objects_records(_ROWS)) == plain(_ROWS)


def test_xml_of_objects_is_well_formed_and_holds_all():
    body = objects_xml('c"<&', objects_records(_ROWS))
    tree = ElementTree.fromstring(body)
    assert tree.tag == "container"
    assert tree.get("name") == 'c"<&'
    names = [element.findtext("name") for element in tree]
    assert names == [row[0] for row in _ROWS]
    assert tree[1].tag == "subdir"
    assert tree[1].get("name") == "b/"
    assert [element.tag for element in tree[0]] == [
        "name",
        "hash",
        "bytes",
        "content_type",
        "last_modified",
    ]


def test_xml_of_containers():
    rows = [("c&", 1, 2, "1700000000.00000", 0), ("d/",)]
    assert containers_xml("A", containers_records(rows, {0: "gold"})) == (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<account name="A">\n'
        b"<container><name>c&amp;</name><count>1</count><bytes>2</bytes>"
        b"<last_modified>2023-11-14T22:13:20.000000</last_modified>"
        b"<storage_policy>gold</storage_policy></container>\n"
        b'<subdir name="d/" />\n</account>'
    )


def test_a_listing_of_a_server_is_read_back():
    assert parse_json(objects_json(_ROWS)) == objects_records(_ROWS)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[1]", b'[{"bytes": 1}]', b'[{"name": 1}]', b"\xff"]
)
def test_a_listing_that_is_none_is_an_error(body):
    with pytest.raises(FormatError):
        parse_json(body)
