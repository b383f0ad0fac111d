# SPDX-License-Identifier: Apache-2.0
"""Deleting a static large object with its segments, now or by the expirer.

Serves slo. Segments go first and the manifest last, so that a deletion that breaks off
can be asked for again. Contract: middleware 26; rows of the queue: daemons (expirer).
"""

from __future__ import annotations

import json
from collections.abc import Callable

from swift.core import headers as h
from swift.core.errors import InvalidInput
from swift.core.expiry import EMPTY_ETAG, QUEUE_ACCOUNT, queue_container
from swift.core.hashing import HashSalt
from swift.core.manifest import DEPTH_MAX, ObjectSegment, SloManifest
from swift.core.names import (
    BadEncoding,
    ContainerName,
    ObjectName,
    text_of_wsgi,
    wsgi_of_text,
)
from swift.core.timestamp import Timestamp
from swift.middleware.reports import Report, ReportBody, report_type
from swift.middleware.segments import PartConflict, PartUnavailable, part_environ
from swift.runtime import green
from swift.runtime.logs import Logger
from swift.wire import environ as env
from swift.wire.environ import Environ, PathParts, key_of, quote_path, sub_environ
from swift.wire.infocache import container_info
from swift.wire.request import Request, Response, WsgiApp, call

SOURCE_CODE = "SLO"
ASYNC_TYPE = "application/async-deleted"
PARAM = "multipart-manifest"
_DELETED = "Number Deleted"
_NOT_FOUND = "Number Not Found"

ManifestAt = Callable[[Environ, str], SloManifest | None]


class SloDeletion:
    """One DELETE of a large object and all that it is made of.

    environ, place: of the client's request. manifest_at: path → manifest there, None
    when there is another kind of object; raises PartConflict and PartUnavailable.
    """

    def __init__(
        self,
        app: WsgiApp,
        environ: Environ,
        place: PathParts,
        *,
        salt: HashSalt,
        manifest_at: ManifestAt,
        log: Logger,
    ) -> None:
        self._app = app
        self._environ = environ
        self._place = place
        self._salt = salt
        self._manifest_at = manifest_at
        self._log = log

    # --- Now --------------------------------------------------------------------------

    def run(self, *, concurrency: int, interval_s: float) -> Response:
        """The answer whose body says, once all is done, what was deleted. Yields."""
        media_type = report_type(self._environ.get(key_of(h.ACCEPT)))
        if media_type is None:
            return Response(406)

        def work(report: Report) -> None:
            self._work(report, concurrency)

        body = ReportBody(
            work,
            Report("delete", {_DELETED: 0, _NOT_FOUND: 0}),
            media_type=media_type,
            interval_s=interval_s,
            trouble=self._trouble,
        )
        return Response(200, {h.CONTENT_TYPE: media_type}, app_iter=body)

    def _trouble(self, error: BaseException) -> None:
        self._log.error("DELETE of a manifest failed: %r", error)

    def _work(self, report: Report, concurrency: int) -> None:
        paths: dict[str, None] = {}
        found = self._collect(self._place.path, paths, report, depth=1)
        if found:
            *segments, manifest = paths
            pool = green.Pool(concurrency)
            for path, status in pool.map(self._delete, segments):
                self._note(report, path, status)
            self._note(report, *self._delete(manifest))
        statuses = [int(status[:3]) for _path, status in report.errors]
        if 401 in statuses:
            report.conclude(401)
        elif any(status >= 500 for status in statuses):
            report.conclude(502)
        else:
            report.conclude(400 if statuses else 200)

    def _collect(
        self, path: str, paths: dict[str, None], report: Report, *, depth: int
    ) -> bool:
        """Add what a manifest is made of, then itself; False when it is not there."""
        sub = part_environ(self._environ, "HEAD", path, SOURCE_CODE)
        answer = call(self._app, sub)
        answer.close()
        if not answer.is_success:
            self._note(report, path, answer.status_line)
            return False
        try:
            manifest = self._manifest_at(self._environ, path)
        except PartConflict:
            self._note(report, path, "409 Conflict")
            return False
        except PartUnavailable:
            self._note(report, path, "503 Service Unavailable")
            return False
        if manifest is None or depth > DEPTH_MAX:
            report.errors.append((self._shown(path), "400 Not an SLO manifest"))
            return False
        root = f"/{self._place.version}/{self._place.account}"
        for segment in manifest.segments:
            if not isinstance(segment, ObjectSegment):
                continue
            inner = root + wsgi_of_text(segment.path)
            if segment.is_manifest:
                self._collect(inner, paths, report, depth=depth + 1)
            else:
                paths.setdefault(inner)
        paths.pop(path, None)
        paths[path] = None
        return True

    def _delete(self, path: str) -> tuple[str, str]:
        """Delete one object; the path, and the status line of the answer. Yields."""
        sub = part_environ(self._environ, "DELETE", path, SOURCE_CODE)
        answer = call(self._app, sub)
        answer.drain()
        return path, answer.status_line

    def _note(self, report: Report, path: str, status: str) -> None:
        if status[0] == "2":
            report.counters[_DELETED] += 1
        elif status.startswith("404"):
            report.counters[_NOT_FOUND] += 1
        else:
            report.errors.append((self._shown(path), status))

    def _shown(self, path: str) -> str:
        """The quoted `/container/object` of a path."""
        return quote_path("/" + path.split("/", 3)[3])

    # --- By the expirer ---------------------------------------------------------------

    def leave_to_expirer(self) -> Response:
        """Queue the segments for deletion, then delete the manifest. Yields."""
        try:
            manifest = self._manifest_at(self._environ, self._place.path)
        except PartConflict:
            return self._plain_delete()
        except PartUnavailable:
            return Response(503)
        if manifest is None:
            return Response.text(400, "Not an SLO manifest")
        segments = [s for s in manifest.segments if isinstance(s, ObjectSegment)]
        containers = {segment.path.split("/", 2)[1] for segment in segments}
        if len(containers) > 1:
            text = "All segments must be in one container to be deleted later."
            return Response.text(400, text)
        if any(segment.is_manifest for segment in segments):
            return Response.text(400, "No segments may be large objects.")
        for container in (self._place.container, *map(wsgi_of_text, containers)):
            denied = self._write_denied(container)
            if denied is not None:
                return denied
        if segments:
            try:
                queued = self._queue(segments)
            except InvalidInput as error:
                return Response.text(400, str(error))
            if not queued.is_success:
                return Response(503)
        return self._plain_delete()

    def _plain_delete(self) -> Response:
        return call(self._app, {**self._environ, env.QUERY_STRING: ""})

    def _write_denied(self, container: str) -> Response | None:
        """None when the client may delete in a container. Yields."""
        authorize = self._environ.get(env.AUTHORIZE)
        if authorize is None:
            return None
        # The very request that would delete an object there: what a signature or a
        # token opens is held to its scope, as for a DELETE of each segment.
        target = self._place.at(container, self._place.obj)
        request = Request(
            part_environ(self._environ, "DELETE", target.path, SOURCE_CODE)
        )
        try:
            name = ContainerName(
                text_of_wsgi(self._place.account), text_of_wsgi(container)
            )
        except BadEncoding:
            return Response(412)
        request.acl = container_info(self._environ, name).write_acl
        denied: Response | None = authorize(request)
        return denied

    def _queue(self, segments: list[ObjectSegment]) -> Response:
        """Put a row for each segment into the expirer's queue. Yields."""
        now = Timestamp.at(green.now())
        account = text_of_wsgi(self._place.account)
        rows = [
            {
                "name": f"{now.internal}-{account}{path}",
                "deleted": 0,
                "created_at": now.internal,
                "etag": EMPTY_ETAG,
                "size": 0,
                "storage_policy_index": 0,
                "content_type": ASYNC_TYPE,
            }
            for path in dict.fromkeys(segment.path for segment in segments)
        ]
        name = ObjectName(
            account, text_of_wsgi(self._place.container), text_of_wsgi(self._place.obj)
        )
        queue = queue_container(int(now.seconds), name, self._salt)
        sub = sub_environ(
            self._environ,
            "UPDATE",
            f"/{self._place.version}/{QUEUE_ACCOUNT}/{queue}",
            headers={
                h.X_BACKEND_ALLOW_PRIVATE_METHODS: "True",
                h.X_BACKEND_STORAGE_POLICY_INDEX: "0",
                h.X_TIMESTAMP: now.internal,
                h.CONTENT_TYPE: "application/json",
            },
            body=json.dumps(rows).encode("ascii"),
            source=SOURCE_CODE,
            preauthorised=True,
        )
        answer = call(self._app, sub)
        answer.drain()
        return answer
