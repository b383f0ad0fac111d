# SPDX-License-Identifier: Apache-2.0
"""A device that OpenStack Swift wrote is served, hashed and written again alike."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import pytest

from swift.core import metadata as records
from swift.core import pickles
from swift.core.erasure import ErasureCoding
from swift.core.errors import ObjectMissing
from swift.core.hashing import HashSalt
from swift.core.headers import Headers, title
from swift.core.names import ObjectName
from swift.core.objectfiles import Preference
from swift.core.policy import StoragePolicy
from swift.core.redundancy import Replication
from swift.core.settings import Reserve
from swift.core.timestamp import Timestamp
from swift.runtime.logs import Logger
from swift.runtime.metrics import Metrics
from swift.storage.object.context import DiskConfig
from swift.storage.object.manager import DiskFileManager
from swift.storage.object.pending import dump

GOLDEN = Path(__file__).parent / "golden" / "object"
EXPECTED = json.loads((GOLDEN / "device-tree.expected.json").read_text())
METADATA = json.loads((GOLDEN / "device-tree.metadata.json").read_text())
XATTRS = json.loads((GOLDEN / "device-tree.xattrs.json").read_text())
PENDING = json.loads((GOLDEN / "async_pending.json").read_text())
SALT = HashSalt(b"goldenprefix", b"goldensuffix")
NOW = 1700000100.0
DIRS = {"objects": 0, "objects-1": 1, "objects-3": 3}
CODING = ErasureCoding("liberasurecode_rs_vand", 4, 2, segment_size=65536)


def manager_of(root, index=0):
    redundancy = CODING if index == 1 else Replication()
    policy = StoragePolicy(index, (f"p{index}",), redundancy, index == 0)
    config = DiskConfig(
        devices=str(root),
        mount_check=False,
        reclaim_age=3_000_000_000,
        fallocate_reserve=Reserve(),
    )
    return DiskFileManager(config, policy, SALT, Logger("test"), Metrics())


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """The golden tree with its attributes set from the sidecar."""
    root = tmp_path_factory.mktemp("devices")
    with tarfile.open(GOLDEN / "device-tree.tar") as tar:
        for member in tar.getmembers():
            target = root / member.name
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                source = tar.extractfile(member)
                assert source is not None
                target.write_bytes(source.read())
    for name, attributes in XATTRS.items():
        for key, value in attributes.items():
            os.setxattr(root / name, key, bytes.fromhex(value))
    return root


def raw_record(attributes):
    data = bytes.fromhex(attributes["user.swift.metadata"])
    number = 1
    while f"user.swift.metadata{number}" in attributes:
        data += bytes.fromhex(attributes[f"user.swift.metadata{number}"])
        number += 1
    return data


@pytest.mark.parametrize("path", sorted(XATTRS))
def test_a_record_is_read_and_written_again_byte_for_byte(path):
    data = raw_record(XATTRS[path])
    record = records.decode(data)
    assert dict(record) == {title(k): v for k, v in METADATA[path].items()}
    assert records.encode(record) == data
    assert {name: value.hex() for name, value in records.attributes(record)} == XATTRS[
        path
    ]


def test_a_record_of_many_attributes_is_written_alike():
    golden = json.loads((GOLDEN / "chunked-metadata.json").read_text())
    record = records.decode(raw_record(golden["xattrs"]))
    assert dict(record) == {title(k): v for k, v in golden["metadata"].items()}
    assert {name: value.hex() for name, value in records.attributes(record)} == golden[
        "xattrs"
    ]


def objects():
    for key, facts in EXPECTED["objects"].items():
        directory = key.partition(":")[0]
        if directory in DIRS and "path" in facts:
            yield pytest.param(DIRS[directory], facts, id=key)


@pytest.mark.parametrize(("index", "facts"), list(objects()))
def test_an_object_is_opened(device, index, facts):
    manager = manager_of(device, index)
    name = ObjectName(*facts["path"][1:].split("/", 2))
    file = manager.diskfile("sda1", facts["partition_power_8"], name)
    assert file.directory == str(device / facts["dir"])
    files = manager.policy.redundancy.choose(facts["files"])
    if files.data is None:
        with pytest.raises(ObjectMissing) as caught:
            file.open(NOW)
        if files.tombstone is not None:
            assert caught.value.timestamp == files.tombstone.timestamp
        return
    with file.open(NOW) as opened:
        assert len(b"".join(opened.reader())) == opened.content_length
        stored = METADATA[f"{facts['dir']}/{files.data.name}"]
        assert opened.name == facts["path"] == stored["name"]
        assert opened.etag == stored["ETag"]
        assert opened.data_timestamp.internal == stored["X-Timestamp"]


def test_the_content_type_of_a_post_is_shown(device):
    manager = manager_of(device)
    shown = {}
    for key in ("objects:ctype", "objects:two-metas", "objects:posted"):
        facts = EXPECTED["objects"][key]
        name = ObjectName(*facts["path"][1:].split("/", 2))
        partition = facts["partition_power_8"]
        with manager.diskfile("sda1", partition, name).open(NOW) as opened:
            shown[key] = (
                opened.metadata["Content-Type"],
                opened.content_type_timestamp.internal,
                opened.timestamp.internal,
            )
    assert shown == {
        "objects:ctype": ("image/png", "1700000006.00000", "1700000006.00000"),
        "objects:two-metas": ("image/gif", "1700000008.50000", "1700000009.00000"),
        "objects:posted": ("text/plain", "1700000003.00000", "1700000004.00000"),
    }


def partitions():
    for key, facts in EXPECTED["suffix_hashes"].items():
        directory, _, partition = key.partition("/")
        if directory in DIRS:
            yield pytest.param(DIRS[directory], partition, facts, id=key)


@pytest.mark.parametrize("history", ["before", "after", "none"])
@pytest.mark.parametrize(("index", "partition", "facts"), list(partitions()))
def test_suffix_hashes_are_the_golden_ones(
    device, tmp_path, index, partition, facts, history
):
    directory = Path("sda1") / ("objects" if index == 0 else f"objects-{index}")
    copy = tmp_path / directory / partition
    shutil.copytree(device / directory / partition, copy)
    for name in ("hashes.pkl", "hashes.invalid"):
        (copy / name).unlink(missing_ok=True)
    if history != "none":
        for name, content in facts[f"files_{history}_hashing_hex"].items():
            (copy / name).write_bytes(bytes.fromhex(content))
    hashes = manager_of(tmp_path, index).suffix_hashes("sda1", partition)
    answer = bytes.fromhex(facts["replicate_response_pickle_hex"])
    if index == 1:
        # Whose keys JSON cannot hold.
        assert hashes == pickles.loads(answer)
    else:
        assert hashes == facts["suffix_hashes"]
        assert pickle.dumps(hashes, protocol=2) == answer
    ours = pickles.loads((copy / "hashes.pkl").read_bytes())
    golden = bytes.fromhex(facts["files_after_hashing_hex"]["hashes.pkl"])
    theirs = pickles.loads(golden)
    assert list(ours) == list(theirs)
    assert {**ours, "updated": 0} == {**theirs, "updated": 0}


@pytest.mark.parametrize("durable", [True, False])
def test_a_fragment_is_written_as_it_was(device, tmp_path, durable):
    (tmp_path / "sda1").mkdir()
    key = "objects-1:ec-durable" if durable else "objects-1:ec-nondurable"
    facts = EXPECTED["objects"][key]
    path = f"{facts['dir']}/{facts['files'][0]}"
    golden = METADATA[path]
    name = ObjectName(*facts["path"][1:].split("/", 2))
    file = manager_of(tmp_path, 1).diskfile("sda1", facts["partition_power_8"], name)
    timestamp = Timestamp.parse(golden["X-Timestamp"])
    index = CODING.fragment_index(golden)
    with file.writer(None) as writer:
        writer.write((device / path).read_bytes())
        headers = {key: value for key, value in golden.items() if key != "name"}
        writer.commit(Headers(headers), timestamp, fragment_index=index)
        if durable:
            file.make_durable(timestamp, index)
    assert [p.name for p in (tmp_path / facts["dir"]).iterdir()] == facts["files"]
    assert (tmp_path / path).read_bytes() == (device / path).read_bytes()
    assert records.decode(
        os.getxattr(tmp_path / path, "user.swift.metadata")
    ) == records.decode(raw_record(XATTRS[path]))
    with file.open(NOW, preferences=[]) as opened:
        assert opened.files.data.fragment_index == index
        assert (opened.durable_timestamp == timestamp) is durable
        assert opened.fragments == {timestamp: [index]}


def test_the_golden_fragments_give_their_objects_back(device):
    manager = manager_of(device, 1)
    facts = EXPECTED["objects"]["objects-1:ec-two-frags"]
    name = ObjectName(*facts["path"][1:].split("/", 2))
    file = manager.diskfile("sda1", facts["partition_power_8"], name)
    timestamp = Timestamp.parse("1700000042")
    body = bytes(
        (7 * i + (i >> 8)) % 256 for i in range(EXPECTED["ec_plaintext_length"])
    )
    made = CODING.encoder(6)
    archives = [
        first + last for first, last in zip(made.feed(body), made.finish(), strict=True)
    ]
    for exclude, index in ((set(), 5), ({5}, 0)):
        wanted = [Preference(timestamp, frozenset(exclude))]
        with file.open(NOW, preferences=wanted) as opened:
            assert b"".join(opened.reader()) == archives[index]
            assert CODING.fragment_index(opened.metadata) == index
            assert opened.record_fault is None


def test_an_object_is_written_as_it_was(device, tmp_path):
    (tmp_path / "sda1").mkdir()
    facts = EXPECTED["objects"]["objects:plain"]
    path = f"{facts['dir']}/{facts['files'][0]}"
    golden = METADATA[path]
    name = ObjectName(*facts["path"][1:].split("/", 2))
    manager = manager_of(tmp_path)
    headers = Headers(
        {
            key: value
            for key, value in golden.items()
            if key not in ("name", "ETag", "X-Timestamp", "Content-Length")
        }
    )
    body = (device / path).read_bytes()
    file = manager.diskfile("sda1", facts["partition_power_8"], name)
    with file.writer(len(body)) as writer:
        writer.write(body)
        writer.commit(headers, Timestamp.parse(golden["X-Timestamp"]))
    written = tmp_path / path
    assert written.read_bytes() == body
    assert {name: os.getxattr(written, name).hex() for name in XATTRS[path]} == XATTRS[
        path
    ]


@pytest.mark.parametrize("path", sorted(PENDING))
def test_a_pending_update_is_written_byte_for_byte(path):
    golden = PENDING[path]["pickle_latin1"].encode("latin-1")
    update = pickles.loads(golden)
    assert update == PENDING[path]["decoded"]
    update["headers"] = Headers(update["headers"])
    assert dump(update) == golden
