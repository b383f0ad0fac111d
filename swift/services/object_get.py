# SPDX-License-Identifier: Apache-2.0
"""GET and HEAD of an object on one node: conditions, ranges, and the body.

A body of up to a window (1 MiB) is verified before the answer begins; a larger one on
its way, and it breaks off before its end when it is not what was stored. Contract
backend-http 2, api 4.1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from uuid import uuid4

from swift.core import mime
from swift.core.conditions import Conditions
from swift.core.errors import InvalidInput, ObjectMissing, ObjectQuarantined
from swift.core.headers import (
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    ETAG,
    LAST_MODIFIED,
    OBJECT_META,
    OBJECT_SYSMETA,
    OBJECT_TRANSIENT_SYSMETA,
    RANGE,
    X_AUTH_TOKEN,
    X_BACKEND_DATA_TIMESTAMP,
    X_BACKEND_DURABLE_TIMESTAMP,
    X_BACKEND_ETAG_IS_AT,
    X_BACKEND_FRAGMENT_PREFERENCES,
    X_BACKEND_FRAGMENTS,
    X_BACKEND_IGNORE_RANGE_IF_METADATA_PRESENT,
    X_BACKEND_OPEN_EXPIRED,
    X_BACKEND_TIMESTAMP,
    X_STATIC_LARGE_OBJECT,
    X_STORAGE_TOKEN,
    X_TIMESTAMP,
    Headers,
)
from swift.core.objectfiles import Preference
from swift.core.ranges import ByteRange, resolve
from swift.core.settings import boolean, natural, option
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.storage.object.diskfile import DiskFile, OpenObject
from swift.wire.request import HTML_TYPE, Response, response_of

WHOLE_BODY_MAX = 65536
"""Bodies up to this size are read, and so verified, before the answer begins."""

_STORED_PREFIXES = (OBJECT_META, OBJECT_SYSMETA, OBJECT_TRANSIENT_SYSMETA)


@dataclass(frozen=True)
class GetConfig:
    """Options of [app:object-server] that a GET reads."""

    keep_cache_private: bool = option(
        False, parse=boolean, doc="Keep what is read with a token in the page cache."
    )
    keep_cache_size: int = option(
        5242880, parse=natural, doc="Largest object that is kept in the page cache."
    )
    keep_cache_slo_manifest: bool = option(
        False,
        parse=boolean,
        doc="Keep manifests of static large objects in the page cache in any case.",
    )
    cooperative_period: int = option(
        0,
        parse=natural,
        doc="Of no effect: disks are read in threads, so that others run meanwhile.",
    )
    etag_validate_pct: int = option(
        100, parse=natural, doc="Share of reads whose checksum is verified."
    )


def keeps_cache(
    config: GetConfig, headers: Headers, metadata: Mapping[str, str], length: int
) -> bool:
    """True when the pages of an object that is read may stay in the page cache.

    headers: of the request; metadata: of the object, whose length is in bytes.
    """
    if length > config.keep_cache_size:
        return False
    if config.keep_cache_slo_manifest and X_STATIC_LARGE_OBJECT in metadata:
        return True
    private = X_AUTH_TOKEN in headers or X_STORAGE_TOKEN in headers
    return config.keep_cache_private or not private


class ObjectGet:
    """Answers GETs and HEADs for one object server.

    stored_names: Title-Cased headers that are stored beside the families of metadata.
    """

    def __init__(self, config: GetConfig, stored_names: frozenset[str]) -> None:
        self._config = config
        self._stored_names = stored_names
        self._reads = 0

    def run(self, headers: Headers, disk: DiskFile, *, wants_body: bool) -> Response:
        """Answer one GET, or one HEAD, which wants no body. Yields.

        headers: of the request.
        """
        conditions = Conditions.of(headers)
        at = headers.timestamp(X_TIMESTAMP)
        try:
            opened = disk.open(
                green.now() if at is None else at.seconds,
                open_expired=headers.true(X_BACKEND_OPEN_EXPIRED),
                preferences=_preferences(headers),
            )
        except (ObjectMissing, ObjectQuarantined) as error:
            missing = response_of(error)
            if conditions is not None and conditions.verdict_missing():
                return Response(412, missing.headers)
            return missing
        response: Response | None = None
        try:
            response = self._answer_open(opened, headers, conditions, wants_body)
        except ObjectQuarantined as error:
            # Found out before a byte was sent: another replica can still give the right
            # ones, which is better than a body that breaks off.
            return response_of(error)
        finally:
            # A body that is still to come closes the object itself.
            if response is None or response.app_iter is None:
                opened.close()
        return response

    def _answer_open(
        self,
        opened: OpenObject,
        headers: Headers,
        conditions: Conditions | None,
        wants_body: bool,
    ) -> Response:
        """The answer to a read of an object that is there."""
        metadata = opened.metadata
        answer = self._described(opened)
        length = opened.content_length
        if conditions is not None:
            etag = _conditional_etag(headers, metadata, opened.etag)
            status = conditions.verdict(etag, opened.timestamp.ceil)
            if status is not None:
                dict.__setitem__(answer, CONTENT_LENGTH, "0")
                return Response(status, answer, b"")
        if not wants_body:
            return Response(200, answer, app_iter=None, body=b"")
        keep_cache = keeps_cache(self._config, headers, metadata, length)
        verify = self._verifies()
        spans = None
        range_header = dict.get(headers, RANGE)
        if range_header is not None and not _ignores_range(headers, metadata):
            spans = resolve(range_header, length)
        if spans is None:
            whole = ByteRange(0, length)
            return _with_body(200, answer, opened, whole, verify, keep_cache)
        if not spans:
            del answer[CONTENT_LENGTH]
            answer[CONTENT_RANGE] = f"bytes */{length}"
            answer[CONTENT_TYPE] = HTML_TYPE
            return Response(416, answer)
        if len(spans) == 1:
            span = spans[0]
            dict.__setitem__(answer, CONTENT_LENGTH, str(span.size))
            dict.__setitem__(answer, CONTENT_RANGE, span.content_range(length))
            return _with_body(206, answer, opened, span, verify, keep_cache)
        boundary = uuid4().hex
        content_type = metadata[CONTENT_TYPE]
        total = mime.ranges_length(boundary, content_type, spans, length)
        dict.__setitem__(answer, CONTENT_LENGTH, str(total))
        dict.__setitem__(answer, CONTENT_TYPE, mime.ranges_content_type(boundary))
        parts = _MultiRange(opened, spans, boundary, content_type, keep_cache)
        return Response(206, answer, app_iter=parts)

    def _described(self, opened: OpenObject) -> Headers:
        """The headers of an answer about an object that is there."""
        metadata = opened.metadata
        stored_names = self._stored_names
        answer = Headers()
        put = dict.__setitem__
        for name, value in metadata.items():
            if name.startswith(_STORED_PREFIXES) or name in stored_names:
                put(answer, name, value)
        timestamp = opened.timestamp
        internal = timestamp.internal
        data_timestamp = opened.data_timestamp
        put(answer, CONTENT_TYPE, metadata.get(CONTENT_TYPE, ""))
        put(answer, ETAG, f'"{opened.etag}"')
        put(answer, LAST_MODIFIED, timestamp.http_date)
        put(answer, CONTENT_LENGTH, str(opened.content_length))
        put(answer, X_TIMESTAMP, timestamp.normal)
        put(answer, X_BACKEND_TIMESTAMP, internal)
        put(
            answer,
            X_BACKEND_DATA_TIMESTAMP,
            internal if data_timestamp is timestamp else data_timestamp.internal,
        )
        if opened.durable_timestamp is not None:
            put(answer, X_BACKEND_DURABLE_TIMESTAMP, opened.durable_timestamp.internal)
        if opened.fragments:
            put(answer, X_BACKEND_FRAGMENTS, _fragments_text(opened.fragments))
        return answer

    def _verifies(self) -> bool:
        """True for the share of reads that etag_validate_pct names, evenly spread."""
        share = self._config.etag_validate_pct
        if share >= 100:
            return True
        self._reads += 1
        return self._reads * share // 100 != (self._reads - 1) * share // 100


class _MultiRange:
    """The body of a multi-range answer: parts of an open object, which it closes."""

    def __init__(
        self,
        opened: OpenObject,
        spans: Sequence[ByteRange],
        boundary: str,
        content_type: str,
        keep_cache: bool,
    ) -> None:
        self._opened = opened
        self._chunks = self._parts(opened, spans, boundary, content_type, keep_cache)

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def _parts(
        self,
        opened: OpenObject,
        spans: Sequence[ByteRange],
        boundary: str,
        content_type: str,
        keep_cache: bool,
    ) -> Iterator[bytes]:
        length = opened.content_length
        for span in spans:
            yield mime.range_opening(boundary, content_type, span, length)
            reader = opened.reader(
                span.start, span.stop, verify=False, keep_cache=keep_cache
            )
            with closing(reader):
                yield from reader
            yield mime.RANGE_END
        yield mime.ranges_closing(boundary)

    def close(self) -> None:
        """Close the object."""
        self._chunks.close()  # type: ignore[attr-defined]
        self._opened.close()


def _with_body(
    status: int,
    answer: Headers,
    opened: OpenObject,
    span: ByteRange,
    verify: bool,
    keep_cache: bool,
) -> Response:
    """An answer with a part of the object, or all of it, as its body.

    Small bodies are read and verified now, for then the answer leaves in one piece; of
    others that the kernel sends, the first window is looked at. Raises
    ObjectQuarantined when that shows that the body is not what was stored. Yields.
    """
    if span.size > WHOLE_BODY_MAX and opened.is_sendable:
        body = opened.span(
            span.start, span.stop, verify=verify, keep_cache=keep_cache, owner=True
        )
        body.passable(span.start)
        return Response(status, answer, app_iter=body)
    reader = opened.reader(
        span.start, span.stop, verify=verify, keep_cache=keep_cache, owner=True
    )
    if span.size > WHOLE_BODY_MAX:
        return Response(status, answer, app_iter=reader)
    with closing(reader):
        return Response(status, answer, b"".join(reader))


def _conditional_etag(headers: Headers, metadata: Headers, etag: str) -> str:
    """The etag that conditions are held against; X-Backend-Etag-Is-At picks it."""
    names = headers.get(X_BACKEND_ETAG_IS_AT)
    if names:
        for name in names.split(","):
            found: str | None = metadata.get(name.strip())
            if found is not None:
                return found
    return etag


def _ignores_range(headers: Headers, metadata: Headers) -> bool:
    """True when the object has metadata that makes ranges of its bytes meaningless."""
    names = headers.get(X_BACKEND_IGNORE_RANGE_IF_METADATA_PRESENT)
    return bool(names) and any(name.strip() in metadata for name in names.split(","))


def _preferences(headers: Headers) -> list[Preference] | None:
    """X-Backend-Fragment-Preferences, None when absent or no JSON.

    Raises InvalidInput for JSON of another shape.
    """
    text = dict.get(headers, X_BACKEND_FRAGMENT_PREFERENCES)
    if text is None:
        return None
    try:
        wanted = json.loads(text)
    except ValueError:
        return None
    try:
        return [
            Preference(
                Timestamp.parse(item["timestamp"]),
                frozenset(int(index) for index in item["exclude"]),
            )
            for item in wanted
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInput(f"Invalid {X_BACKEND_FRAGMENT_PREFERENCES}") from error


def _fragments_text(fragments: Mapping[Timestamp, Sequence[int]]) -> str:
    return json.dumps(
        {timestamp.internal: list(found) for timestamp, found in fragments.items()}
    )
