# SPDX-License-Identifier: Apache-2.0
"""Operators' commands on a real cluster: what they print, and what they do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from swift.cli import dispersion
from test.support.cluster import Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("commands"))
    made.start()
    yield made
    made.stop()


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was printed, without progress."""
    text = capsys.readouterr().out
    return [line.rpartition("\x1b[K")[2] for line in text.rstrip("\n").split("\n")]


# --- Dispersion -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def dispersion_conf(cluster: Cluster) -> str:
    path = cluster.folder / "etc" / "dispersion.conf"
    path.write_text(
        "[dispersion]\n"
        f"auth_url = {cluster.endpoint}/auth/v1.0\n"
        f"auth_user = {cluster.user}\n"
        f"auth_key = {cluster.key}\n"
        f"swift_dir = {cluster.folder}/etc\n"
        "retries = 0\n"
    )
    return str(path)


def test_copies_are_spread_found_and_missed(cluster, dispersion_conf, capsys):
    assert dispersion.report([dispersion_conf]) == 0
    assert "swift-dispersion-populate" in capsys.readouterr().err

    assert dispersion.populate([dispersion_conf]) == 0
    made = [re.sub(r"\d+s,", "0s,", line) for line in lines_of(capsys)]
    assert made == [
        "Using storage policy: replica ",
        "Created 10 containers for dispersion reporting, 0s, 0 retries",
        "Created 10 objects for dispersion reporting, 0s, 0 retries",
    ]

    assert dispersion.report([dispersion_conf]) == 0
    found = [re.sub(r"\d+s,", "0s,", line) for line in lines_of(capsys)]
    assert found == [
        "Using storage policy: replica ",
        "Queried 10 containers for dispersion reporting, 0s, 0 retries",
        "100.00% of container copies found (30 of 30)",
        "Sample represents 0.98% of the container partition space",
        "Queried 10 objects for dispersion reporting, 0s, 0 retries",
        "There were 10 partitions missing 0 copies.",
        "100.00% of object copies found (30 of 30)",
        "Sample represents 0.98% of the object partition space",
    ]

    lost = next(path for path in cluster.object_files() if path.suffix == ".data")
    lost.unlink()
    assert dispersion.report([dispersion_conf, "-j", "--object-only", "-p", "-d"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "object": {
            "retries": 0,
            "overlapping": 0,
            "pct_found": pytest.approx(96.67, abs=0.01),
            "copies_found": 29,
            "copies_expected": 30,
            "missing_0": 9,
            "missing_1": 1,
        }
    }
    assert re.search(r"# Object partition \d+ missing 1 copy\n", shown.err)
    assert "404" in shown.err

    assert (
        dispersion.populate([dispersion_conf, "--no-overlap", "--container-only"]) == 0
    )
    assert lines_of(capsys)[-1] == "Total container coverage is now 1.95%."
