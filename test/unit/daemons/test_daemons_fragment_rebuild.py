# SPDX-License-Identifier: Apache-2.0
"""Fragments that must not be used: corrupt ones, and those of peers that lie."""

from __future__ import annotations

import os

import pytest

from swift.core.headers import Headers
from swift.daemons import fragment_rebuild
from swift.storage.object import reader
from swift.wire.request import call
from test.support.fragments import SEGMENT
from test.support.reconstruct import ADDRESSES, ReconstructSetup

SEGMENTS = 24
BIG = os.urandom(SEGMENTS * SEGMENT - 100)
"""Archives of it are read in more than one piece, so that they can break half-way."""

HALF = SEGMENTS * SEGMENT // 8
LOST = 1
WORKER = 0
"""Positions: the fragment of one is lost, its neighbour makes it again."""


@pytest.fixture
def setup(tmp_path):
    made = ReconstructSetup(tmp_path)
    made.container()
    yield made
    made.nodes.close()


@pytest.fixture
def lost(setup):
    """The bytes that are to be made, of the fragment that is gone."""
    given = Headers({"Content-Type": "x/y"})
    assert setup.ask("PUT", "/v1/a/c/o", BIG, given).status == 201
    [path] = setup.nodes.paths(setup.primaries()[LOST])
    content = path.read_bytes()
    path.unlink()
    return content


def rebuild(setup, **options):
    setup.reconstruct(setup.primaries()[WORKER], **options)


def standing(setup, position):
    """The data files at a position, without what is in quarantine."""
    device = setup.nodes.device(setup.primaries()[position])
    return sorted(device.glob("objects/*/*/*/*.data"))


def made(setup):
    """What lies now where the lost fragment was; None for nothing."""
    paths = standing(setup, LOST)
    return paths[0].read_bytes() if paths else None


def path_at(setup, position):
    [path] = standing(setup, position)
    return path


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


# --- Corrupt on disk ------------------------------------------------------------------


@pytest.mark.parametrize(
    "at",
    [
        pytest.param(0, id="index of the first fragment"),
        pytest.param(59, id="magic"),
        pytest.param(1000, id="payload of the first"),
        pytest.param(-1, id="payload of the last"),
    ],
)
@pytest.mark.parametrize("position", [2, 4])
def test_a_flipped_bit_of_a_source_is_not_built_upon(setup, lost, position, at):
    flip(path_at(setup, position), at)
    rebuild(setup)
    assert made(setup) == lost
    # Whoever was found corrupt is moved aside, and made again by the next pass.
    assert standing(setup, position) == []
    rebuild(setup)
    setup.reconstruct()
    assert all(standing(setup, at) for at in range(6))


@pytest.mark.parametrize("ahead", [1, fragment_rebuild.AHEAD_BYTES])
def test_a_source_that_is_found_corrupt_at_its_end_spoils_nothing(
    setup, lost, ahead, monkeypatch
):
    monkeypatch.setattr(fragment_rebuild, "AHEAD_BYTES", ahead)
    monkeypatch.setattr(reader, "READS_PER_WINDOW", 1)
    flip(path_at(setup, 2), 1000)
    rebuild(setup)
    assert made(setup) == lost
    again = any("once more" in line for line in setup.lines())
    assert again is (ahead == 1)


def test_a_truncated_source_is_not_built_upon(setup, lost):
    path = path_at(setup, 2)
    os.truncate(path, path.stat().st_size - 10)
    rebuild(setup)
    assert made(setup) == lost


@pytest.mark.parametrize("at", [5, 1000, -1])
def test_our_own_corrupt_fragment_is_moved_aside(setup, lost, at):
    flip(path_at(setup, WORKER), at)
    rebuild(setup)
    assert made(setup) is None
    assert standing(setup, WORKER) == []
    setup.reconstruct()
    assert made(setup) == lost
    assert all(standing(setup, at) for at in range(6))


def test_our_own_fragment_without_its_facts_is_moved_aside(setup, lost):
    path = path_at(setup, WORKER)
    other = path_at(setup, 3)
    for name in os.listxattr(path):
        os.setxattr(path, name, os.getxattr(other, name))
    rebuild(setup)
    assert standing(setup, WORKER) == []
    setup.reconstruct()
    assert made(setup) == lost


def test_a_source_that_is_cut_off_is_replaced(setup, lost):
    setup.nodes.cut[setup.primaries()[2]] = HALF
    rebuild(setup)
    assert made(setup) == lost
    assert setup.metrics.counts["fragments.refused"] == 1


def test_sources_cut_off_after_bytes_were_sent_are_replaced(setup, lost, monkeypatch):
    monkeypatch.setattr(fragment_rebuild, "AHEAD_BYTES", 1)
    for position in (2, 3):
        setup.nodes.cut[setup.primaries()[position]] = HALF
    rebuild(setup)
    assert made(setup) is None, "three sound sources are not enough"
    setup.nodes.cut.pop(setup.primaries()[3])
    rebuild(setup)
    assert made(setup) == lost
    assert any("once more" in line for line in setup.lines())


# --- Peers that lie -------------------------------------------------------------------


def lies(setup, position, **headers):
    """A node that answers its GETs with other headers than it should."""
    ip = setup.primaries()[position]
    source = setup.nodes.server(ip)

    def lying(environ, start_response):
        response = call(source, environ)
        if environ["REQUEST_METHOD"] == "GET":
            for name, value in headers.items():
                if value is None:
                    response.headers.pop(name.replace("_", "-"), None)
                else:
                    response.headers[name.replace("_", "-")] = value
        return response(environ, start_response)

    setup.nodes._servers[ip] = lying


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Object_Sysmeta_Ec_Etag": "0" * 32},
        {"X_Object_Sysmeta_Ec_Etag": None},
        {"X_Object_Sysmeta_Ec_Frag_Index": None},
        {"X_Object_Sysmeta_Ec_Frag_Index": "6"},
        {"X_Object_Sysmeta_Ec_Frag_Index": "5"},
        {"X_Object_Sysmeta_Ec_Frag_Index": str(LOST)},
        {"X_Object_Sysmeta_Ec_Content_Length": "17"},
        {"X_Object_Sysmeta_Ec_Scheme": "isa_l_rs_cauchy 4+2"},
        {"X_Backend_Data_Timestamp": "1700000000.00000"},
        {"X_Backend_Data_Timestamp": None},
    ],
    ids=str,
)
def test_what_says_to_be_something_else_is_not_used(setup, lost, headers):
    lies(setup, 2, **headers)
    rebuild(setup)
    assert made(setup) == lost


def test_a_node_that_pretends_to_have_more_is_not_asked_for_ever(setup, lost):
    when = path_at(setup, 2).name.split("#")[0]
    for position in (2, 3):
        lies(setup, position, X_Backend_Fragments=f'{{"{when}": [0, 1, 2, 3, 4, 5]}}')
    setup.nodes.refusing = {setup.primaries()[at] for at in (4, 5)}
    setup.nodes.requests.clear()
    rebuild(setup)
    assert made(setup) is None
    got = [seen for seen in setup.nodes.requests if seen.method == "GET"]
    assert len(got) < 20


def test_the_second_fragment_of_a_node_is_asked_for(setup, lost):
    """One node has two fragments, and the one it gives first is of no use."""
    source, target = setup.primaries()[4], setup.primaries()[2]
    [path] = setup.nodes.paths(source)
    moved = setup.nodes.device(target) / path.relative_to(setup.nodes.device(source))
    path.rename(moved)
    [gone] = setup.nodes.paths(setup.primaries()[5])
    gone.unlink()
    setup.nodes.requests.clear()
    rebuild(setup)
    assert made(setup) == lost


# --- Alone ----------------------------------------------------------------------------


def leave_alone(setup, *positions):
    for at in range(6):
        for path in standing(setup, at):
            if at not in positions:
                path.unlink()


def test_a_solitary_fragment_is_moved_aside_when_asked(setup, lost):
    leave_alone(setup, WORKER)
    rebuild(setup)
    rebuild(setup, quarantine_threshold=1)
    assert path_at(setup, WORKER), "it is not old enough"
    rebuild(setup, quarantine_threshold=1, quarantine_age=0)
    assert standing(setup, WORKER) == []
    quarantined = setup.nodes.device(setup.primaries()[WORKER]) / "quarantined"
    assert list(quarantined.rglob("*.data"))
    assert any("solitary" in line for line in setup.lines())


def test_a_node_that_does_not_answer_may_have_the_rest(setup, lost):
    leave_alone(setup, WORKER)
    setup.nodes.refusing = {setup.primaries()[3]}
    rebuild(setup, quarantine_threshold=1, quarantine_age=0)
    assert path_at(setup, WORKER)


def test_more_fragments_than_the_threshold_are_kept(setup, lost):
    leave_alone(setup, WORKER, 3)
    rebuild(setup, quarantine_threshold=1, quarantine_age=0)
    assert path_at(setup, WORKER)
    rebuild(setup, quarantine_threshold=2, quarantine_age=0)
    assert standing(setup, WORKER) == []


def test_what_handoffs_hold_saves_a_fragment_from_being_given_up(setup, lost):
    handoff = next(ip for ip in ADDRESSES if ip not in setup.primaries())
    for at in (2, 3):
        ip = setup.primaries()[at]
        [path] = setup.nodes.paths(ip)
        moved = setup.nodes.device(handoff) / path.relative_to(setup.nodes.device(ip))
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved)
    for at in (4, 5):
        for path in setup.nodes.paths(setup.primaries()[at]):
            path.unlink()
    rebuild(setup, quarantine_threshold=1, quarantine_age=0)
    assert path_at(setup, WORKER)
