# SPDX-License-Identifier: Apache-2.0
"""Clients that do not finish what they began."""

from __future__ import annotations

from swift.core.errors import ClientDisconnect, ClientTimeout
from swift.runtime import green
from swift.wire import environ as env


class LeavingClient:
    """In the place of a request's body: it breaks off, after a while for the slow.

    body: what the client meant to send.
    """

    def __init__(self, rng, body):
        self.body = body
        self._left = rng.randrange(len(body) + 1)
        self._sent = 0
        self._piece = rng.choice((100, 3000, 70_000))
        self._pause_s = rng.choice((0.0, 0.0, 0.2, 3.0))
        self._reason = rng.choice((ClientDisconnect, ClientTimeout))
        self._is_chunked = rng.random() < 0.5

    def attach(self, environ):
        """Be the body of a request."""
        environ[env.WSGI_INPUT] = self
        if self._is_chunked:
            del environ[env.CONTENT_LENGTH]
            environ[env.HTTP_TRANSFER_ENCODING] = "chunked"

    def read(self, size=-1):
        """Some bytes; raises what a connection does that breaks off. Yields."""
        if self._pause_s:
            green.sleep(self._pause_s)
        if not self._left:
            raise self._reason("the client is gone")
        size = min(self._left, self._piece, size if size > 0 else self._left)
        data = self.body[self._sent : self._sent + size]
        self._sent += size
        self._left -= size
        return data
