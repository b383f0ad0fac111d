# SPDX-License-Identifier: Apache-2.0
"""swift-account-audit against one node with three devices."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest

from swift.cli.auditing import account_audit
from swift.cli.ring_files import write_ring_file
from swift.core.ring.builder import RingBuilder
from test.support.node import LOCALHOST, Node

T = "1700000000.00000"


class Terminal(io.StringIO):
    """Standard input that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def node(tmp_path: Path):
    made = Node(tmp_path)
    (tmp_path / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = prefix\n"
        "swift_hash_path_suffix = suffix\n"
        "[storage-policy:0]\nname = gold\ndefault = yes\n"
    )
    for kind in ("account", "container", "object"):
        builder = RingBuilder(0, 3, 1)
        for number in (1, 2, 3):
            (tmp_path / f"sda{number}").mkdir(exist_ok=True)
            builder.add_device(
                region=1, zone=number, ip=LOCALHOST, port=made.ports[kind],
                name=f"sda{number}", weight=1.0,
            )  # fmt: skip
        builder.rebalance(now=1_700_000_000, rng=random.Random(1))
        write_ring_file(tmp_path / f"{kind}.ring.gz", builder.ring())
    yield made
    made.close()


def put(node: Node, kind: str, path: str, devices: str = "123", **headers: str) -> None:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    for device in devices:
        status, _, _ = node.ask(
            kind, "PUT", f"/sda{device}/0/{path}", {"X-Timestamp": T, **sent}
        )
        assert status // 100 == 2


def put_row(node: Node, devices: str = "123", count: int = 0) -> None:
    """An account that lists the container `c`."""
    put(
        node, "account", "a/c", devices, X_Put_Timestamp=T, X_Delete_Timestamp="0",
        X_Object_Count=str(count), X_Bytes_Used="0",
    )  # fmt: skip


def audit(node: Node, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert account_audit(["-r", str(node.root), *words]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal())


def test_an_account_whose_replicas_agree(node, capsys):
    put(node, "account", "a")
    put_row(node)
    put(node, "container", "a/c", X_Backend_Storage_Policy_Index="0")
    assert audit(node, capsys, "a") == [
        'Auditing account "a"',
        'Auditing container "c"',
        "",
        "  Accounts checked: 1",
        "",
        "Containers checked: 1",
        "",
        "   Objects checked: 0",
        "",
    ]


def test_what_replicas_lack_is_named_and_counted(node, capsys, tmp_path):
    put(node, "account", "a")
    put_row(node, "12", count=7)
    put(node, "container", "a/c", "13", X_Backend_Storage_Policy_Index="0")
    errors = tmp_path / "errors"

    lines = audit(node, capsys, "a", "-e", str(errors))

    port = node.ports["account"]
    lacking = f"/a does not list 1, as 'c' on {LOCALHOST}:{port}/sda3"
    assert f"  Container mismatch: {lacking}" in lines
    port = node.ports["container"]
    assert f"  Missing Replicas: /a/c status 404 on {LOCALHOST}:{port}/sda2" in lines
    at = lines.index("  Accounts checked: 1")
    assert lines[at : at + 7] == [
        "  Accounts checked: 1",
        "Container mismatch: 1",
        "    Count mismatch: 3",
        "",
        "Containers checked: 1",
        "  Missing Replicas: 1",
        "",
    ]
    assert sorted(errors.read_text().split()) == ["/a", "/a/c"]


def test_a_listing_that_has_another_checksum_than_the_object(node, capsys):
    put(node, "container", "a/c", X_Backend_Storage_Policy_Index="0")
    put(
        node, "container", "a/c/o", X_Size="0", X_Content_Type="x/y", X_Etag="f" * 32,
    )  # fmt: skip
    put(node, "object", "a/c/o", Content_Type="x/y")
    lines = audit(node, capsys, "a/c", "-d", "-c", "2")
    assert lines[-3:] == ["   Objects checked: 1", "      MD5 Mismatch: 3", ""]


def test_one_object_alone(node, capsys):
    put(node, "container", "a/c", X_Backend_Storage_Policy_Index="0")
    put(node, "object", "a/c/o", "12", Content_Type="x/y")
    lines = audit(node, capsys, "a/c/o")
    assert lines[-3:] == ["   Objects checked: 1", "  Missing Replicas: 1", ""]


def test_usage_of_the_audit(node, capsys):
    assert account_audit([]) == 0
    assert capsys.readouterr().out.startswith("usage:")
    assert account_audit(["-r", str(node.root), "//"]) == 1
    with pytest.raises(SystemExit) as stop:
        account_audit(["--dance"])
    assert stop.value.code == 2
