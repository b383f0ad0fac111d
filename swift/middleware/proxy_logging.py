# SPDX-License-Identifier: Apache-2.0
"""One access line for each request, and the metrics that go with it.

The filter stands in the pipeline twice. The left instance logs what clients ask,
whoever answers it, and marks the request; the right one sees the mark and does nothing,
but for the requests that filters between the two make on their own account.

Contract: middleware 22, config 8 (fields) and 9 (metrics).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from swift.core.errors import ClientDisconnect, ConfigError
from swift.core.headers import (
    CONTENT_LENGTH,
    ETAG,
    SENSITIVE,
    X_BACKEND_STORAGE_POLICY_INDEX,
    title,
)
from swift.core.settings import boolean, csv, natural, number, option
from swift.runtime import green
from swift.runtime.access_lines import Anonymizer, LineTemplate
from swift.runtime.logs import INFO, Logger, get_logger
from swift.runtime.metrics import Metrics, get_metrics
from swift.wire import environ as env
from swift.wire.environ import Environ, headers_of, key_of
from swift.wire.filter import Filter, PipelineContext
from swift.wire.request import StartResponse, WsgiApp, close

ACCESS_PREFIX = "access_"
_OWN_LOG = frozenset(
    f"{ACCESS_PREFIX}log_{name}"
    for name in ("name", "facility", "level", "address", "udp_host", "udp_port")
)
_ETAG = key_of(ETAG)
_SENSITIVE_PARAM = re.compile(
    r"(?i)(?:^|(?<=&))(temp_url_sig|signature|x-amz-signature|x-amz-credential"
    r"|x-amz-security-token|swiftinfo_sig)=([^&]*)"
)
_TIMING = "swift_proxy_server_request_timing"
_TTFB = "swift_proxy_server_request_ttfb"
_REQUEST_BYTES = "swift_proxy_server_request_body_bytes"
_RESPONSE_BYTES = "swift_proxy_server_response_body_bytes"
_REQUEST_STREAM = "swift_proxy_server_request_body_streaming_bytes"
_RESPONSE_STREAM = "swift_proxy_server_response_body_streaming_bytes"


@dataclass(frozen=True)
class ProxyLoggingConfig:
    """[filter:proxy-logging] of proxy-server.conf.

    Beside these: `access_log_name`, `_facility`, `_level`, `_address`, `_udp_host`,
    `_udp_port` and `access_log_statsd_*`, which stand before their plain forms.
    """

    access_log_route: str = option("proxy-access", doc="Kept for older files.")
    access_log_headers: bool = option(
        False, parse=boolean, doc="Log the request's headers."
    )
    access_log_headers_only: tuple[str, ...] = option(
        (), parse=csv, doc="Only these, when headers are logged."
    )
    reveal_sensitive_prefix: int = option(
        16, parse=natural, doc="Characters of tokens and signatures that are shown."
    )
    log_statsd_valid_http_methods: tuple[str, ...] = option(
        ("GET", "HEAD", "POST", "PUT", "DELETE", "COPY", "OPTIONS", "UPDATE"),
        parse=csv,
        doc="Methods that metrics name; others count as BAD_METHOD.",
    )
    log_anonymization_method: str = option("MD5", doc="Digest of anonymized fields.")
    log_anonymization_salt: str = option("", doc="Goes before the value.")
    log_msg_template: str = option("", doc="The line; empty for the usual one.")
    storage_domain: str = option("", doc="Domain below which `{domain}` is shown.")
    statsd_emit_buffer_xfer_bytes_seconds: float = option(
        -1.0, parse=number, doc="Interval of the streaming counters; negative is off."
    )


class Seconds(float):
    """A length of time that prints with four decimals."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{float(self):.4f}"


class ProxyLogging(Filter):
    """The filter."""

    Config = ProxyLoggingConfig
    config: ProxyLoggingConfig

    def __init__(
        self,
        app: WsgiApp,
        config: ProxyLoggingConfig,
        context: PipelineContext,
        *,
        access: Logger,
        metrics: Metrics,
        template: LineTemplate,
    ) -> None:
        super().__init__(app, config, context)
        self._access = access
        self._metrics = metrics
        self._template = template
        self._names = template.names
        self._logs_headers = "headers" in template.names and (
            config.access_log_headers or access.log_headers
        )
        self._only = frozenset(title(name) for name in config.access_log_headers_only)
        self._methods = frozenset(config.log_statsd_valid_http_methods)
        self._measures = metrics.is_on or metrics.is_labelled
        self._streams = (
            metrics.is_labelled and config.statsd_emit_buffer_xfer_bytes_seconds >= 0
        )
        self._splits = self._measures or not template.names.isdisjoint(
            ("account", "container", "object")
        )

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request, and log it when its body has gone out. Yields."""
        if env.ACCESS_LOG_MADE in environ:
            return self.app(environ, start_response)
        environ[env.ACCESS_LOG_MADE] = True
        exchange = Exchange(self, environ, start_response)
        try:
            chunks = self.app(environ, exchange.begin)
        except ClientDisconnect:
            exchange.finish(0, status=499)
            raise
        except (Exception, green.Timeout):
            exchange.finish(0, status=500)
            raise
        kind = type(chunks)
        if kind is tuple or kind is list:
            is_head = environ[env.REQUEST_METHOD] == "HEAD"
            exchange.finish(0 if is_head else sum(map(len, chunks)))
            return chunks
        if hasattr(chunks, "spliceable"):
            return SplicedBody(exchange, chunks)
        return LoggedBody(exchange, chunks)

    # --- The line
    # -------------------------------------------------------------------------

    def report(self, exchange: Exchange, sent: int, status: int, end: float) -> None:
        """Write the line and the metrics of a finished exchange."""
        if self._access.level <= INFO:
            values = self._values(exchange, sent, status, end)
            self._access.line(INFO, self._template.render(values))
        if self._measures:
            self._measure(exchange, sent, status, end)

    def _values(
        self, exchange: Exchange, sent: int, status: int, end: float
    ) -> Mapping[str, Any]:
        environ = exchange.environ
        get = environ.get
        peer = get(env.REMOTE_ADDR)
        log_info = get(env.LOG_INFO)
        token = get(env.HTTP_X_AUTH_TOKEN)
        values = {
            "client_ip": client_ip(environ, peer),
            "remote_addr": peer,
            "end_time": end,
            "start_time": exchange.start,
            "method": get(env.ORIG_REQ_METHOD) or environ[env.REQUEST_METHOD],
            "path": self._path(environ),
            "protocol": get(env.SERVER_PROTOCOL),
            "status_int": status,
            "wire_status_int": exchange.status,
            "referer": get(env.HTTP_REFERER),
            "user_agent": get(env.HTTP_USER_AGENT),
            "auth_token": token and self._obscured(token),
            "bytes_recvd": exchange.received or None,
            "bytes_sent": sent or None,
            "client_etag": get(_ETAG),
            "transaction_id": get(env.TRANS_ID),
            "request_time": Seconds(end - exchange.start),
            "source": get(env.SOURCE),
            "log_info": log_info and ",".join(log_info),
            "policy_index": exchange.policy_index,
            "access_user_id": get(env.AUTH_ACCESS_USER_ID),
            "ttfb": Seconds(exchange.first_byte - exchange.start),
            "pid": os.getpid(),
        }
        if self._logs_headers:
            values["headers"] = self._headers(environ)
        if "domain" in self._names:
            values["domain"] = self._domain(environ)
        if self._splits:
            _, values["account"], values["container"], values["object"] = _named(
                environ
            )
        return values

    def _path(self, environ: Environ) -> str:
        path: str = environ[env.PATH_INFO]
        if not path.isascii():
            path = path.encode("latin-1").decode("utf-8", "surrogateescape")
        query = environ.get(env.QUERY_STRING)
        if not query:
            return path
        if "ig" in query.lower() or "x-amz" in query.lower():
            query = _SENSITIVE_PARAM.sub(
                lambda found: f"{found[1]}={self._obscured(found[2])}", query
            )
        return f"{path}?{query}"

    def _obscured(self, value: str) -> str:
        """The beginning of a secret; never more than half of it."""
        shown = min(self.config.reveal_sensitive_prefix, len(value) // 2)
        return f"{value[:shown]}..." if value else ""

    def _headers(self, environ: Environ) -> str:
        lines = []
        for name, value in headers_of(environ).items():
            if self._only and name not in self._only:
                continue
            if name in SENSITIVE:
                value = self._obscured(value)
            lines.append(f"{name}: {value}")
        return "\n".join(lines)

    def _domain(self, environ: Environ) -> str:
        """The host asked, when it is below the storage domain."""
        host: str = environ.get(env.HTTP_HOST) or environ.get(env.SERVER_NAME, "")
        host = host.partition(":")[0]
        own = self.config.storage_domain
        if own and not host.endswith("." + own.lstrip(".")):
            return ""
        return host

    # --- Metrics
    # --------------------------------------------------------------------------

    def _measure(self, exchange: Exchange, sent: int, status: int, end: float) -> None:
        environ, metrics = exchange.environ, self._metrics
        method = environ.get(env.ORIG_REQ_METHOD) or environ[env.REQUEST_METHOD]
        if method not in self._methods:
            method = "BAD_METHOD"
        resource, account, container, _ = _named(environ)
        duration = end - exchange.start
        ttfb_ms = (exchange.first_byte - exchange.start) * 1000
        total = exchange.received + sent
        policy = exchange.policy_index
        if metrics.is_on:
            names = [f"{environ.get(env.SOURCE) or resource}.{method}.{status}"]
            if policy is not None and resource == "object":
                names.append(f"object.policy.{policy}.{method}.{status}")
            for name in names:
                metrics.timing(f"{name}.timing", duration * 1000)
                if method == "GET":
                    metrics.timing(f"{name}.first-byte.timing", ttfb_ms)
                metrics.count(f"{name}.xfer", total)
        if metrics.is_labelled:
            labels = {
                "account": account or None,
                "container": container or None,
                "resource": resource,
                "method": method,
                "status": status,
                "policy": policy,
                "api": "swift",
            }
            metrics.labelled_timing(_TIMING, labels, duration * 1000)
            if method == "GET":
                metrics.labelled_timing(_TTFB, labels, ttfb_ms)
            metrics.labelled_count(_REQUEST_BYTES, labels, exchange.received)
            metrics.labelled_count(_RESPONSE_BYTES, labels, sent)

    def meter(self, name: str, environ: Environ) -> Callable[[int], None] | None:
        """Counts bytes while they flow, told every few seconds; None when off."""
        if not self._streams:
            return None
        resource, account, container, _ = _named(environ)
        labels = {
            "account": account or None,
            "container": container or None,
            "resource": resource,
            "method": environ[env.REQUEST_METHOD],
            "api": "swift",
        }
        return Meter(
            self._metrics,
            name,
            labels,
            self.config.statsd_emit_buffer_xfer_bytes_seconds,
        ).add


class Meter:
    """A counter that is told at intervals."""

    def __init__(
        self,
        metrics: Metrics,
        name: str,
        labels: Mapping[str, object],
        interval_s: float,
    ) -> None:
        self._metrics = metrics
        self._name = name
        self._labels = labels
        self._interval_s = interval_s
        self._count = 0
        self._next = green.now() + interval_s

    def add(self, size: int) -> None:
        """Count bytes."""
        self._count += size
        now = green.now()
        if now >= self._next:
            self._metrics.labelled_count(self._name, self._labels, self._count)
            self._count = 0
            self._next = now + self._interval_s


class Exchange:
    """One request and its answer, as far as they are logged.

    start, first_byte: clock readings. received: bytes of the request's body so far.
    """

    __slots__ = (
        "_input",
        "_logging",
        "_start_response",
        "environ",
        "first_byte",
        "is_done",
        "length",
        "policy_index",
        "start",
        "status",
    )

    def __init__(
        self, logging: ProxyLogging, environ: Environ, start_response: StartResponse
    ) -> None:
        self._logging = logging
        self._start_response = start_response
        self.environ = environ
        self.start = self.first_byte = green.now()
        self.status = 500
        self.length: str | None = None
        self.policy_index: str | None = environ.get(
            env.HTTP_X_BACKEND_STORAGE_POLICY_INDEX
        )
        self.is_done = False
        self._input: CountedInput | None = None
        source = environ.get(env.WSGI_INPUT)
        # Only our own server's reader knows that there is no body (length 0).
        if source is not None and getattr(source, "content_length", None) != 0:
            self._input = CountedInput(source, logging.meter(_REQUEST_STREAM, environ))
            environ[env.WSGI_INPUT] = self._input

    @property
    def received(self) -> int:
        """Bytes of the request's body that were read."""
        return 0 if self._input is None else self._input.count

    def begin(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: Any = None,
    ) -> Any:
        """start_response, listened in on."""
        self.status = int(status[:3])
        for name, value in headers:
            if name == X_BACKEND_STORAGE_POLICY_INDEX:
                self.policy_index = value
            elif name == CONTENT_LENGTH:
                self.length = value
        if exc_info is not None:
            return self._start_response(status, headers, exc_info)
        return self._start_response(status, headers)

    def response_meter(self) -> Callable[[int], None] | None:
        """Counts the bytes of the answer while they flow."""
        return self._logging.meter(_RESPONSE_STREAM, self.environ)

    def finish(self, sent: int, *, status: int | None = None) -> None:
        """Log the exchange, once."""
        if self.is_done:
            return
        self.is_done = True
        end = green.now()
        if self.first_byte == self.start:
            self.first_byte = end
        if self.policy_index is None:
            self.policy_index = self.environ.get(env.POLICY_INDEX)
        self._logging.report(self, sent, status or self.status, end)


class LoggedBody:
    """The body of an answer, counted; the exchange is logged when it ends."""

    __slots__ = ("_exchange", "_is_broken", "_iterator", "_meter", "_source", "count")

    def __init__(self, exchange: Exchange, source: Iterable[bytes]) -> None:
        self._exchange = exchange
        self._source = source
        self._iterator = iter(source)
        self._meter = exchange.response_meter()
        self._is_broken = False
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The next chunk. Yields."""
        try:
            chunk = next(self._iterator)
        except StopIteration:
            self._exchange.finish(self.count)
            raise
        except BaseException:
            self._is_broken = True
            raise
        if not self.count:
            self._exchange.first_byte = green.now()
        self.count += len(chunk)
        if self._meter is not None:
            self._meter(len(chunk))
        return chunk

    def close(self) -> None:
        """Close the body; one that was not finished means that the client has gone."""
        try:
            close(self._source)
        finally:
            exchange = self._exchange
            if not exchange.is_done:
                exchange.finish(self.count, status=self._final_status(exchange))

    def _final_status(self, exchange: Exchange) -> int | None:
        if self._is_broken:
            return 500
        is_bodiless = exchange.environ[env.REQUEST_METHOD] == "HEAD" or (
            exchange.status in (204, 304)
        )
        if is_bodiless or exchange.length == str(self.count):
            return None
        return 499


class SplicedBody(LoggedBody):
    """The same for a body that the server may move within the kernel."""

    __slots__ = ()

    _source: Any

    @property
    def unread_length(self) -> int:
        """How many bytes of the body are still on the socket's side."""
        length: int = self._source.unread_length
        return length

    def take_buffered(self) -> bytes:
        """Bytes of the body that have been read but not given out."""
        data: bytes = self._source.take_buffered()
        self._exchange.first_byte = green.now()
        self.count += len(data)
        return data

    def spliceable(self) -> Any:
        """The socket's descriptor and watch; None when it cannot be spliced."""
        return self._source.spliceable()

    def await_bytes(self, count: int) -> bool:
        """Wait for so many bytes; False when they do not come. Yields."""
        arrived: bool = self._source.await_bytes(count)
        return arrived

    def skipped(self, count: int) -> None:
        """Note that `count` bytes were moved past this object."""
        self.count += count
        self._source.skipped(count)


class CountedInput:
    """The request's body, counted; everything else is the server's own reader."""

    __slots__ = ("_meter", "_read_some", "_source", "count")

    intake = None
    """What goes past this reader cannot be counted."""

    def __init__(self, source: Any, meter: Callable[[int], None] | None) -> None:
        self._source = source
        # Bodies that filters make are plain files.
        self._read_some = getattr(source, "read_some", source.read)
        self._meter = meter
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def _counted(self, data: bytes) -> bytes:
        self._noted(len(data))
        return data

    def _noted(self, count: int) -> int:
        self.count += count
        if self._meter is not None:
            self._meter(count)
        return count

    def read(self, size: int = -1) -> bytes:
        """As the reader's own. Yields."""
        return self._counted(self._source.read(size))

    def read_some(self, size: int = 65536) -> bytes:
        """Up to `size` bytes as they come. Yields."""
        return self._counted(self._read_some(size))

    def splice_into(self, pipe: Any, count: int) -> int:
        """Bytes into a pipe, as the reader's own. Yields."""
        return self._noted(self._source.splice_into(pipe, count))

    def readline(self, size: int = -1) -> bytes:
        """As the reader's own. Yields."""
        return self._counted(self._source.readline(size))

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line


def client_ip(environ: Environ, peer: str | None) -> str | None:
    """The client's address as balancers tell it, else the peer's."""
    if env.HTTP_X_CLUSTER_CLIENT_IP in environ:
        cluster_ip: str = environ[env.HTTP_X_CLUSTER_CLIENT_IP]
        return cluster_ip or peer
    if env.HTTP_X_FORWARDED_FOR in environ:
        forwarded: str = environ[env.HTTP_X_FORWARDED_FOR]
        return forwarded.partition(",")[0].strip() or peer
    return peer


def _named(environ: Environ) -> tuple[str, str, str, str]:
    """(account, container, object or UNKNOWN; and the names), as text."""
    path: str = environ.get(env.BACKEND_PATH) or environ[env.PATH_INFO]
    if not path.isascii():
        path = path.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
    parts = path.split("/", 4)
    if len(parts) < 3 or not parts[2] or parts[1] not in ("v1", "v1.0"):
        return "UNKNOWN", "", "", ""
    container = parts[3] if len(parts) > 3 else ""
    obj = parts[4] if len(parts) > 4 else ""
    resource = "object" if obj else "container" if container else "account"
    return resource, parts[2], container, obj


def _access_conf(
    context: PipelineContext, local_conf: Mapping[str, str]
) -> dict[str, str]:
    """The options of the access log: `access_log_x` stands for `log_x`."""
    merged = {**context, **local_conf}
    for name, value in list(merged.items()):
        if name.startswith(ACCESS_PREFIX):
            merged[name.removeprefix(ACCESS_PREFIX)] = value
    return merged


def filter_factory(
    global_conf: Mapping[str, str] | None, **local_conf: str
) -> Callable[[WsgiApp], WsgiApp]:
    """The paste.filter_factory; a bad template refuses to start."""
    context = PipelineContext.of(global_conf)
    config = context.bind(ProxyLoggingConfig, local_conf)
    try:
        template = LineTemplate.for_proxy(
            config.log_msg_template,
            Anonymizer(config.log_anonymization_method, config.log_anonymization_salt),
        )
    except ValueError as error:
        raise ConfigError(
            context.source, context.section, "log_msg_template", str(error)
        ) from error
    access_conf = _access_conf(context, local_conf)
    own = {name for name in (*context, *local_conf) if name.startswith(ACCESS_PREFIX)}
    access, metrics = context.logger("access"), context.metrics
    if own & _OWN_LOG:
        access = get_logger(access_conf, access.name, source=context.source)
    if any(name.startswith(ACCESS_PREFIX + "log_statsd_") for name in own):
        tail = context.process.log_name
        metrics = get_metrics(access_conf, tail, source=context.source)

    def make(app: WsgiApp) -> WsgiApp:
        return ProxyLogging(
            app, config, context, access=access, metrics=metrics, template=template
        )

    return make
