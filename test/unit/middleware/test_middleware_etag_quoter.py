# SPDX-License-Identifier: Apache-2.0
"""etag_quoter: whose word counts, and what is quoted."""

from __future__ import annotations

import pytest
from filter_facts import Facts
from filter_pipeline import Bench, found

from swift.wire import environ as env


class Tags(Bench):
    def __init__(self, account="", container="", etag="abc", **options):
        super().__init__("etag_quoter", **options)
        facts = Facts().give_to(self)
        facts.set("/a", X_Account_Sysmeta_Rfc_Compliant_Etags=account)
        facts.set("/a/c", X_Container_Sysmeta_Rfc_Compliant_Etags=container)
        self.end.answers["*"] = lambda environ: found(Etag=etag)

    def etag(self, path="/v1/a/c/o"):
        return self.ask("GET", path).headers["Etag"]


@pytest.mark.parametrize(
    ("default", "account", "container", "expected"),
    [
        ("no", "", "", "abc"),
        ("yes", "", "", '"abc"'),
        ("no", "true", "", '"abc"'),
        ("yes", "false", "", "abc"),
        ("no", "true", "false", "abc"),
        ("no", "false", "true", '"abc"'),
    ],
)
def test_the_nearest_flag_counts(default, account, container, expected):
    assert Tags(account, container, enable_by_default=default).etag() == expected


@pytest.mark.parametrize("etag", ['"abc"', 'W/"abc"'])
def test_what_is_quoted_stays(etag):
    assert Tags(container="true", etag=etag).etag() == etag


def test_only_objects_are_quoted():
    assert Tags(container="true").etag("/v1/a/c") == "abc"
    assert Tags(account="true").etag("/v1/a") == "abc"


@pytest.mark.parametrize(
    ("kind", "path"), [("Account", "/v1/a"), ("Container", "/v1/a/c")]
)
@pytest.mark.parametrize(
    ("header", "value", "stored"),
    [
        ("X-{}-Rfc-Compliant-Etags", "yes", "true"),
        ("X-{}-Rfc-Compliant-Etags", "no", "false"),
        ("X-{}-Rfc-Compliant-Etags", "", ""),
        ("X-Remove-{}-Rfc-Compliant-Etags", "x", ""),
    ],
)
def test_flags_are_set_and_cleared(kind, path, header, value, stored):
    bench = Tags()
    bench.ask("POST", path, {header.format(kind): value})
    sent = env.headers_of(bench.end.last)
    assert sent[f"X-{kind}-Sysmeta-Rfc-Compliant-Etags"] == stored
    assert header.format(kind) not in sent


def test_flags_are_shown():
    bench = Tags()
    bench.end.answers["*"] = found(X_Container_Sysmeta_Rfc_Compliant_Etags="true")
    got = bench.ask("HEAD", "/v1/a/c")
    assert got.headers["X-Container-Rfc-Compliant-Etags"] == "true"


def test_info():
    facts = Tags(enable_by_default="yes").process.info.features
    assert facts["etag_quoter"] == {"enable_by_default": True}
