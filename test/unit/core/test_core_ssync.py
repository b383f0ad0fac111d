# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.core.redundancy import Replication
from swift.core.ssync import (
    HEADERS_MAX,
    LINE_MAX,
    Holding,
    LineBuffer,
    Offer,
    ProtocolError,
    Update,
    Want,
    error_line,
    wanted,
)
from swift.core.timestamp import RAW_MAX, Timestamp

HASH = "0123456789abcdef0123456789abcdef"
T = Timestamp.parse("1700000000.00000")


def at(seconds, offset=0):
    return Timestamp(T.raw + round(seconds * 100_000), offset)


def holding(data, meta=None, content_type=None, durable=True):
    data = at(data)
    return Holding(
        data,
        data if meta is None else at(meta),
        data if content_type is None else at(content_type),
        durable,
    )


# --- offers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "line"),
    [
        pytest.param(holding(0), "1700000000.00000", id="plain"),
        pytest.param(holding(0, 1), "1700000000.00000 m:186a0", id="posted"),
        pytest.param(
            holding(0, 2, 1), "1700000000.00000 m:30d40,t:186a0", id="content type"
        ),
        pytest.param(
            holding(0, durable=False), "1700000000.00000 durable:False", id="no commit"
        ),
        pytest.param(
            Holding(at(0, 1), at(0, 3), at(0, 1)),
            "1700000000.00000_0000000000000001 m:0__3",
            id="offsets",
        ),
        pytest.param(
            Holding(at(0), at(0), at(-1)), "1700000000.00000", id="no t without m"
        ),
    ],
)
def test_an_offer_is_written_as_captured_senders_do(held, line):
    assert Offer(HASH, held).encode() == f"{HASH} {line}\r\n".encode()


times = st.builds(Timestamp, st.integers(0, RAW_MAX), st.integers(0, 2**64 - 1))


@given(times, times, times, st.booleans())
def test_an_offer_comes_back_as_it_was(data, meta, content_type, durable):
    if meta == data:
        content_type = data  # the third time is written only behind the second
    offer = Offer(HASH, Holding(data, meta, content_type, durable))
    assert Offer.parse(offer.encode().rstrip()) == offer


@pytest.mark.parametrize(
    ("line", "held"),
    [
        pytest.param("", holding(0), id="two fields"),
        pytest.param(" x:1,m:186a0,y", holding(0, 1), id="unknown items"),
        pytest.param(" m%3A186a0", holding(0, 1), id="quoted"),
        pytest.param(" durable:true", holding(0), id="durable"),
        pytest.param(" m:-186a0", holding(0, -1), id="negative"),
    ],
)
def test_offers_of_other_senders_are_read(line, held):
    text = f"{HASH} 1700000000.00000{line}"
    assert Offer.parse(text.encode()) == Offer(HASH, held)


@pytest.mark.parametrize(
    "line",
    [
        "",
        HASH,
        f"{HASH} yesterday",
        f"{HASH[:-1]} 1700000000.00000",
        f"{HASH.upper()} 1700000000.00000",
        f"../../etc/{HASH} 1700000000.00000",
        f"{HASH} 1700000000.00000 m:zz",
        f"{HASH} 1700000000.00000 m:fffffffffffffffffffff",
        f"{HASH} 1700000000.00000 m:-fffffffffffffffff",
        f"{HASH} -1",
    ],
)
def test_what_is_no_offer_is_refused(line):
    with pytest.raises(ProtocolError):
        Offer.parse(line.encode())


@given(st.binary(max_size=200))
def test_no_line_does_more_than_be_refused(line):
    for parse in (Offer.parse, Want.parse, lambda text: Update.parse([text])):
        try:
            parse(line)
        except ProtocolError:
            continue


# --- wants ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "local", "letters"),
    [
        pytest.param(holding(1), None, "dm", id="nothing here"),
        pytest.param(holding(1), holding(1), None, id="the same"),
        pytest.param(holding(2), holding(1), "dm", id="newer data"),
        pytest.param(holding(1), holding(2), None, id="older data"),
        pytest.param(holding(1, 2), holding(1), "m", id="newer metadata"),
        pytest.param(holding(2), holding(1, 3), "d", id="metadata here is newer"),
        pytest.param(holding(1, 4, 3), holding(1, 4, 2), "m", id="newer content type"),
        pytest.param(holding(2, 2, 1), holding(2, 2, 0), None, id="type of the data"),
    ],
)
def test_what_a_receiver_wants(offered, local, letters):
    want = wanted(Offer(HASH, offered), local)
    expected = None
    if letters is not None:
        expected = Want(HASH, "d" in letters, "m" in letters)
        assert want.encode() == f"{HASH} {letters}\r\n".encode()
    assert want == expected


def test_a_bare_hash_means_the_data():
    assert Want.parse(HASH.encode()) == Want(HASH, data=True, meta=False)


def test_a_holding_is_what_the_files_come_to():
    choose = Replication().choose
    names = [f"{at(1).internal}.data", f"{at(3).short}-186a0.meta"]
    assert Holding.of(choose(names)) == holding(1, 3, 2)
    assert Holding.of(choose([f"{at(5).internal}.ts"])) == holding(5)
    assert Holding.of(choose([])) is None


# --- updates --------------------------------------------------------------------------


def test_an_update_is_written_sorted_and_with_its_etag():
    headers = Headers({"X-Timestamp": T.internal, "Etag": "e", "Content-Length": "3"})
    update = Update("PUT", ObjectName("a", "c", "ö /x"), headers)
    assert update.encode() == (
        b"PUT /a/c/%C3%B6%20/x\r\nContent-Length: 3\r\nETag: e\r\n"
        b"X-Timestamp: 1700000000.00000\r\n\r\n"
    )
    assert Update.parse(update.encode().split(b"\r\n")[:-2]) == update
    assert update.size == 3


@pytest.mark.parametrize(
    "lines",
    [
        ["GET /a/c/o", "X-Timestamp: 1"],
        ["PUT /a/c", "X-Timestamp: 1", "Content-Length: 0"],
        ["PUT a/c/o", "X-Timestamp: 1", "Content-Length: 0"],
        ["PUT /a/c/o", "X-Timestamp: 1"],
        ["PUT /a/c/o", "X-Timestamp: 1", "Content-Length: -1"],
        ["PUT /a/c/o", "X-Timestamp: 1", "Content-Length: ten"],
        ["PUT /a/c/o", "Content-Length: 0"],
        ["POST /a/c/o", "X-Timestamp: 1", "Content-Length: 7"],
        ["DELETE /a/c/o", "no colon"],
        ["DELETE /a/c/%FF", "X-Timestamp: 1"],
    ],
)
def test_what_is_no_update_is_refused(lines):
    with pytest.raises(ProtocolError):
        Update.parse([line.encode() for line in lines])


# --- lines ----------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=9).filter(lambda b: b"\n" not in b)), st.data())
def test_lines_come_out_whatever_the_pieces(lines, data):
    lines = [line.rstrip(b"\r") for line in lines]
    stream = b"".join(line + b"\r\n" for line in lines) + b"body"
    buffer = LineBuffer()
    found = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        buffer.feed(stream[:size])
        stream = stream[size:]
        while len(found) < len(lines) and (line := buffer.line()) is not None:
            found.append(line)
    assert found == lines
    assert buffer.take(3) + buffer.take(9) == b"body"


@pytest.mark.parametrize("end", [b"", b"\r\n"])
def test_a_line_may_be_so_long_and_no_longer(end):
    buffer = LineBuffer()
    buffer.feed(b"x" * (LINE_MAX - 1) + b"\r\n")
    assert len(buffer.line()) == LINE_MAX - 1
    buffer.feed(b"x" * (LINE_MAX + 1) + end)
    with pytest.raises(ProtocolError):
        buffer.line()


def test_an_error_names_its_status_and_reason():
    assert error_line(503, "busy") == b":ERROR: 503 'busy'\r\n"
    assert HEADERS_MAX > 1000
