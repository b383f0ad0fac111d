# SPDX-License-Identifier: Apache-2.0
"""swift-ring-builder as operators and their scripts see it: output and exit codes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swift.cli.ring_builder import main
from swift.core.ring.builder import RingBuilder
from swift.core.ring.codec import read_ring
from swift.runtime import green
from swift.storage.fs import FileSystem

BUILDER = "object.builder"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def clock() -> Iterator[green.JumpingClock]:
    clock = green.JumpingClock()
    green.install(clock)
    yield clock
    green.install(None)


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run the command in an empty directory: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def ring(run: Run) -> Run:
    """A rebalanced ring of four devices in four zones."""
    assert run(BUILDER, "create", "6", "3", "1")[0] == 0
    for zone in range(1, 5):
        run(BUILDER, "add", f"r1z{zone}-10.0.0.{zone}:6200/sda_rack{zone}", "100")
    code, out, _ = run(BUILDER, "rebalance", "--seed", "1", "--format-version", "1")
    assert code == 0
    assert out == (
        "Reassigned 192 (300.00%) partitions. Balance is now 0.00.  "
        "Dispersion is now 0.00\n"
    )
    return run


def builder() -> RingBuilder:
    return RingBuilder.load(Path(BUILDER).read_bytes())


def test_no_arguments_show_every_command(run: Run) -> None:
    code, out, _ = run()
    assert code == 0
    for name in ("create", "add", "set_info", "write_builder", "Quick list:"):
        assert name in out
    assert run("--help")[0] == 0


def test_create_makes_a_builder_and_a_backup_of_it(run: Run) -> None:
    assert run(BUILDER, "create", "6", "2.5", "1") == (0, "", "")
    assert builder().replicas == 2.5
    assert re.fullmatch("[0-9a-f]{32}", builder().id or "")
    assert [path.name for path in Path("backups").iterdir()] == [
        f"1700000000.{BUILDER}"
    ]
    assert Path(BUILDER).stat().st_mode & 0o777 == 0o644


def test_create_overwrites(ring: Run) -> None:
    before = builder().id
    assert ring(BUILDER, "create", "6", "3", "1")[0] == 0
    assert builder().rows is None
    assert builder().id != before


@pytest.mark.parametrize(
    "words",
    [
        ("33", "3", "1"),
        ("-1", "3", "1"),
        ("x", "3", "1"),
        ("8", "0.9", "1"),
        ("8", "3", "-1"),
        ("8", "nan", "1"),
        ("8", "3"),
    ],
    ids=" ".join,
)
def test_create_refuses_what_cannot_be(run: Run, words: tuple[str, ...]) -> None:
    code, out, _ = run(BUILDER, "create", *words)
    assert code == 2
    assert out
    assert not Path(BUILDER).exists()


@pytest.mark.parametrize("name", ["search", "rebalance", "unknown"])
def test_a_missing_builder_is_an_error(run: Run, name: str) -> None:
    code, out, _ = run(BUILDER, name)
    assert code == 2
    assert BUILDER in out


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02}.", b'{"components": []}', b"cos\nsystem\n."]
)
def test_a_file_that_is_no_builder_is_an_error(run: Run, content: bytes) -> None:
    Path(BUILDER).write_bytes(content)
    code, out, _ = run(BUILDER)
    assert code == 2
    assert ("composite" in out) == (b"components" in content)


def test_unknown_command(ring: Run) -> None:
    assert ring(BUILDER, "frobnicate")[:2] == (2, "Unknown command: frobnicate\n")


def test_add_by_word_and_by_options(run: Run) -> None:
    run(BUILDER, "create", "6", "1", "1")
    code, out, err = run(
        BUILDER, "add", "r1z1-10.0.0.1:6200R10.1.0.1:6300/sda_new disk", "100"
    )
    assert (code, err) == (0, "")
    assert out == (
        'Device d0r1z1-10.0.0.1:6200R10.1.0.1:6300/sda_"new disk" '
        "with 100.0 weight got id 0\n"
    )
    code, out, err = run(
        *(BUILDER, "add", "-r", "2", "-z", "3", "-i", "fd00::1", "-p", "6200"),
        *("-d", "sdb", "-w", "50"),
    )
    assert (code, err) == (0, "")
    assert "got id 1" in out
    assert "[fd00:0000:0000:0000:0000:0000:0000:0001]:6200" in out


def test_add_without_region_warns_and_takes_the_first(run: Run) -> None:
    run(BUILDER, "create", "6", "1", "1")
    code, _, err = run(BUILDER, "add", "z1-10.0.0.1:6200/sda", "1")
    assert code == 0
    assert "region 1" in err
    assert builder().device(0).region == 1


@pytest.mark.parametrize(
    "words",
    [
        ("r1z9-10.0.0.9:6200/sdz", "1", "r1z1-10.0.0.1:6200/sda", "1"),
        ("r1z9-10.0.0.9:6200/sdz", "1", "r1z9-nonsense:6200/sda", "1"),
        ("r1z9-10.0.0.9:6200/sdz", "1", "r1z9-10.0.0.10:6200/sda", "-1"),
        ("r1z9-10.0.0.9:6200/sdz", "1", "r1z9-10.0.0.10:6200/sda", "heavy"),
        ("-z", "1", "-i", "10.0.0.9", "-p", "6200", "-d", "sda"),
        ("r1z9-10.0.0.9:6200/sdz",),
    ],
    ids=["place taken", "bad address", "negative", "no number", "no weight", "no pair"],
)
def test_add_is_all_or_nothing(ring: Run, words: tuple[str, ...]) -> None:
    before = Path(BUILDER).read_bytes()
    assert ring(BUILDER, "add", *words)[0] == 2
    assert Path(BUILDER).read_bytes() == before


def test_default_display(ring: Run) -> None:
    ring(BUILDER, "set_info", "d3", "[2001:db8::1]:6200R[2001:db8::1]:6200")
    ring(BUILDER, "remove", "d2")
    code, out, _ = ring(BUILDER)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"{BUILDER}, build version 6, id {builder().id}"
    assert lines[1] == (
        "64 partitions, 3.000000 replicas, 1 regions, 4 zones, 4 devices, 2-byte IDs, "
        "999.99 balance, 0.00 dispersion"
    )
    assert lines[2] == (
        "The minimum number of hours before a partition can be reassigned is 1 "
        "(1:00:00 remaining)"
    )
    assert lines[3] == "The overload factor is 0.00% (0.000000)"
    assert lines[4] == "Ring file object.ring.gz is obsolete"
    ip6 = "[2001:0db8:0000:0000:0000:0000:0000:0001]"
    assert lines[5] == (
        f"Devices:   id region zone {'ip address':>41}:port "
        f"{'replication ip':>41}:port  name weight partitions balance flags meta"
    )
    assert lines[6] == (
        f"            0      1    1 {'10.0.0.1':>41}:6200 {'10.0.0.1':>41}:6200 "
        "  sda 100.00         48  -25.00       rack1"
    )
    assert lines[8] == (
        f"            2      1    3 {'10.0.0.3':>41}:6200 {'10.0.0.3':>41}:6200 "
        "  sda   0.00         48  999.99   DEL rack3"
    )
    assert lines[9].startswith(
        f"            3      1    4 {ip6}:6200 {ip6}:6200   sda "
    )


def test_columns_of_plain_addresses(ring: Run) -> None:
    lines = ring(BUILDER)[1].splitlines()
    assert lines[5] == (
        "Devices:   id region zone ip address:port replication ip:port  name weight "
        "partitions balance flags meta"
    )
    assert lines[6] == (
        "            0      1    1   10.0.0.1:6200       10.0.0.1:6200   sda 100.00 "
        "        48    0.00       rack1"
    )


def test_the_ring_beside_the_builder_is_judged(ring: Run) -> None:
    assert "Ring file object.ring.gz is up-to-date\n" in ring(BUILDER)[1]
    Path("object.ring.gz").write_bytes(b"x")
    assert "Ring file object.ring.gz is invalid" in ring(BUILDER)[1]
    Path("object.ring.gz").unlink()
    assert "Ring file object.ring.gz not found" in ring(BUILDER)[1]


def test_an_empty_ring_says_so(run: Run) -> None:
    run(BUILDER, "create", "6", "3", "1")
    code, out, _ = run(BUILDER)
    assert code == 0
    assert "no devices" in out.splitlines()[-1]


def test_a_ring_name_stands_for_its_builder(ring: Run) -> None:
    code, out, _ = ring("object.ring.gz", "search", "d1")
    assert code == 0
    assert out.startswith("Note: using object.builder instead of object.ring.gz")


def test_search_table(ring: Run) -> None:
    code, out, _ = ring(BUILDER, "search", "z2")
    assert code == 0
    assert out.splitlines() == [
        "Devices:    id  region  zone      ip address  port  replication ip  "
        "replication port      name weight partitions balance meta",
        "             1       1     2        10.0.0.2  6200        10.0.0.2  "
        "            6200       sda 100.00         48    0.00 rack2",
    ]
    assert ring(BUILDER, "search", "--zone", "2")[1] == out
    assert ring(BUILDER, "search", "z9")[0] == 2
    assert ring(BUILDER, "search", "z9x")[0] == 2
    assert ring(BUILDER, "search", "z2", "--zone", "2")[0] == 2
    assert ring(BUILDER, "search")[0] == 2


def test_list_parts(ring: Run) -> None:
    code, out, _ = ring(BUILDER, "list_parts", "d0", "d1")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "Partition   Matches"
    counts = [tuple(map(int, line.split())) for line in lines[1:]]
    assert counts == sorted(counts, key=lambda pair: (-pair[1], pair[0]))
    assert sum(matches for _, matches in counts) == 96
    assert ring(BUILDER, "list_parts", "z9")[0] == 2


def test_set_weight_region_and_zone(ring: Run) -> None:
    assert ring(BUILDER, "set_weight", "d0", "50", "d1", "60.5")[:2] == (
        0,
        'd0r1z1-10.0.0.1:6200R10.0.0.1:6200/sda_"rack1" weight set to 50.0\n'
        'd1r1z2-10.0.0.2:6200R10.0.0.2:6200/sda_"rack2" weight set to 60.5\n',
    )
    assert ring(BUILDER, "set_zone", "--id", "0", "7")[1].endswith(" zone set to 7\n")
    assert ring(BUILDER, "set_region", "d1", "2")[1].endswith(" region set to 2\n")
    device = builder().device(0)
    assert (device.weight, device.zone) == (50.0, 7)
    assert builder().device(1).region == 2


@pytest.mark.parametrize(
    "words",
    [
        ("set_weight", "d0", "heavy"),
        ("set_weight", "d0", "-1"),
        ("set_weight", "d0", "1", "d9", "1"),
        ("set_weight", "d0"),
        ("set_zone", "d0", "1.5"),
        ("set_region", "d0", "x"),
        ("set_weight", "d0", "1", "--id", "0"),
        ("set_info", "d0", "nonsense!"),
        ("set_info", "d0", "10.0.0.2"),
        ("remove", "d9"),
        ("remove",),
        ("set_min_part_hours", "x"),
        ("set_replicas", "0.5"),
        ("set_replicas", "x"),
        ("set_overload", "-0.1"),
        ("set_overload", "x"),
        ("set_overload",),
        ("write_ring", "--dev-id-bytes", "4"),
        ("write_ring", "--format-version", "3"),
        ("finish_increase_partition_power",),
        ("cancel_increase_partition_power",),
        ("increase_partition_power",),
    ],
    ids=" ".join,
)
def test_mistakes_change_nothing(ring: Run, words: tuple[str, ...]) -> None:
    before = Path(BUILDER).read_bytes()
    assert ring(BUILDER, *words)[0] == 2
    assert Path(BUILDER).read_bytes() == before


def test_set_info(ring: Run) -> None:
    code, out, _ = ring(BUILDER, "set_info", "d0", "10.9.0.1:6201R:6301/sdz_new")
    assert code == 0
    assert out == (
        'Device d0r1z1-10.0.0.1:6200R10.0.0.1:6200/sda_"rack1" is now '
        'd0r1z1-10.9.0.1:6201R10.0.0.1:6301/sdz_"new"\n'
    )
    code, out, _ = ring(
        *(BUILDER, "set_info", "--id", "0", "--change-port", "6400", "-M", "x y")
    )
    assert code == 0
    assert out.endswith('is now d0r1z1-10.9.0.1:6400R10.0.0.1:6301/sdz_"x y"\n')
    assert "obsolete" in ring(BUILDER)[1]
    assert ring(BUILDER, "write_ring") == (0, "", "")
    assert "up-to-date" in ring(BUILDER)[1]


def test_several_matches_are_asked_about(
    ring: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["n", "y"])
    monkeypatch.setattr("builtins.input", lambda _question: next(answers))
    code, out, _ = ring(BUILDER, "set_weight", "r1", "7")
    assert code == 2
    assert '    d0r1z1-10.0.0.1:6200R10.0.0.1:6200/sda_"rack1"\n' in out
    assert builder().device(0).weight == 100
    assert ring(BUILDER, "set_weight", "r1", "7")[0] == 0
    assert builder().device(3).weight == 7
    assert ring(BUILDER, "set_weight", "r1", "8", "--yes")[0] == 0
    assert builder().device(3).weight == 8


def test_the_end_of_input_is_no_consent(
    ring: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(_question: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", ended)
    assert ring(BUILDER, "remove", "r1")[0] == 2
    assert not builder().removed


def test_remove_and_rebalance(ring: Run) -> None:
    ring(BUILDER, "add", "r1z5-10.0.0.5:6200/sda", "100")
    code, out, _ = ring(BUILDER, "remove", "d1")
    assert code == 0
    assert out == (
        'd1r1z2-10.0.0.2:6200R10.0.0.2:6200/sda_"rack2" marked for removal and will '
        "be removed next rebalance.\n"
    )
    # min_part_hours holds back all moves but those of the removed device.
    code, out, _ = ring(BUILDER, "rebalance")
    assert code == 0
    assert "--format-version" in out
    assert "Reassigned 48 (75.00%) partitions." in out
    assert builder().devices[1] is None
    written = read_ring(Path("object.ring.gz").read_bytes())
    assert written.rows == tuple(builder().rows or [])


def test_a_rebalance_with_nothing_to_do(ring: Run) -> None:
    before = Path(BUILDER).read_bytes()
    code, out, _ = ring(BUILDER, "rebalance", "--format-version", "1")
    assert code == 1
    assert out.startswith("No partitions could be reassigned.\n")
    assert "(1:00:00 remaining)" in out
    assert Path(BUILDER).read_bytes() == before
    ring(BUILDER, "pretend_min_part_hours_passed")
    code, out, _ = ring(BUILDER, "rebalance", "--format-version", "1")
    assert code == 1
    assert "no need" in out
    assert ring(BUILDER, "rebalance", "-f")[0] == 0


def test_a_rebalance_makes_backups_of_both_files(
    ring: Run, clock: green.JumpingClock
) -> None:
    clock.sleep(3600)
    ring(BUILDER, "set_weight", "d0", "50")
    ring(BUILDER, "rebalance")
    names = {path.name for path in Path("backups").iterdir()}
    assert {"1700003600.object.builder", "1700003600.object.ring.gz"} <= names


def test_a_rebalance_that_leaves_replicas_close_together_warns(run: Run) -> None:
    run(BUILDER, "create", "6", "3", "1")
    for zone, weight in ((1, 400), (2, 100), (3, 1)):
        for server in range(2):
            device = f"r1z{zone}-10.0.{server}.{zone}:6200/sda"
            assert run(BUILDER, "add", device, str(weight))[0] == 0
    code, out, _ = run(BUILDER, "rebalance")
    assert code == 1
    assert f"{'-' * 79}\nNOTE: Dispersion of " in out
    assert builder().rows is not None
    assert run(BUILDER, "dispersion")[0] == 1
    code, out, _ = run(BUILDER, "dispersion", "-v", "r1z1")
    assert code == 1
    assert re.match(
        r"Dispersion is \d+\.\d{6}, Balance is \d+\.\d{6}, Overload is 0.00%\n"
        r"Required overload is \d+\.\d{6}%\n"
        r"Worst tier is \d+\.\d{6} \(r1z1[^)]*\)\n"
        r"-{74}\n"
        r"Tier                           Parts      %    Max     0     1     2     3\n"
        r"-{74}\n"
        r"r1z1 {28}[ \d]{3}",
        out,
    )
    assert run(BUILDER, "dispersion", "r1z3")[0] == 0
    assert run(BUILDER, "dispersion", "[")[0] == 2


def test_too_few_devices_for_a_rebalance(run: Run) -> None:
    run(BUILDER, "create", "6", "3", "1")
    assert run(BUILDER, "rebalance")[0] == 2
    run(BUILDER, "add", "r1z1-10.0.0.1:6200/sda", "100")
    code, out, _ = run(BUILDER, "rebalance")
    assert code == 2
    assert out.count("-" * 79) == 2


def test_equal_seeds_write_equal_rings(run: Run) -> None:
    rings = []
    for _ in range(2):
        run(BUILDER, "create", "6", "3", "1")
        for zone in range(5):
            run(BUILDER, "add", f"r1z{zone}-10.0.0.{zone}:6200/sda", "100")
        run(BUILDER, "rebalance", "lucky")
        rings.append(Path("object.ring.gz").read_bytes())
    assert rings[0] == rings[1]


def test_validate(ring: Run) -> None:
    assert ring(BUILDER, "validate") == (0, "", "")
    broken = builder()
    assert broken.rows is not None
    broken.rows[0][0] = broken.rows[1][0]
    Path(BUILDER).write_bytes(broken.dump())
    code, out, err = ring(BUILDER, "validate")
    assert (code, out) == (2, "")
    assert "Traceback" in err
    ring(BUILDER, "create", "6", "3", "1")
    assert ring(BUILDER, "validate")[0] == 2


def test_settings(ring: Run) -> None:
    assert ring(BUILDER, "set_min_part_hours", "5")[0] == 0
    assert ring(BUILDER, "set_replicas", "2.5")[1].startswith(
        "The replica count is now 2.500000.\n"
    )
    code, out, _ = ring(BUILDER, "set_overload", "10%")
    assert code == 0
    assert out.startswith("The overload factor is now 10.00% (0.100000)\n")
    code, out, _ = ring(BUILDER, "set_overload", "1.5")
    assert code == 1
    assert out.splitlines()[1] == "The overload factor is now 150.00% (1.500000)"
    after = builder()
    assert (after.min_part_hours, after.replicas, after.overload) == (5, 2.5, 1.5)


def test_versions_of_ring_files(ring: Run) -> None:
    assert ring("object.ring.gz", "version")[1] == (
        "object.ring.gz: Serialization version: 1 (2-byte IDs), build version: 5\n"
    )
    ring(BUILDER, "write_ring", "--format-version", "2", "--dev-id-bytes", "4")
    assert ring(BUILDER, "version")[1] == (
        "object.ring.gz: Serialization version: 2 (4-byte IDs), build version: 5\n"
    )
    assert "up-to-date" in ring(BUILDER)[1]
    Path("object.ring.gz").unlink()
    code, _, err = ring(BUILDER, "version")
    assert code == 2
    assert "Traceback" in err


def test_write_ring_before_a_rebalance(run: Run) -> None:
    run(BUILDER, "create", "6", "3", "1")
    assert run(BUILDER, "write_ring")[0] == 2
    run(BUILDER, "add", "r1z1-10.0.0.1:6200/sda", "1")
    code, out, err = run(BUILDER, "write_ring")
    assert (code, out) == (0, "")
    assert err
    assert read_ring(Path("object.ring.gz").read_bytes()).replica_count == 0


def test_a_lost_builder_is_made_again_from_the_ring(ring: Run) -> None:
    before = builder()
    assert ring("object.ring.gz", "write_builder")[0] == 2
    Path(BUILDER).unlink()
    code, out, err = ring("object.ring.gz", "write_builder")
    assert (code, out) == (0, "")
    assert "24" in err
    after = builder()
    assert after.rows == before.rows
    assert after.min_part_hours == 24
    Path(BUILDER).unlink()
    assert ring(BUILDER, "write_builder", "3") == (0, "", "")
    assert builder().min_part_hours == 3


def test_a_part_power_increase(ring: Run) -> None:
    code, out, _ = ring(BUILDER, "prepare_increase_partition_power")
    assert code == 0
    assert out.startswith("The next partition power is now 7.\n")
    assert "\n\nPreparing increase of partition power (6 -> 7)\n" in ring(BUILDER)[1]
    for refused in (
        ("prepare_increase_partition_power",),
        ("rebalance",),
        ("add", "r1z9-10.0.0.9:6200/sda", "1"),
        ("remove", "d1"),
    ):
        assert ring(BUILDER, *refused)[0] == 2
    code, out, _ = ring(BUILDER, "increase_partition_power")
    assert code == 0
    assert out.startswith("The partition power is now 7.\n")
    assert "Increased partition power (7 -> 7)\n" in ring(BUILDER)[1]
    assert ring(BUILDER, "finish_increase_partition_power")[0] == 0
    assert ring(BUILDER, "write_ring")[0] == 0
    assert read_ring(Path("object.ring.gz").read_bytes()).part_power == 7


def test_only_object_rings_get_more_partitions(run: Run) -> None:
    run("account.builder", "create", "6", "3", "1")
    assert run("account.builder", "prepare_increase_partition_power")[0] == 2


def test_the_safe_command_waits_for_the_lock(
    ring: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/swift-ring-builder-safe"])
    monkeypatch.setattr("swift.cli.ring_builder.LOCK_TIMEOUT_S", 0.0)
    assert ring(BUILDER)[0] == 0
    with FileSystem().locked(".lock", 1):
        code, out, _ = ring(BUILDER)
    assert code == 2
    assert "locked" in out
