# SPDX-License-Identifier: Apache-2.0
"""Servers in one process: sockets, connections, bodies, stopping."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess

import pytest

from swift.core.errors import ConfigError
from swift.runtime import green
from swift.wire.client import ConnectionPool, open_channel
from swift.wire.server import Server, ServerOptions, listen


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


class Elsewhere:
    """A body that goes on with bytes of its own when its source breaks off."""

    def __init__(self, response, rest):
        self._response = response
        self._rest = rest

    def __iter__(self):
        yield self._rest

    def __getattr__(self, name):
        return getattr(self._response, name)

    @property
    def unread_length(self):
        return self._response.unread_length

    def take_buffered(self):
        return self._response.take_buffered()

    def spliceable(self):
        return self._response.spliceable()

    def await_bytes(self, count):
        return self._response.await_bytes(count)

    def skipped(self, count):
        self._response.skipped(count)

    def close(self):
        self._response.close()


@pytest.mark.parametrize("silent", [False, True])
def test_a_spliced_body_may_go_on_from_elsewhere(silent):
    gone = green.Event()

    def origin(environ, start_response):
        start_response("200 OK", [("Content-Length", "1000000")])
        yield b"x" * 500_000
        if silent:
            gone.wait(60)

    behind = serving(origin)
    pool = ConnectionPool()

    def proxy(environ, start_response):
        start_response("200 OK", [("Content-Length", "1000000")])
        response = ask(pool, behind.port)
        response.timeout_s = 0.3
        return Elsewhere(response, b"y" * 500_000)

    front = serving(proxy)
    front_pool = ConnectionPool()
    body = ask(front_pool, front.port).read()
    gone.set()
    # What had come of the first source may have been cut off with it; here all has.
    assert body == b"x" * 500_000 + b"y" * 500_000
    front_pool.close()
    pool.close()
    front.close()
    behind.close()


def test_a_source_that_sends_little_at_a_time_is_not_held_back():
    go_on = green.Event()

    def origin(environ, start_response):
        start_response("200 OK", [("Content-Length", "300000")])
        yield b"a" * 100_000
        go_on.wait(60)
        yield b"b" * 200_000

    behind = serving(origin)
    pool = ConnectionPool()

    def proxy(environ, start_response):
        start_response("200 OK", [("Content-Length", "300000")])
        return ask(pool, behind.port)

    front = serving(proxy)
    front_pool = ConnectionPool()
    response = ask(front_pool, front.port)
    assert response.read(100_000) == b"a" * 100_000
    go_on.set()
    assert response.read() == b"b" * 200_000
    # The connection wakes its reader for a short answer again.
    assert pool.idle_count() == 1
    assert ask(pool, behind.port).read(100_000) == b"a" * 100_000
    front_pool.close()
    pool.close()
    front.close()
    behind.close()


def test_stopping_finishes_what_is_in_flight_and_closes_what_is_idle():
    begun = green.Event()
    go_on = green.Event()

    def slow(environ, start_response):
        begun.set()
        go_on.wait(60)
        return app(environ, start_response)

    server = serving(slow)
    idle = open_channel("127.0.0.1", server.port, 5)
    pool = ConnectionPool()
    thread = green.spawn(ask, pool, server.port)
    begun.wait(60)
    server.stop()
    assert idle.recv(1, 5) == b""
    with pytest.raises(TimeoutError):
        server.wait(0.02)
    go_on.set()
    response = thread.wait(60)
    assert response.read() == b"/x"
    assert response.headers["Connection"] == "close"
    server.wait(60)
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
