# SPDX-License-Identifier: Apache-2.0
"""H, the yardstick: stock eventlet.wsgi answering 4 KiB from memory."""

from __future__ import annotations

import sys

import eventlet
from eventlet import wsgi

BODY = b"y" * 4096


def app(environ, start_response):
    start_response(
        "200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))]
    )
    return [BODY]


if __name__ == "__main__":
    listener = eventlet.listen(("127.0.0.1", int(sys.argv[1])))
    wsgi.server(listener, app, log_output=False)
