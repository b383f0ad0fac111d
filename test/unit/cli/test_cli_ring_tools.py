# SPDX-License-Identifier: Apache-2.0
"""swift-get-nodes, swift-ring-composer and swift-ring-builder-analyzer."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from swift.cli.ring_files import write_builder_file, write_ring_file
from swift.cli.ring_tools import analyzer, composer, get_nodes
from swift.core.hashing import HashSalt
from swift.core.ring.builder import RingBuilder
from swift.core.ring.codec import read_ring

SALT = HashSalt(b"pre", b"post")
SWIFT_CONF = """\
[swift-hash]
swift_hash_path_prefix = pre
swift_hash_path_suffix = post
[storage-policy:0]
name = gold
default = yes
[storage-policy:1]
name = silver
"""


def made_builder(region: int = 1) -> RingBuilder:
    builder = RingBuilder(6, 3, 1)
    for zone in range(1, 6):
        builder.add_device(
            region=region,
            zone=zone,
            ip=f"10.{region}.0.{zone}",
            port=6200,
            name="sda",
            weight=100.0,
        )
    builder.rebalance(now=1_700_000_000, rng=random.Random(region))
    return builder


@pytest.fixture
def swift_dir(tmp_path: Path) -> Path:
    (tmp_path / "swift.conf").write_text(SWIFT_CONF)
    for name in ("account", "container", "object", "object-1"):
        write_ring_file(tmp_path / f"{name}.ring.gz", made_builder().ring())
    return tmp_path


def test_nodes_of_an_object(
    swift_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ring = made_builder().ring()
    digest = SALT.digest("AUTH_acme", "photos", "Bär/1.jpg")
    partition = ring.partition(digest)
    primaries = [n.ip for n in ring.primaries(partition)]
    handoffs = [n.ip for n in ring.handoffs(partition)]
    code = get_nodes(
        [
            *("-d", str(swift_dir), str(swift_dir / "object-1.ring.gz")),
            *("AUTH_acme", "photos", "Bär/1.jpg"),
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    hexed = digest.hex()
    path = f"{partition}/AUTH_acme/photos/B%C3%A4r/1.jpg"
    assert lines[:9] == [
        "",
        "Account  \tAUTH_acme",
        "Container\tphotos",
        "Object   \tB%C3%A4r/1.jpg",
        "",
        "",
        f"Partition\t{partition}",
        f"Hash     \t{hexed}",
        "",
    ]
    assert lines[9:14] == [
        *(f"Server:Port Device\t{ip}:6200 sda" for ip in primaries),
        *(f"Server:Port Device\t{ip}:6200 sda\t [Handoff]" for ip in handoffs),
    ]
    curl = 'curl -g -I -XHEAD "http://{}:6200/sda/{}" -H "{}: 1" --path-as-is'
    header = "X-Backend-Storage-Policy-Index"
    assert lines[16] == curl.format(primaries[0], path, header)
    assert lines[20] == curl.format(handoffs[1], path, header) + " # [Handoff]"
    assert lines[25] == (
        f'ssh {primaries[0]} "ls -lah ${{DEVICE:-/srv/node*}}/sda/objects-1/{partition}'
        f'/{hexed[-3:]}/{hexed}"'
    )
    assert lines[-1].startswith("note: ")


def test_the_path_may_be_one_word_and_quoted(
    swift_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-d", str(swift_dir), str(swift_dir / "object.ring.gz")]
    assert get_nodes([*words, "a/c/o o/x"]) == 0
    plain = capsys.readouterr().out
    assert get_nodes([*words, "-Q", "/a/c/o%20o/x"]) == 0
    assert capsys.readouterr().out == plain
    assert "X-Backend" not in plain
    assert "/objects/" in plain


@pytest.mark.parametrize(
    ("words", "stem"),
    [(["a"], "accounts"), (["a", "c"], "containers"), (["a", "c", "o"], "objects-1")],
    ids=str,
)
def test_a_policy_chooses_the_ring(
    swift_dir: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    stem: str,
) -> None:
    assert get_nodes(["-d", str(swift_dir), "-P", "Silver", *words]) == 0
    out = capsys.readouterr().out
    assert f"/sda/{stem}/" in out
    assert ("Policy-Index: 1" in out) == (stem == "objects-1")
    assert "WARNING" not in out


def test_a_ring_that_does_not_fit_the_path_is_warned_of(
    swift_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-d", str(swift_dir), str(swift_dir / "account.ring.gz"), "a", "c"]
    assert get_nodes(words) == 0
    assert capsys.readouterr().out.startswith("WARNING:")


def test_nodes_of_a_partition(
    swift_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ring_path = str(swift_dir / "container.ring.gz")
    assert get_nodes([ring_path, "-p", "17", "-a"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Partition\t17\nHash     \tNone\n")
    assert '/sda/17/None"' in out
    assert '/sda/containers/17"' in out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["{dir}/object.ring.gz"],
        ["{dir}/missing.ring.gz", "a"],
        ["{dir}/swift.conf", "a"],
        ["{dir}/object.ring.gz", "a", "c", "o", "x"],
        ["{dir}/object.ring.gz", "-p", "64"],
        ["{dir}/object.ring.gz", "-p", "x"],
        ["-P", "bronze", "a"],
        ["-P", "gold", "{dir}/object.ring.gz", "a", "c", "o"],
        ["--nonsense"],
    ],
    ids=str,
)
def test_targets_that_cannot_be_shown(
    swift_dir: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    words = [word.format(dir=swift_dir) for word in words]
    assert get_nodes(["-d", str(swift_dir), *words]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("usage:")
    assert err.startswith("ERROR: ")


def test_a_composite_is_composed_shown_and_composed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for region in (1, 2):
        paths.append(tmp_path / f"r{region}.builder")
        write_builder_file(paths[-1], made_builder(region))
    note = str(tmp_path / "both.composite")
    output = tmp_path / "both.ring.gz"
    words = [note, "compose", *map(str, paths), "--output", str(output)]
    assert composer(words) == 0
    ring = read_ring(output.read_bytes())
    assert ring.replica_count == 6
    assert composer(words) == 2
    assert "modified" in capsys.readouterr().err
    assert composer([note, "compose", "--output", str(output), "--force"]) == 0
    capsys.readouterr()
    assert composer([note, "show"]) == 0
    out, err = capsys.readouterr()
    shown = json.loads(out)
    assert shown["version"] == 2
    assert [
        shown["component_builder_files"][part["id"]] for part in shown["components"]
    ] == list(map(str, paths))
    assert "experimental" in err
    assert composer([note]) == 1
    assert composer([note, "compose", str(paths[0]), "--output", str(output)]) == 2
    assert composer([str(tmp_path / "none"), "show"]) == 2


def scenario(**changes: Any) -> dict[str, Any]:
    rounds = [
        [["add", f"r1z{z}-10.0.0.{z}:6200/sda", 100] for z in range(4)],
        [["set_weight", 0, 50], ["remove", 1], ["add", "z9-10.0.0.9:6200/sda", 7.5]],
    ]
    return {
        "part_power": 6,
        "replicas": 3,
        "overload": 0.1,
        "random_seed": 4,
        "rounds": rounds,
        **changes,
    }


def test_a_scenario_is_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = scenario()
    story["rounds"].append([["save", str(tmp_path / "saved.builder")]])
    path = tmp_path / "story.json"
    path.write_text(json.dumps(story))
    assert analyzer(["--check", str(path)]) == 0
    assert capsys.readouterr().out == ""
    assert analyzer([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "Round 1",
        "\tRebalance 1: moved 192 parts, balance is 0.000000, 0 removed devs",
    ]
    at = lines.index("Round 2")
    assert lines[at + 1].endswith("1 removed devs")
    saved = RingBuilder.load((tmp_path / "saved.builder").read_bytes())
    assert saved.devices[1] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"part_power": 0},
        {"part_power": 33},
        {"replicas": 0.5},
        {"overload": -1},
        {"rounds": [[["add", "nonsense", 1]]]},
        {"rounds": [[["dance", 1]]]},
        {"rounds": 7},
        {"part_power": "x"},
    ],
    ids=str,
)
def test_bad_scenarios_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    path = tmp_path / "story.json"
    path.write_text(json.dumps(scenario(**changes)))
    assert analyzer([str(path)]) == 1
    assert capsys.readouterr().err
    path.write_text("{")
    assert analyzer([str(path)]) == 1
    assert analyzer([str(tmp_path / "none.json")]) == 1
