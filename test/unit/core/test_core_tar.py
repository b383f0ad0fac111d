# SPDX-License-Identifier: Apache-2.0
"""tar: what the standard library writes is read; bombs and broken archives are not."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.core.errors import FormatError
from swift.core.tar import TarReader, unpacked

SKIP_MAX = 1 << 20


def archive(files, form=tarfile.PAX_FORMAT, pax=None):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
                continue
            info.size = len(data)
            info.pax_headers = pax or {}
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def read_all(data, form="tar", step=None, skip_max=SKIP_MAX):
    source = io.BytesIO(data)

    def read_some(size):
        return source.read(min(size, step) if step else size)

    reader = TarReader(unpacked(form, read_some), skip_max=skip_max)
    found = []
    while (member := reader.next_member()) is not None:
        content = b""
        while member.is_file and (piece := reader.read_some(1000)):
            content += piece
        found.append((member.name, content if member.is_file else None))
    return found


NAMES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    min_size=1,
    max_size=300,
).filter(lambda name: not name.endswith("/"))


@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=2000)), max_size=6),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.sampled_from(["tar", "tar.gz", "tar.bz2"]),
    st.sampled_from([None, 1, 700]),
)
@settings(deadline=None, max_examples=60)
def test_what_is_written_is_read(files, form, compression, step):
    data = archive(files, form)
    pack = {"tar": bytes, "tar.gz": gzip.compress, "tar.bz2": bz2.compress}
    packed = pack[compression](data)
    assert read_all(packed, compression, step) == [
        (name.encode(), content) for name, content in files
    ]


def test_directories_are_no_files_and_ustar_prefixes_count():
    name = "d" * 90 + "/" + "f" * 90
    data = archive([("dir", None), (name, b"x")], tarfile.USTAR_FORMAT)
    assert read_all(data) == [(b"dir/", None), (name.encode(), b"x")]


def test_pax_headers_are_given():
    data = archive([("f", b"x")], pax={"SCHILY.xattr.user.meta.colour": "red"})
    reader = TarReader(unpacked("tar", io.BytesIO(data).read), skip_max=SKIP_MAX)
    assert reader.next_member().extended["SCHILY.xattr.user.meta.colour"] == b"red"


def test_concatenated_gzip_streams_are_one():
    data = archive([("f", b"x" * 5000)])
    packed = gzip.compress(data[:3000]) + gzip.compress(data[3000:])
    assert read_all(packed, "tar.gz") == [(b"f", b"x" * 5000)]


def header(size, kind=b"0", name=b"f"):
    block = bytearray(512)
    block[: len(name)] = name
    block[124:136] = (0x80 << 88 | size).to_bytes(12, "big")
    block[156:157] = kind
    block[257:263] = b"ustar\0"
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"x" * 600, id="no archive"),
        pytest.param(header(1)[:300], id="half a header"),
        pytest.param(header(1000) + b"x", id="half a file"),
        pytest.param(header(1 << 60) + b"x" * 5000, id="absurd size"),
        pytest.param(header(1 << 60, b"Z"), id="absurd other thing"),
        pytest.param(header(1 << 40, b"x"), id="absurd pax header"),
        pytest.param(header(1 << 40, b"L"), id="absurd long name"),
        pytest.param(header(0, b"x") * 100, id="endless extended headers"),
        pytest.param(header(0, b"S"), id="sparse"),
        pytest.param(header(5, b"x") + b"9 a=b".ljust(512, b"\0"), id="pax too short"),
        pytest.param(header(4, b"x") + b"9999".ljust(512, b"\0"), id="pax no space"),
        pytest.param(
            header(SKIP_MAX * 2, b"Z") + bytes(SKIP_MAX * 2), id="all skipped"
        ),
        pytest.param(header(0, b"5") * 5000, id="endless directories"),
    ],
)
def test_what_is_no_honest_archive_is_refused(data):
    with pytest.raises(FormatError):
        read_all(data, skip_max=SKIP_MAX)


def test_a_bomb_is_not_held_in_memory():
    bomb = gzip.compress(header(1 << 27, b"Z") + bytes(1 << 27))
    assert len(bomb) < 1 << 18
    with pytest.raises(FormatError):
        read_all(bomb, "tar.gz")


@pytest.mark.parametrize("form", ["tar.gz", "tar.bz2"])
def test_every_truncation_is_noticed_or_ends(form):
    data = archive([("f", b"0123456789" * 60), ("g", b"x")])
    packed = {"tar.gz": gzip.compress, "tar.bz2": bz2.compress}[form](data)
    for cut in range(len(packed)):
        try:
            found = read_all(packed[:cut], form)
        except FormatError:
            continue
        assert found in ([], [(b"f", b"0123456789" * 60), (b"g", b"x")])


@given(st.binary(max_size=3000), st.sampled_from(["tar", "tar.gz", "tar.bz2"]))
@settings(max_examples=100)
def test_any_bytes_are_an_archive_or_refused(data, form):
    with contextlib.suppress(FormatError):
        read_all(data, form)


@given(st.binary(max_size=20), st.integers(0, 2000))
@settings(max_examples=100)
def test_any_damage_is_survived(noise, at):
    data = archive([("f" * 200, b"x" * 100)], pax={"a": "b"})
    with contextlib.suppress(FormatError):
        read_all(data[:at] + noise + data[at + len(noise) :])
