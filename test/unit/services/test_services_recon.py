# SPDX-License-Identifier: Apache-2.0
"""What a node answers under /recon."""

import json
from pathlib import Path
from typing import Any

import pytest

import swift
from swift.runtime.logs import Logger
from swift.services.recon import CACHED, filter_factory
from swift.wire import environ as env
from swift.wire.filter import PipelineContext, Process
from swift.wire.request import Response, WsgiApp, call


@pytest.fixture
def app(tmp_path: Path) -> WsgiApp:
    (tmp_path / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = x\n[storage-policy:0]\nname = a\n"
        "default = yes\n[storage-policy:1]\nname = b\n"
    )
    (tmp_path / "object-1.ring.gz").write_bytes(b"abc")
    for device in ("sda", "sdb"):
        (tmp_path / "dev" / device).mkdir(parents=True)
    for kind in ("objects", "objects-1", "accounts"):
        (tmp_path / "dev" / "sda" / "quarantined" / kind / "h").mkdir(parents=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "object.recon").write_text(
        '{"async_pending": 7, "object_updater_sweep": 1.5}\n'
    )
    conf = {
        "swift_dir": str(tmp_path),
        "devices": str(tmp_path / "dev"),
        "mount_check": "false",
        "recon_cache_path": str(tmp_path / "cache"),
    }
    context = PipelineContext(conf, Process(conf, log=Logger("x")), "filter:recon")
    made: WsgiApp = filter_factory(context)(Response.text(200, "the app"))
    return made


def ask(app: WsgiApp, path: str) -> Any:
    response = call(app, env.blank(path))
    assert response.status == 200
    assert response.content_type == "application/json"
    return json.loads(response.body)


def test_other_paths_reach_the_app(app: WsgiApp) -> None:
    assert call(app, env.blank("/reconnoitre")).body == b"the app"


def test_cached_facts_are_shown_and_missing_ones_are_null(app: WsgiApp) -> None:
    assert ask(app, "/recon/async") == {
        "async_pending": 7,
        "async_pending_last": None,
    }
    assert ask(app, "/recon/updater/object")["object_updater_sweep"] == 1.5
    assert ask(app, "/recon/auditor/account")["account_audits_since"] is None


@pytest.mark.parametrize("check", sorted(CACHED))
def test_every_cached_check_answers(app: WsgiApp, check: tuple[str, str]) -> None:
    path = "/recon/" + "/".join(word for word in check if word)

    assert isinstance(ask(app, path), dict)


def test_facts_of_the_node(app: WsgiApp, tmp_path: Path) -> None:
    devices = str(tmp_path / "dev")

    assert ask(app, "/recon/version") == {"version": swift.__version__}
    assert ask(app, "/recon/devices") == {devices: ["sda", "sdb"]}
    assert ask(app, "/recon/unmounted") == []
    assert ask(app, "/recon/ringmd5") == {
        str(tmp_path / "object-1.ring.gz"): "900150983cd24fb0d6963f7d28e17f72"
    }
    assert list(ask(app, "/recon/swiftconfmd5")) == [str(tmp_path / "swift.conf")]
    assert ask(app, "/recon/time") > 1_700_000_000
    usage = ask(app, "/recon/diskusage")
    assert [facts["device"] for facts in usage] == ["sda", "sdb"]
    assert usage[0]["mounted"] is True
    assert usage[0]["size"] >= usage[0]["avail"] > 0


def test_quarantined_things_are_counted_by_policy(app: WsgiApp) -> None:
    assert ask(app, "/recon/quarantined") == {
        "accounts": 1,
        "containers": 0,
        "objects": 2,
        "policies": {"0": {"objects": 1}, "1": {"objects": 1}},
    }


@pytest.mark.parametrize(
    "path", ["/recon/x", "/recon/auditor", "/recon/mem/x", "/recon/"]
)
def test_unknown_checks_are_not_found(app: WsgiApp, path: str) -> None:
    response = call(app, env.blank(path))

    assert response.status == 404
    assert response.content_type == "text/plain"
