# SPDX-License-Identifier: Apache-2.0
"""Multi-phase PUTs captured from OpenStack Swift's proxy are taken byte for byte."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from swift.runtime import green
from test.support.node import DEVICE, LOCALHOST, Node

GOLDEN = Path(__file__).parent / "golden" / "wire"


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path)
    yield made
    made.close()


def captured_puts(name):
    """The events of PUTs to object servers, device renamed, without container."""
    scenario = json.loads((GOLDEN / f"{name}.json").read_text())
    for connection in scenario["connections"]:
        first = connection["events"][0]["bytes_latin1"]
        if connection["server"].endswith(":6200") and first.startswith("PUT "):
            events = []
            for event in connection["events"]:
                data = event["bytes_latin1"]
                data = re.sub(r"^PUT /d\d/", f"PUT /{DEVICE}/", data)
                data = re.sub(r"X-Container-Host: [^\r]*\r\n", "", data)
                data = re.sub(r"X-Container-Device: [^\r]*\r\n", "", data)
                events.append((event["from"], data.encode("latin-1")))
            yield events


def receive(sock, size):
    """Exactly `size` bytes."""
    data = b""
    while len(data) < size:
        assert green.wait_readable(sock, 5), data
        piece = sock.recv(size - len(data))
        assert piece, data
        data += piece
    return data


def head(sock):
    """The head of an answer: its first line and its headers, but for Date."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += receive(sock, 1)
    lines = data.decode("latin-1").split("\r\n")
    return lines[0], {line for line in lines[1:] if line and line[:5] != "Date:"}


@pytest.mark.parametrize("name", ["object-put-footers", "object-put-ec"])
def test_captured_puts_are_answered_alike(node, name):
    count = 0
    for events in captured_puts(name):
        with socket.create_connection((LOCALHOST, node.ports["object"])) as sock:
            sock.setblocking(False)
            for side, data in events:
                if side == "client":
                    sock.sendall(data)
                    continue
                for block in data.split(b"\r\n\r\n")[:-1]:
                    expected = block.decode("latin-1").split("\r\n")
                    first, headers = head(sock)
                    assert first == expected[0]
                    wanted = {line for line in expected[1:] if line[:5] != "Date:"}
                    assert headers == wanted
        count += 1
        # The next capture is of the same object on another node.
        for path in node.device.rglob("*.data"):
            path.unlink()
    assert count >= 3
