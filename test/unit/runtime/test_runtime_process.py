# SPDX-License-Identifier: Apache-2.0
"""A process and its surroundings."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from swift.core.erasure import ErasureCoding
from swift.core.errors import ConfigError
from swift.core.fragmentformat import legacy_crc, read_header
from swift.runtime import process
from swift.runtime.logs import ListSink


def in_child(code: str, **environment: str) -> str:
    """Run code in a process of its own; what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", f"from swift.runtime import process, logs\n{code}"],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **environment},
    )
    return done.stdout


def test_readiness_reaches_systemd_and_the_abstract_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reload,
    ):
        service.bind(path)
        reload.bind(f"\0swift-notifications\0{os.getpid()}")
        os.environ[process.NOTIFY_SOCKET] = path

        notifier = process.Notifier()
        notifier.send(process.READY)

        assert process.NOTIFY_SOCKET not in os.environ
        assert service.recv(100) == b"READY=1"
        assert reload.recv(100) == b"READY=1"
        notifier.restore_environment()
        assert os.environ.pop(process.NOTIFY_SOCKET) == path


def test_nobody_listening_is_no_error() -> None:
    process.Notifier().send(process.STOPPING)


def test_a_detached_process_stands_at_the_root() -> None:
    out = in_child(
        "import os\nprocess.detach()\n"
        "print(os.getcwd(), os.umask(0), os.getsid(0) == os.getpid())"
    )

    assert out.split() == ["/", str(0o022), "True"]


def test_privileges_of_a_user_who_does_not_exist_are_refused() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root changes users")

    with pytest.raises(ConfigError, match="nobody-of-that-name"):
        process.drop_privileges("nobody-of-that-name")


def test_root_becomes_the_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root changes users")
    out = in_child(
        "import os\nprocess.drop_privileges('nobody')\n"
        "print(process.current_user(), os.geteuid() != 0, 0 in os.getgroups())"
    )

    assert out.split() == ["nobody", "True", "False"]


def test_what_is_printed_goes_to_the_log() -> None:
    code = (
        "import os, sys\n"
        "sink = logs.ListSink()\n"
        "out = os.dup(1)\n"
        "process.capture_streams(logs.Logger('x', [sink]))\n"
        "print('one\\ntwo')\n"
        "print('three', file=sys.stderr)\n"
        "os.write(1, b'lost')\n"
        "os.write(out, repr([line for _, line in sink.lines]).encode())\n"
    )

    assert in_child(code) == repr(["STDOUT: one", "STDOUT: two", "STDERR: three"])


def test_niceness_and_class_are_set() -> None:
    out = in_child(
        "import os\nlog = logs.Logger('x')\n"
        "process.set_priority(log, nice=5, io_class='IOPRIO_CLASS_IDLE')\n"
        "print(os.getpriority(os.PRIO_PROCESS, 0))"
    )

    assert out.strip() == "5"


def test_limits_are_raised_or_the_log_says_why() -> None:
    sink = ListSink()
    code = (
        "import resource\nprocess.raise_limits(logs.Logger('x'))\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )

    assert int(in_child(code)) > 256
    assert not sink.lines


def test_own_addresses() -> None:
    assert "127.0.0.1" in process.own_addresses("0.0.0.0")
    assert "127.0.0.1" in process.own_addresses("")
    assert process.own_addresses("10.1.2.3") == ["10.1.2.3"]
    assert process.own_addresses("FE80:0:0:0::1") == ["fe80::1"]


@pytest.mark.parametrize(
    ("own", "own_port", "address", "port", "expected"),
    [
        pytest.param("10.0.0.1", 6200, "10.0.0.1", 6200, True, id="ours"),
        pytest.param("10.0.0.1", 6200, "10.0.0.1", 6201, False, id="another port"),
        pytest.param("10.0.0.1", None, "10.0.0.1", 6201, True, id="any port"),
        pytest.param("10.0.0.1", 6200, "10.0.0.2", 6200, False, id="another address"),
        pytest.param("::1", 6200, "0:0::0:1", 6200, True, id="IPv6 in another form"),
        pytest.param("127.0.0.1", 6200, "localhost", 6200, True, id="a host name"),
        pytest.param("127.0.0.1", 1, "no.such.host.invalid", 1, False, id="unknown"),
    ],
)
def test_local_devices(
    own: str, own_port: int | None, address: str, port: int, expected: bool
) -> None:
    assert process.is_local([own], own_port, address, port) is expected


def test_free_ports_are_free_until_someone_listens() -> None:
    port = process.free_port("127.0.0.1")
    assert process.port_is_free("127.0.0.1", port)

    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        assert not process.port_is_free("127.0.0.1", port)


@pytest.mark.parametrize(
    ("wanted", "is_legacy"),
    [
        pytest.param(None, False, id="as before"),
        pytest.param(True, True, id="the early one"),
        pytest.param(False, False, id="the usual one"),
    ],
)
def test_the_checksum_of_fragment_headers_is_chosen(
    monkeypatch: pytest.MonkeyPatch, wanted: bool | None, is_legacy: bool
) -> None:
    monkeypatch.setenv(process.LEGACY_FRAGMENT_CRC, "0")  # and set back afterwards
    coding = ErasureCoding("isa_l_rs_vand", 4, 2, segment_size=4096)

    process.choose_fragment_checksum(wanted)

    fragment = coding.encode(b"some bytes")[0]
    guarded, told = fragment[:59], int.from_bytes(fragment[67:71], "little")
    assert (told == legacy_crc(guarded)) is is_legacy
    assert read_header(fragment).index == 0, "both are read"
