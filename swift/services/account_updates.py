# SPDX-License-Identifier: Apache-2.0
"""What a container server tells account servers when a container comes or goes.

Contract backend-http 6. The nodes to tell are those that the request names, as the
proxy does; a node that was not reached hears it from the container updater.
"""

from __future__ import annotations

from swift.core.errors import InvalidInput
from swift.core.headers import (
    REFERER,
    USER_AGENT,
    X_ACCOUNT_DEVICE,
    X_ACCOUNT_HOST,
    X_ACCOUNT_OVERRIDE_DELETED,
    X_ACCOUNT_PARTITION,
    X_BACKEND_STORAGE_POLICY_INDEX,
    X_BYTES_USED,
    X_DELETE_TIMESTAMP,
    X_OBJECT_COUNT,
    X_PUT_TIMESTAMP,
    X_TRANS_ID,
    Headers,
)
from swift.core.names import ContainerName
from swift.runtime.logs import Logger
from swift.services.node import NodeCall
from swift.services.updates import UpdateSender, peers_of
from swift.storage.db.container import ContainerStat


class AccountUpdates:
    """Tells the accounts of one container server's containers.

    agent, in methods: the User-Agent, `container-server <pid>`.
    """

    def __init__(self, sender: UpdateSender, log: Logger) -> None:
        self._sender = sender
        self._log = log

    def is_missing(
        self, call: NodeCall, name: ContainerName, stat: ContainerStat, agent: str
    ) -> bool:
        """Tell the account nodes that the request names; True when all say 404. Yields.

        Any other failure is made good by the container updater.
        """
        headers = call.headers
        partition = headers.get(X_ACCOUNT_PARTITION)
        if not partition:
            return False
        try:
            peers = peers_of(headers.get(X_ACCOUNT_HOST), headers.get(X_ACCOUNT_DEVICE))
        except InvalidInput as error:
            self._log.error(
                "account update of %s is not sent: %s",
                name.path,
                error,
                txn=call.trans_id,
            )
            return False
        if not peers:
            return False
        update = Headers.titled(
            [
                (X_PUT_TIMESTAMP, stat.put_timestamp),
                (X_DELETE_TIMESTAMP, stat.delete_timestamp),
                (X_OBJECT_COUNT, str(stat.object_count)),
                (X_BYTES_USED, str(stat.bytes_used)),
                (X_TRANS_ID, call.trans_id),
                (X_BACKEND_STORAGE_POLICY_INDEX, str(stat.storage_policy_index)),
                (USER_AGENT, agent),
                (REFERER, call.referer),
            ]
        )
        if headers.get(X_ACCOUNT_OVERRIDE_DELETED, "no").lower() == "yes":
            update[X_ACCOUNT_OVERRIDE_DELETED] = "yes"
        answers = self._sender.send(peers, "PUT", partition, name.quoted, update)
        return all(answer.status == 404 for answer in answers)
