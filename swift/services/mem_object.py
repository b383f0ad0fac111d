# SPDX-License-Identifier: Apache-2.0
"""The object server that keeps its objects in memory (egg:swift#mem_object).

All verbs and options are those of the object server on disk, whose engine works here on
a MemoryDisk. What differs follows from where the objects are: they are gone when the
process ends; every device is there; one worker serves, for others would have other
objects. Contract: config 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.core.settings import option, positive_int
from swift.runtime.logs import Logger
from swift.services.object import ObjectConfig, ObjectServer, make_server
from swift.storage.memory import MemoryDisk
from swift.storage.object.context import DiskConfig
from swift.wire.client import TcpConnector
from swift.wire.filter import PipelineContext


@dataclass(frozen=True)
class MemoryConfig:
    """What [app:object-server] says of the memory of egg:swift#mem_object."""

    memory_size: int = option(
        1 << 30,
        parse=positive_int,
        doc="Bytes that all objects of egg:swift#mem_object may take together; writes "
        "beyond get 507.",
    )


class ForgottenUpdates:
    """The end of updates that no container server took.

    No updater sees this process's memory, so that keeping them would help nobody.
    """

    def __init__(self, log: Logger) -> None:
        self._log = log

    def save(
        self,
        device: str,
        op: str,
        name: ObjectName,
        headers: Headers,
        *,
        db_state: str | None = None,
        container_path: str | None = None,
    ) -> None:
        """Say that an update is lost."""
        self._log.warning(
            "%s: container update (%s) of %s is lost: objects in memory keep none",
            device,
            op,
            name.path,
        )


def app_factory(
    global_conf: Mapping[str, str] | None, **local_conf: str
) -> ObjectServer:
    """The object server of a section [app:object-server] that uses
    egg:swift#mem_object.

    Raises ConfigError.
    """
    context = PipelineContext.of(global_conf)
    config = context.bind(ObjectConfig, local_conf)
    disks = replace(context.bind(DiskConfig, local_conf), mount_check=False)
    memory = context.bind(MemoryConfig, local_conf)
    context.process.workers_max = 1
    log = context.logger("object-server")
    return make_server(
        config,
        disks,
        cluster=context.cluster,
        connector=TcpConnector(),
        log=log,
        metrics=context.metrics,
        fs=MemoryDisk(disks.devices, memory.memory_size),
        pending=ForgottenUpdates(log),
    )
