# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass

import pytest

from swift.core import settings
from swift.core.errors import ConfigError
from swift.core.settings import Reserve, bind, option, options_of, unknown_options


@dataclass(frozen=True)
class Example:
    interval_s: float = option(30, name="interval", parse=settings.seconds, doc="d")
    workers: int | None = option(
        None, parse=settings.auto_or(settings.natural), doc="d"
    )
    flags: tuple[str, ...] = option((), doc="d")
    on: bool = option(False, doc="d")


def test_texts_become_values():
    config = bind(
        Example,
        {"interval": "1.5", "workers": "2", "flags": "a, b,", "on": "Yes", "other": ""},
        source="f.conf",
        section="s",
    )
    assert config == Example(1.5, 2, ("a", "b"), True)


def test_auto_is_none():
    config = bind(Example, {"workers": "auto"}, source="f", section="s")
    assert config.workers is None


@pytest.mark.parametrize(
    "values", [{"interval": "x"}, {"interval": "-1"}, {"workers": "1.5"}]
)
def test_a_bad_value_names_file_section_and_option(values):
    (name,) = values
    with pytest.raises(ConfigError, match=rf"f\.conf \[s\] {name}: "):
        bind(Example, values, source="f.conf", section="s")


def test_options_that_nothing_reads_are_reported():
    assert unknown_options([Example], {"interval": "1", "zz": "", "aa": ""}) == [
        "aa",
        "zz",
    ]


def test_every_option_has_its_spelling():
    assert [spec.name for spec in options_of(Example).values()] == [
        "interval",
        "workers",
        "flags",
        "on",
    ]


@pytest.mark.parametrize(
    ("text", "free", "total", "violated"),
    [
        ("1%", 10, 1000, True),
        ("1%", 11, 1000, False),
        ("100", 100, 1000, True),
        ("100", 101, 1000, False),
        ("0", 0, 1000, False),
    ],
)
def test_a_reserve_is_violated_when_no_more_than_it_is_left(
    text, free, total, violated
):
    assert settings.reserve(text).violated(free, total) is violated


def test_a_reserve_is_bytes_or_percent():
    assert settings.reserve("5") == Reserve(bytes=5)
    assert settings.reserve(" 2.5% ") == Reserve(percent=2.5)
    for text in ("101%", "-1", "x"):
        with pytest.raises(ValueError, match=r"must|could not|invalid"):
            settings.reserve(text)
