# SPDX-License-Identifier: Apache-2.0
"""A small HTTP client that sends exactly what a test asks for."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit


@dataclass
class Answer:
    """Status, headers with lower-case names, and the whole body."""

    status: int
    headers: dict[str, str]
    body: bytes
    reason: str = ""
    all_headers: list[tuple[str, str]] = field(default_factory=list)

    def json(self) -> Any:
        """The body read as JSON."""
        return json.loads(self.body)

    @property
    def lines(self) -> list[str]:
        """The body as lines of text."""
        return self.body.decode().splitlines()


class Client:
    """One account's user; a connection for each request, so that tests do not mix."""

    def __init__(self, host: str, port: int, base: str, token: str | None) -> None:
        self.host, self.port, self.base, self.token = host, port, base, token

    @classmethod
    def authenticated(cls, auth_url: str, user: str, key: str) -> Client:
        """Fetch a token."""
        parts = urlsplit(auth_url)
        bare = cls(parts.hostname or "", parts.port or 80, "", None)
        got = bare.get(parts.path, {"X-Auth-User": user, "X-Auth-Key": key})
        assert got.status == 200, got
        base = urlsplit(got.headers["x-storage-url"]).path
        return cls(bare.host, bare.port, base, got.headers["x-auth-token"])

    def anonymous(self) -> Client:
        """The same place without a token."""
        return Client(self.host, self.port, self.base, None)

    def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: Any = None,
        *,
        chunked: bool = False,
    ) -> Answer:
        """Send one request; `path` is already percent-encoded."""
        wanted = dict(headers or {})
        if self.token and "X-Auth-Token" not in wanted:
            wanted["X-Auth-Token"] = self.token
        if method in ("PUT", "POST") and body is None and not chunked:
            wanted.setdefault("Content-Length", "0")
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(method, path, body, wanted, encode_chunked=chunked)
            got = connection.getresponse()
            found = {name.lower(): value for name, value in got.getheaders()}
            return Answer(got.status, found, got.read(), got.reason, got.getheaders())
        finally:
            connection.close()

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        """GET."""
        return self.request("GET", path, headers)

    def head(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        """HEAD."""
        return self.request("HEAD", path, headers)

    def put(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """PUT."""
        return self.request("PUT", path, headers, body)

    def post(
        self, path: str, headers: dict[str, str] | None = None, body: Any = None
    ) -> Answer:
        """POST."""
        return self.request("POST", path, headers, body)

    def delete(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        """DELETE."""
        return self.request("DELETE", path, headers)

    def remove_container(self, path: str) -> None:
        """Delete the objects of a container and the container itself."""
        while True:
            got = self.get(f"{path}?format=json&limit=1000")
            rows = got.json() if got.status == 200 else []
            if not rows:
                break
            for row in rows:
                self.delete(f"{path}/{quote(row['name'])}")
        self.delete(path)

    def raw(
        self, data: bytes, *, limit: int = 1 << 20, half_close: bool = True
    ) -> bytes:
        """Send bytes as they are; return all that comes until the server closes."""
        with socket.create_connection((self.host, self.port), timeout=60) as peer:
            peer.sendall(data)
            if half_close:
                peer.shutdown(socket.SHUT_WR)
            received = b""
            while len(received) < limit:
                part = peer.recv(65536)
                if not part:
                    break
                received += part
            return received
