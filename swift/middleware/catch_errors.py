# SPDX-License-Identifier: Apache-2.0
"""The outermost filter: transaction ids, no uncaught error, no body of a wrong length.

Every answer carries the transaction id, under which all servers log what they did for
the request. An exception from within becomes a 500. A body that does not have its
declared length would make the client take the rest of it for the next answer, so that
surplus bytes are cut and a short body breaks the connection.

Contract: middleware 4, api 9.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from swift.core.errors import ClientDisconnect, ClientTimeout, SwiftError
from swift.core.headers import (
    CONTENT_LENGTH,
    CONTENT_TYPE,
    X_OPENSTACK_REQUEST_ID,
    X_TRANS_ID,
)
from swift.core.settings import option
from swift.runtime import green
from swift.wire.environ import (
    CONNECTION_CLOSE,
    HTTP_X_TRANS_ID_EXTRA,
    PATH_INFO,
    REQUEST_METHOD,
    TRANS_ID,
    Environ,
)
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.refusals import transaction_id
from swift.wire.request import TEXT_TYPE, StartResponse, WsgiApp, close, response_of

EXTRA_MAX = 32
"""Characters of a client's X-Trans-Id-Extra that are taken."""

_BODY = b"An error occurred"
_OURS = frozenset((X_TRANS_ID, X_OPENSTACK_REQUEST_ID))


class BodyTooShort(SwiftError):
    """An application gave fewer bytes than its Content-Length says."""

    def __init__(self, declared: int, sent: int) -> None:
        super().__init__(f"body of {sent} bytes, declared as {declared}")
        self.declared = declared
        self.sent = sent


@dataclass(frozen=True)
class CatchErrorsConfig:
    """[filter:catch_errors] of proxy-server.conf."""

    trans_id_suffix: str = option("", doc="Appended to every transaction id.")


class CatchErrors(Filter):
    """The filter."""

    Config = CatchErrorsConfig
    config: CatchErrorsConfig

    def __init__(
        self, app: WsgiApp, config: CatchErrorsConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self._suffix = config.trans_id_suffix
        self._log = context.logger("catch-errors")

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        suffix = self._suffix
        if HTTP_X_TRANS_ID_EXTRA in environ:
            suffix += "-" + environ[HTTP_X_TRANS_ID_EXTRA][:EXTRA_MAX]
        trans_id = environ[TRANS_ID] = transaction_id(suffix)
        is_head = environ[REQUEST_METHOD] == "HEAD"
        declared: int | None = None

        def begin(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Any:
            nonlocal declared
            own = [pair for pair in headers if pair[0] not in _OURS]
            for name, value in own:
                if name == CONTENT_LENGTH:
                    declared = int(value) if value.isdigit() else None
            own.append((X_TRANS_ID, trans_id))
            own.append((X_OPENSTACK_REQUEST_ID, trans_id))
            if exc_info is not None:
                return start_response(status, own, exc_info)
            return start_response(status, own)

        try:
            chunks = self.app(environ, begin)
        except (ClientDisconnect, ClientTimeout) as error:
            return response_of(error)(environ, begin)
        except (Exception, green.Timeout):
            self._log.exception(
                "%s %s failed (txn: %s)",
                environ[REQUEST_METHOD],
                environ.get(PATH_INFO),
                trans_id,
            )
            headers = [
                (CONTENT_TYPE, TEXT_TYPE),
                (CONTENT_LENGTH, str(len(_BODY))),
            ]
            begin("500 Internal Server Error", headers, sys.exc_info())
            return () if is_head else (_BODY,)
        if is_head:
            if chunks:
                close(chunks)
            return ()
        if declared is None or hasattr(chunks, "spliceable"):
            # What moves within the kernel is counted by the server.
            return chunks
        if isinstance(chunks, (list, tuple)) and sum(map(len, chunks)) == declared:
            return chunks
        return Body(environ, chunks, declared)


class Body:
    """A body that ends after exactly its declared length, or breaks off."""

    __slots__ = ("_declared", "_environ", "_iterator", "_left", "_source")

    def __init__(
        self, environ: Environ, source: Iterable[bytes], declared: int
    ) -> None:
        self._environ = environ
        self._source = source
        self._iterator = iter(source)
        self._declared = declared
        self._left = declared

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The next chunk; raises BodyTooShort at a premature end. Yields."""
        try:
            chunk = next(self._iterator)
        except StopIteration:
            if self._left > 0:
                raise BodyTooShort(
                    self._declared, self._declared - self._left
                ) from None
            raise
        if len(chunk) <= self._left:
            self._left -= len(chunk)
            return chunk
        # The client has been told a length; what is beyond it would be read as the next
        # answer on this connection.
        self._environ[CONNECTION_CLOSE] = True
        chunk = chunk[: self._left]
        self._left = 0
        if chunk:
            return chunk
        raise StopIteration

    def close(self) -> None:
        """Close the application's body."""
        close(self._source)


filter_factory = factory(CatchErrors)
