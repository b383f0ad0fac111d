# SPDX-License-Identifier: Apache-2.0
"""Profiles over an app in memory."""

from __future__ import annotations

import csv
import io
import json
import os
import pstats
import subprocess
import sys
import zipfile
from xml.etree import ElementTree

import pytest

from swift.core.errors import ConfigError
from swift.wire.request import Response
from test.unit.middleware.filter_pipeline import Bench


def worked(_environ):
    return Response(200, {}, b"x" * len(sorted(range(100))))


def bench(tmp_path, **options):
    options = {
        "profile_module": "cProfile",
        "log_filename_prefix": str(tmp_path / "deep" / "p"),
        "dump_interval": "0",
        **options,
    }
    made = Bench("xprofile", **options)
    made.end.answers["*"] = worked
    return made


@pytest.mark.parametrize("module", ["cProfile", "eventlet.green.profile"])
def test_what_a_request_ran_is_shown(tmp_path, module):
    made = bench(tmp_path, profile_module=module)
    assert made.ask("GET", "/v1/a/c/o").status == 200
    page = made.ask("GET", "/__profile__/current")
    assert page.status == 200
    assert b"(worked)" in page.body
    assert b"sorted" in made.ask("GET", f"/__profile__/{os.getpid()}").body
    links = made.ask("GET", "/__profile__").body.decode()
    for name in ("current", "all", str(os.getpid())):
        assert f'href="/__profile__/{name}"' in links
    assert len(made.end.seen) == 1


def test_figures_add_up_over_requests_and_workers(tmp_path):
    one, other = bench(tmp_path, dump_timestamp="yes"), bench(tmp_path)
    one.ask("GET", "/v1/a")
    other.ask("GET", "/v1/a")
    other.ask("GET", "/v1/a")
    rows = json.loads(one.ask("GET", "/__profile__/all?format=json").body)
    (row,) = [row for row in rows if "(worked)" in row["function"]]
    assert row["calls"] == 3
    only = one.ask("GET", f"/__profile__/all/{row['function']}?format=json")
    assert json.loads(only.body) == [row]


def test_formats(tmp_path):
    made = bench(tmp_path)
    made.ask("GET", "/v1/a")
    where = f"/__profile__/{os.getpid()}?format="
    path = tmp_path / "raw"
    path.write_bytes(made.ask("GET", where + "default").body)
    assert any(key[2] == "worked" for key in pstats.Stats(str(path)).stats)
    rows = list(csv.reader(io.StringIO(made.ask("GET", where + "csv").body.decode())))
    assert rows[0][-1] == "function"
    sheet = zipfile.ZipFile(io.BytesIO(made.ask("GET", where + "ods").body))
    assert sheet.namelist()[0] == "mimetype"
    cells = ElementTree.fromstring(sheet.read("content.xml")).itertext()
    assert any("(worked)" in cell for cell in cells)
    assert made.ask("GET", where + "exe").status == 400


def test_what_is_not_there(tmp_path):
    made = bench(tmp_path)
    (tmp_path / "secret").write_bytes(b"s")
    for path in ("7", "none", "%2e%2e", "7%2f..", "-"):
        assert made.ask("GET", f"/__profile__/{path}").status == 404
    assert made.ask("POST", "/__profile__/all").status == 405
    assert made.ask("GET", "/__profile__x").status == 200
    assert len(made.end.seen) == 1


def test_a_disk_that_refuses_is_logged(tmp_path):
    (tmp_path / "deep").write_bytes(b"no folder")
    made = bench(tmp_path)
    assert made.ask("GET", "/v1/a").status == 200
    assert any("is not written" in line for line in made.log_lines)


def test_bodies_are_measured_when_asked(tmp_path):
    def chunks():
        yield b"chunk"

    for unwind in ("no", "yes"):
        made = bench(tmp_path, unwind=unwind)
        made.end.answers["*"] = lambda _environ: Response(200, {}, app_iter=chunks())
        assert b"".join(made.ask("GET", "/v1/a").app_iter) == b"chunk"
        shown = b"(chunks)" in made.ask("GET", "/__profile__/current").body
        assert shown == (unwind == "yes")


def test_files_of_workers_that_ended_are_removed_when_asked(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    made = bench(tmp_path)
    made.ask("GET", "/v1/a")
    own = tmp_path / "deep" / f"p-{os.getpid()}"
    other = tmp_path / "deep" / f"p-{ended.pid}"
    other.write_bytes(own.read_bytes())
    made.ask("GET", "/v1/a")
    assert other.exists()
    bench(tmp_path, flush_at_shutdown="yes").ask("GET", "/v1/a")
    assert (own.exists(), other.exists()) == (True, False)


def test_a_module_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError):
        bench(tmp_path, profile_module="no.such")
