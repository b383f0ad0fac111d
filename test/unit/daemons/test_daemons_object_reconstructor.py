# SPDX-License-Identifier: Apache-2.0
"""The object reconstructor with real object servers, and with peers that lie."""

from __future__ import annotations

import os
from itertools import combinations

import pytest

from swift.core.headers import Headers
from test.support.fragments import SEGMENT
from test.support.reconstruct import ReconstructSetup

BIG = os.urandom(3 * SEGMENT + 1000)
OBJECT = "/v1/a/c/o"
PAIRS = list(combinations(range(6), 2))


@pytest.fixture
def setup(tmp_path):
    made = ReconstructSetup(tmp_path)
    made.container()
    yield made
    made.nodes.close()


def put(setup, body=BIG, name="o"):
    answer = setup.ask("PUT", f"/v1/a/c/{name}", body, Headers({"Content-Type": "x/y"}))
    assert answer.status == 201


def lose(setup, *positions):
    for at in positions:
        for path in setup.nodes.paths(setup.primaries()[at]):
            path.unlink()


# --- Rebuilding -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, SEGMENT, 3 * SEGMENT + 1000])
def test_a_lost_fragment_is_made_again_to_the_byte(setup, size):
    put(setup, os.urandom(size))
    before = setup.archives()
    lose(setup, 2)
    setup.reconstruct()
    assert setup.archives() == before


@pytest.mark.parametrize("lost", PAIRS)
def test_any_two_lost_fragments_are_made_again(setup, lost):
    put(setup)
    before = setup.archives()
    lose(setup, *lost)
    setup.reconstruct()
    assert setup.archives() == before
    assert setup.metrics.counts["fragments.rebuilt"] == 2
