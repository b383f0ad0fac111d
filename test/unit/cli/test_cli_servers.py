# SPDX-License-Identifier: Apache-2.0
"""The mains of the servers: command lines, exit codes, and processes that serve."""

import http.client
import os
import select
import signal
import socket
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from swift.cli.servers import (
    DevicePorts,
    object_server,
    parse_command,
    proxy_server,
    server_options,
)
from swift.core.ring.codec import write_ring
from swift.core.ring.devices import Device
from swift.core.ring.ring import Ring
from swift.core.settings import bind
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.config import ServerConfig
from swift.runtime.logs import NULL_LOG
from swift.wire.filter import PipelineContext
from swift.wire.request import Response, WsgiApp
from test.support.ports import free_port

MODULE = Path(__file__).stem
LIMIT_S = 60.0


def app_factory(global_conf: Mapping[str, str], **local_conf: str) -> WsgiApp:
    context = PipelineContext.of(global_conf)
    text = f"{local_conf.get('word')} {context.cluster.limits.max_file_size}"
    return lambda environ, start: Response.text(200, f"{text} {os.getpid()}")(
        environ, start
    )


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


SWIFT_CONF = "[swift-hash]\nswift_hash_path_suffix = x\n"


def configured(
    tmp_path: Path, defaults: str = "bind_port = 8080", app: str = ""
) -> str:
    """A configuration of the app above; its path."""
    (tmp_path / "swift.conf").write_text(SWIFT_CONF)
    path = tmp_path / "server.conf"
    path.write_text(
        f"[DEFAULT]\nswift_dir = {tmp_path}\nbind_ip = 127.0.0.1\nuser = root\n"
        f"log_address = {tmp_path}/no-log\n{defaults}\n"
        "[pipeline:main]\npipeline = the-server\n"
        f"[app:the-server]\npaste.app_factory = {MODULE}:app_factory\nword = hi\n"
        f"{app}\n"
    )
    return str(path)


# --- Command lines -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "verbose", "tests", "kept"),
    [
        pytest.param([], False, False, (), id="nothing"),
        pytest.param(["-v"], True, False, (), id="short"),
        pytest.param(["--verbose", "-t"], True, True, (), id="long"),
        pytest.param(["verbose"], True, False, (), id="a bare word"),
        pytest.param(["once", "verbose"], True, False, ("once",), id="others are kept"),
        pytest.param(["test-config"], False, True, (), id="a word with a dash"),
    ],
)
def test_options_and_bare_words(
    tmp_path: Path, words: list[str], verbose: bool, tests: bool, kept: tuple[str, ...]
) -> None:
    path = configured(tmp_path)

    command = parse_command("proxy-server", [path, *words])

    assert command.conf_path == path
    assert (command.verbose, command.test_config, command.words) == (
        verbose,
        tests,
        kept,
    )


@pytest.mark.parametrize("argv", [[], ["/no/such/file.conf"], ["-v"]])
def test_a_missing_configuration_prints_usage(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert proxy_server(argv) == 1

    out = capsys.readouterr()
    assert out.out.startswith("usage: swift-proxy-server CONFIG")
    assert "Error: " in out.out
    assert not out.err


def test_help_exits_0_and_an_unknown_option_2() -> None:
    for argv, code in ((["--help"], 0), (["--nonsense"], 2)):
        with pytest.raises(SystemExit) as stopped:
            proxy_server(argv)
        assert stopped.value.code == code


def test_a_missing_section_goes_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "empty.conf"
    path.write_text("[DEFAULT]\nbind_port = 1\n")

    assert proxy_server([str(path)]) == 1

    out = capsys.readouterr()
    assert not out.out
    assert "pipeline:main" in out.err


def test_a_good_configuration_is_tested_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert proxy_server([configured(tmp_path), "-t"]) == 0

    out = capsys.readouterr()
    assert (out.out, out.err) == ("", "")


@pytest.mark.parametrize(
    ("defaults", "app", "message"),
    [
        pytest.param("", "", "bind_port", id="no port"),
        pytest.param("bind_port = 99999", "", "bind_port", id="a port that is none"),
        pytest.param("bind_port = 1\nworkers = x", "", "workers", id="workers"),
        pytest.param("bind_port = 1\nlog_level = x", "", "log_level", id="log level"),
        pytest.param(
            "bind_port = 1", "use = egg:swift#gone", "gone", id="no such entry point"
        ),
        pytest.param(
            "bind_port = 1\nswift_dir = /no/such", "", "swift.conf", id="no swift.conf"
        ),
    ],
)
def test_a_bad_configuration_is_told_and_exits_1(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    defaults: str,
    app: str,
    message: str,
) -> None:
    assert proxy_server([configured(tmp_path, defaults, app), "-t"]) == 1

    assert message in capsys.readouterr().out


def test_only_the_object_server_can_do_without_a_port(tmp_path: Path) -> None:
    path = configured(tmp_path, "servers_per_port = 1")

    assert object_server([path, "-t"]) == 0
    assert proxy_server([path, "-t"]) == 1


# --- Options -------------------------------------------------------------------------


def test_options_reach_the_sockets(tmp_path: Path) -> None:
    made = server_options(
        bind(
            ServerConfig,
            {"client_timeout": "7", "workers": "3", "bind_port": "80"},
            source="-",
            section="DEFAULT",
        ),
        Cluster.load(str(Path(configured(tmp_path)).parent)),
        {"trans_id_suffix": "-x"},
    )

    assert made.workers == 3
    assert made.limits.client_timeout_s == 7
    assert made.limits.keepalive_timeout_s == 7
    assert made.limits.max_header_count == 201
    assert made.limits.trans_id_suffix == "-x"


def test_workers_default_to_the_cpus_and_ports_have_their_own(tmp_path: Path) -> None:
    cluster = Cluster.load(str(Path(configured(tmp_path)).parent))
    config = ServerConfig(keepalive_timeout_s=0.0)

    assert server_options(config, cluster, {}).workers == os.cpu_count()
    assert server_options(config, cluster, {}, per_port=4).workers == 4
    assert server_options(config, cluster, {}).limits.keepalive_timeout_s == 0


def ring_of(*places: tuple[str, int]) -> bytes:
    devices = [
        Device(number, 1, 1, ip, port, ip, port, f"sd{number}", 1.0)
        for number, (ip, port) in enumerate(places)
    ]
    rows = [array("H", [0, 0])]
    return write_ring(Ring(part_power=1, devices=[*devices, None], rows=rows))


def test_ports_of_our_devices_follow_the_rings(tmp_path: Path) -> None:
    configured(tmp_path)
    (tmp_path / "swift.conf").write_text(
        SWIFT_CONF + "[storage-policy:0]\nname = a\ndefault = yes\n"
        "[storage-policy:1]\nname = b\n[storage-policy:2]\nname = c\n"
    )
    (tmp_path / "object.ring.gz").write_bytes(
        ring_of(("10.0.0.1", 6200), ("10.0.0.1", 6201), ("10.0.0.2", 6202))
    )
    (tmp_path / "object-1.ring.gz").write_bytes(ring_of(("10.0.0.1", 6300)))
    (tmp_path / "object-2.ring.gz").write_bytes(b"broken")
    ports = DevicePorts(
        Cluster.load(str(tmp_path)), ServerConfig(ring_ip="10.0.0.1"), NULL_LOG
    )

    assert ports() == {6200, 6201, 6300}
    (tmp_path / "object-1.ring.gz").write_bytes(ring_of(("10.0.0.1", 6400)))
    assert ports() == {6200, 6201, 6400}
    (tmp_path / "object-1.ring.gz").unlink()
    assert ports() == {6200, 6201, 6400}


# --- Processes -----------------------------------------------------------------------


@contextmanager
def running(
    tmp_path: Path, defaults: str, kind: str = "proxy"
) -> Iterator[tuple[subprocess.Popen[bytes], int, Callable[[], bytes]]]:
    """A server in a process of its own, ready; its port, and what it tells next."""
    port = free_port()
    path = configured(tmp_path, f"bind_port = {port}\n{defaults}")
    notify = str(tmp_path / "notify")
    paths = [str(Path(__file__).parent), *sys.path]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(notify)
        ready.settimeout(LIMIT_S)
        program = f"from swift.cli.servers import {kind}_server as main; exit(main())"
        server = subprocess.Popen(
            [sys.executable, "-c", program, path],
            env={
                **os.environ,
                "NOTIFY_SOCKET": notify,
                "PYTHONPATH": os.pathsep.join(paths),
            },
            start_new_session=True,
        )
        try:
            assert ready.recv(100) == b"READY=1"
            yield server, port, lambda: ready.recv(100)
        finally:
            server.kill()
            server.wait(LIMIT_S)
            # Workers end when their parent is gone.


def ask(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_the_main_process_serves_alone_without_workers(tmp_path: Path) -> None:
    with running(tmp_path, "workers = 0") as (server, port, _):
        answer = ask(port)

        assert answer == f"hi 5368709122 {server.pid}"
        server.terminate()
        assert server.wait(LIMIT_S) == 0


def test_workers_serve_are_replaced_and_end_with_their_parent(tmp_path: Path) -> None:
    with running(tmp_path, "workers = 1") as (server, port, _):
        worker = int(ask(port).split()[-1])
        assert worker != server.pid

        died = os.pidfd_open(worker)
        os.kill(worker, signal.SIGKILL)
        assert select.select([died], [], [], LIMIT_S)[0]
        os.close(died)
        second = int(ask(port).split()[-1])
        assert second not in (worker, server.pid)

        gone = os.pidfd_open(second)
        server.terminate()
        assert server.wait(LIMIT_S) == 0
        assert select.select([gone], [], [], LIMIT_S)[0]
        os.close(gone)


def test_a_hangup_lets_the_server_end(tmp_path: Path) -> None:
    with running(tmp_path, "workers = 1") as (server, port, _):
        ask(port)

        server.send_signal(signal.SIGHUP)

        assert server.wait(LIMIT_S) == 0


def refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def within_the_limit(condition: Callable[[], bool]) -> bool:
    """Wait for a condition, at most LIMIT_S."""
    deadline = green.monotonic() + LIMIT_S
    while not condition():
        if green.monotonic() > deadline:
            return False
        green.sleep(0.05)
    return True


def test_an_object_server_serves_the_ports_that_its_ring_names(tmp_path: Path) -> None:
    first, second, third = (free_port() for _ in range(3))
    path = tmp_path / "object.ring.gz"
    path.write_bytes(ring_of(("127.0.0.1", first), ("127.0.0.1", second)))
    defaults = "servers_per_port = 1\nring_check_interval = 0.1"

    with running(tmp_path, defaults, "object") as (server, bind_port, _):
        pids = {ask(first).split()[-1], ask(second).split()[-1]}
        assert len(pids) == 2
        assert str(server.pid) not in pids
        assert refused(bind_port)

        path.write_bytes(ring_of(("127.0.0.1", first), ("127.0.0.1", third)))

        assert within_the_limit(lambda: not refused(third))
        assert within_the_limit(lambda: refused(second))
        assert ask(first).split()[-1] in pids
        server.terminate()
        assert server.wait(LIMIT_S) == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_reload_into_a_bad_configuration_changes_nothing(
    tmp_path: Path, workers: int
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as syslog:
        syslog.bind(("127.0.0.1", 0))
        syslog.settimeout(LIMIT_S)
        defaults = (
            f"workers = {workers}\nlog_udp_host = 127.0.0.1\n"
            f"log_udp_port = {syslog.getsockname()[1]}"
        )
        with running(tmp_path, defaults) as (server, port, told):
            before = ask(port)
            path = tmp_path / "server.conf"
            good = path.read_text()
            path.write_text(good.replace("[pipeline", "max_clients = many\n[pipeline"))

            server.send_signal(signal.SIGUSR1)

            line = ""
            while "not reloading" not in line:
                line = syslog.recv(65536).decode()
            assert f"{path}" in line
            assert "[DEFAULT] max_clients" in line
            assert ask(port) == before

            path.write_text(good.replace("word = hi", "word = again"))
            server.send_signal(signal.SIGUSR1)

            assert [told(), told()] == [b"RELOADING=1", b"READY=1"]
            assert within_the_limit(lambda: ask(port).startswith("again"))


def test_a_reload_loses_no_request(tmp_path: Path) -> None:
    with running(tmp_path, "workers = 1") as (server, port, told):
        old = ask(port)

        server.send_signal(signal.SIGUSR1)

        # Every answer until the new worker's own is one of the old worker's.
        assert within_the_limit(lambda: ask(port) != old)
        assert [told(), told()] == [b"RELOADING=1", b"READY=1"]
        assert server.poll() is None
        server.terminate()
        assert server.wait(LIMIT_S) == 0
