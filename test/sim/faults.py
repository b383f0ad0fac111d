# SPDX-License-Identifier: Apache-2.0
"""What befalls a simulated cluster: weather, dead nodes, sick disks, changes of rings.

All stays within what the cluster promises to bear: what is destroyed for good (a wiped
device, a flipped bit, a device removed at once) is destroyed on one node of each
history, the victim; everything else comes back.
"""

from __future__ import annotations

import errno
import os

from swift.runtime import green
from test.sim import databases
from test.sim.doors import FAULTS

KINDS = (
    "weather", "weather", "stop", "power", "blackout", "blackout", "cut", "sick",
    "full", "full", "slow", "away", "damage", "split", "deafness", "repair", "repair",
)  # fmt: skip
_NO_INODES = (
    "make_directory", "open_unnamed", "open_temporary", "open_append", "symlink",
)  # fmt: skip
_NO_NAMES = ("make_directory", "link_unnamed", "link", "rename", "set_xattr")


_OF_ALL = ("weather", "damage", "blackout", "split", "deafness")
"""What befalls the cluster, not the node that was drawn."""


class Faults:
    """Breaks a World and mends it.

    say: takes one line of the trace. heal: lets the daemons that heal pass once on
    every node. damaged: something was destroyed on the victim. hidden: numbers of nodes
    whose device may hold what no reader finds, as no ring leads to it any more.
    """

    def __init__(self, world, say, heal):
        self._world = world
        self._rng = world.rng
        self._say = say
        self._heal = heal
        self._victim = self._rng.choice(world.nodes)
        world.databases.forgetful.add(self._victim.name)
        self.damaged = False
        self.hidden = set()

    def strike(self):
        """One fault, or the end of one. Yields."""
        kind = self._rng.choice(KINDS)
        node = self._rng.choice(self._world.nodes)
        if node.down and kind not in _OF_ALL:
            kind = "repair"
        if kind in _OF_ALL:
            getattr(self, f"_{kind}")()
        else:
            getattr(self, f"_{kind}")(node)
        self._world.databases.forget_pending([each.path for each in self._world.nodes])

    def lost(self):
        """Numbers of the nodes that may not give what they had."""
        unwell = {node.number for node in self._world.nodes if self._is_unwell(node)}
        return unwell | self.hidden | ({self._victim.number} if self.damaged else set())

    @property
    def are_over(self):
        """True when nothing is broken now."""
        network = self._world.network
        if network.chances or network.side or network.deaf or network.delays:
            return False
        return not any(map(self._is_unwell, self._world.nodes))

    def _is_unwell(self, node):
        state = self._world.disk.nodes[node.name]
        is_slow = node.number in self._world.network.delays
        is_ill = state.errors or state.room is not None or is_slow
        return node.down or is_ill or not os.path.isdir(node.path)

    def mend(self):
        """End all faults, and wait for what is on its way. Yields."""
        self._world.network.chances = {}
        self._world.network.side = frozenset()
        self._world.network.deaf = ""
        for node in self._world.nodes:
            self._repair(node)
        green.sleep(100.0)

    def _repair(self, node):
        state = self._world.disk.nodes[node.name]
        state.errors.clear()
        state.room = None
        state.cut_in = None
        self._world.network.delays.pop(node.number, None)
        self._mind_room()
        node.bring_back()
        if node.down:
            node.start()
        self._say(f"{node.name} is well again")

    # --- The network ------------------------------------------------------------------

    def _weather(self):
        chances = {}
        if self._rng.random() < 0.7:
            for fault in self._rng.sample(FAULTS, self._rng.randint(1, 3)):
                chances[fault] = self._rng.choice((0.03, 0.1, 0.3))
        self._world.network.chances = chances
        self._say(f"messages: {chances or 'all arrive'}")

    def _split(self):
        if self._world.network.side:
            self._world.network.side = frozenset()
            self._say("the network is whole")
        else:
            self.split()

    def split(self):
        """Cut the network in two, with a proxy on each side."""
        numbers = [node.number for node in self._world.nodes]
        others = self._rng.sample(numbers[2:], self._rng.randrange(len(numbers) - 1))
        self._world.network.side = frozenset((1, *others))
        self._say(f"nodes {sorted(self._world.network.side)} are cut off")

    def _deafness(self):
        if self._world.network.deaf:
            self._say(f"{self._world.network.deaf} servers are in reach again")
            self._world.network.deaf = ""
        else:
            self.deafen(self._rng.choice(("account", "container")))

    def deafen(self, kind):
        """Let storage nodes not reach servers of a kind; what they tell them waits."""
        self._world.network.deaf = kind
        self._say(f"{kind} servers are out of reach of the nodes")

    # --- Nodes ------------------------------------------------------------------------

    def _stop(self, node):
        self._say(f"{node.name} is killed")
        node.stop()

    def _power(self, node):
        self._say(f"{node.name} loses power")
        node.cut_power()

    def _slow(self, node):
        delay_s = self._rng.choice((1.0, 6.0, 12.0))
        self._world.network.delays[node.number] = delay_s
        self._say(f"{node.name} takes {delay_s} seconds to answer")

    def _cut(self, node):
        state = self._world.disk.nodes[node.name]
        state.cut_in = self._rng.randrange(60)
        self._say(f"{node.name} loses power in {state.cut_in} steps")

    def fell(self):
        """One node dies, or all lose power for a moment, amid whatever goes on."""
        kind = self._rng.choice(("stop", "power", "blackout", "blackout"))
        if kind == "blackout":
            self._blackout()
        else:
            node = self._rng.choice(self._world.nodes)
            if not node.down:
                getattr(self, f"_{kind}")(node)

    def _blackout(self):
        """All nodes lose power at once, and start again."""
        self._say("all nodes lose power")
        running = [node for node in self._world.nodes if not node.down]
        for node in running:
            node.cut_power()
        for node in running:
            node.start()

    # --- Disks ------------------------------------------------------------------------

    def _sick(self, node):
        errors = dict.fromkeys(("sync", "sync_data"), errno.EIO)
        self._world.disk.nodes[node.name].errors.update(errors)
        self._say(f"{node.name} cannot sync")

    def _full(self, node):
        """No room for data, or also none for inodes or for names."""
        state = self._world.disk.nodes[node.name]
        state.room = self._rng.choice((0, 0, 3000, 30_000))
        missing = self._rng.choice(((), (), _NO_INODES, _NO_NAMES))
        state.errors.update(dict.fromkeys(missing, errno.ENOSPC))
        self._mind_room()
        self._say(f"{node.name} is full but for {state.room} bytes {missing}")

    def _mind_room(self):
        states = self._world.disk.nodes.values()
        databases.tighten(any(state.room is not None for state in states))

    def _away(self, node):
        self._say(f"{node.name} has no device")
        node.take_away()

    def _damage(self):
        node = self._victim
        if node not in self._world.nodes or not os.path.isdir(node.path):
            return
        if self._rng.random() < 0.3:
            self._heal_first()
            self._say(f"{node.name} gets an empty device")
            node.wipe()
            self.damaged = True
        else:
            self._flip_bit(node)

    def _heal_first(self):
        # What two other nodes missed may be on this one alone; a cluster that is well
        # loses one device.
        self.mend()
        self._heal()

    def _flip_bit(self, node):
        files = sorted(
            f"{folder}/{name}"
            for policy in self._world.policies
            for folder, _, names in os.walk(f"{node.path}/{policy.objects_dir}")
            for name in names
            if name.endswith(".data")
        )
        if not files:
            return
        place = self._rng.choice(files)
        with open(place, "rb") as stream:
            data = bytearray(stream.read())
        if data:
            data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
            with open(place, "r+b") as stream:
                stream.write(data)
            self._say(f"{node.name} has a flipped bit in {place[-60:]}")
            self.damaged = True

    # --- Rings ------------------------------------------------------------------------

    def change_rings(self):
        """Publish rings with a device more, with one that is drained, or without one.

        Yields.
        """
        layout, nodes = self._world.layout, self._world.nodes
        spares = [
            node for node in nodes if node.number not in layout.holders | self.hidden
        ]
        if spares:
            self._say(f"{spares[0].name} gets its share of the rings")
            layout.add(spares[0].number)
        elif layout.may_shrink and self._rng.random() < 0.5:
            self._remove(self._victim)
        elif layout.may_shrink:
            number = self._rng.choice(sorted(layout.holders))
            self._say(f"n{number} is drained")
            layout.drain(number)
            self.hidden.add(number)

    def _remove(self, node):
        """A node dies for good, and is taken out of the rings."""
        if node.number not in self._world.layout.holders:
            return
        self._heal_first()
        self._say(f"{node.name} is dead and out of the rings")
        node.stop()
        self._world.nodes.remove(node)
        self._world.layout.remove(node.number)
        self.damaged = True
        # A second loss at once would be one too many.
        self.mend()
        self._heal()
