# SPDX-License-Identifier: Apache-2.0
"""proxy_logging: what the line says, once a request; what is counted."""

from __future__ import annotations

import io
import re
import socket

import pytest
from filter_pipeline import Bench, found

from swift.core.errors import ConfigError
from swift.middleware import proxy_logging
from swift.runtime.access_lines import PROXY_LOG_FORMAT
from swift.runtime.metrics import StatsdConfig, StatsdMetrics
from swift.wire import environ as env
from swift.wire.environ import blank, sub_environ
from swift.wire.request import Response, call

DEFAULT = re.findall(r"\{([\w.]+)\}", PROXY_LOG_FORMAT)


class Logged(Bench):
    def __init__(self, **options):
        super().__init__("proxy_logging", **options)
        self.end.answers["*"] = lambda environ: found(b"body", Content_Length="4")

    def go(self, method="GET", path="/v1/a/c/o", headers=(), **extra):
        extra.setdefault("REMOTE_ADDR", "10.0.0.1")
        response = self.ask(method, path, headers, **extra)
        _ = response.body
        response.close()
        return response

    @property
    def fields(self) -> dict[str, str]:
        return dict(zip(DEFAULT, self.log_lines[-1].split(" "), strict=True))


class Chunks:
    def __init__(self, *chunks, error=None):
        self.left = list(chunks)
        self.error = error
        self.closed = False

    def __iter__(self):
        return self

    def __next__(self):
        if self.left:
            return self.left.pop(0)
        if self.error:
            raise self.error
        raise StopIteration

    def close(self):
        self.closed = True


def test_the_usual_line():
    bench = Logged()
    headers = {
        "User-Agent": "curl/8 x",
        "Referer": "http://r/",
        "X-Auth-Token": "AUTH_tk0123456789abcdef0123456789abcdef",
        "ETag": "e",
    }
    extra = {env.TRANS_ID: "tx1", env.AUTH_ACCESS_USER_ID: "t:u"}
    extra[env.LOG_INFO] = ["cs:valid", "b"]
    bench.go("GET", "/v1/a/c/o%20%C3%A9?x=1", headers, **extra)
    fields = bench.fields
    assert len(bench.log_lines) == 1
    assert fields["client_ip"] == fields["remote_addr"] == "10.0.0.1"
    assert re.fullmatch(
        r"\d\d/[A-Z][a-z]{2}/\d{4}/\d\d/\d\d/\d\d", fields["end_time.datetime"]
    )
    assert fields["path"] == "/v1/a/c/o%20%C3%A9%3Fx%3D1"
    assert fields["status_int"] == "200"
    assert fields["user_agent"] == "curl/8%20x"
    assert fields["referer"] == "http://r/"
    assert fields["auth_token"] == "AUTH_tk012345678..."
    assert fields["bytes_recvd"] == "-"
    assert fields["bytes_sent"] == "4"
    assert fields["client_etag"] == "e"
    assert fields["transaction_id"] == "tx1"
    assert re.fullmatch(r"\d+\.\d{4}", fields["request_time"])
    assert fields["log_info"] == "cs:valid%2Cb"
    assert re.fullmatch(r"\d+\.\d{9}", fields["start_time"])
    assert fields["access_user_id"] == "t:u"
    assert fields["source"] == "-"


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({}, "10.0.0.1"),
        ({"X-Forwarded-For": "1.1.1.1, 2.2.2.2"}, "1.1.1.1"),
        ({"X-Forwarded-For": "1.1.1.1", "X-Cluster-Client-Ip": "3.3.3.3"}, "3.3.3.3"),
    ],
)
def test_the_clients_address(headers, client):
    bench = Logged()
    bench.go(headers=headers)
    assert bench.fields["client_ip"] == client
    assert bench.fields["remote_addr"] == "10.0.0.1"


@pytest.mark.parametrize(
    "query",
    [
        "temp_url_sig=0123456789abcdef0123456789abcdef&x=1",
        "x=1&X-Amz-Signature=0123456789abcdef0123456789abcdef",
        "Signature=0123456789abcdef0123456789abcdef",
    ],
)
def test_signatures_in_the_query_are_cut(query):
    bench = Logged()
    bench.go(path=f"/v1/a/c/o?{query}")
    assert "0123456789abcdef..." in bench.fields["path"]
    assert "0123456789abcdef0" not in bench.fields["path"]


def test_a_short_secret_is_not_shown_whole():
    bench = Logged()
    bench.go(headers={"X-Auth-Token": "secret"})
    assert bench.fields["auth_token"] == "sec..."


def test_two_instances_log_a_request_once():
    bench = Bench("proxy_logging", "proxy_logging")
    bench.ask("GET", "/v1/a/c/o")
    assert len(bench.log_lines) == 1


def test_requests_made_between_the_instances_are_logged_with_their_source():
    bench = Logged()
    parent = blank("/v1/a/c/o")
    parent[env.ACCESS_LOG_MADE] = True
    call(bench.app, sub_environ(parent, "HEAD", "/v1/a/c", source="SSC")).close()
    assert bench.fields["source"] == "SSC"
    assert bench.fields["method"] == "HEAD"


def test_the_bodys_bytes_are_counted_both_ways():
    bench = Logged()
    body = Chunks(b"abc", b"de")

    def answer(environ):
        environ["wsgi.input"].read(3)
        environ["wsgi.input"].read_some(2)
        environ["wsgi.input"].readline()
        return Response(200, {"Content-Length": "5"}, app_iter=body)

    bench.end.answers["*"] = answer
    bench.go("POST", **{"wsgi.input": io.BytesIO(b"12345678")})
    assert (bench.fields["bytes_recvd"], bench.fields["bytes_sent"]) == ("8", "5")
    assert body.closed


def test_a_client_that_leaves_in_the_middle_is_a_499():
    bench = Logged(log_msg_template="{status_int} {wire_status_int} {bytes_sent}")
    body = Chunks(b"abc", b"de")
    bench.end.answers["*"] = Response(200, {"Content-Length": "5"}, app_iter=body)
    response = bench.ask("GET", "/v1/a/c/o")
    assert next(iter(response.app_iter)) == b"abc"
    response.close()
    response.close()
    assert bench.log_lines == ["499 200 3"]
    assert body.closed


def test_a_body_that_was_taken_whole_but_not_to_the_end_is_no_499():
    bench = Logged(log_msg_template="{status_int} {bytes_sent}")
    body = Chunks(b"abc")
    bench.end.answers["*"] = Response(200, {"Content-Length": "3"}, app_iter=body)
    response = bench.ask("GET", "/v1/a/c/o")
    next(iter(response.app_iter))
    response.close()
    assert bench.log_lines == ["200 3"]


def test_an_answer_that_breaks_is_a_500():
    bench = Logged(log_msg_template="{status_int} {bytes_sent}")
    body = Chunks(b"abc", error=OSError("gone"))
    bench.end.answers["*"] = Response(200, {"Content-Length": "5"}, app_iter=body)
    response = bench.ask("GET", "/v1/a/c/o")
    with pytest.raises(OSError, match="gone"):
        _ = response.body
    assert bench.log_lines == ["500 3"]


def test_an_app_that_raises_is_a_500_and_raises_on():
    bench = Logged(log_msg_template="{status_int}")

    def answer(environ):
        raise ZeroDivisionError

    bench.end.answers["*"] = answer
    with pytest.raises(ZeroDivisionError):
        bench.ask("GET", "/v1/a/c/o")
    assert bench.log_lines == ["500"]


class Spliced(Chunks):
    unread_length = 7

    def take_buffered(self):
        return b"abc"

    def spliceable(self):
        return None

    def await_bytes(self, count):
        return count == 7

    def skipped(self, count):
        self.skipped_count = count


def test_a_body_that_moves_in_the_kernel_is_counted_too():
    bench = Logged(log_msg_template="{status_int} {bytes_sent}")
    body = Spliced()
    bench.end.answers["*"] = Response(200, {"Content-Length": "10"}, app_iter=body)
    taken = bench.ask("GET", "/v1/a/c/o").app_iter
    assert taken.unread_length == 7
    assert taken.take_buffered() == b"abc"
    assert taken.await_bytes(7)
    taken.skipped(7)
    taken.close()
    assert body.skipped_count == 7
    assert bench.log_lines == ["200 10"]


def test_headers_are_logged_when_asked_for():
    bench = Logged(
        log_msg_template="{headers}",
        access_log_headers="yes",
        access_log_headers_only="x-foo,x-auth-token",
    )
    bench.go(headers={"X-Foo": "1", "X-Bar": "2", "X-Auth-Token": "0123456789"})
    assert bench.log_lines == ["X-Foo:%201%0AX-Auth-Token:%2001234..."]


def test_a_template_of_ones_own():
    bench = Logged(
        log_msg_template="{account}|{container}|{object}|{domain}|{path.anonymized}",
        storage_domain="example.com",
    )
    bench.go(path="/v1/a/c/o", headers={"Host": "c.a.example.com:80"})
    start, _, digest = bench.log_lines[0].rpartition("|")
    assert start == "a|c|o|c.a.example.com"
    assert re.fullmatch(r"\{MD5\}[0-9a-f]{32}", digest)


def test_the_policy_comes_from_the_answer():
    bench = Logged(log_msg_template="{policy_index}")
    bench.end.answers["*"] = lambda e: found(X_Backend_Storage_Policy_Index="3")
    bench.go()
    assert bench.log_lines == ["3"]


@pytest.mark.parametrize(
    "options",
    [{"log_msg_template": "{nonsense}"}, {"log_anonymization_method": "rot13"}],
)
def test_a_bad_template_refuses_to_start(options):
    with pytest.raises(ConfigError):
        Logged(**options)


def test_access_lines_can_go_to_a_log_of_their_own(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "log"))
        sock.settimeout(5)
        bench = Logged(
            access_log_name="access",
            access_log_facility="LOG_LOCAL1",
            access_log_address=str(tmp_path / "log"),
            log_msg_template="{method} {status_int}",
        )
        bench.go()
        assert sock.recv(1000) == b"<142>access: GET 200"
    assert bench.log_lines == []


# --- Metrics --------------------------------------------------------------------------


class Sender:
    def __init__(self):
        self.lines = []

    def send(self, line):
        self.lines.append(line)


def measured(bench: Bench, labelled: bool = False) -> Sender:
    sender = Sender()
    config = StatsdConfig(
        host="x",
        emit_legacy=not labelled,
        label_mode="graphite" if labelled else "disabled",
    )
    metrics = StatsdMetrics(config, "proxy-server", sender)
    context = bench.context
    context.process._metrics[context.process.log_name] = metrics
    bench.app = proxy_logging.filter_factory(context)(bench.end)
    return sender


@pytest.mark.parametrize(
    ("method", "path", "extra", "name"),
    [
        ("GET", "/v1/a/c/o", {}, "object.GET.200"),
        ("PUT", "/v1/a/c", {}, "container.PUT.200"),
        ("HEAD", "/v1/a", {}, "account.HEAD.200"),
        ("GET", "/info", {}, "UNKNOWN.GET.200"),
        ("BREW", "/v1/a", {}, "account.BAD_METHOD.200"),
        ("GET", "/v1/a", {env.SOURCE: "SLO"}, "SLO.GET.200"),
    ],
)
def test_metric_names(method, path, extra, name):
    bench = Logged()
    sender = measured(bench)
    bench.go(method, path, **extra)
    names = [line.partition(":")[0] for line in sender.lines]
    expected = [f"proxy-server.{name}.timing"]
    if method == "GET":
        expected.append(f"proxy-server.{name}.first-byte.timing")
    assert names == [*expected, f"proxy-server.{name}.xfer"]


def test_objects_are_counted_by_policy_too():
    bench = Logged()
    bench.end.answers["*"] = lambda e: found(b"12", X_Backend_Storage_Policy_Index="1")
    sender = measured(bench)
    bench.go("POST")
    assert "proxy-server.object.policy.1.POST.200.xfer:2|c" in sender.lines


def test_labelled_metrics():
    bench = Logged()
    sender = measured(bench, labelled=True)
    bench.go("HEAD", "/v1/a/c")
    names = [line.partition(";")[0] for line in sender.lines]
    assert names == [
        "swift_proxy_server_request_timing",
        "swift_proxy_server_request_body_bytes",
        "swift_proxy_server_response_body_bytes",
    ]
    assert ";account=a;api=swift;container=c;method=HEAD" in sender.lines[0]
