# SPDX-License-Identifier: Apache-2.0
"""swift-recon against hosts whose answers are set."""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from swift.cli.recon import main
from swift.cli.recon_checks import Usage, age, size, stats_line, usage_lines
from swift.cli.ring_files import write_ring_file
from swift.core.ring.builder import RingBuilder
from swift.runtime import green


class Host:
    """One server that answers /recon/… with what a test puts into `facts`."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.server_header = "object-server/2.38.0"
        host = self

        class Handler(BaseHTTPRequestHandler):
            wbufsize = -1  # head and body at once, or they wait for each other
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                question = self.path.removeprefix("/recon/")
                found = host.facts.get(question)
                body = json.dumps(found() if callable(found) else found).encode()
                self.send_response(200 if question in host.facts else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_OPTIONS(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def version_string(self) -> str:
                return host.server_header

            def log_message(self, *_arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.01,)).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    made = sorted((Host() for _ in range(3)), key=lambda host: host.port)
    yield made
    for host in made:
        host.close()


@pytest.fixture
def swift_dir(tmp_path: Path, hosts: list[Host]) -> Path:
    builder = RingBuilder(4, 3, 1)
    for zone, host in enumerate(hosts, 1):
        builder.add_device(
            region=1, zone=zone, ip="127.0.0.1", port=host.port, name=f"d{zone}",
            weight=1.0,
        )  # fmt: skip
    builder.rebalance(now=1_700_000_000, rng=random.Random(1))
    for name in ("account", "container", "object"):
        write_ring_file(tmp_path / f"{name}.ring.gz", builder.ring())
    (tmp_path / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = x\n"
        "[storage-policy:0]\nname = gold\ndefault = yes\n"
    )
    for host in hosts:
        host.facts = {}
        host.server_header = "object-server/2.38.0"
    return tmp_path


@pytest.fixture
def run(swift_dir: Path, capsys: pytest.CaptureFixture[str]):
    """Runs the command: its exit code and lines, without times of day."""

    def call(*words: str) -> tuple[int, list[str]]:
        code = main([*words, "--swiftdir", str(swift_dir)])
        lines = capsys.readouterr().out.splitlines()
        return code, [re.sub(r"^\[\d{4}-[^]]*\]", "[T]", line) for line in lines]

    return call


def test_async_pendings_are_summed_up(run, hosts):
    for host, count in zip(hosts, (0, 7, None), strict=True):
        host.facts["async"] = {"async_pending": count}

    code, lines = run("-a")

    rule = "=" * 79
    assert code == 0
    assert lines == [
        rule,
        "--> Starting reconnaissance on 3 hosts (object)",
        rule,
        "[T] Checking async pendings",
        "[async_pending] low: 0, high: 7, avg: 3.5, total: 7, Failed: 33.3%, "
        "no_result: 1, reported: 2",
        rule,
    ]


def test_replication_names_the_oldest_and_the_newest(run, hosts):
    now = green.now()
    for host, last in zip(hosts, (now - 10, now - 90, now - 30), strict=True):
        host.facts["replication/container"] = {
            "replication_time": 1.9,
            "replication_last": last,
            "replication_stats": {"failure": 0, "success": 10, "attempted": 5},
        }
    _, lines = run("container", "-r")
    body = lines[4:-1]
    assert [line.partition("]")[0] for line in body[:4]] == [
        "[replication_time",
        "[replication_failure",
        "[replication_success",
        "[replication_attempted",
    ]
    assert "low: 1, high: 1, avg: 1.9, total: 5," in body[0]
    assert body[4].startswith("Oldest completion was ")
    assert f"(1 minutes ago) by 127.0.0.1:{hosts[1].port}." in body[4]
    assert f" seconds ago) by 127.0.0.1:{hosts[0].port}." in body[5]


def test_hosts_that_never_completed_are_named(run, hosts):
    for host in hosts:
        host.facts["replication/object"] = {"object_replication_last": None}
    _, lines = run("-r")
    assert lines[4] == "[time] - No hosts returned valid data."
    assert lines[5] == "[failure] - No hosts returned valid data."
    assert lines[8] == f"Oldest completion was NEVER by 127.0.0.1:{hosts[0].port}."
    assert lines[9] == "=" * 79


def test_a_host_that_fails_is_a_line_and_no_result(run, hosts):
    for host in hosts[:2]:
        host.facts["expirer/object"] = {"object_expiration_pass": 4.0}
    _, lines = run("--expirer")
    url = f"http://127.0.0.1:{hosts[2].port}/recon/expirer/object"
    assert lines[4].startswith(f"-> {url}: ")
    assert lines[5].endswith("no_result: 1, reported: 2")
    assert lines[6] == "[expired_last_pass] - No hosts returned valid data."
    _, lines = run("--expirer", "--suppress")
    assert lines[4].startswith("[object_expiration_pass] ")
    _, lines = run("--expirer", "-v")
    url = f"http://127.0.0.1:{hosts[0].port}/recon/expirer/object"
    assert f'-> {url}: {{"object_expiration_pass": 4.0}}' in lines


def test_checks_that_do_not_apply_say_so(run):
    _, lines = run("account", "--async")
    assert lines[3] == "Error: Can't check async on account servers."


def test_rings_and_swift_conf_are_compared_with_the_local_ones(run, hosts, swift_dir):
    def digest(name: str) -> str:
        return hashlib.md5((swift_dir / name).read_bytes()).hexdigest()

    for host in hosts:
        host.facts["ringmd5"] = {
            "/etc/swift/object.ring.gz": digest("object.ring.gz"),
            "/etc/swift/account.ring.gz": "of no interest",
        }
        host.facts["swiftconfmd5"] = {"/etc/swift/swift.conf": digest("swift.conf")}
    hosts[0].facts["ringmd5"] = {"/etc/swift/object.ring.gz": "abc"}
    del hosts[1].facts["swiftconfmd5"]

    _, lines = run("--md5", "--suppress")

    url = f"http://127.0.0.1:{hosts[0].port}/recon/ringmd5"
    assert lines[3:] == [
        "[T] Checking ring md5sums",
        f"!! {url} (/etc/swift/object.ring.gz => abc) doesn't match on disk md5sum",
        "2/3 hosts matched, 0 error[s] while checking hosts.",
        "=" * 79,
        "[T] Checking swift.conf md5sum",
        "2/3 hosts matched, 1 error[s] while checking hosts.",
        "=" * 79,
    ]


def test_servers_clocks_and_versions(run, hosts):
    hosts[0].server_header = "account-server/2.38.0"
    for host in hosts:
        host.facts["time"] = green.now
        host.facts["version"] = {"version": "2.38.0"}
    hosts[1].facts["time"] = lambda: green.now() + 100
    hosts[2].facts["version"] = {"version": "2.37.0"}

    _, lines = run("--validate-servers", "-T", "--swift-versions")

    text = "\n".join(lines)
    assert (
        f"Invalid: http://127.0.0.1:{hosts[0].port}/ is account-server/2.38.0" in text
    )
    assert "2/3 hosts ok, 0 error[s] while checking hosts." in lines
    assert re.search(
        r"!! .*/recon/time current time is .*, differs by \d+\.\d{4} sec", text
    )
    assert "2/3 hosts matched, 0 error[s] while checking hosts." in lines
    assert (
        "Versions not matched (2.37.0, 2.38.0), 0 error[s] while checking hosts."
        in lines
    )
    _, lines = run("-T", "--jitter", "200")
    assert "3/3 hosts matched, 0 error[s] while checking hosts." in lines


def test_object_auditor_stats_of_some_devices_are_found_below_their_names(run, hosts):
    stats = {"audit_time": 3, "bytes_processed": 8, "passes": 1, "errors": 0}
    hosts[0].facts["auditor/object"] = {
        "object_auditor_stats_ALL": {"d1d2": stats},
        "object_auditor_stats_ZBF": stats,
    }
    _, lines = run("--auditor", "--suppress")
    names = [line.partition("]")[0] for line in lines[4:-1]]
    assert names == [
        *(f"[ALL_{name}_last_path" for name in (
            "audit_time", "bytes_processed", "passes", "errors", "quarantined")),
        *(f"[ZBF_{name}_last_path" for name in (
            "audit_time", "bytes_processed", "errors", "quarantined")),
    ]  # fmt: skip
    assert "low: 3, high: 3" in lines[4]


def test_all_makes_every_check_of_the_type(run):
    code, lines = run("container", "account", "--all", "--suppress")
    titles = [line[4:] for line in lines if line.startswith("[T] ")]
    assert code == 0
    assert titles[:4] == [
        "Checking auditor stats",
        "Checking updater times",
        "Checking on sharders",
        "Checking on replication",
    ]
    assert titles.count("Checking versions") == 2


def test_unmounted_and_quarantined(run, hosts):
    for host in hosts:
        host.facts["unmounted"] = []
        host.facts["quarantined"] = {
            "objects": 1, "containers": 0, "accounts": 0,
            "policies": {"0": {"objects": 1}},
        }  # fmt: skip
    hosts[1].facts["unmounted"] = [
        {"device": "sdb", "mounted": False},
        {"device": "sdc", "mounted": "[Errno 5] Input/output error"},
    ]
    _, lines = run("-u", "-q")
    assert f"Not mounted: sdb on 127.0.0.1:{hosts[1].port}" in lines
    assert f"Device errors: sdc on 127.0.0.1:{hosts[1].port}" in lines
    names = [line.partition("]")[0] for line in lines if line.startswith("[quar")]
    assert names == [
        "[quarantined_objects",
        "[quarantined_containers",
        "[quarantined_accounts",
        "[quarantined_objects_0",
    ]


def test_disk_usage_asks_each_address_once(run, hosts):
    hosts[0].facts["diskusage"] = [
        {"device": "sda", "mounted": True, "size": 1000, "used": 410, "avail": 590},
        {"device": "sdb", "mounted": False, "size": "", "used": "", "avail": ""},
    ]
    code, lines = run("-d", "--top", "1")
    assert code == 0
    assert f" 41%    1 {'*' * 69}" in lines
    assert "Disk usage: lowest: 41.0%, highest: 41.0%, avg: 41.000000%" in lines
    assert lines[-3:-1] == ["TOP 1", "41.00%  127.0.0.1       sda"]


def test_the_graph_and_the_extremes_of_disk_usage():
    found = [
        Usage("10.0.0.1", "sda", 4102, 10000),
        Usage("10.0.0.2", "sda", 4110, 10000),
        Usage("10.0.0.3", "sdb", 5740, 10000),
    ]
    lines = list(usage_lines(found, human=False, top=1, lowest=1))
    assert lines == [
        "Distribution Graph:",
        f" 41%    2 {'*' * 69}",
        f" 57%    1 {'*' * 34}",
        "Disk usage: space used: 13952 of 30000",
        "Disk usage: space free: 16048 of 30000",
        "Disk usage: lowest: 41.02%, highest: 57.4%, avg: 46.506667%",
        "TOP 1",
        "57.40%  10.0.0.3        sdb",
        "LOWEST 1",
        "41.02%  10.0.0.1        sda",
    ]


HOSTILE = [None, [], {}, "x", 3, float("inf"), [[]], [{}], {"a": {}}, {"a": []}]
QUESTIONS = [
    "async", "replication/object", "auditor/object", "updater/object", "unmounted",
    "expirer/object", "reconstruction/object", "load", "diskusage", "ringmd5",
    "swiftconfmd5", "quarantined", "sockstat", "driveaudit", "time", "version",
]  # fmt: skip


@pytest.mark.parametrize("answer", HOSTILE, ids=repr)
def test_answers_of_any_shape_are_borne(run, hosts, answer):
    for host in hosts:
        host.facts = dict.fromkeys(QUESTIONS, answer)
    assert run("--all")[0] == 0
    keys = ("replication_stats", "policies", "object_replication_last", "1m",
            "object_auditor_stats_ALL", "version")  # fmt: skip
    for host in hosts:
        host.facts = dict.fromkeys(QUESTIONS, dict.fromkeys(keys, answer))
    assert run("--all")[0] == 0


def test_usage_errors(run, capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage:")
    assert run("proxy", "-a")[0] == 1
    code, lines = run("-a", "-p", "lead")
    assert code == 0
    assert lines[0].startswith("usage:")
    assert run("a", "b", "c", "d")[0] == 0
    assert run("-a", "-p", "0", "-z", "7")[1][1] == (
        "--> Starting reconnaissance on 0 hosts (object)"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(59.9, "59 seconds"), (60, "1 minutes"), (7200, "2 hours"), (86400, "1 days")],
)
def test_ages_are_whole(seconds, text):
    assert age(seconds) == text


def test_sizes_and_empty_stats():
    assert size(1500, human=True) == "1.5 kB"
    assert size(1500, human=False) == "1500"
    assert stats_line("x", [None]) == "[x] - No hosts returned valid data."
