# SPDX-License-Identifier: Apache-2.0
"""The object reconstructor with real object servers: rebuilding and giving back."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from itertools import combinations

import pytest

from swift.core.erasure import ErasureCoding
from swift.core.headers import Headers
from swift.runtime import green
from swift.runtime.daemon import Scope, run_pass
from swift.wire.request import Response
from test.support.fragments import CODING, SEGMENT
from test.support.reconstruct import ADDRESSES, ReconstructSetup

BIG = os.urandom(3 * SEGMENT + 1000)
SMALL = b"a small body"
PAIRS = list(combinations(range(6), 2))
XOR = ErasureCoding("flat_xor_hd_3", 3, 3, segment_size=SEGMENT)
TWICE = ErasureCoding("isa_l_rs_vand", 2, 1, segment_size=SEGMENT, duplication=2)


@pytest.fixture
def setup(tmp_path):
    made = ReconstructSetup(tmp_path)
    made.container()
    yield made
    made.nodes.close()


def put(setup, body=BIG, name="o", status=201):
    given = Headers({"Content-Type": "x/y"})
    answer = setup.ask("PUT", f"/v1/a/c/{name}", body, given)
    assert answer.status == status


def delete(setup, name="o"):
    assert setup.ask("DELETE", f"/v1/a/c/{name}").status == 204


def lose(setup, *positions, name="o"):
    for at in positions:
        for path in setup.nodes.paths(setup.primaries(f"/a/c/{name}")[at]):
            path.unlink()
            announce(path)


def announce(path):
    """Have a suffix hashed again, as who writes or moves a file aside does."""
    with (path.parents[2] / "hashes.invalid").open("a") as out:
        out.write(f"{path.parents[1].name}\n")


def handoffs(setup, name="o"):
    return [ip for ip in ADDRESSES if ip not in setup.primaries(f"/a/c/{name}")]


def move(setup, path, source, target):
    """A file with its attributes to the same place on another device."""
    place = path.relative_to(setup.nodes.device(source))
    moved = setup.nodes.device(target) / place
    moved.parent.mkdir(parents=True, exist_ok=True)
    path.rename(moved)
    announce(path)
    announce(moved)


def partitions(setup, ip):
    return sorted(path.name for path in setup.nodes.device(ip).glob("objects/*"))


def make_old(path, age_s=100.0):
    then = time.time() - age_s
    os.utime(path, (then, then))


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


@pytest.mark.parametrize("coding", [XOR, TWICE], ids=["flat xor", "duplicated"])
def test_other_codes_are_rebuilt_alike(tmp_path, coding):
    setup = ReconstructSetup(tmp_path, coding)
    setup.container()
    put(setup)
    before = setup.archives()
    for at in range(coding.ring_size):
        lose(setup, at)
        setup.reconstruct()
        assert setup.archives() == before
    setup.nodes.close()


def test_a_device_that_was_wiped_gets_all_its_fragments_back(setup):
    for number in range(6):
        put(setup, os.urandom(1000 * number), f"o{number}")
    before = setup.archives()
    ip = max(before, key=lambda each: len(before[each]))
    shutil.rmtree(setup.nodes.device(ip))
    setup.nodes.device(ip).mkdir()
    setup.reconstruct()
    assert setup.archives() == before


def test_what_is_in_sync_costs_one_request_a_partner(setup):
    put(setup)
    setup.reconstruct()
    setup.nodes.requests.clear()
    setup.reconstruct(setup.primaries()[0])
    asked = [(seen.method, seen.ip) for seen in setup.nodes.requests]
    primaries = setup.primaries()
    assert asked == [("REPLICATE", primaries[at]) for at in (5, 1, 3)]


def test_only_as_many_nodes_are_asked_as_are_needed(setup):
    put(setup)
    lose(setup, 1)
    setup.nodes.requests.clear()
    setup.reconstruct(setup.primaries()[0])
    got = [seen for seen in setup.nodes.requests if seen.method == "GET"]
    assert len(got) == CODING.needed - 1
    when = setup.nodes.paths(setup.primaries()[0])[0].name.split("#")[0]
    for seen in got:
        assert seen.headers["X-Backend-Replication"] == "True"
        assert seen.headers["X-Backend-Storage-Policy-Index"] == "0"
        preferences = json.loads(seen.headers["X-Backend-Fragment-Preferences"])
        assert preferences == [{"timestamp": when, "exclude": []}]


def test_what_was_posted_reaches_the_rebuilt_object(setup):
    put(setup)
    lose(setup, 1)
    posted = Headers({"X-Object-Meta-Color": "red", "Content-Type": "x/z"})
    assert setup.ask("POST", "/v1/a/c/o", headers=posted).status == 202
    setup.reconstruct()
    [meta] = setup.nodes.files("meta")[setup.primaries()[1]]
    assert all(names == [meta] for names in setup.nodes.files("meta").values())
    for at in (0, 2, 3, 4):
        setup.nodes.refusing = {setup.primaries()[at], setup.primaries()[5]}
        setup.pool.close()
        answer = setup.ask("GET", "/v1/a/c/o")
        assert (answer.status, answer.body) == (200, BIG)
        assert answer.headers["X-Object-Meta-Color"] == "red"
        assert answer.headers["Content-Type"] == "x/z"


def test_a_deletion_reaches_who_has_missed_it(setup):
    put(setup)
    missed = setup.primaries()[4]
    setup.nodes.refusing = {missed}
    setup.pool.close()
    delete(setup)
    setup.nodes.refusing = set()
    assert missed in setup.nodes.files("data")
    setup.reconstruct()
    assert setup.nodes.files("data") == {}
    assert sorted(setup.nodes.files("ts")) == sorted(setup.primaries())


def test_too_few_fragments_make_nothing(setup):
    put(setup)
    lose(setup, 0, 1, 2)
    before = setup.archives()
    setup.reconstruct()
    assert setup.archives() == before
    said = [line for line in setup.lines() if "unable to reconstruct" in line]
    assert said
    assert "/a/c/o" in said[0]
    assert "3 of 4 fragments" in said[0]
    assert "× 404" in said[0]


# --- More than one version ------------------------------------------------------------


def versions(setup, tmp_path, committed):
    """The object twice; of the newer version only some positions have a fragment.

    committed: whether they have seen its commit.
    """
    put(setup, BIG)
    old = {}
    for ip in setup.primaries():
        [path] = setup.nodes.paths(ip)
        kept = tmp_path / f"{ip}-{path.name}"
        shutil.copy2(path, kept)
        old[ip] = (path, kept)
    put(setup, BIG[::-1])
    for at, ip in enumerate(setup.primaries()):
        [new] = setup.nodes.paths(ip)
        path, kept = old[ip]
        if at not in committed:
            new.unlink()
            kept.rename(path)
        elif not committed[at]:
            new.rename(new.with_name(new.name.replace("#d", "")))
            kept.rename(path)
        announce(path)


def test_a_newer_version_without_commits_takes_no_part(setup, tmp_path):
    versions(setup, tmp_path, dict.fromkeys((0, 1, 2), False))
    [lost] = setup.nodes.paths(setup.primaries()[4])
    content = lost.read_bytes()
    lost.unlink()
    setup.reconstruct()
    [made] = setup.nodes.paths(setup.primaries()[4])
    assert (made.name, made.read_bytes()) == (lost.name, content)
    answer = setup.ask("GET", "/v1/a/c/o")
    assert (answer.status, answer.body) == (200, BIG)


@pytest.mark.parametrize("position", range(6))
def test_the_object_is_made_beside_a_newer_version_without_commits(
    setup, tmp_path, position
):
    versions(setup, tmp_path, dict.fromkeys(range(6), False))
    before = setup.archives()
    paths = setup.nodes.paths(setup.primaries()[position])
    [path] = [path for path in paths if "#d" in path.name]
    path.unlink()
    announce(path)
    setup.reconstruct()
    assert setup.archives() == before
    assert setup.ask("GET", "/v1/a/c/o").body == BIG


def test_a_newer_version_that_can_be_read_replaces_the_older(setup, tmp_path):
    versions(setup, tmp_path, dict.fromkeys((0, 1, 2, 3), True))
    setup.reconstruct()
    setup.reconstruct()
    names = {
        name.split("#")[0] for found in setup.archives().values() for name in found
    }
    assert len(names) == 1
    assert len(setup.archives()) == 6
    answer = setup.ask("GET", "/v1/a/c/o")
    assert (answer.status, answer.body) == (200, BIG[::-1])


def test_one_commit_that_was_seen_spreads_to_all(setup, tmp_path):
    seen = {0: True, **dict.fromkeys((1, 2, 3, 4, 5), False)}
    versions(setup, tmp_path, seen)
    setup.reconstruct()
    setup.reconstruct()
    assert all(
        list(found) == [name] and name.endswith(f"#{at}#d.data")
        for at, ip in enumerate(setup.primaries())
        for found in [setup.archives()[ip]]
        for name in found
    )
    assert setup.ask("GET", "/v1/a/c/o").body == BIG[::-1]


# --- Devices that are away ------------------------------------------------------------


def test_a_handoff_stands_in_for_a_device_that_is_away(setup):
    put(setup)
    away = setup.primaries()[1]
    lose(setup, 1)
    shutil.rmtree(setup.nodes.device(away))
    setup.reconstruct(setup.primaries()[0], rebuild_handoff_node_count=0)
    assert not any(ip in setup.archives() for ip in handoffs(setup))
    setup.reconstruct(setup.primaries()[0], rebuild_handoff_node_count=-1)
    held = [ip for ip in handoffs(setup) if ip in setup.archives()]
    [name] = [name for ip in held for name in setup.archives()[ip]]
    assert "#1#d" in name
    # It is back, and gets its own.
    setup.nodes.device(away).mkdir()
    setup.reconstruct(*held)
    assert list(setup.archives()[away]) == [name]
    assert all(partitions(setup, ip) == [] for ip in held)


def test_a_peer_that_answers_nonsense_costs_nobody_else(setup):
    put(setup)
    before = setup.archives()
    lose(setup, 3)

    def nonsense(seen):
        if seen.method == "REPLICATE":
            return Response(200, {}, pickle.dumps({"abc": print}))
        return None

    setup.nodes.faults[setup.primaries()[1]] = nonsense
    setup.reconstruct(setup.primaries()[0])
    assert setup.archives() == before


def test_a_busy_peer_is_asked_again(setup):
    put(setup)
    before = setup.archives()
    lose(setup, 1)
    receiver = setup.nodes.server(setup.primaries()[1])._receiver
    free, receiver._free = receiver._free, 0
    daemon = setup.reconstructor(setup.primaries()[0])
    thread = green.spawn(run_pass, daemon, Scope(once=True))
    with green.Timeout(60):
        while not any(seen.method == "SSYNC" for seen in setup.nodes.requests):
            green.sleep(0.01)
    receiver._free = free
    thread.wait(60)
    assert setup.archives() == before


# --- Giving back ----------------------------------------------------------------------


def test_a_handoff_gives_its_fragment_back_and_keeps_nothing(setup):
    away = {setup.primaries()[at] for at in (1, 4)}
    setup.nodes.refusing = set(away)
    put(setup)
    setup.nodes.refusing = set()
    held = [ip for ip in handoffs(setup) if ip in setup.archives()]
    assert len(held) == 2
    expected = {n: d for ip in held for n, d in setup.archives()[ip].items()}
    setup.reconstruct(*held)
    found = setup.archives()
    assert {n: d for ip in away for n, d in found[ip].items()} == expected
    assert sorted(found) == sorted(setup.primaries())
    assert all(partitions(setup, ip) == [] for ip in held)


def test_several_fragments_of_one_object_on_one_handoff_all_go_home(setup):
    put(setup)
    before = setup.archives()
    held = handoffs(setup)[0]
    for at in (0, 2, 5):
        ip = setup.primaries()[at]
        move(setup, setup.nodes.paths(ip)[0], ip, held)
    setup.reconstruct(held)
    assert setup.archives() == before
    assert partitions(setup, held) == []


def test_a_primary_gives_back_what_is_not_its_own_and_keeps_the_rest(setup):
    put(setup)
    posted = Headers({"X-Object-Meta-Color": "red"})
    assert setup.ask("POST", "/v1/a/c/o", headers=posted).status == 202
    before, metas = setup.archives(), setup.nodes.files("meta")
    source, target = setup.primaries()[1], setup.primaries()[4]
    move(setup, setup.nodes.paths(source)[0], source, target)
    setup.reconstruct(target)
    assert setup.archives() == before
    assert setup.nodes.files("meta") == metas


def test_metadata_goes_with_the_last_fragment(setup):
    put(setup)
    posted = Headers({"X-Object-Meta-Color": "red"})
    assert setup.ask("POST", "/v1/a/c/o", headers=posted).status == 202
    before, metas = setup.archives(), setup.nodes.files("meta")
    held = handoffs(setup)[0]
    for at in (1, 2):
        ip = setup.primaries()[at]
        for path in [*setup.nodes.device(ip).rglob("*.meta"), *setup.nodes.paths(ip)]:
            move(setup, path, ip, held)
    setup.reconstruct(held)
    assert setup.archives() == before
    assert setup.nodes.files("meta") == metas
    assert partitions(setup, held) == []


def test_what_a_primary_cannot_take_stays(setup):
    setup.nodes.refusing = {setup.primaries()[1]}
    put(setup)
    [held] = [ip for ip in handoffs(setup) if ip in setup.archives()]
    before = setup.archives()
    setup.reconstruct(held)
    assert setup.archives() == before
    setup.nodes.refusing = set()
    setup.reconstruct(held)
    assert list(setup.archives()) == sorted(setup.primaries())


def test_a_fragment_may_wait_for_its_commit_where_it_is(setup):
    put(setup)
    ip, held = setup.primaries()[1], handoffs(setup)[0]
    [path] = setup.nodes.paths(ip)
    move(setup, path, ip, held)
    [path] = setup.nodes.paths(held)
    waiting = path.rename(path.with_name(path.name.replace("#d", "")))
    setup.reconstruct(held)
    assert list(setup.archives()[ip]) == [waiting.name]
    assert waiting.exists()
    make_old(waiting)
    setup.reconstruct(held)
    assert list(setup.archives()[ip]) == [waiting.name]
    assert partitions(setup, held) == []


def test_a_durable_fragment_goes_home_before_a_newer_one_is_settled(setup, tmp_path):
    versions(setup, tmp_path, dict.fromkeys(range(6), False))
    before = setup.archives()
    ip, held = setup.primaries()[1], handoffs(setup)[0]
    for path in setup.nodes.paths(ip):
        move(setup, path, ip, held)
    [waiting] = [path for path in setup.nodes.paths(held) if "#d" not in path.name]
    setup.reconstruct(held)
    assert setup.nodes.paths(held) == [waiting]
    assert {k: v for k, v in setup.archives().items() if k != held} == before
    make_old(waiting)
    setup.reconstruct(held)
    assert setup.archives() == before


def test_fragments_that_are_on_handoffs_are_built_upon(setup):
    put(setup)
    before = setup.archives()
    away = {}
    for at, held in zip((1, 4), handoffs(setup), strict=True):
        ip = setup.primaries()[at]
        move(setup, setup.nodes.paths(ip)[0], ip, held)
        away[ip] = held
    lose(setup, 2)
    lose(setup, 5)
    setup.nodes.refusing = set(away)
    setup.reconstruct(setup.primaries()[3])
    found = setup.archives()
    assert found[setup.primaries()[2]] == before[setup.primaries()[2]]
    setup.nodes.refusing = set()
    setup.reconstruct()
    assert setup.archives() == before


def test_a_tombstone_on_a_handoff_goes_to_enough_primaries(setup):
    put(setup)
    setup.nodes.refusing = {setup.primaries()[at] for at in (0, 1)}
    setup.pool.close()
    delete(setup)
    setup.nodes.refusing = set()
    held = [ip for ip in handoffs(setup) if ip in setup.nodes.files("ts")]
    assert held
    setup.reconstruct()
    assert all(partitions(setup, ip) == [] for ip in handoffs(setup))
    assert sorted(setup.nodes.files("ts")) == sorted(setup.primaries())
    assert setup.nodes.files("data") == {}


def test_no_more_objects_go_back_at_once_than_may(setup):
    names = []
    for number in range(40):
        name = f"o{number}"
        if setup.primaries(f"/a/c/{name}") == setup.primaries():
            names.append(name)
            put(setup, SMALL, name)
    put(setup, SMALL)
    assert len(names) >= 1
    held = handoffs(setup)[0]
    ip = setup.primaries()[0]
    for path in setup.nodes.paths(ip):
        if path.parents[2].name == partitions(setup, ip)[0]:
            move(setup, path, ip, held)
    count = len(setup.nodes.paths(held))
    setup.reconstruct(held, max_objects_per_revert=1, handoffs_only=True)
    assert len(setup.nodes.paths(held)) == count - 1
    assert any("1 handoffs remain" in line for line in setup.lines())


def test_a_locked_partition_is_left_alone(setup):
    put(setup)
    ip, held = setup.primaries()[1], handoffs(setup)[0]
    move(setup, setup.nodes.paths(ip)[0], ip, held)
    before = setup.archives()
    manager = setup.nodes.server(held)._managers[0]
    with manager.partitions.locked(setup.nodes.device(held).name, 7, 1.0):
        setup.reconstruct(held)
    assert setup.archives() == before
    assert setup.metrics.counts["partition.lock-failure.count"] == 1


def test_handoffs_only_rebuilds_nothing(setup):
    put(setup)
    before = setup.archives()
    lose(setup, 2)
    ip, held = setup.primaries()[1], handoffs(setup)[0]
    move(setup, setup.nodes.paths(ip)[0], ip, held)
    setup.reconstruct(handoffs_only=True)
    lost = setup.primaries()[2]
    assert setup.archives() == {k: v for k, v in before.items() if k != lost}
    assert any("no handoffs remain" in line for line in setup.lines())


# --- Passes ---------------------------------------------------------------------------


def test_what_is_no_partition_is_removed(setup):
    put(setup)
    ip = setup.primaries()[0]
    objects = setup.nodes.device(ip) / "objects"
    (objects / "junk").write_text("x")
    (objects / "empty").mkdir()
    (objects / "auditor_status_ALL.json").write_text("{}")
    (objects / "12").write_text("a file in the place of a partition")
    setup.reconstruct(ip)
    left = sorted(path.name for path in objects.iterdir())
    assert left == ["7", "auditor_status_ALL.json"]


def test_a_fragment_index_of_another_code_is_left(setup):
    put(setup)
    ip = setup.primaries()[0]
    log = setup.nodes.device(ip) / "objects" / "7" / "hashes.pkl"
    setup.reconstruct(ip)
    hashes = pickle.loads(log.read_bytes())
    suffix = next(key for key in hashes if len(key) == 3)
    hashes[suffix][9] = "0" * 32
    log.write_bytes(pickle.dumps(hashes, protocol=2))
    before = setup.archives()
    setup.reconstruct(ip)
    assert setup.archives() == before
    assert any("there is no fragment 9" in line for line in setup.lines())


def test_a_changed_ring_ends_the_policys_pass(setup, monkeypatch):
    put(setup)
    before = setup.archives()
    lose(setup, 1)
    ring = setup.cluster.rings["object"]
    monkeypatch.setattr(ring, "has_changed", True)
    setup.reconstruct(ring_check_interval_s=0.0)
    assert setup.archives() != before
    assert any("has changed" in line for line in setup.lines())
    monkeypatch.setattr(ring, "has_changed", False)
    setup.reconstruct(ring_check_interval_s=0.0)
    assert setup.archives() == before


def test_a_partition_that_takes_for_ever_is_given_up(setup, monkeypatch):
    put(setup)
    daemon = setup.reconstructor(setup.primaries()[0], lockup_timeout_s=0.2)
    monkeypatch.setattr(daemon, "_reconstruct", lambda job, stats: green.sleep(600))
    began = green.monotonic()
    run_pass(daemon, Scope(once=True))
    assert green.monotonic() - began < 60
    assert any("failed" in line for line in setup.lines())
    assert daemon._totals().failure == 5


def test_a_pass_over_everything_is_told_to_recon(setup):
    put(setup)
    ip = setup.primaries()[0]
    daemon = setup.reconstructor(ip)
    run_pass(daemon, Scope(once=True, partitions=(7,)))
    assert not (setup.root / "object.recon").exists()
    run_pass(daemon, Scope(once=True))
    told = json.loads((setup.root / "object.recon").read_text())
    assert sorted(told) == ["object_reconstruction_last", "object_reconstruction_time"]


def test_workers_tell_recon_of_their_devices_and_all_of_them_together(setup):
    ip = setup.primaries()[0]
    daemon = setup.reconstructor(ip, reconstructor_workers=4)
    [share] = daemon.shares(Scope(once=True))
    assert share.devices == (setup.nodes.device(ip).name,)
    run_pass(daemon, share)
    told = json.loads((setup.root / "object.recon").read_text())
    [(name, facts)] = told["object_reconstruction_per_disk"].items()
    assert name == share.devices[0]
    assert facts["pid"] == os.getpid()
    assert told["object_reconstruction_last"] == facts["object_reconstruction_last"]
