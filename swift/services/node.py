# SPDX-License-Identifier: Apache-2.0
"""What account, container and object servers share: route, time, answer, log.

A server is one WSGI application. It reads the path once, finds the handler of the
method in a table, turns a domain error into its answer, and writes one access line.
Handlers take a `NodeCall` and return a `Response`; they know neither WSGI nor the log.
Rules: contract backend-http 1, config 5 and 8.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import swift
from swift.core.errors import InvalidInput, SwiftError
from swift.core.headers import (
    ALLOW,
    CONTENT_LENGTH,
    SERVER,
    X_BACKEND_STORAGE_POLICY_INDEX,
    X_TIMESTAMP,
    Headers,
    true,
)
from swift.core.names import (
    RESERVED,
    AccountName,
    BadEncoding,
    ContainerName,
    Name,
    ObjectName,
    split_node_path,
    text_of_wsgi,
)
from swift.core.settings import boolean, option, string
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.access_lines import Anonymizer, LineTemplate
from swift.runtime.cluster import Cluster
from swift.runtime.logs import DEBUG, INFO, Logger
from swift.runtime.metrics import Metrics
from swift.wire import environ as env
from swift.wire.environ import Environ, headers_of
from swift.wire.request import Response, StartResponse, host_url, response_of

REPLICATION_METHODS = frozenset(("REPLICATE", "SSYNC"))
"""Methods that `replication_server = false` refuses."""

_PATH_ORDER = ("disk", "partition", "account", "container", "object")
_PATH_FIELDS = frozenset(_PATH_ORDER)


def _line_format(text: str) -> str:
    """A template of access lines, blank for the usual one."""
    value = string(text)
    LineTemplate.for_server(value, Anonymizer())  # raises ValueError
    return value


def _hash_method(text: str) -> str:
    """The name of a hash that this machine has."""
    return Anonymizer(string(text)).method  # raises ValueError


@dataclass(frozen=True)
class NodeConfig:
    """Options of [app:account-server] and its two siblings, whatever the kind."""

    log_requests: bool = option(
        True, parse=boolean, doc="Write a line in the log for each request."
    )
    replication_server: bool = option(
        True,
        parse=boolean,
        doc="Take REPLICATE and SSYNC; false refuses them with 405.",
    )
    log_format: str = option("", parse=_line_format, doc="Template of access lines.")
    log_anonymization_method: str = option(
        "md5",
        parse=_hash_method,
        doc="Hash of fields that the template wants anonymized.",
    )
    log_anonymization_salt: str = option("", doc="Goes into that hash.")

    def line_template(self) -> LineTemplate:
        """The template of access lines."""
        anonymizer = Anonymizer(
            self.log_anonymization_method, self.log_anonymization_salt
        )
        return LineTemplate.for_server(self.log_format, anonymizer)


class NodeCall:
    """One request to a storage server, its path and headers read.

    partition: text, one safe segment of a path. rest: what follows it, decoded. name:
    None when rest is empty.
    """

    __slots__ = ("device", "environ", "headers", "method", "name", "partition", "rest")

    def __init__(self, environ: Environ, method: str) -> None:
        try:
            path = text_of_wsgi(environ[env.PATH_INFO])
        except BadEncoding as error:
            raise BadEncoding("Invalid UTF8 or contains NULL") from error
        self.environ = environ
        self.method = method
        try:
            parsed = split_node_path(path)
        except InvalidInput as error:
            raise _invalid_path(environ) from error
        self.device = parsed.device
        self.partition = parsed.partition
        self.rest = parsed.rest
        self.name = parsed.name
        self.headers = headers_of(environ)
        if RESERVED in path and self.name is not None:
            _check_reserved(self.name)

    def account(self) -> AccountName:
        """The account named; InvalidInput when the path names anything else."""
        if type(self.name) is not AccountName:
            raise _invalid_path(self.environ)
        return self.name

    def container(self) -> ContainerName:
        """The container named; InvalidInput when the path names anything else."""
        if type(self.name) is not ContainerName:
            raise _invalid_path(self.environ)
        return self.name

    def object(self) -> ObjectName:
        """The object named; InvalidInput when the path names anything else."""
        if type(self.name) is not ObjectName:
            raise _invalid_path(self.environ)
        return self.name

    def timestamp(self) -> Timestamp:
        """The X-Timestamp. Raises InvalidInput when it is missing or bad."""
        text = dict.get(self.headers, X_TIMESTAMP)
        if text is None:
            raise InvalidInput(f"Missing {X_TIMESTAMP} header")
        try:
            return Timestamp.parse(text)
        except InvalidInput as error:
            raise InvalidInput(f"Invalid {X_TIMESTAMP} header") from error

    @property
    def referer(self) -> str:
        """`METHOD url` of this request, for the logs of whom it makes work."""
        return f"{self.method} {host_url(self.environ)}{_quoted_path(self.environ)}"

    @property
    def trans_id(self) -> str:
        """The transaction id that the request carries, `-` for none."""
        found: str = self.environ.get(env.HTTP_X_TRANS_ID) or "-"
        return found


class ReservedName(InvalidInput):
    """A name that breaks the rules of the reserved namespace."""


def _quoted_path(environ: Environ) -> str:
    """The path as it came over the wire, percent-encoded."""
    raw: str | None = environ.get(env.RAW_PATH_INFO)
    return env.quote_path(environ[env.PATH_INFO]) if raw is None else raw


def _invalid_path(environ: Environ) -> InvalidInput:
    return InvalidInput(f"Invalid path: {env.quote_path(environ[env.PATH_INFO])}")


def _check_reserved(name: Name) -> None:
    """Hold a name that has NUL in it to databases 12; raises ReservedName."""
    parts = [("account", name.account)]
    if not isinstance(name, AccountName):
        parts.append(("container", name.container))
    if isinstance(name, ObjectName):
        parts.append(("object", name.obj))
    for kind, part in parts:
        if RESERVED in part and not part.startswith(RESERVED):
            raise ReservedName(f"Invalid reserved-namespace {kind}")
    if isinstance(name, ObjectName) and not name.account.startswith("."):
        container_reserved = name.container.startswith(RESERVED)
        object_reserved = name.obj.startswith(RESERVED)
        if container_reserved != object_reserved:
            spaces = ("user", "reserved")
            raise ReservedName(
                f"Invalid {spaces[object_reserved]}-namespace object in "
                f"{spaces[container_reserved]}-namespace container"
            )


Handler = Callable[[NodeCall], Response]


class NodeServer:
    """The frame around the handlers of one kind of storage server.

    Subclasses set `kind` and give `handlers`, method → function. log_name: what metrics
    and User-Agent call this server, `object-server`.
    """

    kind: ClassVar[str] = ""

    def __init__(
        self,
        config: NodeConfig,
        *,
        cluster: Cluster,
        log: Logger,
        metrics: Metrics,
    ) -> None:
        self.config = config
        self.cluster = cluster
        self.log = log
        self.metrics = metrics
        self._template = config.line_template() if config.log_requests else None
        self._handlers = dict(self.handlers())
        if not config.replication_server:
            for method in REPLICATION_METHODS:
                self._handlers.pop(method, None)
        self._metric_names = {
            method: (f"{method}.timing", f"{method}.errors.timing")
            for method in self._handlers
        }
        self._allowed = ", ".join(sorted([*self._handlers, "OPTIONS"]))

    def handlers(self) -> Mapping[str, Handler]:
        """Method → handler, but OPTIONS, which every server answers alike."""
        raise NotImplementedError

    @cached_property
    def agent(self) -> str:
        """The User-Agent of this server's own requests."""
        return f"{self.kind}-server {os.getpid()}"

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        start = green.now()
        method = environ[env.REQUEST_METHOD]
        handler = self._handlers.get(method)
        if method == "OPTIONS":
            # Of any path, `*` too: a probe of readiness and version.
            response = self._options()
        elif handler is None:
            response = Response(405)
        else:
            response = self._answer(handler, environ, method)
            good, bad = self._metric_names[method]
            self.metrics.timing_since(good if response.status < 500 else bad, start)
            if self.metrics.is_labelled:
                self.observe(environ, response.status, start)
        chunks = response(environ, start_response)
        if self._template is not None:
            self._write_access_line(self._template, environ, response, start)
        return chunks

    def observe(self, environ: Environ, status: int, start: float) -> None:
        """Tell labelled metrics of a request; kinds that have some override it."""

    def _answer(self, handler: Handler, environ: Environ, method: str) -> Response:
        try:
            return handler(NodeCall(environ, method))
        except ReservedName as error:
            return Response(400, body=str(error))
        except BadEncoding as error:
            return Response(412, body=str(error))
        except SwiftError as error:
            return response_of(error)
        except (Exception, green.Timeout):
            # One request must not take the server down; the traceback says what to
            # mend.
            self.log.exception("%s %s failed", method, environ[env.PATH_INFO])
            return Response.text(500, "The server could not answer this request.\n")

    def _write_access_line(
        self,
        template: LineTemplate,
        environ: Environ,
        response: Response,
        start: float,
    ) -> None:
        """One line, written when the answer's head is known; its body may still go."""
        level = DEBUG if self._is_background(environ) else INFO
        if not self.log.is_enabled(level):
            return
        path = _quoted_path(environ)
        values = {
            "remote_addr": environ.get(env.REMOTE_ADDR),
            "time": start,
            "method": environ[env.REQUEST_METHOD],
            "path": path,
            "status": response.status,
            "content_length": dict.get(response.headers, CONTENT_LENGTH),
            "referer": environ.get(env.HTTP_REFERER),
            "txn_id": environ.get(env.HTTP_X_TRANS_ID),
            "user_agent": environ.get(env.HTTP_USER_AGENT),
            "trans_time": green.now() - start,
            "additional_info": environ.get(env.ADDITIONAL_INFO),
            "pid": os.getpid(),
            "policy_index": environ.get(env.HTTP_X_BACKEND_STORAGE_POLICY_INDEX),
        }
        if not _PATH_FIELDS.isdisjoint(template.names):
            parts = path.split("/", 5)
            values.update(zip(_PATH_ORDER, parts[1:], strict=False))
        self.log.line(level, template.render(values))

    def _is_background(self, environ: Environ) -> bool:
        """True for the traffic of daemons, whose lines are for debugging."""
        return environ[env.REQUEST_METHOD] in REPLICATION_METHODS or true(
            environ.get(env.HTTP_X_BACKEND_REPLICATION)
        )

    def _options(self) -> Response:
        return Response(
            200,
            {ALLOW: self._allowed, SERVER: f"{self.kind}-server/{swift.__version__}"},
        )


def policy_index_of(headers: Headers, cluster: Cluster) -> int | None:
    """The X-Backend-Storage-Policy-Index of a request, None when there is none.

    Raises InvalidInput for an index that no policy has.
    """
    text = headers.get(X_BACKEND_STORAGE_POLICY_INDEX)
    if text is None:
        return None
    policy = cluster.policies.by_index(text)
    if policy is None or text == "":
        raise InvalidInput(f"Invalid {X_BACKEND_STORAGE_POLICY_INDEX} {text!r}")
    return policy.index
