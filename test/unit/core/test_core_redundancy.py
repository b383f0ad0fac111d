# SPDX-License-Identifier: Apache-2.0
"""What replication answers when it is asked as any redundancy is."""

from __future__ import annotations

from hashlib import md5

import pytest

from swift.core.objectfiles import DATA, META, TOMBSTONE, FilePart
from swift.core.redundancy import Replication
from swift.core.timestamp import Timestamp

REPLICATION = Replication()
FIRST = Timestamp.parse("1700000001.00000")
SECOND = Timestamp.parse("1700000002.00000_0000000000000001")


def hashed(*texts):
    return md5("".join(texts).encode()).hexdigest()


@pytest.mark.parametrize(
    ("nodes", "quorum"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3)]
)
def test_half_of_the_nodes_must_have_a_write(nodes, quorum):
    assert REPLICATION.write_quorum(nodes) == quorum


@pytest.mark.parametrize("kind", [DATA, META, TOMBSTONE])
def test_a_name_that_was_made_is_chosen_again(kind):
    name = REPLICATION.file_name(FilePart(SECOND, kind))
    files = REPLICATION.choose([name, REPLICATION.file_name(FilePart(FIRST, DATA))])
    chosen = {DATA: files.data, META: files.meta, TOMBSTONE: files.tombstone}[kind]
    assert chosen is not None
    assert (chosen.timestamp, chosen.name) == (SECOND, name)


@pytest.mark.parametrize(
    ("objects", "texts"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([["1700000001.00000.data"]], ["1700000001.00000.data"], id="data"),
        pytest.param([["1700000001.00000.ts"]], ["1700000001.00000.ts"], id="deleted"),
        pytest.param(
            [["1700000001.00000.data", "1700000003.00000-186a0.meta"]],
            [
                "1700000003.00000.meta",
                "1700000001.00000.data",
                "1700000002.00000_ctype",
            ],
            id="posted with a content type",
        ),
        pytest.param(
            [["1700000001.00000.data"], ["1700000002.00000.ts", "junk"]],
            ["1700000001.00000.data", "1700000002.00000.ts"],
            id="two objects",
        ),
        pytest.param(
            [["1700000001.00000.data", "1700000002.00000.data"]],
            ["1700000002.00000.data"],
            id="obsolete files do not count",
        ),
    ],
)
def test_a_suffix_is_hashed_by_the_times_of_its_files(objects, texts):
    files = [REPLICATION.choose(names) for names in objects]
    assert REPLICATION.suffix_hashes(files) == hashed(*texts)
