# SPDX-License-Identifier: Apache-2.0
"""A mixed load with a history of acknowledgements, and a hand that kills servers.

Clients ask in threads of their own and keep, for each name, what they wrote when and
what they were told (`Story`). Every write carries a time of its own, so that the order
of writes is known however they overlap. The hand kills a server with SIGKILL whenever
so many more requests have been answered; swift-saio starts it again.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from swift.core.timestamp import Timestamp
from test.sim.judge import Story, Write
from test.support.client import Answer, Client
from test.support.cluster import Cluster, alive, listens, wait_until

CLIENTS = 8
CONTAINERS = 5
OBJECTS = 12
EXTRAS = 6
"""Containers that come and go; the others hold the objects and stay."""

SIZES = (0, 1, 100, 5_000, 5_000, 70_000, 300_000)
REFUSED = frozenset((400, 401, 403, 411, 412, 413, 422))
"""Answers to a write that say: nothing has happened."""

LIMIT_S = 60.0

_KINDS = {
    "put": 34,
    "delete": 13,
    "post": 10,
    "get": 12,
    "head": 4,
    "list": 6,
    "list account": 2,
    "extra": 8,
    "container post": 3,
    "account post": 2,
    "refused": 4,
    "cut off": 2,
}
"""Kinds of requests and how often they are drawn."""

_VICTIMS = {"object": 10, "container": 8, "account": 4, "proxy": 1, "daemons": 1}


class Broken(Exception):
    """The client has no answer: what it asked for may have happened or not."""


@dataclass
class Load:
    """The clients of one history.

    seed: decides what they ask for; how requests and kills meet, the machine decides.
    total: requests to answer. problems: what no answer may be, line by line. trace:
    every write and kill, for whoever looks for a problem's cause.
    """

    cluster: Cluster
    seed: int
    total: int
    policies: tuple[str, ...] = ()
    objects: dict[tuple[str, str], Story] = field(default_factory=dict)
    containers: dict[str, Story] = field(default_factory=dict)
    account: Story = field(default_factory=Story)
    problems: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    answered: int = 0

    def __post_init__(self) -> None:
        self._guard = threading.Lock()
        self._count = 0
        self._stamp = 0.0
        self._client = self._authenticated()
        self.account.writes.append(Write(0.0, "PUT", "", acknowledged=True))

    # --- Before, during, after --------------------------------------------------------

    def prepare(self) -> None:
        """Make the containers that stay, each with an object that stays."""
        for number in range(CONTAINERS):
            name, policy = f"c{number}", self._policy(number)
            headers = {"X-Storage-Policy": policy} if policy else {}
            self._write_container("PUT", name, headers)
            self._put(random.Random(self.seed), name, "stays")
        assert not self._unacknowledged(), "a cluster that is well refuses"

    def _policy(self, number: int) -> str:
        return self.policies[number % len(self.policies)] if self.policies else ""

    def places_of(self, policy: str) -> frozenset[str]:
        """The containers of a policy among those that stay."""
        numbers = range(CONTAINERS)
        return frozenset(f"c{each}" for each in numbers if self._policy(each) == policy)

    def _unacknowledged(self) -> list[Write]:
        stories = [*self.objects.values(), *self.containers.values()]
        return [w for story in stories for w in story.writes if not w.acknowledged]

    def run(self) -> None:
        """Ask until the number of requests is reached."""
        threads = [
            threading.Thread(target=self._ask_on, args=(number,))
            for number in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def touch(self, obj: str) -> None:
        """Change every container that stays once more, so that its counts are told."""
        for container in [name for name in self.containers if name.startswith("c")]:
            self._put(random.Random(self.seed), container, obj)

    def say(self, text: str) -> None:
        """One line of the trace."""
        self.trace.append(f"{time.time():.5f} {text}")

    def _ask_on(self, number: int) -> None:
        rng = random.Random(f"{self.seed}-{number}")
        kinds, weights = list(_KINDS), list(_KINDS.values())
        while self.answered < self.total:
            try:
                self._ask(rng, rng.choices(kinds, weights)[0])
            except Broken:
                pass
            except Exception as error:  # the thread's owner must hear of it
                self.problems.append(f"client {number}: {error!r}")
                raise

    def _ask(self, rng: random.Random, kind: str) -> None:
        container = f"c{rng.randrange(CONTAINERS)}"
        obj = f"o{rng.randrange(OBJECTS)}"
        if kind == "put":
            self._put(rng, container, obj)
        elif kind in ("delete", "post"):
            self._write_object(kind.upper(), container, obj)
        elif kind in ("get", "head"):
            self._read(kind.upper(), container, obj)
        elif kind == "list":
            self._list(container)
        elif kind == "list account":
            self._send("GET", "?format=json")
        elif kind == "extra":
            method = rng.choice(("PUT", "PUT", "DELETE"))
            self._write_container(method, f"e{rng.randrange(EXTRAS)}")
        elif kind == "container post":
            self._write_container("POST", container)
        elif kind == "account post":
            self._post_account()
        elif kind == "refused":
            self._be_refused(rng, container, obj)
        else:
            self._cut_off(rng, container, obj)

    # --- Writes -----------------------------------------------------------------------

    def _begin(self, story: Story, kind: str) -> Write:
        """A write with a time and a mark that no other has."""
        with self._guard:
            self._count += 1
            self._stamp = max(time.time(), self._stamp + 0.00002)
            write = Write(Timestamp.at(self._stamp).seconds, kind, f"m{self._count}")
            story.writes.append(write)
        return write

    def _finish(
        self, story: Story, write: Write, path: str, headers: dict[str, str]
    ) -> int:
        """Send a write and note the answer; 0 for none."""
        status = 0
        sent = {"X-Timestamp": Timestamp.at(write.stamp).internal, **headers}
        try:
            status = self._send(write.kind, path, sent, write.body).status
        except Broken:
            pass
        finally:
            self.say(f"{write.kind} {path} {sent['X-Timestamp']} {write.mark} {status}")
        write.acknowledged = 200 <= status < 300
        # A name that a container does not have was not written to.
        missing = status == 404 and write.kind == "PUT"
        if status in REFUSED or missing:
            with self._guard:
                story.writes.remove(write)
        return status

    def _story(self, container: str, obj: str) -> Story:
        with self._guard:
            return self.objects.setdefault((container, obj), Story())

    def _put(self, rng: random.Random, container: str, obj: str) -> None:
        story = self._story(container, obj)
        write = self._begin(story, "PUT")
        write.body = _body(write.mark, rng.choice(SIZES))
        headers = {
            "X-Object-Meta-Mark": write.mark,
            "Content-Type": rng.choice(("text/plain", "image/png")),
        }
        self._finish(story, write, f"/{container}/{obj}", headers)

    def _write_object(self, method: str, container: str, obj: str) -> None:
        story = self._story(container, obj)
        write = self._begin(story, method)
        headers = {"X-Object-Meta-Mark": write.mark} if method == "POST" else {}
        self._finish(story, write, f"/{container}/{obj}", headers)

    def _write_container(
        self, method: str, container: str, headers: dict[str, str] | None = None
    ) -> None:
        with self._guard:
            story = self.containers.setdefault(container, Story())
        write = self._begin(story, method)
        sent = dict(headers or {})
        if method == "POST":
            sent["X-Container-Meta-Mark"] = write.mark
        else:
            write.mark = ""
        self._finish(story, write, f"/{container}", sent)

    def _post_account(self) -> None:
        write = self._begin(self.account, "POST")
        self._finish(self.account, write, "", {"X-Account-Meta-Mark": write.mark})

    # --- What must not happen ---------------------------------------------------------

    def _be_refused(self, rng: random.Random, container: str, obj: str) -> None:
        """A request that cannot be granted; its mark must never be seen."""
        path, wrong = f"/{container}/{obj}", {"X-Object-Meta-Mark": "refused"}
        with self._guard:
            self._stamp = max(time.time(), self._stamp + 0.00002)
            wrong["X-Timestamp"] = Timestamp.at(self._stamp).internal
        body = _body("refused", rng.choice(SIZES))
        case = rng.randrange(5)
        if case == 0:
            wrong["Etag"] = "0" * 32
            expected = {422}
        elif case == 1:
            path, wrong["If-None-Match"] = f"/{container}/stays", "*"
            expected = {412}
        elif case == 2:
            wrong["X-Delete-At"] = "1"
            expected = {400}
        elif case == 3:
            path = f"/nowhere/{obj}"
            expected = {404}
        else:
            got = self._send("DELETE", f"/{container}", wrong)
            self._expect(got, {409}, f"DELETE of {container}, which has objects")
            return
        self._expect(self._send("PUT", path, wrong, body), expected, f"PUT {path}")

    def _expect(self, got: Answer, expected: set[int], what: str) -> None:
        self.say(f"refused: {what} {got.status}")
        if got.status not in expected and got.status < 500:
            self.problems.append(f"{what}: {got.status}, must be {expected}")

    def _cut_off(self, rng: random.Random, container: str, obj: str) -> None:
        """Send half of a body and hang up; nothing of it must ever be seen."""
        size = rng.choice((1_000, 100_000, 300_000))
        connection = self._connection()
        try:
            connection.putrequest("PUT", f"{self._client.base}/{container}/{obj}")
            connection.putheader("X-Auth-Token", self._client.token or "")
            connection.putheader("X-Object-Meta-Mark", "half")
            connection.putheader("Content-Length", str(size))
            connection.endheaders(_body("half", size // 2))
            self.say(f"PUT /{container}/{obj} hangs up")
        except OSError:
            pass
        finally:
            connection.close()
        self._count_answer()

    # --- Reads ------------------------------------------------------------------------

    def _read(self, method: str, container: str, obj: str) -> None:
        got = self._send(method, f"/{container}/{obj}")
        if got.status not in (200, 404) and got.status < 500:
            self.problems.append(f"{method} {container}/{obj}: {got.status}")
        if method == "GET" and got.status == 200:
            self._check_body(container, obj, got)

    def _check_body(self, container: str, obj: str, got: Answer) -> None:
        with self._guard:
            sent = self._story_bodies(container, obj)
        if got.body not in sent:
            self.problems.append(f"{container}/{obj}: bytes that nobody wrote")
        if got.headers.get("etag") != hashlib.md5(got.body).hexdigest():
            self.problems.append(f"{container}/{obj}: the ETag of other bytes")

    def _story_bodies(self, container: str, obj: str) -> set[bytes]:
        story = self.objects.get((container, obj), Story())
        return {write.body for write in story.writes if write.kind == "PUT"}

    def _list(self, container: str) -> None:
        got = self._send("GET", f"/{container}?format=json")
        if got.status == 404:
            self.problems.append(f"{container}: its listing is not there")
        if got.status != 200:
            return
        names = {row["name"] for row in got.json()}
        with self._guard:
            known = {obj for place, obj in self.objects if place == container}
        if names - known:
            self.problems.append(f"{container}: lists {sorted(names - known)}")

    # --- The wire ---------------------------------------------------------------------

    def _authenticated(self) -> Client:
        cluster = self.cluster
        return Client.authenticated(
            f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
        )

    def _connection(self) -> http.client.HTTPConnection:
        """A connection to the proxy, once it is there again."""
        while True:
            wait_until(lambda: listens(self._client.port), LIMIT_S, "a proxy")
            connection = http.client.HTTPConnection(
                self._client.host, self._client.port, timeout=60
            )
            with suppress(ConnectionRefusedError, ConnectionResetError):
                connection.connect()
                return connection
            connection.close()

    def _send(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """One request; raises Broken when the answer does not come whole."""
        got = self._send_once(method, path, headers, body)
        while got.status == 401:
            # The proxy that knew the token was killed.
            with suppress(OSError, AssertionError, http.client.HTTPException):
                self._client = self._authenticated()
            got = self._send_once(method, path, headers, body)
        return got

    def _send_once(
        self, method: str, path: str, headers: dict[str, str] | None, body: bytes
    ) -> Answer:
        client = self._client
        sent = {**(headers or {}), "X-Auth-Token": client.token or ""}
        connection = self._connection()
        try:
            connection.request(
                method, client.base + path, body if method == "PUT" else None, sent
            )
            got = connection.getresponse()
            found = {name.lower(): value for name, value in got.getheaders()}
            return Answer(got.status, found, got.read())
        except (OSError, http.client.HTTPException) as error:
            raise Broken(method, path) from error
        finally:
            connection.close()
            self._count_answer()

    def _count_answer(self) -> None:
        with self._guard:
            self.answered += 1


def _body(mark: str, size: int) -> bytes:
    """Bytes that only one write sends, unless there are none."""
    return (f"{mark} ".encode() * (size // (len(mark) + 1) + 1))[:size]


class Hand:
    """Kills servers while the load runs: on average once in `pace` requests."""

    def __init__(self, load: Load, pace: int) -> None:
        self._load = load
        self._pace = pace
        self._rng = random.Random(f"{load.seed}-hand")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.kills: dict[str, int] = {}

    def __enter__(self) -> Hand:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        kinds, weights = list(_VICTIMS), list(_VICTIMS.values())
        due = 0
        while not self._ended.is_set():
            due += self._rng.randint(1, 2 * self._pace)
            while self._load.answered < due and not self._ended.wait(0.002):
                pass
            # Within the request, not at its end.
            self._ended.wait(self._rng.uniform(0, 0.02))
            kind = self._rng.choices(kinds, weights)[0]
            name = kind if kind == "proxy" else f"{kind}-{self._rng.randint(1, 4)}"
            pid = _pid(self._load.cluster, name)
            if pid and alive(pid):
                self._load.say(f"{name} is killed")
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                self.kills[kind] = self.kills.get(kind, 0) + 1


def _pid(cluster: Cluster, name: str) -> int:
    """The pid in a server's file; 0 while it has none."""
    try:
        return int(Path(cluster.folder, "run", f"{name}.pid").read_text())
    except (OSError, ValueError):
        return 0
