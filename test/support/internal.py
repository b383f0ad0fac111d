# SPDX-License-Identifier: Apache-2.0
"""A proxy application in memory, for daemons that call an internal client."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, unquote

from swift.core.headers import Headers
from swift.runtime import green
from swift.wire import environ as env
from swift.wire.internal_client import InternalClient
from swift.wire.request import Response


class FakeProxy:
    """Accounts and containers as listings, objects as planted answers.

    rows: `/account[/container]` → rows of its listing, by name. answers: (method, path)
    → Response, status, or a function of the headers. requests: (method, path, headers).
    """

    PAGE = 3

    def __init__(self):
        self.rows = {}
        self.answers = {}
        self.requests = []

    def client(self, **options):
        """An internal client that calls this."""
        return InternalClient(self, user_agent="tester 1", tries=1, **options)

    def list(self, path, names, **more):
        """Let a container or account list some names."""
        rows = self.rows.setdefault(path, {})
        for name in names:
            rows[name] = {"name": name, **more}

    def of(self, method):
        """(path, headers) of the requests of one method."""
        return [(path, sent) for kind, path, sent in self.requests if kind == method]

    def __call__(self, environ, start_response):
        raw = environ[env.PATH_INFO].encode("latin-1").decode()
        path = raw.removeprefix("/v1")
        method = environ[env.REQUEST_METHOD]
        headers = env.headers_of(environ)
        query = parse_qs(environ[env.QUERY_STRING])
        self.requests.append((method, path, headers))
        green.yield_now()
        answer = self.answers.get((method, path))
        if callable(answer) and not isinstance(answer, Response):
            answer = answer(headers, environ[env.WSGI_INPUT].read())
        if answer is None and path in self.rows and method == "GET":
            answer = self._listing(path, query)
        if answer is None:
            answer = 404 if method in ("GET", "HEAD") else 204
        if isinstance(answer, int):
            answer = Response(answer, body=b"")
        return answer(environ, start_response)

    def _listing(self, path, query):
        marker = unquote(query.get("marker", [""])[0])
        backwards = "reverse" in query
        names = sorted(self.rows[path], reverse=backwards)
        if marker:
            names = [n for n in names if (n < marker if backwards else n > marker)]
        page = [self.rows[path][name] for name in names[: self.PAGE]]
        return Response(200, Headers(), json.dumps(page))
