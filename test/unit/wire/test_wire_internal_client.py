# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from swift.core.errors import ConfigError, Unavailable
from swift.core.names import AccountName, ContainerName, ObjectName
from swift.runtime import green
from swift.runtime.logs import NULL_LOG
from swift.wire import environ as env
from swift.wire.internal_client import (
    InternalClient,
    UnexpectedAnswer,
    load_internal_client,
)
from swift.wire.request import Response
from test.support.nodes import make_cluster


class App:
    """Answers in order, the last one for ever; keeps the requests."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.seen = []

    def __call__(self, environ, start_response):
        self.seen.append(environ)
        answer = self.answers[0]
        if len(self.answers) > 1:
            self.answers.pop(0)
        return answer(environ, start_response)


@pytest.fixture
def clock():
    clock = green.JumpingClock()
    green.install(clock)
    yield clock
    green.install(None)


def client_of(*answers, **options):
    app = App(*answers)
    return app, InternalClient(app, user_agent="tester 1", **options)


def test_a_call_says_who_calls_and_what_for():
    app, client = client_of(Response(204, body=b""))

    client.delete_object(ObjectName("a", "c", "o\u00fc"), {"X-Timestamp": "1"})

    seen = app.seen[0]
    assert seen[env.PATH_INFO] == "/v1/a/c/o\u00c3\u00bc"
    assert seen[env.HTTP_USER_AGENT] == "tester 1"
    assert seen["HTTP_X_TIMESTAMP"] == "1"
    assert seen["HTTP_X_BACKEND_USE_REPLICATION_NETWORK"] == "true"


def test_errors_of_servers_are_tried_again_with_growing_pauses(clock):
    app, client = client_of(Response(503), Response(500), Response(204, body=b""))

    client.delete_object(ObjectName("a", "c", "o"))

    assert len(app.seen) == 3
    assert clock.monotonic() == 1003.0


def test_what_stays_unexpected_is_raised(clock):
    app, client = client_of(Response(503), tries=2)
    with pytest.raises(UnexpectedAnswer) as caught:
        client.head(AccountName("a"))
    assert (caught.value.status, len(app.seen)) == (503, 2)


def test_errors_of_ours_are_not_tried_again():
    app, client = client_of(Response(412))
    with pytest.raises(UnexpectedAnswer) as caught:
        client.delete_object(ObjectName("a", "c", "o"))
    assert (caught.value.status, len(app.seen)) == (412, 1)


def test_listings_are_read_page_by_page():
    pages = [
        Response(200, body=json.dumps([{"name": "a"}, {"name": "b"}])),
        Response(200, body=json.dumps([{"name": "c"}])),
        Response(200, body="[]"),
    ]
    app, client = client_of(*pages)

    rows = list(client.objects(ContainerName("a", "c"), prefix="x"))

    assert [row["name"] for row in rows] == ["a", "b", "c"]
    queries = [seen[env.QUERY_STRING] for seen in app.seen]
    assert queries == [
        "prefix=x&format=json&marker=",
        "prefix=x&format=json&marker=b",
        "prefix=x&format=json&marker=c",
    ]


@pytest.mark.parametrize("answer", [Response(404), Response(204, body=b"")])
def test_nothing_there_is_an_empty_listing(answer):
    _, client = client_of(answer)
    assert list(client.containers(AccountName("a"))) == []


@pytest.mark.parametrize("body", ["{", "{}", "[1]"])
def test_a_listing_of_wrong_shape_is_refused(body):
    _, client = client_of(Response(200, body=body))
    with pytest.raises(Unavailable):
        list(client.containers(AccountName("a")))


def test_a_listing_that_does_not_move_on_ends():
    app, client = client_of(Response(200, body=json.dumps([{"name": "a"}])))
    rows = list(client.objects(ContainerName("a", "c")))
    assert len(rows) == 2
    assert len(app.seen) == 2


def test_the_built_in_pipeline_stands_in_for_a_missing_file():
    client = load_internal_client(
        None, cluster=make_cluster(), log=NULL_LOG, user_agent="tester 1"
    )

    answer = client.settle("NONSENSE", AccountName("a"), accept=(405,))

    assert "X-Trans-Id" in answer.headers


def test_a_named_file_must_be_there(tmp_path):
    with pytest.raises(ConfigError):
        load_internal_client(
            str(tmp_path / "none.conf"),
            cluster=make_cluster(),
            log=NULL_LOG,
            user_agent="tester 1",
        )
