# SPDX-License-Identifier: Apache-2.0
"""Servers, their worker processes and signals."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from swift.core.errors import ConfigError
from swift.runtime import green
from swift.wire.client import ConnectionPool, open_channel
from swift.wire.server import Server, ServerOptions, listen

ROOT = Path(__file__).parents[3]


class Quiet:
    """A log that nobody reads."""

    def warning(self, message, *args):
        pass

    def exception(self, message, *args):
        pass


def app(environ, start_response):
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode()]


def local(**options):
    return ServerOptions(bind_ip="127.0.0.1", **options)


def serving(application=app, **options):
    made = local(**options)
    server = Server(application, listen(made), made, Quiet())
    server.start()
    return server


def ask(pool, port, path="/x"):
    return pool.request(
        "127.0.0.1", port, "GET", path, [], connect_timeout_s=5, response_timeout_s=5
    )


# --- One process ----------------------------------------------------------------------


def test_a_proxied_body_is_spliced_from_socket_to_socket():
    content = os.urandom(5_000_000)

    def origin(environ, start_response):
        start_response("200 OK", [("Content-Length", str(len(content)))])
        return [content[:100], content[100:]]

    behind = serving(origin)
    pool = ConnectionPool()

    def proxy(environ, start_response):
        response = ask(pool, behind.port)
        start_response("200 OK", [("Content-Length", str(len(content)))])
        return response

    front = serving(proxy)
    front_pool = ConnectionPool()
    for _ in range(2):
        assert ask(front_pool, front.port).read() == content
    assert pool.idle_count() == 1
    assert front_pool.idle_count() == 1
    pool.close()
    front_pool.close()
    front.close()
    behind.close()


def test_a_source_that_breaks_off_while_spliced_cuts_the_answer():
    def origin(environ, start_response):
        start_response("200 OK", [("Content-Length", "1000000")])
        return [b"x" * 500_000]

    behind = serving(origin)
    pool = ConnectionPool()

    def proxy(environ, start_response):
        start_response("200 OK", [("Content-Length", "1000000")])
        return ask(pool, behind.port)

    front = serving(proxy)
    channel = open_channel("127.0.0.1", front.port, 5)
    channel.send(b"GET / HTTP/1.1\r\n\r\n", 5)
    received = b""
    while data := channel.recv(65536, 5):
        received += data
    assert received.endswith(b"\r\n\r\n" + b"x" * 500_000)
    channel.close()
    pool.close()
    front.close()
    behind.close()


def test_stopping_finishes_what_is_in_flight_and_closes_what_is_idle():
    begun = green.Event()
    go_on = green.Event()

    def slow(environ, start_response):
        begun.set()
        go_on.wait(5)
        return app(environ, start_response)

    server = serving(slow)
    idle = open_channel("127.0.0.1", server.port, 5)
    pool = ConnectionPool()
    thread = green.spawn(ask, pool, server.port)
    begun.wait(5)
    server.stop()
    assert idle.recv(1, 5) == b""
    with pytest.raises(TimeoutError):
        server.wait(0.02)
    go_on.set()
    response = thread.wait(5)
    assert response.read() == b"/x"
    assert response.headers["Connection"] == "close"
    server.wait(5)
    idle.close()
    pool.close()


def test_two_sockets_share_a_port():
    first = listen(local())
    port = first.getsockname()[1]
    second = listen(local(), port)
    assert second.getsockname()[1] == port
    first.close()
    second.close()


def test_a_taken_port_is_named():
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
        listen(local(bind_port=port, bind_timeout_s=0.05))
    taken.close()


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate")
def test_tls_for_tests(tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
            *("-days", "1", "-subj", "/CN=localhost", "-keyout", key, "-out", cert),
        ],
        check=True,
        capture_output=True,
    )
    server = serving(cert_file=str(cert), key_file=str(key))

    def fetch():
        context = ssl.create_default_context(cafile=str(cert))
        context.check_hostname = False
        with (
            socket.create_connection(("127.0.0.1", server.port)) as plain,
            context.wrap_socket(plain) as secure,
        ):
            secure.sendall(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n")
            secure.sendall(b"Connection: close\r\n\r\n")
            received = b""
            while data := secure.recv(65536):
                received += data
            return received

    received = green.in_thread(fetch)
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert received.endswith(b"/2")
    server.close()


# --- Many processes -------------------------------------------------------------------

PROGRAM = """
    import os, sys, time
    sys.path.insert(0, {root!r})
    from swift.runtime.process import Notifier
    from swift.wire.server import Master, ServerOptions

    class Log:
        def warning(self, message, *args):
            print(message % args, file=sys.stderr, flush=True)
        exception = warning

    def make_app():
        if os.path.exists({flag!r}):
            raise ValueError("will not start")
        def app(environ, start_response):
            path = environ["PATH_INFO"]
            if path == "/slow":
                def body():
                    yield b"begun "
                    while not os.path.exists({flag!r} + ".go"):
                        from swift.runtime import green
                        green.sleep(0.01)
                    yield str(os.getpid()).encode()
                start_response("200 OK", [])
                return body()
            start_response("200 OK", [])
            return [str(os.getpid()).encode()]
        return app

    options = ServerOptions(
        bind_ip="127.0.0.1", bind_port={port}, workers={workers}
    )
    sys.exit(Master(make_app, options, Log(), notifier=Notifier()).run())
"""


class Service:
    """A master process, and what it says to systemd."""

    def __init__(self, tmp_path, workers):
        probe = listen(local())
        self.port = probe.getsockname()[1]
        probe.close()
        self.flag = tmp_path / "flag"
        self.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notices.bind(str(tmp_path / "notify"))
        self.notices.settimeout(20)
        text = PROGRAM.format(
            root=str(ROOT), flag=str(self.flag), port=self.port, workers=workers
        )
        program = tmp_path / "program.py"
        program.write_text(textwrap.dedent(text))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", program],
            cwd=tmp_path,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
            start_new_session=True,
            stderr=subprocess.PIPE,
        )

    def notice(self):
        return self.notices.recv(100)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def pid(self):
        """The worker that answers a new connection; None if there is none."""
        try:
            with self.connect() as client:
                client.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
                answer = b""
                while data := client.recv(65536):
                    answer += data
        except OSError:
            return None
        return int(answer.rpartition(b"\r\n\r\n")[2]) if answer else None

    def pids(self, count=20):
        return {self.pid() for _ in range(count)} - {None}

    def send(self, number):
        self.process.send_signal(number)

    def end(self):
        self.notices.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)
        self.process.stderr.close()


@pytest.fixture
def service(tmp_path):
    made = []

    def make(workers):
        made.append(Service(tmp_path, workers))
        assert made[-1].notice() == b"READY=1"
        return made[-1]

    yield make
    for one in made:
        one.end()


def until(condition):
    deadline = time.monotonic() + 20
    while not (result := condition()):
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.02)
    return result


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_workers_share_the_port_and_dead_ones_are_replaced(service):
    running = service(2)
    first = until(lambda: len(pids := running.pids()) == 2 and pids)
    os.kill(min(first), signal.SIGKILL)
    second = until(lambda: len(pids := running.pids()) == 2 and pids != first and pids)
    assert max(first) in second
    assert running.process.pid not in second


def test_a_worker_told_to_stop_is_replaced_with_a_socket_that_listens(service):
    running = service(2)
    first = until(lambda: len(pids := running.pids()) == 2 and pids)
    os.kill(min(first), signal.SIGHUP)
    until(lambda: len(pids := running.pids()) == 2 and min(first) not in pids)


def test_term_ends_all_at_once(service):
    running = service(2)
    pids = running.pids()
    running.send(signal.SIGTERM)
    assert running.notice() == b"STOPPING=1"
    assert running.process.wait(20) == 0
    assert not any(is_alive(pid) for pid in pids)


def test_workers_do_not_outlive_a_killed_master(service):
    running = service(2)
    pids = running.pids()
    running.send(signal.SIGKILL)
    running.process.wait(20)
    until(lambda: not any(is_alive(pid) for pid in pids))


@pytest.mark.parametrize("workers", [0, 2])
def test_hup_lets_requests_finish(service, workers):
    running = service(workers)
    with running.connect() as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nConnection: close\r\n\r\n")
        received = b""
        while b"begun" not in received:
            received += client.recv(65536)
        running.send(signal.SIGHUP)
        until(lambda: running.pid() is None)
        if workers:
            assert running.process.wait(20) == 0
        running.flag.with_suffix(".go").touch()
        while data := client.recv(65536):
            received += data
        assert received.endswith(b"0\r\n\r\n")
    running.process.wait(20)


def test_usr1_changes_the_workers_without_a_gap(service):
    running = service(2)
    before = running.pids()
    with running.connect() as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nConnection: close\r\n\r\n")
        received = b""
        while b"begun" not in received:
            received += client.recv(65536)
        running.send(signal.SIGUSR1)
        assert running.notice() == b"RELOADING=1"
        assert running.notice() == b"READY=1"
        after = until(lambda: len(pids := running.pids() - before) == 2 and pids)
        assert not after & before
        running.flag.with_suffix(".go").touch()
        while data := client.recv(65536):
            received += data
        assert received.endswith(b"0\r\n\r\n")
    until(lambda: not any(is_alive(pid) for pid in before))
    assert running.process.poll() is None
    running.send(signal.SIGTERM)
    assert running.process.wait(20) == 0


def test_an_app_that_cannot_be_loaded_ends_the_start(tmp_path):
    (tmp_path / "flag").touch()
    failing = Service(tmp_path, 2)
    try:
        assert failing.process.wait(20) == 1
        assert b"failed" in failing.process.stderr.read()
    finally:
        failing.end()
