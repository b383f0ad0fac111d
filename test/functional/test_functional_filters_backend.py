# SPDX-License-Identifier: Apache-2.0
"""backend_ratelimit on a storage server: too much for one device is 529, no error."""

from __future__ import annotations

import pytest

from test.support.client import Client
from test.support.cluster import Cluster


@pytest.fixture
def limited(tmp_path, policies):
    """A cluster whose first object server answers two requests a second and device."""
    cluster = Cluster(tmp_path / "saio", "--no-daemons", *policies)
    cluster.start()
    conf = cluster.folder / "etc" / "object-server" / "1.conf"
    text = conf.read_text()
    conf.write_text(
        text.replace(
            "healthcheck recon object-server",
            "healthcheck recon backend_ratelimit object-server",
        )
        + "\n[filter:backend_ratelimit]\nuse = egg:swift#backend_ratelimit\n"
        "requests_per_device_per_second = 2\nrequests_per_device_rate_buffer = 0\n"
    )
    cluster.kill("object-1")
    cluster.restart("object-1")
    yield cluster
    cluster.stop()


def test_a_device_over_its_rate_answers_529_and_the_cluster_goes_on(limited):
    node = Client("127.0.0.1", limited.port_of("object-1"), "", None)
    statuses = [node.get("/d1/1/a/c/o").status for _ in range(20)]
    assert set(statuses) == {404, 529}
    assert statuses.count(529) > 10
    assert node.get("/healthcheck").status == 200
    other = Client("127.0.0.1", limited.port_of("object-2"), "", None)
    assert {other.get("/d2/1/a/c/o").status for _ in range(20)} == {404}

    user = Client.authenticated(
        f"{limited.endpoint}/auth/v1.0", limited.user, limited.key
    )
    path = f"{user.base}/limited"
    assert user.put(path).status == 201
    for number in range(20):
        assert user.put(f"{path}/o{number}", b"x").status == 201
        assert user.get(f"{path}/o{number}").body == b"x"
