# SPDX-License-Identifier: Apache-2.0
"""A whole cluster in this thread: real servers, proxies and daemons between the doors.

The World knows how to ask, to break, to mend and to let a daemon pass. What is asked
and broken when is in `history`, what must be true afterwards in `judge`.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile

from swift.core.hashing import HashSalt
from swift.core.headers import X_TIMESTAMP
from swift.core.names import Limits
from swift.core.settings import Reserve
from swift.daemons import rsync
from swift.daemons.account_reaper import AccountReaper
from swift.daemons.account_replicator import AccountReplicator
from swift.daemons.container_reconciler import ContainerReconciler
from swift.daemons.container_replicator import ContainerReplicator
from swift.daemons.container_updater import ContainerUpdater
from swift.daemons.databases import IDLE_MAX
from swift.daemons.db_auditor import AccountAuditor, ContainerAuditor
from swift.daemons.object_auditor import ALL, ZBF, ObjectAuditor, Scan
from swift.daemons.object_expirer import ObjectExpirer
from swift.daemons.object_reconstructor import ObjectReconstructor
from swift.daemons.object_replicator import ObjectReplicator
from swift.daemons.object_updater import DeviceSweep, ObjectUpdater
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.daemon import Frame, Scope, run_pass
from swift.runtime.logs import DEBUG, NULL_LOG, ListSink, Logger
from swift.runtime.metrics import NO_METRICS
from swift.services import account, container
from swift.services import object as object_server
from swift.services.proxy.app import ProxyServer, make_proxy, register_facts
from swift.services.proxy.options import read_options
from swift.storage import fs
from swift.storage.db.connection import Databases
from swift.storage.devices import Devices
from swift.storage.object.context import DiskConfig
from swift.wire import environ as env
from swift.wire.client import ConnectionPool
from swift.wire.environ import blank
from swift.wire.filter import PipelineContext, Process
from swift.wire.internal_client import InternalClient
from swift.wire.local_cache import LocalCache
from swift.wire.request import call
from test.sim import databases
from test.sim.clients import LeavingClient
from test.sim.doors import (
    START,
    DiskThreads,
    Network,
    SimClock,
    SimConnector,
    SimDisk,
    SimRsync,
    this_thread,
)
from test.sim.layout import PORTS, Rings, policies_of

SALT = HashSalt(b"", b"simulated")
DAEMONS = (
    "object-auditor",
    "object-updater",
    "object-replicator",
    "object-reconstructor",
    "container-auditor",
    "container-replicator",
    "container-updater",
    "account-auditor",
    "account-replicator",
)
"""What runs on every node, in the order of a calm pass."""

_CLASSES = {
    "object-updater": ObjectUpdater,
    "object-auditor": ObjectAuditor,
    "object-replicator": ObjectReplicator,
    "object-reconstructor": ObjectReconstructor,
    "container-auditor": ContainerAuditor,
    "container-replicator": ContainerReplicator,
    "container-updater": ContainerUpdater,
    "account-auditor": AccountAuditor,
    "account-replicator": AccountReplicator,
    "object-expirer": ObjectExpirer,
    "account-reaper": AccountReaper,
    "container-reconciler": ContainerReconciler,
}


class SimNode:
    """One node: a device, three servers, and its daemons when they are asked for."""

    def __init__(self, world, number):
        self.world = world
        self.number = number
        self.name = f"n{number}"
        self.ip = f"10.0.0.{number}"
        self.device = f"d{number}"
        self.root = f"{world.root}/{self.name}"
        self.path = f"{self.root}/{self.device}"
        self.away = f"{world.root}/away-{self.name}"
        os.makedirs(self.path)
        self.cluster = world.cluster()
        self.down = True
        self._image = None
        self.apps = {}
        self.served = []
        self.daemons = {}
        self.databases = None
        self.connector = SimConnector(world.network, self)

    def start(self):
        """Start the servers."""
        world = self.world
        shared = {"cluster": self.cluster, "log": world.log, "metrics": NO_METRICS}
        places = {"devices": self.root, "mount_check": False, "log_requests": False}
        disks = DiskConfig(
            devices=self.root, mount_check=False, fallocate_reserve=Reserve()
        )
        self.apps = {
            "object": object_server.make_server(
                object_server.ObjectConfig(log_requests=False),
                disks,
                connector=self.connector,
                **shared,
            ),
            "container": container.make_server(
                container.ContainerConfig(**places), connector=self.connector, **shared
            ),
            "account": account.make_server(account.AccountConfig(**places), **shared),
        }
        self.databases = Databases(green.now, idle_max=IDLE_MAX)
        self.down = False
        world.disk.nodes[self.name].down = False

    def stop(self):
        """End the servers and all their requests at once.

        What they do as they end is not done, for a process that is killed does not.
        """
        state = self.world.disk.nodes[self.name]
        state.down = True
        self.down = True
        self.apps = {}
        self.daemons = {}
        self.databases = None
        # Killing yields; who starts us again meanwhile must find nothing of this.
        served, self.served = self.served, []
        me = this_thread()
        for each in served:
            each.channel.close()
            if each.thread is not me:
                each.thread.kill()
        threads, state.threads = state.threads, {}
        for thread in threads:
            if thread is not me:
                thread.kill()

    def cut_power(self):
        """End everything, and lose what was not synced."""
        world = self.world
        state = world.disk.nodes[self.name]
        state.down = True
        state.cut_in = None
        if not self._image:
            self._image = world.databases.after_power_loss(self.path, self.name)
        image, self._image = self._image, None
        self.stop()
        if os.path.isdir(self.path):
            world.disk.lose_power(self.name, self.device)
            world.databases.settle(image)

    def fails_to_sync(self):
        """True when a database cannot be synced now: the disk is sick, or all is over.

        The power may go here: what a restart finds is settled now, while SQLite, whose
        steps cannot be broken off, undoes its transaction in vain.
        """
        state = self.world.disk.nodes[self.name]
        if state.down or "sync" in state.errors:
            return True
        if state.cut_in is None:
            return False
        state.cut_in -= 1
        if state.cut_in >= 0:
            return False
        state.down = True
        self._image = self.world.databases.after_power_loss(self.path, self.name)
        green.spawn(self.cut_power)
        return True

    def take_away(self):
        """The device is gone, its node lives."""
        if os.path.isdir(self.path):
            os.rename(self.path, self.away)

    def bring_back(self):
        """The device is there again, as it was."""
        if os.path.isdir(self.away):
            os.rename(self.away, self.path)

    def wipe(self):
        """An empty device is in the place of the old."""
        for path in (self.path, self.away):
            if os.path.isdir(path):
                for name in os.listdir(path):
                    shutil.rmtree(f"{path}/{name}", ignore_errors=True)
                self.world.disk.forget(path)

    def daemon(self, name):
        """A daemon of this node."""
        made = self._made(name)
        local = getattr(made, "local", None)
        if local is not None:
            # To open a database costs more than what a pass does with it, so that the
            # daemons of a node share what is open, as if they were one process.
            local.databases = self.databases
            if hasattr(made, "pusher"):
                made.pusher.databases = self.databases
        return made

    def _made(self, name):
        world = self.world
        kind = _CLASSES[name]
        server = name.partition("-")[0]
        fields = {
            "devices": self.root,
            "mount_check": False,
            "bind_ip": self.ip,
            "bind_port": PORTS[server],
            # Nobody reads here what daemons leave for recon.
            "recon_cache_path": f"{self.root}/no-recon",
            "sync_method": "ssync",
            "rsync_module": "{replication_ip}::sim",
            "databases_per_second": 0.0,
            "containers_per_second": 0.0,
            "per_second": 0.0,
            "objects_per_second": 0.0,
            "files_per_second": 0.0,
            "bytes_per_second": 0.0,
            "tasks_per_second": 0.0,
            "dequeue_from_legacy": True,
        }
        known = kind.Config.__dataclass_fields__
        config = kind.Config(**{k: v for k, v in fields.items() if k in known})
        frame = Frame(self.cluster, world.log, NO_METRICS)
        if name in ("object-replicator", "object-reconstructor"):
            rng = random.Random(world.rng.random())
            return kind(config, frame, connector=self.connector, rng=rng)
        if name in ("object-auditor", "container-auditor", "account-auditor"):
            return kind(config, frame)
        if name == "object-updater":
            return _Updater(self, config, frame)
        if name in ("object-expirer", "container-reconciler"):
            client = InternalClient(
                CachedApp(world.proxies[0], LocalCache()), user_agent=name, tries=1
            )
            return kind(config, frame, client=client, pool=self.pool())
        return kind(config, frame, pool=self.pool())

    def pool(self):
        """Connections from this node."""
        return ConnectionPool(self.connector)

    def run(self, name):
        """One pass of a daemon."""
        if self.down:
            return
        daemon = self.daemons.get(name)
        if daemon is None:
            daemon = self.daemons[name] = self.daemon(name)
        if name == "object-auditor":
            # In this process, and not in the children that the daemon would fork.
            for kind in (ALL, ZBF):
                daemon.scan(Scan(kind, tuple(daemon._devices.names()), 0.0))
            return
        run_pass(daemon, Scope(once=True))


class _Updater(ObjectUpdater):
    """Sweeps in this process, for a forked child would have a world of its own."""

    def __init__(self, node, config, frame):
        super().__init__(config, frame)
        self._node = node

    def handle(self, job):
        DeviceSweep(
            self.config,
            self.frame,
            job,
            Devices(self.config.devices, False),
            pool=self._node.pool(),
            rng=random.Random(self._node.world.rng.random()),
        ).run()


class CachedApp:
    """A proxy with the cache that a filter would give it."""

    def __init__(self, app, cache_):
        self._app = app
        self._cache = cache_

    def __call__(self, environ, start_response):
        environ[env.CACHE] = self._cache
        environ.setdefault(env.TRANS_ID, "tx-sim")
        return self._app(environ, start_response)


class World:
    """The cluster. Close it.

    rng: decides everything. scheme: data and parity fragments of the second policy.
    count, spares: nodes with a place in the rings, and such as may get one. sink: what
    servers and daemons logged, if `logs`. events: takes each thing that happens in the
    doors, a line with its time.
    """

    salt = SALT
    account = "a"

    def __init__(
        self, rng, count, scheme, broken=(), *, spares=0, logs=False, events=None
    ):
        self.rng = rng
        base = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.root = tempfile.mkdtemp(prefix="sim-", dir=base)
        self._events = events
        record = None if events is None else self._tell
        self.clock = SimClock(record)
        self._random_state = random.getstate()
        self._urandom = os.urandom
        self._settled_s = Databases.settled_s
        random.seed(rng.random())
        # Random ids and orders come from the seed too.
        os.urandom = rng.randbytes
        random._urandom = rng.randbytes
        green.install(self.clock)
        threads = DiskThreads(rng, apart=rng.random() < 0.3)
        green.install_threads(threads)
        self.disk = SimDisk(self.root, rng, broken, record)
        self.disk.threads = threads.running
        fs.install(self.disk)
        self.databases = databases.SimDatabases(
            rng,
            self._fails_to_sync,
            self._has_room,
            self.clock.seconds,
            broken=broken,
            record=record,
        )
        databases.install(self.databases)
        # Files have the times of the kernel, which no clock of ours knows. Names of
        # databases that a tick of it hides are found out when they are opened.
        Databases.settled_s = float("-inf")
        self.network = Network(rng, record=record)
        rsync.install(SimRsync(self.network, self.root))
        self.sink = ListSink()
        self.log = Logger("sim", [self.sink], level=DEBUG) if logs else NULL_LOG
        self.policies = policies_of(*scheme)
        self.layout = Rings(self.policies, count)
        self.nodes = [SimNode(self, n) for n in range(1, count + spares + 1)]
        self.network.nodes.update((node.ip, node) for node in self.nodes)
        for node in self.nodes:
            self.disk.add(node.name, node.device)
            self.disk.nodes[node.name].on_cut = node.cut_power
            node.start()
        self.caches = [LocalCache(), LocalCache()]
        self.proxies = [self.proxy(near=number) for number in (1, 2)]
        self.calm_proxy = self.proxy(calm=True)

    def close(self):
        """Give the doors back and remove the files."""
        for node in self.nodes:
            node.stop()
        green.install_threads(None)
        green.install(None)
        fs.install(None)
        databases.install(None)
        Databases.settled_s = self._settled_s
        rsync.install(None)
        os.urandom = random._urandom = self._urandom
        random.setstate(self._random_state)
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def rings(self):
        """The rings as they were published last: name → ring."""
        return self.layout.published

    def calm_down(self):
        """From now on no node fails, and what it would lose need not be known."""
        self.disk.is_calm = True
        databases.watch(self.databases, self._events is not None)

    def cluster(self):
        """What one more process knows of the cluster."""
        return Cluster(self.root, SALT, Limits(), self.policies, self.layout.seen())

    def _tell(self, text):
        text = text.replace(self.root, "")
        self._events(f"{self.clock.seconds() - START:13.6f} {text}")

    def _fails_to_sync(self, path):
        name = self._node_name(path)
        node = next((node for node in self.nodes if node.name == name), None)
        return node is not None and node.fails_to_sync()

    def _has_room(self, path, size):
        """True when a database may grow; the room is less by that then."""
        state = self.disk.nodes.get(self._node_name(path))
        if state is None or state.room is None:
            return True
        if size > state.room:
            return False
        state.room -= size
        return True

    def _node_name(self, path):
        return path[len(self.root) + 1 :].partition("/")[0]

    def proxy(self, *, near=0, calm=False):
        """A proxy, on the side of a node; calm: its messages meet no faults."""
        conf = {"account_autocreate": "true", "allow_account_management": "true"}
        if calm:
            # It asks every node, whatever it has met before.
            conf["error_suppression_limit"] = "1000000"
        process = Process(conf, cluster=self.cluster(), log=self.log)
        context = PipelineContext(conf, process)
        options = read_options(conf, {}, policies=[0, 1], source="-")
        connector = SimConnector(self.network, near=near, calm=calm)
        proxy = make_proxy(context, options, ConnectionPool(connector))
        proxy.rng.seed(self.rng.random())
        register_facts(context.info, proxy)
        return ProxyServer(proxy, context.info)

    def ask(self, app, method, path, headers=(), body=b"", stamp=None, cache_=None):
        """(status, headers, body) of one request; the body None when it broke off.

        body: bytes, or a LeavingClient. stamp: the time of the proxy that is asked, for
        clocks that differ.
        """
        sent = dict(headers)
        if stamp is not None:
            sent[X_TIMESTAMP] = stamp
        sender = body if isinstance(body, LeavingClient) else None
        if sender is not None:
            body = sender.body
        environ = blank(path, method=method, headers=sent, body=body)
        if sender is not None:
            sender.attach(environ)
        environ[env.CACHE] = LocalCache() if cache_ is None else cache_
        environ[env.TRANS_ID] = "tx-sim"
        response = call(app, environ)
        content = b""
        length = response.headers.get("Content-Length")
        try:
            if response.app_iter is not None:
                for chunk in response.app_iter:
                    content += chunk
            else:
                content = response.body or b""
        except Exception:
            content = None
        else:
            short = length is not None and len(content) != int(length)
            if method == "GET" and short:
                content = None
        finally:
            close = getattr(response.app_iter, "close", None)
            if close is not None:
                close()
        return response.status, response.headers, content
