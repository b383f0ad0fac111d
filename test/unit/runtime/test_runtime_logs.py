# SPDX-License-Identifier: Apache-2.0
"""Log lines and the syslog door."""

import logging
import socket
from pathlib import Path

import pytest

from swift.core.errors import ConfigError
from swift.runtime import green
from swift.runtime.logs import (
    DEBUG,
    ERROR,
    INFO,
    NOTICE,
    ListSink,
    Logger,
    SyslogSink,
    bridge_stdlib,
    cut_middle,
    get_logger,
)


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


def test_debug_lines_cost_nothing_when_off() -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError("was formatted")

    log, sink = logger(level=INFO)

    log.debug("%s", Costly())

    assert not log.is_enabled(DEBUG)
    assert not sink.lines
