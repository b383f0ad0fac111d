# SPDX-License-Identifier: Apache-2.0
"""The worker processes of a server, and the signals of their master."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from swift.runtime import green
from test.support.ports import free_port

ROOT = Path(__file__).parents[3]
LIMIT_S = 60.0

PROGRAM = """
    import os, sys, time
    sys.path.insert(0, {root!r})
    from swift.runtime.process import Notifier
    from swift.wire.master import Master
    from swift.wire.server import ServerOptions

    class Log:
        def warning(self, message, *args):
            print(message % args, file=sys.stderr, flush=True)
        error = exception = warning

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
    def complaint():
        bad = {flag!r} + ".bad"
        return open(bad).read() if os.path.exists(bad) else ""

    master = Master(
        make_app, options, Log(), notifier=Notifier(), complaint=complaint
    )
    sys.exit(master.run())
"""


class Service:
    """A master process, and what it says to systemd."""

    def __init__(self, tmp_path, workers):
        self.port = free_port()
        self.flag = tmp_path / "flag"
        self.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notices.bind(str(tmp_path / "notify"))
        self.notices.settimeout(LIMIT_S)
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
        return socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_S)

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
        self.process.wait(LIMIT_S)
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
    deadline = green.monotonic() + LIMIT_S
    while not (result := condition()):
        assert green.monotonic() < deadline, "it never came to pass"
        green.sleep(0.02)
    return result


def begun(client):
    """Ask for what is slow; what has come when its body has begun."""
    client.sendall(b"GET /slow HTTP/1.1\r\nConnection: close\r\n\r\n")
    received = b""
    while b"begun" not in received:
        received += client.recv(65536)
    return received


def rest(client):
    """What comes until the other side closes."""
    received = b""
    while data := client.recv(65536):
        received += data
    return received


def is_alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


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
    assert running.process.wait(LIMIT_S) == 0
    assert not any(is_alive(pid) for pid in pids)


def test_workers_do_not_outlive_a_killed_master(service):
    running = service(2)
    pids = running.pids()
    running.send(signal.SIGKILL)
    running.process.wait(LIMIT_S)
    until(lambda: not any(is_alive(pid) for pid in pids))


@pytest.mark.parametrize("workers", [0, 2])
def test_hup_lets_requests_finish(service, workers):
    running = service(workers)
    with running.connect() as client:
        begun(client)
        running.send(signal.SIGHUP)
        until(lambda: running.pid() is None)
        if workers:
            assert running.process.wait(LIMIT_S) == 0
        running.flag.with_suffix(".go").touch()
        assert rest(client).endswith(b"0\r\n\r\n")
    running.process.wait(LIMIT_S)


def test_usr1_changes_the_workers_without_a_gap(service):
    running = service(2)
    before = running.pids()
    with running.connect() as client:
        begun(client)
        running.send(signal.SIGUSR1)
        assert running.notice() == b"RELOADING=1"
        assert running.notice() == b"READY=1"
        after = until(lambda: len(pids := running.pids() - before) == 2 and pids)
        assert not after & before
        running.flag.with_suffix(".go").touch()
        assert rest(client).endswith(b"0\r\n\r\n")
    until(lambda: not any(is_alive(pid) for pid in before))
    assert running.process.poll() is None
    running.send(signal.SIGTERM)
    assert running.process.wait(LIMIT_S) == 0


def test_a_server_alone_finishes_its_requests_and_runs_anew(service):
    running = service(0)
    program = Path(f"/proc/{running.process.pid}/stat").read_text().split()[21]
    with running.connect() as client, running.connect() as queued:
        begun(client)

        running.send(signal.SIGUSR1)

        assert running.notice() == b"RELOADING=1"
        # This one is kept by the socket, while nobody accepts.
        queued_later = running.connect()
        queued_later.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        running.flag.with_suffix(".go").touch()
        assert rest(client).endswith(b"0\r\n\r\n")
        assert running.notice() == b"READY=1"
        with queued_later:
            assert rest(queued_later).endswith(str(running.process.pid).encode())
        queued.close()
    # One process went on all the time.
    assert program == Path(f"/proc/{running.process.pid}/stat").read_text().split()[21]
    running.send(signal.SIGUSR1)
    assert [running.notice(), running.notice()] == [b"RELOADING=1", b"READY=1"]
    assert running.pid() == running.process.pid
    running.send(signal.SIGTERM)
    assert running.process.wait(LIMIT_S) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_usr1_changes_nothing_while_the_program_would_not_start(service, workers):
    running = service(workers)
    before = until(lambda: len(pids := running.pids()) == max(1, workers) and pids)
    bad = running.flag.with_suffix(".bad")
    bad.write_text("server.conf: [DEFAULT] workers: bad")

    running.send(signal.SIGUSR1)

    told = running.process.stderr.readline()
    while b"not reloading" not in told:
        told = running.process.stderr.readline()
    assert b"server.conf: [DEFAULT] workers: bad" in told
    assert running.pids() <= before

    bad.unlink()
    running.send(signal.SIGUSR1)
    assert [running.notice(), running.notice()] == [b"RELOADING=1", b"READY=1"]


def test_an_app_that_cannot_be_loaded_ends_the_start(tmp_path):
    (tmp_path / "flag").touch()
    failing = Service(tmp_path, 2)
    try:
        assert failing.process.wait(LIMIT_S) == 1
        assert b"failed" in failing.process.stderr.read()
    finally:
        failing.end()
