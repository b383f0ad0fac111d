# SPDX-License-Identifier: Apache-2.0
"""What any redundancy must do, whatever its scheme: the cases that all are put to."""

from __future__ import annotations

import os
import random
from itertools import pairwise

import pytest

from swift.core.erasure import ErasureCoding
from swift.core.headers import Headers
from swift.core.objectfiles import DATA, META, TOMBSTONE, FilePart
from swift.core.redundancy import Redundancy, Replication
from swift.core.timestamp import Timestamp

SEGMENT = 4096


def coding(ec_type: str, data: int, parity: int, **options: int) -> ErasureCoding:
    """Erasure coding with small segments."""
    return ErasureCoding(ec_type, data, parity, segment_size=SEGMENT, **options)


SCHEMES = [
    pytest.param(Replication(), 3, id="three copies"),
    pytest.param(coding("isa_l_rs_vand", 4, 2), 6, id="vandermonde"),
    pytest.param(coding("isa_l_rs_cauchy", 3, 2), 5, id="cauchy"),
    pytest.param(coding("liberasurecode_rs_vand", 4, 2), 6, id="liberasurecode"),
    pytest.param(coding("flat_xor_hd_3", 10, 5), 15, id="xor"),
    pytest.param(coding("isa_l_rs_vand", 2, 1, duplication=2), 6, id="twice kept"),
]
SIZES = [0, 1, 7, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT, 3 * SEGMENT + 100]
FIRST = Timestamp.parse("1700000001.00000")
SECOND = Timestamp.parse("1700000002.00000_0000000000000001")
THIRD = Timestamp.parse("1700000003.00000")


def archives_of(redundancy: Redundancy, nodes: int, body: bytes, seed: int):
    """The archives of a body that comes in chunks of any size, and the encoder."""
    rng = random.Random(seed)
    encoder = redundancy.encoder(nodes)
    archives = [b""] * nodes
    at = 0
    while at < len(body):
        step = rng.choice([1, 100, SEGMENT, 3 * SEGMENT])
        pieces = encoder.feed(body[at : at + step])
        archives = [have + piece for have, piece in zip(archives, pieces, strict=True)]
        at += step
    pieces = encoder.finish()
    return [have + more for have, more in zip(archives, pieces, strict=True)], encoder


def object_of(redundancy: Redundancy, archives: dict[int, bytes]) -> bytes:
    """The object that archives give: index → bytes."""
    decoder = redundancy.decoder()
    if decoder is None:
        return next(iter(archives.values()))
    size = decoder.fragment_size
    length = len(next(iter(archives.values())))
    return b"".join(
        decoder.decode({i: data[at : at + size] for i, data in archives.items()})
        for at in range(0, length, size)
    )


def part(redundancy: Redundancy, timestamp: Timestamp, kind: str, durable=True):
    """A file that is to be made; data is that of the first archive."""
    index = redundancy.archive_index(0) if kind == DATA else None
    return FilePart(timestamp, kind, None, index, durable and index is not None)


class RedundancyContract:
    """Every case is run for every scheme."""

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize(("redundancy", "nodes"), SCHEMES)
    def test_enough_archives_give_the_object_back(self, redundancy, nodes, size):
        body = os.urandom(size)
        archives, encoder = archives_of(redundancy, nodes, body, size)
        assert {len(archive) for archive in archives} == {redundancy.archive_size(size)}
        by_index = {}
        for position, archive in enumerate(archives):
            index = redundancy.archive_index(position)
            assert by_index.setdefault(index or 0, archive) == archive
            footers = encoder.footers(position, None)
            assert redundancy.fragment_index(footers or {}) == index
        few = dict(list(by_index.items())[: redundancy.needed])
        assert object_of(redundancy, few) == body
        last = dict(list(by_index.items())[1:])
        if last:
            assert object_of(redundancy, last) == body

    @pytest.mark.parametrize(("redundancy", "nodes"), SCHEMES)
    def test_a_write_needs_as_many_nodes_as_give_it_back(self, redundancy, nodes):
        assert redundancy.needed <= redundancy.write_quorum(nodes) <= nodes

    @pytest.mark.parametrize(("redundancy", "nodes"), SCHEMES)
    @pytest.mark.parametrize("kind", [DATA, META, TOMBSTONE])
    def test_a_name_that_was_made_is_chosen_again(self, redundancy, nodes, kind):
        name = redundancy.file_name(part(redundancy, SECOND, kind))
        other = redundancy.file_name(part(redundancy, FIRST, DATA))
        files = redundancy.choose([name, other])
        chosen = {DATA: files.data, META: files.meta, TOMBSTONE: files.tombstone}[kind]
        assert chosen is not None
        assert (chosen.timestamp, chosen.name) == (SECOND, name)
        assert [p.name for p in files.obsolete] == ([] if kind == META else [other])

    @pytest.mark.parametrize(("redundancy", "nodes"), SCHEMES)
    def test_the_order_of_names_and_an_earlier_clean_up_change_nothing(
        self, redundancy, nodes
    ):
        kinds = [(FIRST, DATA), (SECOND, DATA), (SECOND, META), (THIRD, META)]
        names = [redundancy.file_name(part(redundancy, *each)) for each in kinds]
        names.append(redundancy.file_name(part(redundancy, FIRST, TOMBSTONE)))
        wanted = redundancy.choose(names)
        rng = random.Random(1)
        for _ in range(20):
            rng.shuffle(names)
            gone = {p.name for p in redundancy.choose(names[:3]).obsolete}
            found = redundancy.choose([name for name in names if name not in gone])
            assert (found.data, found.meta, found.tombstone) == (
                wanted.data,
                wanted.meta,
                wanted.tombstone,
            )

    @pytest.mark.parametrize(("redundancy", "nodes"), SCHEMES)
    def test_a_suffix_hash_tells_of_every_change(self, redundancy, nodes):
        seen = []
        names = []
        for timestamp, kind in [(FIRST, DATA), (SECOND, META), (THIRD, TOMBSTONE)]:
            names.append(redundancy.file_name(part(redundancy, timestamp, kind)))
            seen.append(redundancy.suffix_hashes([redundancy.choose(names)]))
        assert all(one != other for one, other in pairwise(seen))

    @pytest.mark.parametrize(("redundancy", "nodes"), SCHEMES)
    def test_what_filters_add_follows_the_bytes(self, redundancy, nodes):
        encoder = redundancy.encoder(nodes)
        encoder.feed(b"x")
        encoder.finish()
        footers = encoder.footers(0, Headers({"X-Object-Sysmeta-Key": "v"}))
        assert footers is not None
        assert footers["X-Object-Sysmeta-Key"] == "v"

    @pytest.mark.parametrize(("redundancy", "nodes"), SCHEMES)
    def test_what_is_no_range_stays_one(self, redundancy, nodes):
        for header in ("bytes=", "lines=1-2", "bytes=5-2", "bytes=a-b"):
            assert redundancy.archive_range(header) == header
