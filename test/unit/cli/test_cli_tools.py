# SPDX-License-Identifier: Apache-2.0
"""swift-form-signature and swift-container-deleter."""

from __future__ import annotations

import json

import pytest

from swift.cli import tools
from swift.cli.tools import container_deleter, form_signature, mark_for_deletion
from swift.core.expiry_queue import parse_task
from swift.core.names import ContainerName, ObjectName
from swift.core.signing import form_message, mac
from swift.core.timestamp import Timestamp
from swift.wire.internal_client import UnexpectedAnswer
from test.support.internal import FakeProxy

WORDS = ["/v1/AUTH_a/c/p_", "https://x/?a=1&b=2", "100", "2", "60", "kéy"]


def test_a_form_is_printed_with_its_signature(capsys):
    assert form_signature(WORDS) == 0
    lines = capsys.readouterr().out.splitlines()
    expires = lines[0].removeprefix("  Expires: ")
    message = form_message(
        b"/v1/AUTH_a/c/p_",
        redirect=b"https://x/?a=1&b=2",
        max_file_size=b"100",
        max_file_count=b"2",
        expires=expires.encode(),
    )
    signature = mac("sha1", "kéy", message).hex()
    assert lines[1:3] == [f"Signature: {signature}", ""]
    form = "\n".join(lines[3:])
    assert f'name="signature" value="{signature}"' in form
    assert 'value="https://x/?a=1&amp;b=2"' in form
    assert form.count('type="file"') == 2


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, "/v1/AUTH_a"), (0, "/v2/a/c"), (0, "a/c"), (2, "-1"), (2, "x"), (3, "0"),
     (4, "0"), (4, "1.5")],
)  # fmt: skip
def test_bad_words_are_explained(capsys, place, value):
    words = [*WORDS[:place], value, *WORDS[place + 1 :]]
    assert form_signature(words) == 1
    assert "Signature" not in capsys.readouterr().out
    assert form_signature(WORDS[:5]) == 1
    assert capsys.readouterr().out.startswith("Syntax: ")


def test_every_object_is_queued_in_batches(monkeypatch):
    monkeypatch.setattr(tools, "BATCH_ROWS", 4)
    monkeypatch.setattr(tools, "PROGRESS_S", 0.0)
    proxy, bodies, lines = FakeProxy(), [], []
    names = [f"o{i}" for i in range(6)] + ["ü/x"]
    proxy.list("/a/c", names)
    stamp = Timestamp.parse("1700000000.00000")

    def take(headers, body):
        assert headers["X-Backend-Allow-Private-Methods"] == "True"
        assert headers["X-Timestamp"] == stamp.internal
        bodies.append(json.loads(body))
        return 202

    proxy.answers["UPDATE", "/.expiring_objects/1700000000"] = take
    marked = mark_for_deletion(
        proxy.client(), ContainerName("a", "c"), stamp, query={}, progress=lines.append
    )
    assert marked == 7
    assert [len(body) for body in bodies] == [4, 3]
    tasks = [
        parse_task("1700000000", row["name"], row["content_type"])
        for body in bodies
        for row in body
    ]
    assert [task.target for task in tasks] == [
        ObjectName("a", "c", name) for name in names
    ]
    assert all(task.is_async and task.when == stamp for task in tasks)
    assert lines[0] == "Marked 4 objects for deletion, through 'o3'"


def test_an_empty_or_missing_container_marks_nothing():
    for path in ("/a/c", "/a/none"):
        proxy = FakeProxy()
        proxy.list("/a/c", [])
        name = ContainerName(*path.strip("/").split("/"))
        client = proxy.client()
        stamp = Timestamp.parse("1")
        assert mark_for_deletion(client, name, stamp, query={}, progress=print) == 0
        assert not proxy.of("UPDATE")


def test_a_queue_that_refuses_is_an_error():
    proxy = FakeProxy()
    proxy.list("/a/c", ["o"])
    proxy.answers["UPDATE", "/.expiring_objects/1"] = 503
    with pytest.raises(UnexpectedAnswer):
        mark_for_deletion(
            proxy.client(),
            ContainerName("a", "c"),
            Timestamp.parse("1"),
            query={},
            progress=print,
        )


def test_a_missing_configuration_is_told(capsys):
    assert container_deleter(["--config", "/nowhere/x.conf", "a", "c"]) == 1
    assert "/nowhere/x.conf" in capsys.readouterr().err
    assert container_deleter(["--timestamp", "soon", "a", "c"]) == 1
    with pytest.raises(SystemExit) as stop:
        container_deleter(["a"])
    assert stop.value.code == 2
