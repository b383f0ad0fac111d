# SPDX-License-Identifier: Apache-2.0
"""The pages that doc/reference.py makes hold what the code says."""

import importlib.util
from pathlib import Path

import pytest

from swift.cli.daemons import PROGRAMS
from swift.core import headers
from swift.wire import environ

ROOT = Path(__file__).resolve().parents[2]


def _generator():
    path = ROOT / "doc" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = _generator()
PAGES = {
    path.relative_to(ROOT / "doc" / "source").as_posix(): text
    for path, text in REFERENCE.pages().items()
}


@pytest.mark.parametrize(
    ("module", "page"),
    [(headers, "reference/headers.md"), (environ, "reference/environ.md")],
    ids=["headers", "environ"],
)
def test_every_name_of_a_registry_is_on_its_page(module, page):
    names = {
        constant
        for constant, value in vars(module).items()
        if constant.isupper() and not constant.startswith("_") and type(value) is str
    }
    missing = {name for name in names if f"`{name}`" not in PAGES[page]}
    assert not missing


def test_every_daemon_and_filter_has_its_options_listed():
    page = PAGES["reference/options.md"]
    wanted = [f"### `[{name}]`" for name in PROGRAMS]
    wanted += [f"### `{name}`" for name in REFERENCE.samples.filters()]
    assert [title for title in wanted if title not in page] == []


def test_a_metric_is_found_by_the_call_that_sends_it():
    page = PAGES["reference/metrics.md"]
    for line in (
        "| `async_pendings` | count | services/updates |",
        "| `PUT.{device}.timing` | ms per kB | services/object_put |",
        "| `swift_object_server_request_timing` | time, ms | services/object |",
    ):
        assert line in page


def test_every_room_says_its_subject():
    rooms = [text for name, text in PAGES.items() if "/rooms/" in name]
    assert len(rooms) == len(REFERENCE.STOREYS)
    for text in rooms:
        assert "| | " not in text
        assert "contract" not in text.lower(), "pages cite pages, not contracts"
