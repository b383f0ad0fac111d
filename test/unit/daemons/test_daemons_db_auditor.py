# SPDX-License-Identifier: Apache-2.0
"""Auditors of databases: what is moved aside, counted and told."""

from __future__ import annotations

import json

import pytest

from swift.core.names import AccountName, ContainerName
from swift.daemons.db_auditor import REPORT_S, AccountAuditor, ContainerAuditor
from swift.runtime import green
from swift.runtime.daemon import Scope, run_pass
from test.support.db_nodes import DbNodes, container_row, moment, object_row

ACCOUNT = AccountName("AUTH_a")
NAME = ContainerName("AUTH_a", "c")


@pytest.fixture
def nodes(tmp_path):
    made = DbNodes(tmp_path, count=1, replicas=1)
    yield made
    made.close()


def recon(nodes, kind):
    return json.loads((nodes.nodes[0].root / f"{kind}.recon").read_text())


def test_a_sound_container_stays_and_a_corrupt_one_is_moved_aside(nodes):
    sound = nodes.create(NAME, 0)
    sound.merge_rows([object_row("o")])
    corrupt = nodes.create(ContainerName("AUTH_a", "other"), 0)
    corrupt.databases.close()
    with open(corrupt.path, "r+b") as file:
        file.write(b"no database" * 400)
    nodes.run(ContainerAuditor, 0)
    assert sound.exists()
    assert not corrupt.exists()
    assert list(nodes.nodes[0].device.glob("quarantined/containers/*/*.db"))
    assert any("audit failed" in line for _, line in nodes.sink.lines)
    assert recon(nodes, "container")["container_auditor_pass_completed"] >= 0
    assert "container_audits_passed" not in recon(nodes, "container")


def test_an_account_with_wrong_totals_is_told_and_stays(nodes):
    broker = nodes.create(ACCOUNT, 0)
    broker.merge_rows([container_row("c", 2, 20)])
    nodes.run(AccountAuditor, 0)
    assert not any("audit failed" in line for _, line in nodes.sink.lines)
    with broker.writing() as connection:
        connection.execute("UPDATE account_stat SET object_count = 99")
    nodes.run(AccountAuditor, 0)
    told = [line for _, line in nodes.sink.lines if "audit failed" in line]
    assert len(told) == 1
    assert "object_count is 99" in told[0]
    assert broker.exists()


def test_counts_are_told_by_the_hour_and_begin_anew(nodes):
    nodes.create(NAME, 0)
    gone = nodes.create(ContainerName("AUTH_a", "gone"), 0)
    gone.delete(moment(5))
    daemon = nodes.daemon(ContainerAuditor, 0)
    daemon._counts.since = green.now() - REPORT_S
    run_pass(daemon, Scope(once=True))
    found = recon(nodes, "container")
    assert found["container_audits_passed"] + daemon._counts.passed == 1
    assert found["container_audits_failed"] == 0
    assert daemon._counts.since > green.now() - 60


@pytest.mark.parametrize("kind", [AccountAuditor, ContainerAuditor])
def test_an_auditor_has_nothing_against_a_scope_at_its_start(nodes, kind):
    nodes.daemon(kind, 0).check(Scope(once=True))
