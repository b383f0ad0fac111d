# SPDX-License-Identifier: Apache-2.0
"""Many objects by one request: an archive extracted, a list of names deleted.

Each object and container is its own sub-request under the client's own rights, so that
auth, quotas and rate limits to the right see every one of them.

Contract: middleware 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from swift.core import headers as h
from swift.core.errors import ClientDisconnect, ClientTimeout, FormatError
from swift.core.headers import Headers
from swift.core.settings import natural, option, positive_int, seconds
from swift.core.tar import FORMS, Member, TarReader, unpacked
from swift.middleware.reports import (
    TEXT,
    Report,
    ReportBody,
    report_type,
    status_line,
)
from swift.middleware.upload_input import READ_BYTES, UploadInput
from swift.runtime import green
from swift.wire import environ as env
from swift.wire.environ import Environ, quote_path, sub_environ
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.request import Response, StartResponse, WsgiApp, call, parse_query

EXTRACT = "extract-archive"
DELETE = "bulk-delete"
EXTRACT_CODE = "EA"
DELETE_CODE = "BD"

EXTRACT_CONCURRENCY = 8
"""Small files of an archive that are stored at the same time."""

SMALL_BYTES = 128 * 1024
"""A file up to this size is read into memory, so that others need not wait for it."""

DELETE_CONCURRENCY_MAX = 1000
RETRY_PAUSE_BASE_S = 1.5

_XATTRS = ("SCHILY.xattr.user.", "LIBARCHIVE.xattr.user.")
_META_XATTR = "meta."
_TYPE_XATTR = "mime_type"
_PASSED_ON = (h.X_DELETE_AT, h.X_DELETE_AFTER)
_UNAUTHORIZED = 401


def delete_concurrency(text: str) -> int:
    """A number of requests, held between 1 and DELETE_CONCURRENCY_MAX."""
    return min(max(int(text), 1), DELETE_CONCURRENCY_MAX)


@dataclass(frozen=True)
class BulkConfig:
    """[filter:bulk] of proxy-server.conf."""

    max_containers_per_extraction: int = option(
        10000, parse=natural, doc="Containers that one archive may create."
    )
    max_failed_extractions: int = option(
        1000, parse=positive_int, doc="Failures after which an extraction ends."
    )
    max_deletes_per_request: int = option(
        10000, parse=positive_int, doc="Names that one request may delete."
    )
    max_failed_deletes: int = option(
        1000, parse=positive_int, doc="Failures after which a bulk delete ends."
    )
    yield_frequency_s: float = option(
        10.0,
        name="yield_frequency",
        parse=seconds,
        doc="Time between the blanks that keep the connection alive.",
    )
    delete_container_retry_count: int = option(
        0, parse=natural, doc="Further tries at a container that is not empty yet."
    )
    delete_concurrency: int = option(
        2, parse=delete_concurrency, doc="Deletes of one request in flight."
    )


class Stop(Exception):
    """The work ends here: the status and sentence of its report."""

    def __init__(self, status: int, body: str = "") -> None:
        super().__init__(body)
        self.status = status
        self.body = body


class Bulk(Filter):
    """The filter."""

    Config = BulkConfig
    config: BulkConfig

    def __init__(
        self, app: WsgiApp, config: BulkConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        limits = context.cluster.limits
        self._file_bytes_max = limits.max_file_size
        # Percent-encoding makes three bytes of one, and names are counted in
        # characters: the contract's own measure of a line.
        self._line_bytes_max = 2 * (
            limits.max_object_name_length + limits.max_container_name_length + 2
        )
        context.info.register(
            "bulk_upload",
            max_containers_per_extraction=config.max_containers_per_extraction,
            max_failed_extractions=config.max_failed_extractions,
        )
        context.info.register(
            "bulk_delete",
            max_deletes_per_request=config.max_deletes_per_request,
            max_failed_deletes=config.max_failed_deletes,
        )

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        query = environ.get(env.QUERY_STRING)
        if not query or (EXTRACT not in query and DELETE not in query):
            return self.app(environ, start_response)
        params = parse_query(query)
        method = environ[env.REQUEST_METHOD]
        if EXTRACT in params and method == "PUT":
            response = self._extract(environ, params[EXTRACT].decode("latin-1"))
        elif DELETE in params and method in ("POST", "DELETE"):
            response = self._delete(environ)
        else:
            return self.app(environ, start_response)
        if response is None:
            return self.app(environ, start_response)
        return response(environ, start_response)

    def _answer(
        self, environ: Environ, root: str, counters: list[str], work: Work
    ) -> Response:
        """200 with the report of the work as its body."""
        report = Report(root, dict.fromkeys(counters, 0))
        media_type = report_type(environ.get(env.key_of(h.ACCEPT)))
        if media_type is None:
            report.conclude(406)
            return Response.text(200, report.render(TEXT).decode())

        def run(report: Report) -> None:
            try:
                work(report)
            except Stop as stop:
                report.conclude(stop.status, stop.body)
            except ClientDisconnect:
                report.conclude(499)
            except ClientTimeout:
                report.conclude(408)

        def trouble(error: BaseException) -> None:
            self.log.exception("bulk: %s failed: %s", root, type(error).__name__)

        body = ReportBody(
            run,
            report,
            media_type=media_type,
            interval_s=self.config.yield_frequency_s,
            trouble=trouble,
        )
        return Response(200, {h.CONTENT_TYPE: media_type}, app_iter=body)

    # --- Extracting -------------------------------------------------------------------

    def _extract(self, environ: Environ, form: str) -> Response | None:
        parts = environ[env.PATH_INFO].split("/", 4)
        if len(parts) < 3 or not parts[1] or not parts[2]:
            return None
        if form not in FORMS:
            return Response.error(400, f"Unsupported archive format: {form[:40]}")
        read_some = _input(environ)

        def work(report: Report) -> None:
            if environ.get(env.CONTENT_LENGTH) in (None, "") and not environ.get(
                env.HTTP_TRANSFER_ENCODING
            ):
                raise Stop(411)
            reader = TarReader(unpacked(form, read_some), skip_max=self._file_bytes_max)
            Extraction(self.app, self.config, environ, report).run(
                reader, self._file_bytes_max
            )

        return self._answer(environ, "extract", [Extraction.CREATED], work)

    # --- Deleting ---------------------------------------------------------------------

    def _delete(self, environ: Environ) -> Response | None:
        parts = environ[env.PATH_INFO].split("/", 3)
        if len(parts) < 3 or not parts[1] or not parts[2]:
            return None
        read_some = _input(environ)

        def work(report: Report) -> None:
            kind = environ.get(env.CONTENT_TYPE) or ""
            if (
                environ[env.REQUEST_METHOD] == "POST"
                and kind
                and kind.partition(";")[0].strip().lower() != TEXT
            ):
                raise Stop(406)
            if environ.get(env.CONTENT_LENGTH) in (None, "") and not environ.get(
                env.HTTP_TRANSFER_ENCODING
            ):
                raise Stop(411)
            Deletion(self.app, self.config, environ, report).run(
                self._names(read_some, report)
            )

        counters = [Deletion.DELETED, Deletion.NOT_FOUND]
        return self._answer(environ, "delete", counters, work)

    def _names(self, read_some: Callable[[int], bytes], report: Report) -> list[str]:
        """The names in the body, as WSGI strings, decoded once. Yields. Raises Stop."""
        names: list[str] = []
        for line in _lines(read_some, self._line_bytes_max):
            text = line.strip()
            if not text:
                continue
            if len(names) >= self.config.max_deletes_per_request:
                most = self.config.max_deletes_per_request
                raise Stop(413, f"Maximum Bulk Deletes: {most} per request")
            names.append(unquote_to_bytes(text).decode("latin-1"))
        return names


Work = Callable[[Report], None]


def _input(environ: Environ) -> Callable[[int], bytes]:
    """The request's body, up to n bytes as they come; its first piece read already.

    A client that waits for `100 Continue` gets it so before the answer begins. Yields.
    """
    source = environ[env.WSGI_INPUT]
    read_some: Callable[[int], bytes] = getattr(source, "read_some", source.read)
    held = read_some(READ_BYTES)

    def read(size: int) -> bytes:
        nonlocal held
        if held:
            piece, held = held[:size], held[size:]
            return piece
        return read_some(size)

    return read


def _lines(read_some: Callable[[int], bytes], line_bytes_max: int) -> Iterator[bytes]:
    """The lines of a body. Raises Stop when one is longer than names can be. Yields."""
    held = b""
    while True:
        chunk = read_some(READ_BYTES)
        *lines, held = (held + chunk).split(b"\n")
        for line in lines:
            if len(line) > line_bytes_max:
                raise Stop(400, "Invalid File Name")
            yield line
        if len(held) > line_bytes_max:
            raise Stop(400, "Invalid File Name")
        if not chunk:
            yield held
            return


class Extraction:
    """One archive on its way into containers."""

    CREATED = "Number Files Created"

    def __init__(
        self, app: WsgiApp, config: BulkConfig, environ: Environ, report: Report
    ) -> None:
        self._app = app
        self._config = config
        self._environ = environ
        self._report = report
        self._version, self._account, *rest = environ[env.PATH_INFO].split("/", 3)[1:]
        self._target = rest[0].strip("/") if rest else ""
        self._headers = _passed_on(environ)
        self._containers: set[str] = set()
        self._created_containers = 0
        self._failures: list[tuple[int, str, int]] = []
        self._in_flight: dict[str, green.Thread] = {}
        self._stop: Stop | None = None

    def run(self, reader: TarReader, file_bytes_max: int) -> None:
        """Store every file of the archive. Yields. Raises Stop."""
        pool = green.Pool(EXTRACT_CONCURRENCY)
        try:
            self._take_all(reader, file_bytes_max, pool)
            self._wait_for_all()
        except FormatError as error:
            self._wait_for_all()
            raise Stop(400, f"Invalid Tar File: {error}") from error
        finally:
            for thread in list(self._in_flight.values()):
                thread.kill()
            self._failures.sort()
            self._report.errors = [
                (quote_path(name), status_line(status))
                for _index, name, status in self._failures
            ]
        if self._stop is not None:
            raise self._stop
        if self._failures:
            worst = max(status for _index, _name, status in self._failures)
            raise Stop(502 if worst >= 500 else 400)
        if not self._report.counters[self.CREATED]:
            raise Stop(400, "Invalid Tar File: No Valid Files")
        self._report.conclude(201)

    def _take_all(self, reader: TarReader, bytes_max: int, pool: green.Pool) -> None:
        index = 0
        while self._stop is None and (member := reader.next_member()) is not None:
            index += 1
            path = self._path_of(member)
            if path is None:
                continue
            container = path.split("/", 1)[0]
            if ".." in path.split("/"):
                # No name here leads up, but whoever unpacks a download may be led.
                self._fail(index, path, 400)
            elif member.size > bytes_max:
                self._fail(index, path, 413)
            elif self._has_container(index, path, container):
                self._take(reader, member, path, index, pool)

    def _path_of(self, member: Member) -> str | None:
        """`container/object` of a member, a WSGI string; None for what is not taken."""
        if not member.is_file:
            return None
        name = member.name.decode("latin-1")
        while name.startswith(("./", "/")):
            name = name.removeprefix("./").lstrip("/")
        path = f"{self._target}/{name}" if self._target else name
        container, slash, obj = path.partition("/")
        return path if slash and container and obj else None

    def _has_container(self, index: int, path: str, container: str) -> bool:
        """See that a container is there; a failure counts against the file. Yields."""
        if container in self._containers:
            return True
        found = self._ask("HEAD", container, {}, b"")
        if found == 404:
            if self._created_containers >= self._config.max_containers_per_extraction:
                most = self._config.max_containers_per_extraction
                raise Stop(400, f"More than {most} containers to create from tar.")
            found = self._ask("PUT", container, {}, b"")
            self._created_containers += 1
        if 200 <= found < 300:
            self._containers.add(container)
            return True
        if found == _UNAUTHORIZED:
            raise Stop(_UNAUTHORIZED)
        self._fail(index, path, found)
        return False

    def _take(
        self,
        reader: TarReader,
        member: Member,
        path: str,
        index: int,
        pool: green.Pool,
    ) -> None:
        """Store a file: a small one beside others, a large one as it comes. Yields."""
        headers = {**self._headers, **_attributes(member)}
        earlier = self._in_flight.get(path)
        if earlier is not None:
            # Of two files of one name the later stays.
            earlier.wait()
        if member.size > SMALL_BYTES:
            source = MemberReader(reader, member.size)
            self._store(path, headers, source, member.size, index)
            return
        data = b""
        while piece := reader.read_some(member.size):
            data = data + piece if data else piece

        def store() -> None:
            try:
                self._store(path, headers, data, len(data), index)
            finally:
                self._in_flight.pop(path, None)

        thread = pool.spawn(store)
        if not thread.ended:
            self._in_flight[path] = thread

    def _wait_for_all(self) -> None:
        for thread in list(self._in_flight.values()):
            thread.wait()

    def _store(
        self, path: str, headers: dict[str, str], source: Any, size: int, index: int
    ) -> None:
        """PUT one object and note what became of it. Yields."""
        status = self._ask("PUT", path, headers, source, size)
        if 200 <= status < 300:
            self._report.counters[self.CREATED] += 1
        elif status == _UNAUTHORIZED:
            self._stop = Stop(_UNAUTHORIZED)
        else:
            self._fail(index, path, status)

    def _ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        source: Any,
        size: int = 0,
    ) -> int:
        """The status of a sub-request. Yields."""
        in_memory = isinstance(source, bytes)
        request = sub_environ(
            self._environ,
            method,
            f"/{self._version}/{self._account}/{path}",
            headers=headers,
            body=source if in_memory else b"",
            source=EXTRACT_CODE,
        )
        if not in_memory:
            request[env.WSGI_INPUT] = source
            request[env.CONTENT_LENGTH] = str(size)
        answer = call(self._app, request)
        answer.drain()
        return answer.status

    def _fail(self, index: int, path: str, status: int) -> None:
        self._failures.append((index, path, status))
        if len(self._failures) >= self._config.max_failed_extractions:
            self._stop = Stop(400, "Too many failures")


class MemberReader(UploadInput):
    """A file of an archive as the `wsgi.input` of an upload."""

    def __init__(self, reader: TarReader, size: int) -> None:
        self._reader = reader
        self.content_length = size

    def read_some(self, size: int) -> bytes:
        """Up to `size` bytes, none at the end. Yields. Raises FormatError."""
        return self._reader.read_some(size)


def _passed_on(environ: Environ) -> dict[str, str]:
    """Headers of the request that every file of it gets."""
    asked = env.headers_of(environ)
    kept = {name: asked[name] for name in _PASSED_ON if name in asked}
    kept.update(asked.beginning(h.OBJECT_META))
    return kept


def _attributes(member: Member) -> Headers:
    """User metadata and type that an archive keeps of a file."""
    found = Headers()
    for keyword, value in member.extended.items():
        for prefix in _XATTRS:
            if not keyword.startswith(prefix):
                continue
            name, text = keyword[len(prefix) :], value.decode("latin-1")
            if any(char in "\r\n\0" for char in name + text):
                continue
            if name == _TYPE_XATTR:
                found[h.CONTENT_TYPE] = text
            elif name.startswith(_META_XATTR) and name.isascii():
                found[h.OBJECT_META + name[len(_META_XATTR) :]] = text
    return found


class Deletion:
    """A list of names on their way out."""

    DELETED = "Number Deleted"
    NOT_FOUND = "Number Not Found"

    def __init__(
        self, app: WsgiApp, config: BulkConfig, environ: Environ, report: Report
    ) -> None:
        self._app = app
        self._config = config
        self._environ = environ
        self._report = report
        self._base = "/".join(environ[env.PATH_INFO].split("/", 3)[:3])
        self._worst = 0

    def run(self, names: list[str]) -> None:
        """Delete objects, then containers. Yields. Raises Stop."""
        objects: list[str] = []
        containers: list[str] = []
        for name in names:
            path = name.strip("/") if "/" not in name.strip("/") else name.lstrip("/")
            if path:
                (objects if "/" in path else containers).append(path)
        pool = green.Pool(self._config.delete_concurrency)
        for group, act in ((objects, self._object), (containers, self._container)):
            for path, status in zip(group, pool.map(act, group), strict=True):
                self._note(path, status)
        counters = self._report.counters
        if self._report.errors:
            raise Stop(502 if self._worst >= 500 else 400)
        if not counters[self.DELETED] and not counters[self.NOT_FOUND]:
            raise Stop(400, "Invalid bulk delete.")
        self._report.conclude(200)

    def _note(self, path: str, status: int) -> None:
        if 200 <= status < 300:
            self._report.counters[self.DELETED] += 1
        elif status == 404:
            self._report.counters[self.NOT_FOUND] += 1
        elif status == _UNAUTHORIZED:
            self._report.errors.append((quote_path(path), status_line(status)))
            raise Stop(_UNAUTHORIZED)
        else:
            self._worst = max(self._worst, status)
            self._report.errors.append((quote_path(path), status_line(status)))
            if len(self._report.errors) >= self._config.max_failed_deletes:
                raise Stop(400, "Max delete failures exceeded")

    def _object(self, path: str) -> int:
        """The status of one DELETE. Yields."""
        request = sub_environ(
            self._environ, "DELETE", f"{self._base}/{path}", source=DELETE_CODE
        )
        answer = call(self._app, request)
        answer.drain()
        return answer.status

    def _container(self, path: str) -> int:
        """As `_object`, again while the container is not empty yet. Yields."""
        status = self._object(path)
        for tries in range(self._config.delete_container_retry_count):
            if status != 409:
                break
            green.sleep(RETRY_PAUSE_BASE_S ** (tries + 1))
            status = self._object(path)
        return status


filter_factory = factory(Bulk)
