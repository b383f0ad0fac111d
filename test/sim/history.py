# SPDX-License-Identifier: Apache-2.0
"""One seed, one history: what clients do among faults, then calm, then judgement."""

from __future__ import annotations

import random

from swift.core.headers import X_STORAGE_POLICY
from swift.core.timestamp import Timestamp
from swift.runtime import green
from test.sim.clients import LeavingClient
from test.sim.doors import START
from test.sim.faults import Faults
from test.sim.judge import Judge, Story, Write
from test.sim.layout import SCHEMES
from test.sim.world import DAEMONS, World

ROUNDS_MAX = 14
TOUCHES = (2, 6, 10)
PASSES = (
    "object-auditor",
    "object-updater",
    "object-replicator",
    "object-reconstructor",
    "account-reaper",
    "object-expirer",
    "container-auditor",
    "container-replicator",
    "container-reconciler",
    "container-updater",
    "account-auditor",
    "account-replicator",
)
SINGLE = ("object-expirer", "container-reconciler")
"""Daemons of which a cluster has one."""

STEPS = (16, 28)
CONTAINERS = {"c0": "gold", "c1": "silver"}
"""The containers that stay, and their policies."""

EXTRAS = ("e0",)
MIXED = "m0"
CLOSED = "b"
"""An account that is deleted."""

NAMES = tuple(CONTAINERS)
HEALERS = (
    "object-updater",
    "object-replicator",
    "object-reconstructor",
    "container-replicator",
    "account-replicator",
)
SKEWS_S = (0.0, 0.4)
"""How far the clocks of the two proxies are ahead."""


class Failed(Exception):
    """An invariant does not hold. problems: lines."""

    def __init__(self, when, problems):
        super().__init__(f"{when}: {problems[0]}")
        self.when = when
        self.problems = problems


class History:
    """Runs the history of a seed.

    skipped: numbers of steps that are left out; each has its own randomness, so that
    the others stay what they are. trace: what happened, a line with time and step each.
    events: takes a line for each of the many things that this consists of.
    """

    def __init__(
        self, seed, broken=(), skipped=frozenset(), *, logs=False, events=None
    ):
        self.seed = seed
        self.rng = random.Random(seed)
        count = 5 if seed % 4 == 0 else 4
        self.world = World(
            self.rng,
            count,
            self.rng.choice(SCHEMES),
            broken,
            spares=int(self.rng.random() < 0.3),
            logs=logs,
            events=events,
        )
        self.judge = Judge(self.world)
        self.judge.object_rings = [p.ring_name for p in self.world.policies]
        self.trace = []
        self.faults = Faults(self.world, self.say, self._heal)
        self.steps = self.rng.randint(*STEPS)
        self._skipped = skipped
        self._number = 0
        self._marks = 0
        self._expiring = 0
        self._stamps = set()

    def say(self, text):
        """One line of the trace."""
        text = text.replace(self.world.root, "")
        seconds = self.world.clock.now() - START
        self.trace.append(f"{seconds:10.3f} {self._number:3} {text}")

    def run(self):
        """All of it; raises Failed. The world is closed afterwards."""
        world = self.world
        try:
            for container, policy in CONTAINERS.items():
                self._write_container("PUT", container, {X_STORAGE_POLICY: policy})
            for number in range(1, self.steps + 1):
                if number not in self._skipped:
                    self._begin(number)
                    world.clock.leap(self.rng.choice((0.01, 0.3, 2.0, 20.0)))
                    self._step()
            self._begin(self.steps + 1)
            self.faults.mend()
            world.calm_down()
            world.clock.leap(1000.0)  # what expires has expired
            self._settle()
        finally:
            self._free_doors()

    def _begin(self, number):
        self._number = number
        self.rng.seed(f"{self.seed} {number}")

    def _free_doors(self):
        try:
            self.world.close()
        finally:
            self.judge = None

    # --- Steps ------------------------------------------------------------------------

    def _step(self):
        drawn = self.rng.random()
        if drawn < 0.44:
            self._object_step()
        elif drawn < 0.50:
            self._burst()
        elif drawn < 0.57:
            self._crowd()
        elif drawn < 0.62:
            self._container_step()
        elif drawn < 0.80:
            self.faults.strike()
        elif drawn < 0.88:
            self._pass()
        elif drawn < 0.95:
            rare = (self.faults.change_rings, self._mix, self._close, self._deafen)
            self.rng.choice(rare)()
        else:
            self._probe()

    def _name(self):
        return self.rng.choice(NAMES), f"o{self.rng.randrange(4)}"

    def _object_step(self):
        container, obj = self._name()
        method = self.rng.choices(
            ("PUT", "DELETE", "POST", "GET", "LIST", "EXPIRE"), (40, 16, 10, 18, 6, 8)
        )[0]
        if method == "GET":
            self._get(container, obj)
        elif method == "LIST":
            self._ask("GET", f"/v1/a/{container}?format=json", {})
        elif method == "EXPIRE":
            self._expiring += 1
            self._write_object("PUT", container, f"x{self._expiring}", expires=True)
        else:
            leaves = method == "PUT" and self.rng.random() < 0.15
            self._write_object(method, container, obj, leaves=leaves)

    def _crowd(self):
        """Writes beside daemons, amid which a node falls or a proxy dies."""
        rng = self.rng
        container, obj = self._name()
        kinds = rng.choices(("PUT", "PUT", "DELETE", "POST"), k=rng.choice((1, 2, 3)))
        writes = [green.spawn(self._write_object, k, container, obj) for k in kinds]
        others = [green.spawn(self._pass) for _ in range(rng.choice((0, 0, 1, 2)))]
        for _ in range(rng.randrange(60)):
            green.yield_now()
        what = rng.choice(("fall", "fall", "proxy", "nothing"))
        # A daemon that outlives its node's restart would be of no process.
        if what == "fall" and not others:
            self.faults.fell()
        elif what == "proxy":
            self.say("a proxy dies")
            writes[0].kill()
        for thread in writes + others:
            thread.wait()

    def _burst(self):
        container, obj = self._name()
        threads = [
            green.spawn(
                self._write_object,
                self.rng.choice(("PUT", "PUT", "DELETE", "POST")),
                container,
                obj,
            )
            for _ in range(self.rng.choice((2, 3)))
        ]
        for thread in threads:
            thread.wait()

    def _mix(self):
        """Make one container twice, of two policies, while the network is cut."""
        if MIXED in self.judge.containers:
            return
        self.faults.split()
        self.judge.mixed.add(MIXED)
        for side, policy in enumerate(CONTAINERS.values()):
            self._write_container("PUT", MIXED, {X_STORAGE_POLICY: policy}, side=side)
            for number in range(2):
                self._write_object("PUT", MIXED, f"o{number}", side=side)

    def _deafen(self):
        """Write while no container can be told."""
        self.faults.deafen("container")
        for _ in range(2):
            self._write_object("PUT", *self._name())

    def _close(self):
        """Fill another account, and delete it."""
        if self.judge.closed:
            return
        for container, policy in CONTAINERS.items():
            path = f"/v1/{CLOSED}/{container}"
            self._ask("PUT", path, {X_STORAGE_POLICY: policy})
            for number in range(2):
                self._ask("PUT", f"{path}/o{number}", {}, b"reap me")
        if self._ask("DELETE", f"/v1/{CLOSED}", {})[0] == 204:
            self.judge.closed.add(CLOSED)

    def _stamp(self, side=None):
        """(side, time of its proxy)"""
        side = self.rng.randrange(2) if side is None else side
        stamp = Timestamp.at(self.world.clock.now() + SKEWS_S[side])
        # Two writes of one moment are a tie that nobody promises to settle.
        while stamp.internal in self._stamps:
            stamp = Timestamp.at(stamp.seconds + 0.00001)
        self._stamps.add(stamp.internal)
        return side, stamp

    def _mark(self):
        self._marks += 1
        return f"m{self._marks}"

    def _write_object(
        self, method, container, obj, *, side=None, expires=False, leaves=False
    ):
        side, stamp = self._stamp(side)
        story = self.judge.objects.setdefault((container, obj), Story())
        write = Write(stamp.seconds, method, self._mark())
        headers = {"X-Object-Meta-Mark": write.mark}
        if method == "PUT":
            size = self.rng.choice((0, 1, 100, 5000))
            write.body = f"{write.mark} ".encode() * size
            headers["Content-Type"] = "text/plain"
            if expires:
                write.expires = int(stamp.seconds) + self.rng.randint(60, 900)
                headers["X-Delete-At"] = str(write.expires)
        story.writes.append(write)
        status = self._ask(
            method,
            f"/v1/a/{container}/{obj}",
            {} if method == "DELETE" else headers,
            LeavingClient(self.rng, write.body) if leaves else write.body,
            side=side,
            stamp=stamp,
        )[0]
        write.acknowledged = status in (201, 204) or (
            method == "POST" and status == 202
        )

    def _get(self, container, obj):
        status, _, body = self._ask("GET", f"/v1/a/{container}/{obj}", {})
        story = self.judge.objects.get((container, obj), Story())
        if status == 200 and body is not None and body not in story.bodies():
            raise Failed("read", [f"{container}/{obj}: bytes that nobody wrote"])

    def _container_step(self):
        kind = self.rng.choice(("PUT", "DELETE", "PUT", "POST", "ACCOUNT"))
        if kind == "ACCOUNT":
            self._ask("GET", "/v1/a?format=json", {})
        elif kind == "POST":
            container = self.rng.choice(NAMES)
            headers = {"X-Container-Meta-Mark": self._mark()}
            self._write_container("POST", container, headers)
        else:
            self._write_container(kind, self.rng.choice(EXTRAS), {})

    def _write_container(self, method, container, headers, *, side=None):
        side, stamp = self._stamp(side)
        story = self.judge.containers.setdefault(container, Story())
        mark = headers.get("X-Container-Meta-Mark", "")
        write = Write(stamp.seconds, method, mark)
        story.writes.append(write)
        status = self._ask(
            method, f"/v1/a/{container}", headers, side=side, stamp=stamp
        )[0]
        # 202: there was one already, and it has the time of this PUT now.
        write.acknowledged = status in (201, 202, 204)

    def _ask(self, method, path, headers, body=b"", *, side=None, stamp=None):
        world = self.world
        side = self.rng.randrange(2) if side is None else side
        text = None if stamp is None else stamp.internal
        answer = world.ask(
            world.proxies[side],
            method,
            path,
            headers,
            body,
            text,
            world.caches[side],
        )
        self.say(f"{method} {path} {text or ''} -> {answer[0]}")
        return answer

    def _pass(self):
        node = self.rng.choice(self.world.nodes)
        name = self.rng.choice(DAEMONS)
        self.say(f"{name} on {node.name}")
        self._run_daemon(node, name)

    def _run_daemon(self, node, name):
        thread = green.spawn(node.run, name)
        try:
            thread.wait()
        except Exception as error:
            # A pass may fail while things are broken; the next one tries again.
            self.say(f"{name} on {node.name} fails: {error!r}")
            if self.faults.are_over:
                raise

    def _heal(self):
        for name in HEALERS:
            for node in self.world.nodes:
                self._run_daemon(node, name)

    def _probe(self):
        lost = self.faults.lost()
        if len(lost) > 1 or self.world.network.side:
            return
        self.say(f"everything acknowledged is read, without {sorted(lost)}")
        problems = self.judge.read_certain()
        if problems:
            raise Failed("while nodes were lost", problems)

    # --- The end ----------------------------------------------------------------------

    def _settle(self):
        problems = []
        self.judge.damaged = self.faults.damaged
        for number in range(1, ROUNDS_MAX + 1):
            self._round(number)
            problems = self.judge.look() or self.judge.read_all()
            if not problems:
                self.say(f"well after {number} passes")
                return
            self.say(f"pass {number}: {len(problems)} problems, {problems[0]}")
            if number in TOUCHES:
                self._touch(f"z{number}")
        raise Failed(f"after {ROUNDS_MAX} passes", problems)

    def _touch(self, obj):
        """Change every container once more.

        An account takes the counts of whatever row came last (the format has no time
        for them), so the row of a handoff can bring old ones back, and they stay until
        the container changes and is reported again.
        """
        for container in (*CONTAINERS, *self.judge.mixed):
            self._write_object("PUT", container, obj)

    def _round(self, number):
        """One pass of each daemon on all nodes; auditors look once, or where damage is.

        Objects come first, then what is told of them: rows, and the counts of rows.
        """
        nodes = list(self.world.nodes)
        for name in PASSES:
            if name.endswith("-auditor") and number > 1:
                continue
            self.rng.shuffle(nodes)
            for node in nodes[:1] if name in SINGLE else nodes:
                self._run_daemon(node, name)
        self.world.clock.leap(90.0)
