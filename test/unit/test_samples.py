# SPDX-License-Identifier: Apache-2.0
"""The sample files say what the option dataclasses say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from swift.core.settings import bind, options_of
from swift.runtime.config import read_conf

ROOT = Path(__file__).resolve().parents[2]


def generator():
    spec = importlib.util.spec_from_file_location(
        "samples", ROOT / "doc" / "samples.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SAMPLES = generator()


@pytest.mark.parametrize("name", sorted(SAMPLES.samples()))
def test_a_sample_shows_every_option(name):
    written = (ROOT / "etc" / name).read_text()
    assert written == SAMPLES.samples()[name], "run `make samples`"


@pytest.mark.parametrize("name", sorted(SAMPLES.samples()))
def test_a_sample_is_a_configuration(name):
    conf = read_conf(str(ROOT / "etc" / name))
    assert conf.sections


@pytest.mark.parametrize("config", SAMPLES.filters().values())
def test_the_defaults_that_are_shown_are_the_defaults(config):
    for field_name, spec in options_of(config).items():
        default = config.__dataclass_fields__[field_name].default
        text = SAMPLES.shown_default(spec, default)
        if text:
            made = bind(config, {spec.name: text}, source="-", section="-")
            assert getattr(made, field_name) == default, spec.name
