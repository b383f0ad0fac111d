# SPDX-License-Identifier: Apache-2.0
"""A manifest is stored byte for byte as OpenStack Swift stores it."""

from __future__ import annotations

import json
from hashlib import md5
from pathlib import Path

from swift.core.manifest import SloManifest
from swift.wire.environ import headers_of
from swift.wire.request import Response
from test.unit.middleware.filter_pipeline import Bench, found

GOLDEN = Path(__file__).parent / "golden" / "slo"
FACTS = json.loads((GOLDEN / "slo.json").read_text())
STORED = (GOLDEN / "manifest-on-disk.json").read_bytes()


def test_the_stored_form_survives_a_round_trip():
    manifest = SloManifest.load(STORED)
    assert manifest.dump() == STORED
    sent = FACTS["backend_put_headers"]
    assert manifest.etag == sent["X-Object-Sysmeta-Slo-Etag"]
    assert str(manifest.size) == sent["X-Object-Sysmeta-Slo-Size"]
    assert SloManifest.load(STORED).dump_raw().startswith(b'[{"etag": "67585038')


def test_a_put_stores_what_openstack_swift_stores():
    bench = Bench("slo")
    for record in json.loads(STORED):
        if "name" not in record:
            continue
        bench.end.answers[f"HEAD /v1/a{record['name']}"] = found(
            Content_Length=str(record["bytes"]),
            Etag=record["hash"],
            Last_Modified="Tue, 14 Nov 2023 22:13:20 GMT",
            Content_Type=record["content_type"],
        )
    bench.end.answers["PUT /v1/a/c/movie"] = Response(
        201, {"Etag": FACTS["stored_body_md5"]}, b""
    )

    answer = bench.ask(
        "PUT",
        "/v1/a/c/movie?multipart-manifest=put",
        {"Content-Type": "video/mp4"},
        json.dumps(FACTS["client_manifest"]).encode(),
    )

    assert bench.end.bodies == [STORED]
    assert md5(STORED).hexdigest() == FACTS["stored_body_md5"]
    sent = headers_of(bench.end.last)
    for name, value in FACTS["backend_put_headers"].items():
        assert sent[name] == value, name
    assert answer.status == 201
    assert answer.headers["Etag"] == FACTS["client_response_headers"]["Etag"]
