# SPDX-License-Identifier: Apache-2.0
"""Profiles what stands to the right of it, and shows the figures on a page.

For developers: the page asks nobody who they are. Contract: middleware 32.
"""

from __future__ import annotations

import csv
import html
import io
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swift.core import headers as h
from swift.core.errors import ConfigError
from swift.core.settings import option
from swift.runtime import green
from swift.runtime.profiles import Figures, ProfileFiles, Profiler, added, dumped
from swift.wire import environ as env
from swift.wire.environ import Environ, quote_path
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.request import Response, StartResponse, WsgiApp, close, parse_query

CURRENT, ALL = "current", "all"
COLUMNS = ("calls", "primitive calls", "own seconds", "seconds", "function")
ROWS_ON_PAGE = 200
_ODS_TYPE = "application/vnd.oasis.opendocument.spreadsheet"
_ODS_NAMES = (
    'xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
    'xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" '
    'xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"'
)
_ODS_MANIFEST = (
    '<?xml version="1.0" encoding="UTF-8"?><manifest:manifest '
    'xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0">'
    f'<manifest:file-entry manifest:full-path="/" manifest:media-type="{_ODS_TYPE}"/>'
    '<manifest:file-entry manifest:full-path="content.xml" '
    'manifest:media-type="text/xml"/></manifest:manifest>'
)

Row = tuple[int, int, float, float, str]


@dataclass(frozen=True)
class XprofileConfig:
    """[filter:xprofile] of proxy-server.conf."""

    profile_module: str = option(
        "eventlet.green.profile",
        doc="Module with the Profile class: this one tells green threads apart, "
        "cProfile costs less.",
    )
    log_filename_prefix: str = option(
        "/tmp/log/swift/profile/default.profile",  # noqa: S108 - operators know it
        doc="The files are named so, with - and the worker's pid behind.",
    )
    dump_interval_s: float = option(
        5.0, name="dump_interval", doc="Least time between writes of the file."
    )
    dump_timestamp: bool = option(
        False, doc="Write a new file each time, with the time in its name."
    )
    path: str = option("/__profile__", doc="Where the page is.")
    flush_at_shutdown: bool = option(
        False,
        doc="Remove the files of workers that have ended; the others do it, or the "
        "next ones, for a worker may be killed.",
    )
    unwind: bool = option(
        False, doc="Measure the making of the body too; it is held in memory whole."
    )


class Xprofile(Filter):
    """The filter."""

    Config = XprofileConfig
    config: XprofileConfig

    def __init__(
        self, app: WsgiApp, config: XprofileConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self._root = "/" + config.path.strip("/")
        self._files = ProfileFiles(config.log_filename_prefix)
        try:
            self._profiler = Profiler(config.profile_module)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                context.source, context.section, "profile_module", str(error)
            ) from error
        self._last_dump = 0.0

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        path = environ[env.PATH_INFO]
        if path == self._root or path.startswith(self._root + "/"):
            return self._page(environ, path)(environ, start_response)
        run = self._whole if self.config.unwind else self.app
        answer: Iterable[bytes] = self._profiler.run(run, environ, start_response)
        now = green.monotonic()
        if now - self._last_dump >= self.config.dump_interval_s:
            self._last_dump = now
            self._dump()
        return answer

    def _whole(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        chunks = self.app(environ, start_response)
        try:
            return list(chunks)
        finally:
            close(chunks)

    def _dump(self) -> None:
        """Write what was measured so far; a disk that refuses is no client's fault."""
        if self.config.flush_at_shutdown:
            green.in_thread(self._files.clear_ended)
        identity = str(os.getpid())
        if self.config.dump_timestamp:
            identity += f"-{green.now():.5f}"
        try:
            green.in_thread(self._files.write, identity, self._profiler.figures)
        except OSError as error:
            self.log.warning("profile %s is not written: %s", identity, error)

    # --- The page ---------------------------------------------------------------------

    def _page(self, environ: Environ, path: str) -> Response:
        """The page of a path, or the same figures in another format. Yields."""
        if environ[env.REQUEST_METHOD] not in ("GET", "HEAD"):
            return Response.error(405, headers={h.ALLOW: "GET, HEAD"})
        identity, _slash, function = path[len(self._root) + 1 :].partition("/")
        if not identity:
            return _html("Profiles", _links(self._root, self._identities()))
        figures = self._figures(identity)
        if figures is None:
            return Response.error(404)
        rows = _rows(figures, function)
        wanted = parse_query(environ.get(env.QUERY_STRING, "")).get("format")
        if wanted is None:
            address = html.escape(quote_path(path))
            parts = "".join(
                f'<a href="{address}?format={name}">{name}</a> ' for name in _FORMATS
            )
            return _html(f"Profile {identity}", parts + _table(rows[:ROWS_ON_PAGE]))
        name = wanted.decode("latin-1")
        if name == "default":
            return Response(200, {h.CONTENT_TYPE: _BINARY}, dumped(figures))
        if name == "json":
            return Response.json([dict(zip(COLUMNS, row, strict=True)) for row in rows])
        if name == "csv":
            return Response(200, {h.CONTENT_TYPE: "text/csv"}, _csv(rows))
        if name == "ods":
            return Response(200, {h.CONTENT_TYPE: _ODS_TYPE}, _ods(rows))
        return Response.text(400, f"format must be one of {', '.join(_FORMATS)}")

    def _identities(self) -> list[str]:
        return [CURRENT, ALL, *green.in_thread(self._files.identities)]

    def _figures(self, identity: str) -> Figures | None:
        """The figures of one profile, of this worker, or of all workers. Yields."""
        if identity == CURRENT:
            return self._profiler.figures
        if identity != ALL:
            return green.in_thread(self._files.read, identity)
        read = [
            green.in_thread(self._files.read, name)
            for name in green.in_thread(self._files.identities)
        ]
        return added([figures for figures in read if figures])


_FORMATS = ("default", "json", "csv", "ods")
_BINARY = "application/octet-stream"


def _rows(figures: Figures, function: str) -> list[Row]:
    """Functions by the time they took with their callees, most first.

    function: `file:line(name)`, to have that one alone; empty for all.
    """
    rows = []
    for (file, line, name), (primitive, calls, own, whole, _by) in figures.items():
        label = f"{file}:{line}({name})"
        if function in ("", label, label.lstrip("/")):
            rows.append((calls, primitive, round(own, 6), round(whole, 6), label))
    return sorted(rows, key=lambda row: (-row[3], row[4]))


def _links(root: str, identities: Sequence[str]) -> str:
    items = [
        f'<li><a href="{html.escape(quote_path(f"{root}/{name}"))}">{name}</a></li>'
        for name in identities
    ]
    return f"<ul>{''.join(items)}</ul>"


def _table(rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    lines = [
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    ]
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _html(title: str, content: str) -> Response:
    title = html.escape(title)
    text = (
        f'<!doctype html><html><head><meta charset="utf-8"><title>{title}</title>'
        f"</head><body><h1>{title}</h1>{content}</body></html>"
    )
    return Response(200, {h.CONTENT_TYPE: "text/html; charset=utf-8"}, text)


def _csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return out.getvalue()


def _ods(rows: Sequence[Row]) -> bytes:
    """A spreadsheet in the Open Document format, part 1 and 2 of version 1.2."""
    lines = []
    for row in (COLUMNS, *rows):
        cells = [
            f'<table:table-cell office:value-type="string"><text:p>{html.escape(cell)}'
            "</text:p></table:table-cell>"
            if isinstance(cell, str)
            else '<table:table-cell office:value-type="float" '
            f'office:value="{cell}"><text:p>{cell}</text:p></table:table-cell>'
            for cell in row
        ]
        lines.append(f"<table:table-row>{''.join(cells)}</table:table-row>")
    content = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<office:document-content {_ODS_NAMES} office:version="1.2"><office:body>'
        f'<office:spreadsheet><table:table table:name="profile">{"".join(lines)}'
        "</table:table></office:spreadsheet></office:body></office:document-content>"
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        # Readers look for the type at a fixed place: first, and not compressed.
        archive.writestr("mimetype", _ODS_TYPE, zipfile.ZIP_STORED)
        archive.writestr("content.xml", content)
        archive.writestr("META-INF/manifest.xml", _ODS_MANIFEST)
    return out.getvalue()


filter_factory = factory(Xprofile)
