# SPDX-License-Identifier: Apache-2.0
"""Storage policies that cannot work: every server and daemon refuses to start, and says
which file, policy and option is to blame."""

from __future__ import annotations

from array import array

import pytest

from swift.cli import daemons, relink, saio, servers
from swift.core.ring.codec import write_ring
from swift.core.ring.devices import Device
from swift.core.ring.ring import Ring

SERVERS = ("proxy", "account", "container", "object")
GOOD = {
    "name": "deep",
    "policy_type": "erasure_coding",
    "ec_type": "isa_l_rs_vand",
    "ec_num_data_fragments": "4",
    "ec_num_parity_fragments": "2",
}
SWIFT_CONF = """[swift-hash]
swift_hash_path_suffix = x
[storage-policy:0]
name = gold
default = yes
[storage-policy:1]
"""
BAD = [
    pytest.param("ec_type", "magic", id="unknown back end"),
    pytest.param("ec_object_segment_size", "1099511627776", id="absurd segments"),
]


def write_swift_conf(folder, **changes):
    lines = [f"{name} = {value}" for name, value in {**GOOD, **changes}.items()]
    (folder / "swift.conf").write_text(SWIFT_CONF + "\n".join(lines) + "\n")


def write_object_ring(folder, *, replicas, devices):
    listed = [
        Device(number, 1, 1, "127.0.0.1", 6200, "127.0.0.1", 6200, f"d{number}", 100.0)
        for number in range(devices)
    ]
    rows = [array("H", [number % devices] * 2) for number in range(replicas)]
    ring = Ring(part_power=1, devices=listed, rows=rows)
    (folder / "object-1.ring.gz").write_bytes(write_ring(ring))


def start_server(folder, kind):
    path = folder / f"{kind}.conf"
    path.write_text(
        f"[DEFAULT]\nswift_dir = {folder}\nbind_ip = 127.0.0.1\nbind_port = 8080\n"
        f"devices = {folder}\nmount_check = no\nlog_address = {folder}/no-log\n"
        f"[pipeline:main]\npipeline = {kind}-server\n"
        f"[app:{kind}-server]\nuse = egg:swift#{kind}\n"
    )
    return getattr(servers, f"{kind}_server")([str(path), "-t"])


def start_daemon(folder, section):
    path = folder / f"{section}.conf"
    path.write_text(
        f"[DEFAULT]\nswift_dir = {folder}\ndevices = {folder}\nmount_check = no\n"
        f"log_address = {folder}/no-log\n[{section}]\n"
    )
    return daemons.daemon_main(daemons.PROGRAMS[section], [str(path), "once"])


@pytest.mark.parametrize(("option", "value"), BAD)
@pytest.mark.parametrize("kind", SERVERS)
def test_no_server_starts_with_such_a_policy(tmp_path, capsys, kind, option, value):
    write_swift_conf(tmp_path, **{option: value})

    assert start_server(tmp_path, kind) == 1
    said = "".join(capsys.readouterr())
    assert f"{tmp_path}/swift.conf [storage-policy:1] {option}: policy deep" in said


@pytest.mark.parametrize(("option", "value"), BAD)
@pytest.mark.parametrize("section", sorted(daemons.PROGRAMS))
def test_no_daemon_starts_with_such_a_policy(tmp_path, capsys, section, option, value):
    write_swift_conf(tmp_path, **{option: value})

    assert start_daemon(tmp_path, section) == 1
    said = capsys.readouterr().err
    assert f"{tmp_path}/swift.conf [storage-policy:1] {option}: policy deep" in said


@pytest.mark.parametrize(
    ("replicas", "devices", "said"),
    [
        pytest.param(5, 8, "replicas: policy deep needs 6, the ring has 5", id="short"),
        pytest.param(6, 5, "devices: policy deep needs 6, the ring has 5", id="narrow"),
    ],
)
def test_nothing_starts_with_a_ring_too_small(
    tmp_path, capsys, replicas, devices, said
):
    write_swift_conf(tmp_path)
    write_object_ring(tmp_path, replicas=replicas, devices=devices)
    said = f"{tmp_path}/object-1.ring.gz [storage-policy:1] {said}"

    for kind in SERVERS:
        assert start_server(tmp_path, kind) == 1
        assert said in "".join(capsys.readouterr())
    for section in daemons.PROGRAMS:
        assert start_daemon(tmp_path, section) == 1
        assert said in capsys.readouterr().err
    options = ["relink", "--swift-dir", str(tmp_path), "--devices", str(tmp_path)]
    assert relink.main(options) == 1
    assert said in capsys.readouterr().err


def test_storage_servers_start_with_a_policy_that_fits(tmp_path):
    write_swift_conf(tmp_path)
    write_object_ring(tmp_path, replicas=6, devices=6)

    for kind in SERVERS[1:]:
        assert start_server(tmp_path, kind) == 0


def test_a_cluster_on_one_machine_says_it_once(tmp_path, capsys):
    folder = str(tmp_path / "saio")
    options = ["--policies", "replica+ec", "--create-only", folder]
    assert saio.main(options) == 0
    conf = tmp_path / "saio" / "etc" / "swift.conf"
    conf.write_text(conf.read_text().replace("isa_l_rs", "isa_l_sr"))

    assert saio.main([folder]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"swift-saio: {conf} [storage-policy:1] ec_type: policy")
    assert said.count("\n") == 1
