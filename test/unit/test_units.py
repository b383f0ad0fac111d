# SPDX-License-Identifier: Apache-2.0
"""etc/systemd is what doc/units.py writes, and names commands that are installed."""

import configparser
import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _units() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("units", ROOT / "doc" / "units.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.units()


def test_units_are_up_to_date():
    found = {path.name: path.read_text() for path in (ROOT / "etc/systemd").iterdir()}
    assert found == _units(), "run `make samples`"


def test_units_start_commands_that_setup_cfg_installs():
    setup = configparser.ConfigParser(delimiters=("=",))
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.entry_points"]["console_scripts"].strip().splitlines()
    commands = {line.partition("=")[0].strip() for line in lines}
    for name, text in _units().items():
        started = re.search(r"^ExecStart=/usr/bin/(\S+) ", text, re.M)[1]
        assert started in commands, name
