# SPDX-License-Identifier: Apache-2.0
"""Bad values of options that every program has: file, section and option are named."""

import os
import socket
from pathlib import Path

import pytest

from swift.cli import daemons, servers

SERVERS = ("account", "container", "object", "proxy")

BAD = [
    pytest.param("nice_priority", "high", id="niceness that is no number"),
    pytest.param("ionice_class", "IOPRIO_CLASS_NONE", id="class that does not exist"),
    pytest.param("ionice_priority", "low", id="priority that is no number"),
    pytest.param("ionice_priority", "8", id="priority that does not exist"),
    pytest.param("bind_port", "-5", id="port that does not exist"),
    pytest.param("log_custom_handlers", "no.such.hook", id="hook that is not there"),
]


def write_conf(folder: Path, section: str, values: dict[str, str]) -> Path:
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = a\nswift_hash_path_suffix = b\n"
    )
    defaults = {
        "swift_dir": str(folder), "devices": str(folder), "mount_check": "no",
        "log_address": f"{folder}/no-log", "bind_ip": "127.0.0.1",
        "bind_port": "8080", "bind_timeout": "0", **values,
    }  # fmt: skip
    lines = [f"{name} = {value}" for name, value in defaults.items()]
    path = folder / "program.conf"
    path.write_text("\n".join(["[DEFAULT]", *lines, section, ""]))
    return path


def start_server(folder: Path, kind: str, *words: str, **values: str) -> int:
    pipeline = f"[pipeline:main]\npipeline = {kind}-server\n"
    app = f"[app:{kind}-server]\nuse = egg:swift#{kind}"
    path = write_conf(folder, pipeline + app, values)
    code: int = getattr(servers, f"{kind}_server")([str(path), *words])
    return code


def what_refuses(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    option: str,
    value: str,
) -> str:
    """What a server says that refuses a value; file and option are in it."""
    assert start_server(folder, kind, "-t", **{option: value}) == 1

    said = "".join(capsys.readouterr())
    assert f"{folder}/program.conf [" in said
    assert f"] {option}: " in said
    return said


def start_daemon(folder: Path, section: str, *words: str, **values: str) -> int:
    path = write_conf(folder, f"[{section}]", values)
    program = daemons.PROGRAMS[section]
    return daemons.daemon_main(program, [str(path), "once", *words])


@pytest.mark.parametrize(("option", "value"), BAD)
@pytest.mark.parametrize("section", sorted(daemons.PROGRAMS))
def test_no_daemon_starts_with_such_a_value(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    section: str,
    option: str,
    value: str,
) -> None:
    assert start_daemon(tmp_path, section, **{option: value}) == 1

    said = capsys.readouterr().err
    assert f"{tmp_path}/program.conf [{section}] {option}: " in said
    assert value in said


@pytest.mark.parametrize(("option", "value"), BAD)
@pytest.mark.parametrize("kind", SERVERS)
def test_no_server_starts_with_such_a_value(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    option: str,
    value: str,
) -> None:
    assert value in what_refuses(tmp_path, capsys, kind, option, value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        pytest.param("log_format", "{nonsense}", id="field that does not exist"),
        pytest.param("log_format", "{path", id="bracket that stays open"),
        pytest.param("log_anonymization_method", "rot13", id="no such hash"),
        pytest.param("ring_check_interval", "-1", id="time that has passed"),
    ],
)
@pytest.mark.parametrize("kind", ["account", "container", "object"])
def test_no_storage_server_starts_with_such_a_value(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    option: str,
    value: str,
) -> None:
    what_refuses(tmp_path, capsys, kind, option, value)


def test_the_file_of_an_unknown_user_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root changes users")

    assert start_daemon(tmp_path, "object-updater", user="nobody-of-that-name") == 1

    said = capsys.readouterr().err
    assert f"{tmp_path}/program.conf [DEFAULT] user: " in said


def test_the_file_of_an_address_that_is_not_ours_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 192.0.2.0/24 is for documentation: no machine has such an address (RFC 5737).
    assert start_server(tmp_path, "object", bind_ip="192.0.2.1") == 1

    said = "".join(capsys.readouterr())
    assert f"{tmp_path}/program.conf [DEFAULT] bind_ip: 192.0.2.1:8080: " in said


def test_the_file_of_a_port_that_is_taken_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert start_server(tmp_path, "object", bind_port=port) == 1

    said = "".join(capsys.readouterr())
    assert f"{tmp_path}/program.conf [DEFAULT] bind_port: 127.0.0.1:{port}: " in said


def test_an_expirer_with_a_number_that_there_is_not_does_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--processes", "2", "--process", "2")

    assert start_daemon(tmp_path, "object-expirer", *words) == 1

    said = capsys.readouterr().err
    assert said.splitlines() == [
        "process 2 of 2 expirers: process must be less than processes"
    ]
