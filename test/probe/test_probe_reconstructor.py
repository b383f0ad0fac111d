# SPDX-License-Identifier: Apache-2.0
"""The object reconstructor on a real cluster: what is broken on purpose heals.

Each test breaks something, lets the reconstructors of all nodes pass, and then looks at
every fragment on disk: each primary holds its own, durable and to the byte what was
written, and nobody holds anything else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterable
from itertools import combinations

import pytest

from swift.core.hashing import partition_of_hex
from swift.core.names import ObjectName
from swift.runtime.cluster import Cluster as Facts
from test.support.client import Client
from test.support.cluster import ROOT, Cluster, find
from test.support.passes import command, conf_of, run_passes
from test.support.uncommitted import kill_before_commit

POLICY = "ec-4-2"
BODY = os.urandom(2_500_000)
PAIRS = list(combinations(range(6), 2))
ROUNDS = 4
"""Passes of all nodes until everything is where it belongs, at most."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    started = Cluster(
        tmp_path_factory.mktemp("reconstructor"), "--policies", "replica+ec"
    )
    started.start()
    # The passes that count are those that the tests ask for.
    started.kill_daemons()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def client(cluster):
    return Client.authenticated(
        f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
    )


@pytest.fixture
def box(cluster, client, request):
    path = f"{client.base}/{request.node.name[:60]}"
    got = client.put(path, headers={"X-Storage-Policy": POLICY})
    assert got.status == 201, got
    return Box(cluster, client, path)


class Box:
    """A container of the policy, and where its objects' fragments are."""

    def __init__(self, cluster, client, path):
        self.cluster = cluster
        self.client = client
        self.path = path
        self.facts = Facts.load(str(cluster.folder / "etc"))
        self.ring = self.facts.object_ring(1)
        self.kept = {}

    def put(self, name, body=BODY):
        assert self.client.put(f"{self.path}/{name}", body).status == 201
        self.keep(name)

    def keep(self, name):
        """Remember the fragments that are there now as those that should be."""
        self.kept[name] = {path.name: path.read_bytes() for path in self.files(name)}

    def hash(self, name):
        account, container = self.path.split("/")[-2:]
        return self.facts.salt.hex_of(ObjectName(account, container, name))

    def _pattern(self, name, device="*"):
        path_hash = self.hash(name)
        partition = partition_of_hex(path_hash, self.ring.part_power)
        tree = f"{partition}/{path_hash[-3:]}/{path_hash}"
        return f"srv/*/{device}/objects-1/{tree}"

    def files(self, name, kind="data"):
        """All files of an object, on whatever device."""
        return find(self.cluster.folder, f"{self._pattern(name)}/*.{kind}")

    def devices(self, name):
        """The devices that should hold an object, by position."""
        partition = partition_of_hex(self.hash(name), self.ring.part_power)
        return [node.name for node in self.ring.primaries(partition)]

    def at(self, name, position):
        """The data files at a position."""
        device = self.devices(name)[position]
        return find(self.cluster.folder, f"{self._pattern(name, device)}/*.data")

    def lose(self, name, position):
        for path in self.at(name, position):
            path.unlink()
            # As whoever moves a bad file aside does.
            with (path.parents[2] / "hashes.invalid").open("a") as log:
                log.write(f"{path.parents[1].name}\n")

    def is_home(self, names: Iterable[str] = ()):
        """True when each primary has the right file of each object, others none."""
        for name in names or self.kept:
            found = [self.at(name, position) for position in range(6)]
            if any(len(paths) != 1 for paths in found):
                return False
            if len(self.files(name)) != 6:
                return False
            for position, [path] in enumerate(found):
                if not path.name.endswith(f"#{position}#d.data"):
                    return False
                if path.read_bytes() != self.kept[name].get(path.name):
                    return False
        return True

    def settle(self):
        """Have fragments brought home that a slow node made a proxy put elsewhere."""
        if not self.is_home():
            self.heal()

    def heal(self, until=None, **options):
        """Passes of all nodes until all is well; what they said.

        until: when that is; by default, when every object is home.
        """
        until = until or self.is_home
        said = ""
        for _ in range(ROUNDS):
            said += run_passes(
                self.cluster.folder,
                ("object-reconstructor",),
                {"object-reconstructor": {"log_level": "INFO", **options}},
            )
            if until():
                return said
        state = {name: [str(p) for p in self.files(name)] for name in self.kept}
        raise AssertionError(f"{json.dumps(state, indent=1)}\n{said}")


def body_of(number, size=3000):
    return bytes([number % 256]) * size


def test_any_two_fragments_of_an_object_are_made_again(box):
    for number in range(len(PAIRS)):
        box.put(f"o{number}", body_of(number))
    box.put("large")
    box.settle()
    for number, pair in enumerate(PAIRS):
        for position in pair:
            box.lose(f"o{number}", position)
    box.lose("large", 0)
    box.lose("large", 5)
    box.heal()
    for number in range(len(PAIRS)):
        got = box.client.get(f"{box.path}/o{number}")
        assert got.body == body_of(number)
    assert box.client.get(f"{box.path}/large").body == BODY


def test_what_the_auditor_finds_corrupt_is_made_again(box):
    for number in range(6):
        box.put(f"o{number}", body_of(number, 200_000))
    box.settle()
    for number in range(6):
        [path] = box.at(f"o{number}", number)
        data = bytearray(path.read_bytes())
        data[(0, 57, 81, 5000, 30_000, -1)[number]] ^= 4
        path.write_bytes(data)
        [path] = box.at(f"o{number}", (number + 2) % 6)
        os.truncate(path, path.stat().st_size - number - 1)
    assert not box.is_home()
    run_passes(box.cluster.folder, ("object-auditor",))
    moved = find(box.cluster.folder, "srv/*/*/quarantined/objects-1/*/*.data")
    assert len(moved) >= 12
    box.heal()
    for number in range(6):
        got = box.client.get(f"{box.path}/o{number}")
        assert got.body == body_of(number, 200_000)
    for path in moved:
        shutil.rmtree(path.parent)


def test_a_new_disk_in_the_place_of_a_dead_one_is_filled(box):
    for number in range(12):
        box.put(f"o{number}", body_of(number))
    device = box.cluster.folder / "srv" / "1" / "d5"
    shutil.rmtree(device)
    device.mkdir()
    box.heal()


def test_writes_of_an_outage_leave_their_handoffs(box):
    box.cluster.kill("object-2")
    for number in range(12):
        box.put(f"o{number}", body_of(number))
    held = [path for name in box.kept for path in box.files(name)]
    assert not any("/srv/2/" in str(path) for path in held)
    assert box.client.put(f"{box.path}/gone", b"x").status == 201
    box.cluster.restart("object-2")
    assert not box.is_home()
    said = box.heal(handoffs_only="true")
    assert "no handoffs remain" in said
    assert all(
        len(find(box.cluster.folder, box._pattern(name))) == 6 for name in box.kept
    )


def test_a_deletion_that_a_node_has_missed_reaches_it(box):
    names = [f"o{number}" for number in range(8)]
    for number, name in enumerate(names):
        box.put(name, body_of(number))
    box.cluster.kill("object-3")
    for name in names:
        assert box.client.delete(f"{box.path}/{name}").status == 204
    box.cluster.restart("object-3")
    assert any(box.files(name) for name in names)

    def is_deleted(name):
        places = {path.parents[4].name for path in box.files(name, "ts")}
        return not box.files(name) and places == set(box.devices(name))

    box.heal(lambda: all(is_deleted(name) for name in names))
    assert all(box.client.get(f"{box.path}/{name}").status == 404 for name in names)


# --- Two versions ---------------------------------------------------------------------


@pytest.fixture
def half_landed(box):
    """An object whose second version lost its proxy before the commit."""
    # A proxy that holds nothing against nodes that other tests broke.
    box.cluster.kill("proxy")
    box.cluster.restart("proxy")
    box.put("o", b"the old one")
    box.settle()
    client, cluster = box.client, box.cluster
    landed = kill_before_commit(
        cluster, client, f"{box.path}/o", BODY, lambda: box.files("o")
    )
    box.client = Client.authenticated(
        f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
    )
    return landed


def test_a_version_that_was_never_committed_changes_nothing(box, half_landed):
    assert all("#d" not in path.name for path in half_landed)
    for position in (1, 4):
        for path in box.at("o", position):
            if "#d" in path.name:
                path.unlink()
                with (path.parents[2] / "hashes.invalid").open("a") as log:
                    log.write(f"{path.parents[1].name}\n")

    def is_restored():
        durable = {p.name: p.read_bytes() for p in box.files("o") if "#d" in p.name}
        return durable == box.kept["o"]

    assert not is_restored()
    box.heal(is_restored)
    assert box.client.get(f"{box.path}/o").body == b"the old one"
    # What it left behind goes with the next version.
    box.put("o", BODY)
    assert box.client.get(f"{box.path}/o").body == BODY


def test_a_version_that_one_node_has_committed_becomes_the_object(box):
    box.put("o", b"the old one")
    box.put("o", BODY)
    box.settle()
    for position in range(1, 6):
        [path] = box.at("o", position)
        path.rename(path.with_name(path.name.replace("#d", "")))
        with (path.parents[2] / "hashes.invalid").open("a") as log:
            log.write(f"{path.parents[1].name}\n")
    box.heal()
    assert box.client.get(f"{box.path}/o").body == BODY


# --- The command ----------------------------------------------------------------------


def recon(cluster, node):
    """What a node tells of its reconstructor."""
    port = cluster.port_of(f"object-{node}")
    url = f"http://127.0.0.1:{port}/recon/reconstruction/object"
    with urllib.request.urlopen(url, timeout=30) as got:
        return json.loads(got.read())


def run_command(cluster, node, *arguments):
    done = subprocess.run(
        command(cluster.folder, node, "object-reconstructor", *arguments),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_command_passes_once_and_tells_recon(box):
    box.put("o")
    node = 1
    conf = conf_of(box.cluster.folder, node, "object-reconstructor")
    text = conf.read_text()
    section = "[object-reconstructor]\n"
    try:
        conf.write_text(text.replace(section, f"{section}reconstructor_workers = 2\n"))
        before = recon(box.cluster, node)["object_reconstruction_last"]
        run_command(box.cluster, node, "--once", "-d", "d1", "-p", "0,1")
        assert recon(box.cluster, node)["object_reconstruction_last"] == before
        run_command(box.cluster, node, "--once")
        told = recon(box.cluster, node)
        assert told["object_reconstruction_last"] != before
        assert told["object_reconstruction_time"] >= 0
        cache = json.loads(
            (box.cluster.folder / "cache" / str(node) / "object.recon").read_text()
        )
        per_disk = cache["object_reconstruction_per_disk"]
        assert sorted(per_disk) == ["d1", "d5"]
        assert len({entry["pid"] for entry in per_disk.values()}) == 2
    finally:
        conf.write_text(text)
