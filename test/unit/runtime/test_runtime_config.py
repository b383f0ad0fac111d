# SPDX-License-Identifier: Apache-2.0
"""Reading .conf files: merging, inheritance, interpolation, messages."""

from pathlib import Path

import pytest

from swift.core.errors import ConfigError
from swift.core.settings import bind
from swift.runtime.config import (
    ServerConfig,
    interpolate,
    read_conf,
    read_sections,
)


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_a_section_inherits_defaults_and_wins_over_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conf", "[DEFAULT]\na = 1\nb = 2\n[x]\nb : 3\n")

    sections = read_sections(path)

    assert sections["x"]["a"] == "1"
    assert sections["x"]["b"] == "3"
    assert sections["DEFAULT"]["b"] == "2"


def test_an_app_section_yields_to_defaults_unless_it_says_set(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.conf",
        "[DEFAULT]\na = 1\nb = 2\n[app:x]\na = own\nset b = own\nc = own\n",
    )

    section = read_conf(path).app_section("app:x")

    assert (section["a"], section["b"], section["c"]) == ("1", "own", "own")


def test_a_directory_is_merged_in_order_and_hidden_files_are_not_read(
    tmp_path: Path,
) -> None:
    write(tmp_path / "20.conf", "[x]\na = late\n")
    write(tmp_path / "10.conf", "[x]\na = early\nb = kept\n")
    write(tmp_path / ".30.conf", "[x]\na = hidden\n")
    write(tmp_path / "40.conf~", "[x]\na = backup\n")

    sections = read_sections(str(tmp_path))

    assert sections["x"]["a"] == "late"
    assert sections["x"]["b"] == "kept"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("100%", "100%", id="a lone percent sign"),
        pytest.param("%(a)s/x", "1/x", id="a known name"),
        pytest.param("%(who)s", "%(who)s", id="an unknown name"),
        pytest.param("%(b)s", "<1>", id="a name that refers further"),
        pytest.param("%(loop)s", "%(loop)s", id="a name that refers to itself"),
    ],
)
def test_interpolation_touches_known_names_only(text: str, expected: str) -> None:
    values = {"a": "1", "b": "<%(a)s>", "loop": "%(loop)s"}

    assert interpolate(text, values) == expected


def test_comments_continuations_and_case_are_kept_apart(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.conf",
        "[x]\n# no = comment\n; no = comment\nName = a\nname = b ; c\n"
        "pipeline = one\n  two\n",
    )

    section = read_sections(path)["x"]

    assert section["Name"] == "a"
    assert section["name"] == "b ; c"
    assert section["pipeline"].split() == ["one", "two"]
    assert "no" not in section


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a = 1\n", id="an option before any section"),
        pytest.param("[x]\nno delimiter\n", id="a line that is no option"),
    ],
)
def test_a_file_that_does_not_parse_is_named(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "broken.conf", text)

    with pytest.raises(ConfigError, match=r"broken\.conf"):
        read_conf(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.conf"):
        read_conf(str(tmp_path / "gone.conf"))


def test_bytes_that_are_no_utf8_come_back_as_they_were(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conf", b"[x]\nsecret = \xff\xe4\n")

    value = read_sections(path)["x"]["secret"]

    assert value.encode("utf-8", "surrogateescape") == b"\xff\xe4"


def test_server_options_have_the_documented_defaults() -> None:
    config = bind(ServerConfig, {}, source="-", section="DEFAULT")

    assert config.bind_port is None
    assert config.workers is None
    assert config.client_timeout_s == 60
    assert config.keepalive_timeout_s is None
    assert config.stale_worker_timeout_s == 86400


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("bind_port", "0"),
        ("bind_port", "65536"),
        ("bind_port", "http"),
        ("keep_idle", "32767"),
        ("keep_idle", "0"),
        ("workers", "-1"),
        ("workers", "many"),
        ("max_clients", "0"),
        ("client_timeout", "soon"),
    ],
)
def test_a_bad_server_option_is_refused_by_name(option: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"s\.conf \[DEFAULT\] {option}: "):
        bind(ServerConfig, {option: value}, source="s.conf", section="DEFAULT")
