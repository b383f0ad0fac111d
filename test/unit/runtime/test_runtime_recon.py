# SPDX-License-Identifier: Apache-2.0
"""Recon cache files, and facts of the host."""

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from swift.runtime import green, recon
from swift.runtime.logs import ListSink, Logger


@pytest.mark.parametrize(
    ("cache", "updates", "expected"),
    [
        pytest.param({}, {"a": 1}, {"a": 1}, id="new"),
        pytest.param({"a": 1, "b": 2}, {"a": None}, {"a": None, "b": 2}, id="replace"),
        pytest.param(
            {"d": {"x": 1, "y": 1}},
            {"d": {"y": 2, "z": 3}},
            {"d": {"x": 1, "y": 2, "z": 3}},
            id="dicts merge one level deep",
        ),
        pytest.param(
            {"d": {"x": {"p": 1}}},
            {"d": {"x": {"q": 2}}},
            {"d": {"x": {"q": 2}}},
            id="but not two",
        ),
        pytest.param({"d": {"x": 1}}, {"d": {}}, {}, id="an empty dict deletes"),
        pytest.param(
            {"d": {"x": 1, "y": 2}}, {"d": {"x": {}}}, {"d": {"y": 2}}, id="inside too"
        ),
        pytest.param({"d": 5}, {"d": {"x": 1}}, {"d": {"x": 1}}, id="dict over number"),
    ],
)
def test_updates_merge(
    cache: dict[str, Any], updates: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert recon.merged(cache, updates) == expected


def test_a_cache_file_is_one_sorted_line(tmp_path: Path) -> None:
    path = tmp_path / "object.recon"
    log = Logger("x")

    assert recon.update_cache(str(path), {"b": 1, "a": {"x": 1}}, log)
    assert recon.update_cache(str(path), {"b": 2}, log)

    assert path.read_text() == '{"a": {"x": 1}, "b": 2}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == ["object.recon"]


@pytest.mark.parametrize("content", ["", "not json", "[1]"])
def test_a_cache_that_cannot_be_read_is_empty(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.recon"
    path.write_text(content)

    assert recon.read_cache(str(path)) == {}
    recon.update_cache(str(path), {"a": 1}, Logger("x"))
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_lock_that_is_not_had_is_logged(tmp_path: Path) -> None:
    path = tmp_path / "x.recon"
    path.write_text('{"a": 1}\n')
    sink = ListSink()
    green.install(green.JumpingClock())
    try:
        with path.open() as other:
            fcntl.flock(other, fcntl.LOCK_EX)

            done = recon.update_cache(str(path), {"a": 2}, Logger("x", [sink]))
    finally:
        green.install(None)

    assert not done
    assert "lock" in sink.lines[0][1]
    assert recon.read_cache(str(path)) == {"a": 1}


def test_a_missing_folder_is_logged(tmp_path: Path) -> None:
    sink = ListSink()

    assert not recon.update_cache(
        str(tmp_path / "gone" / "x.recon"), {"a": 1}, Logger("x", [sink])
    )
    assert len(sink.lines) == 1


def test_host_facts_have_their_keys() -> None:
    assert "MemTotal" in recon.memory()
    assert set(recon.load()) == {"1m", "5m", "15m", "tasks", "processes"}
    assert any(mount["path"] == "/" for mount in recon.mounts())
    assert recon.space("/").size > 0


def test_socket_counts_are_read(tmp_path: Path) -> None:
    (tmp_path / "sockstat").write_text(
        "sockets: used 9\nTCP: inuse 7 orphan 1 tw 2 alloc 8 mem 3\nUDP: inuse 1\n"
    )
    (tmp_path / "sockstat6").write_text("TCP6: inuse 4\n")

    found = recon.sockets(str(tmp_path))

    assert found.pop("tcp_mem_allocated_bytes") % 3 == 0
    assert found == {"tcp_in_use": 7, "orphan": 1, "time_wait": 2, "tcp6_in_use": 4}


def test_checksums_follow_the_files(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    path.write_bytes(b"abc")
    known = recon.Checksums()

    assert known.of([str(path)]) == {str(path): "900150983cd24fb0d6963f7d28e17f72"}
    path.write_bytes(b"abcd")
    assert known.of([str(path), "/gone"]) == {
        str(path): "e2fc714c4727ee9395f324cd2e7f331f",
        "/gone": None,
    }


def test_quarantined_things_are_counted(tmp_path: Path) -> None:
    (tmp_path / "quarantined" / "objects-1" / "hash").mkdir(parents=True)
    (tmp_path / "quarantined" / "containers").mkdir()

    assert recon.quarantined(str(tmp_path)) == {"objects-1": 1, "containers": 0}
    assert recon.quarantined(str(tmp_path / "gone")) == {}


def test_what_a_killed_writer_left_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "object.recon"
    (tmp_path / ".object.recon.tmp").write_text('{"half')
    recon.update_cache(str(path), {"a": 1}, Logger("test", [ListSink()]))
    assert recon.read_cache(str(path)) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["object.recon"]
