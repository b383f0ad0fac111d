# SPDX-License-Identifier: Apache-2.0
"""Log lines, the syslog door, and the templates of access lines."""

import hashlib
import logging
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.errors import ConfigError
from swift.runtime import green
from swift.runtime.logs import (
    DEBUG,
    ERROR,
    INFO,
    NOTICE,
    PROXY_FIELDS,
    Anonymizer,
    LineTemplate,
    ListSink,
    Logger,
    SyslogSink,
    bridge_stdlib,
    cut_middle,
    get_logger,
)

END = 1795334174.77594  # 22 November 2026, 07:56:14 UTC


def logger(level: int = INFO, max_length: int = 0) -> tuple[Logger, ListSink]:
    sink = ListSink()
    return Logger("test", [sink], level=level, max_length=max_length), sink


def test_lines_below_the_level_are_not_written() -> None:
    log, sink = logger(level=NOTICE)

    log.debug("a")
    log.info("b")
    log.notice("c %s", 1)
    log.error("d")

    assert sink.lines == [(NOTICE, "c 1"), (ERROR, "d")]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param("x", "x (txn: tx1) (client_ip: 1.2.3.4)", id="both are added"),
        pytest.param(
            "tx1 by 1.2.3.4", "tx1 by 1.2.3.4", id="what is there is not repeated"
        ),
    ],
)
def test_transaction_and_client_are_appended(message: str, expected: str) -> None:
    log, sink = logger()

    log.info(message, txn="tx1", client_ip="1.2.3.4")

    assert sink.lines == [(INFO, expected)]


def test_a_newline_becomes_an_escape() -> None:
    log, sink = logger()

    log.info("a\nb")

    assert sink.lines == [(INFO, "a#012b")]


def test_an_exception_is_one_line_with_its_traceback() -> None:
    log, sink = logger()

    try:
        raise ValueError("why")
    except ValueError:
        log.exception("while %s", "testing")

    (level, line), *rest = sink.lines
    assert level == ERROR
    assert line.startswith("while testing: #012Traceback")
    assert line.endswith("ValueError: why")
    assert not rest


def test_arguments_that_do_not_fit_lose_no_line() -> None:
    log, sink = logger()

    log.info("only %s", 1, 2)

    assert sink.lines == [(INFO, "only %s (1, 2)")]


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        pytest.param(10, "abc ... yz", id="the middle goes"),
        pytest.param(11, "abc ... xyz", id="even parts"),
        pytest.param(5, "abcde", id="no room for a middle"),
    ],
)
def test_long_lines_are_cut_to_the_limit(length: int, expected: str) -> None:
    cut = cut_middle("abcdefghijklmnopqrstuvwxyz", length)

    assert cut == expected
    assert len(cut) == length


def test_syslog_gets_priority_name_and_message(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        conf = {"log_address": path, "log_facility": "LOG_LOCAL2", "log_name": "prox"}
        log = get_logger(conf, "proxy-server")

        log.notice("hello %s", "wörld")

        # LOCAL2 is 18, a notice 5 (RFC 5424 section 6.2.1).
        assert daemon.recv(1000) == f"<{18 * 8 + 5}>prox: hello wörld".encode()


def test_a_full_syslog_loses_lines_and_tells_how_many(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        sink = SyslogSink("s", 16, path)
        while not sink.dropped:
            sink.write(INFO, "x" * 1000)
        sink.write(INFO, "lost too")
        daemon.setblocking(False)
        received = 0
        try:
            while daemon.recv(2000):
                received += 1
        except BlockingIOError:
            pass

        sink.write(INFO, "again")

        assert received
        assert daemon.recv(2000).endswith(b"2 log lines were lost")
        assert daemon.recv(2000) == b"<134>s: again"


def test_a_syslog_daemon_that_is_away_is_asked_once_a_second(tmp_path: Path) -> None:
    clock = green.JumpingClock()
    green.install(clock)
    try:
        path = str(tmp_path / "log")
        daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        daemon.bind(path)
        sink = SyslogSink("s", 16, path)
        sink.write(INFO, "one")
        daemon.close()
        Path(path).unlink()
        sink.write(INFO, "lost")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as second:
            second.bind(path)
            sink.write(INFO, "too early")
            clock.sleep(1.1)

            sink.write(INFO, "two")

            assert second.recv(100).endswith(b"2 log lines were lost")
            assert second.recv(100).endswith(b"two")
    finally:
        green.install(None)


def test_no_syslog_at_all_is_no_error(tmp_path: Path) -> None:
    log = get_logger({"log_address": str(tmp_path / "none")}, "x")

    log.info("to nobody")


@pytest.mark.parametrize(
    ("option", "value"),
    [("log_level", "LOUD"), ("log_facility", "LOG_MINE"), ("log_udp_port", "x")],
)
def test_a_bad_log_option_is_refused_by_name(option: str, value: str) -> None:
    with pytest.raises(ConfigError, match=option):
        get_logger({option: value}, "x")


def add_handler(
    conf: dict[str, str],
    name: str,
    console: bool,
    route: str,
    form: str,
    logger: logging.Logger,
    adapted: logging.Logger,
) -> None:
    logger.addHandler(_Keeper(conf["kept_in"]))


class _Keeper(logging.Handler):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def emit(self, record: logging.LogRecord) -> None:
        Path(self.path).write_text(record.getMessage())


def test_custom_handlers_get_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    kept = tmp_path / "kept"
    conf = {
        "log_custom_handlers": f"{Path(__file__).stem}.add_handler",
        "kept_in": str(kept),
        "log_address": str(tmp_path / "none"),
    }

    get_logger(conf, "custom").error("seen %d", 5)

    assert kept.read_text() == "seen 5"


def test_warnings_of_libraries_come_through() -> None:
    log, sink = logger()
    root = logging.getLogger()
    before = list(root.handlers)
    try:
        bridge_stdlib(log)
        bridge_stdlib(log)
        logging.getLogger("lib").warning("odd %s", "thing")
    finally:
        root.handlers[:] = before

    assert sink.lines == [(30, "lib: odd thing")]


SERVER_VALUES = {
    "remote_addr": "10.0.0.1",
    "time": END,
    "method": "GET",
    "path": "/sda1/3/a/c/o",
    "status": 200,
    "content_length": 4096,
    "referer": "GET http://h/v1/a/c/o",
    "txn_id": "tx1",
    "user_agent": "proxy-server 12",
    "trans_time": 0.00123,
    "additional_info": "",
    "pid": 33,
    "policy_index": 0,
}


def test_the_server_line_is_that_of_the_contract() -> None:
    template = LineTemplate.for_server()

    assert template.render(SERVER_VALUES) == (
        '10.0.0.1 - - [22/Nov/2026:07:56:14 +0000] "GET /sda1/3/a/c/o" 200 4096 '
        '"GET http://h/v1/a/c/o" "tx1" "proxy-server 12" 0.0012 "-" 33 0'
    )


def test_the_proxy_line_is_quoted_and_blank_is_a_dash() -> None:
    template = LineTemplate.for_proxy()
    values = {
        "client_ip": "1.2.3.4",
        "remote_addr": "5.6.7.8",
        "end_time": END,
        "start_time": END - 1,
        "method": "GET",
        "path": "/v1/a/c/o?x=1",
        "protocol": "HTTP/1.0",
        "status_int": 200,
        "user_agent": "a b\nc",
        "referer": "",
        "bytes_sent": 0,
        "request_time": "1.0000",
    }

    assert template.render(values) == (
        "1.2.3.4 5.6.7.8 22/Nov/2026/07/56/14 GET /v1/a/c/o%3Fx%3D1 HTTP/1.0 200 - "
        "a%20b%0Ac - - 0 - - - 1.0000 - - 1795334173.775939941 1795334174.775939941 "
        "- -"
    )


# Times and numbers that the filter itself counts; nothing of a client's is in them.
FILLED_BY_US = {
    "start_time", "end_time", "status_int", "wire_status_int", "bytes_recvd",
    "bytes_sent", "pid",
}  # fmt: skip


@given(
    values=st.dictionaries(
        st.sampled_from(sorted(PROXY_FIELDS - FILLED_BY_US)),
        st.one_of(st.none(), st.integers(), st.text()),
    )
)
def test_no_value_can_forge_a_field_or_a_line(values: dict[str, object]) -> None:
    line = LineTemplate.for_proxy().render({"end_time": END, **values})

    assert line.isascii()
    assert len(line.split(" ")) == 22
    assert "\n" not in line


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{end_time.iso8601}", "2026-11-22T07:56:14.775940"),
        ("{end_time.asctime}", "Sun%20Nov%2022%2007:56:14%202026"),
        ("{end_time.s}", "1795334174"),
        ("{end_time.ms}", "1795334174775"),
        ("{end_time.Y}-{end_time.m}", "2026-11"),
        ("{end_time.Y}{start_time.Y}", "20262026"),
        ("100%{method}{{}}", "100%GET{}"),
        ("{pid}", "-"),
    ],
)
def test_forms_of_a_proxy_field(template: str, expected: str) -> None:
    line = LineTemplate.for_proxy(template)

    assert (
        line.render({"end_time": END, "start_time": END, "method": "GET"}) == expected
    )


def test_time_parts_move_on_with_the_clock() -> None:
    line = LineTemplate.for_server("{time.H}:{time.M}:{time.S}")

    assert line.render({"time": END}) == "07:56:14"
    assert line.render({"time": END + 1}) == "07:56:15"


@pytest.mark.parametrize(
    "template",
    ["{nothing}", "{time.Q}", "{method.anonymized}", "{path", "{path:d}"],
)
def test_a_bad_template_is_refused(template: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (any will do)
        LineTemplate.for_server(template)


def test_anonymized_fields_are_digests() -> None:
    plain = LineTemplate.for_server("{path.anonymized}")
    salted = LineTemplate.for_server("{path.anonymized}", Anonymizer("MD5", "salt"))
    values = {"path": "/a"}

    assert plain.render(values) == "{MD5}" + hashlib.md5(b"/a").hexdigest()
    assert salted.render(values) == "{SMD5}" + hashlib.md5(b"salt/a").hexdigest()
    assert plain.render({"path": ""}) == "-"


def test_an_unknown_digest_is_refused() -> None:
    with pytest.raises(ValueError, match="rot13"):
        Anonymizer("rot13")


def test_debug_lines_cost_nothing_when_off() -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError("was formatted")

    log, sink = logger(level=INFO)

    log.debug("%s", Costly())

    assert not log.is_enabled(DEBUG)
    assert not sink.lines
