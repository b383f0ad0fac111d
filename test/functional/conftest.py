# SPDX-License-Identifier: Apache-2.0
"""The cluster under test: one that a file names, or one that the tests start.

SWIFT_TEST_CONFIG_FILE names an INI file whose [func_test] has auth_url, user and key.
Without it swift-saio runs in a temporary folder for the length of the session, with the
policies that SWIFT_TEST_POLICIES names (ec+replica: erasure coding is the default).
"""

from __future__ import annotations

import configparser
import os
import uuid

import pytest

from test.support.client import Client
from test.support.cluster import Cluster


@pytest.fixture(scope="session")
def policies():
    """What a cluster of the tests is started with, to have the policies wanted."""
    return "--policies", os.environ.get("SWIFT_TEST_POLICIES", "replica")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory, policies):
    """The cluster that the tests started, or None when a file names another."""
    if os.environ.get("SWIFT_TEST_CONFIG_FILE"):
        yield None
        return
    started = Cluster(tmp_path_factory.mktemp("saio"), *policies)
    started.start()
    yield started
    started.stop()


@pytest.fixture(scope="session")
def account(cluster, named_account):
    """(auth URL, user, key) of an account that the tests may fill."""
    if cluster is None:
        return named_account
    return f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key


@pytest.fixture(scope="session")
def named_account():
    """What SWIFT_TEST_CONFIG_FILE says, None without it."""
    if not os.environ.get("SWIFT_TEST_CONFIG_FILE"):
        return None
    conf = configparser.ConfigParser()
    conf.read(os.environ["SWIFT_TEST_CONFIG_FILE"])
    section = conf["func_test"]
    return section["auth_url"], section["user"], section["key"]


@pytest.fixture(scope="session")
def client(account):
    """A client with the token of the account's owner."""
    return Client.authenticated(*account)


@pytest.fixture
def container(client):
    """The path of a fresh container; emptied and deleted afterwards."""
    path = f"{client.base}/test-{uuid.uuid4().hex[:12]}"
    assert client.put(path).status == 201
    yield path
    client.remove_container(path)
