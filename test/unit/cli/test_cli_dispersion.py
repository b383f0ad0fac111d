# SPDX-License-Identifier: Apache-2.0
"""What swift-dispersion-populate and -report decide; with nodes: test/probe."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from swift.cli.dispersion_populate import populate, uncovered
from swift.cli.dispersion_report import Findings, report
from swift.cli.ring_files import write_ring_file
from swift.core.ring.builder import RingBuilder


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = x\n"
        "[storage-policy:0]\nname = gold\ndefault = yes\n"
    )
    builder = RingBuilder(4, 1, 1)
    builder.add_device(region=1, zone=1, ip="127.0.0.1", port=1, name="d1", weight=1.0)
    builder.rebalance(now=1_700_000_000, rng=random.Random(1))
    for name in ("container", "object"):
        write_ring_file(tmp_path / f"{name}.ring.gz", builder.ring())
    path = tmp_path / "dispersion.conf"
    path.write_text(
        f"[dispersion]\nswift_dir = {tmp_path}\nauth_url = http://127.0.0.1:1/auth\n"
    )
    return path


def test_only_partitions_without_anything_get_a_name():
    places = {"0": 5, "1": 5, "2": 7, "3": 9, "4": 1}
    covered = {7}
    names = list(uncovered(str, lambda name: places[name], covered, 4, 0))
    assert names == ["0", "3", "4"]
    assert covered == {7, 5, 9, 1}


def test_numbers_below_the_start_count_as_done():
    names = list(uncovered(str, int, set(), 3, 2))
    assert names == ["2"]


def test_missing_copies_are_told_by_how_many_are_left():
    findings = Findings(
        copies_found=7,
        copies_expected=12,
        copies_most=3,
        missing=Counter({0: 1, 1: 2, 2: 1, 3: 1}),
    )
    assert list(findings.missing_lines(show_complete=True)) == [
        "There was 1 partition missing 0 copies.",
        "There were 2 partitions missing 1 copy.",
        "! There was 1 partition missing 2 copies.",
        "!!! There was 1 partition missing all copies.",
    ]
    assert len(list(findings.missing_lines(show_complete=False))) == 3
    as_json = findings.as_json(show_complete=False)
    assert json.loads(json.dumps(as_json)) == {
        "retries": 0,
        "overlapping": 0,
        "pct_found": pytest.approx(58.333, abs=0.01),
        "copies_found": 7,
        "copies_expected": 12,
        "missing_1": 2,
        "missing_2": 1,
        "missing_3": 1,
    }


@pytest.mark.parametrize("main", [populate, report])
def test_what_cannot_begin_says_why(main, conf, tmp_path, capsys):
    assert main([str(tmp_path / "absent.conf")]) == 1
    assert "absent.conf" in capsys.readouterr().err
    assert main([str(conf), "-P", "lead"]) == 1
    assert "'lead'" in capsys.readouterr().err
    # Nothing listens there.
    assert main([str(conf)]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_a_report_on_nothing_is_refused(conf, capsys):
    assert report([str(conf), "--container-only", "--object-only"]) == 1
    assert "neither" in capsys.readouterr().err
