# SPDX-License-Identifier: Apache-2.0
"""A peer that says what a test wants, whatever it is asked."""

from __future__ import annotations

import socket
import threading


class Replay:
    """A server that gives prepared answers and keeps what it was asked."""

    def __init__(self, answers):
        self._answers = answers
        self.requests = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        answers = iter(self._answers)
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                while request := self._read(peer):
                    self.requests.append(request)
                    answer = next(answers, None)
                    if answer is None:
                        return
                    peer.sendall(answer)

    @staticmethod
    def _read(peer):
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := peer.recv(65536)):
                return b""
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        while len(body) < length:
            body += peer.recv(65536)
        return head + b"\r\n\r\n" + body

    def close(self):
        # accept() in another thread is woken by a shutdown, not by a close.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
