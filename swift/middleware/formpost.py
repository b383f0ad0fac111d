# SPDX-License-Identifier: Apache-2.0
"""Uploads by a web page's form: each file of a signed form becomes an object.

The form is signed with the keys of temporary URLs: for a path that names begin with, a
number and a size of files, an expiry and a page to go to afterwards. Of the browser's
request nothing else reaches the uploads: no header of it can name another object.

Contract: middleware 14. Form bodies: RFC 7578.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from swift.core import headers as h
from swift.core.errors import BodyTooLarge, ClientDisconnect, FormatError, InvalidInput
from swift.core.headers import Headers
from swift.core.mime import Event, MimeParser, PartEnd, PartStart
from swift.core.settings import option
from swift.core.signing import (
    DIGESTS,
    Signature,
    allowed_digests,
    deprecated_among,
    form_message,
)
from swift.middleware.signed import Scope, keys_of, open_scope, unauthorized
from swift.middleware.upload_input import READ_BYTES, UploadInput
from swift.runtime import green
from swift.wire import environ as env
from swift.wire.environ import Environ, sub_environ
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.request import HTML_TYPE, Response, StartResponse, WsgiApp, call

SOURCE_CODE = "FP"
USER = ".wsgi.formpost"
FORM_TYPE = "multipart/form-data"

FIELD_BYTES_MAX = 4096
FIELDS_MAX = 64

# Parameters of a header: the value a token or quoted. Nothing here can backtrack.
_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"]*))')


@dataclass(frozen=True)
class FormpostConfig:
    """[filter:formpost] of proxy-server.conf."""

    allowed_digests: tuple[str, ...] = option(
        DIGESTS, parse=allowed_digests, doc="Digests that signatures may use."
    )


class BadForm(InvalidInput):
    """A form that breaks a rule: 400, with what it says."""


class FormEnds(BadForm):
    """The body is over before its closing boundary."""


class BadSigner(InvalidInput):
    """A form that nobody has signed, or whose time is over: 401."""


def parameters(value: str) -> tuple[str, dict[str, str]]:
    """The first word of a header value and its parameters, names in lower case."""
    word = value.partition(";")[0].strip().lower()
    found: dict[str, str] = {}
    for match in _PARAMETER.finditer(value):
        name, quoted, token = match.groups()
        # Browsers write a quote in a name as %22, never escaped; a backslash is what an
        # old one sends of `C:\file`, so that only `\"` and `\\` are escapes.
        text = token.strip() if quoted is None else re.sub(r'\\(["\\])', r"\1", quoted)
        found.setdefault(name.lower(), text)
    return word, found


@dataclass(slots=True)
class Form:
    """The fields read so far; values are WSGI strings."""

    fields: dict[str, str] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        """The value of a field."""
        return self.fields.get(name) or default

    def number(self, name: str) -> int:
        """A whole number; raises BadForm."""
        text = self.text(name, "0")
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise BadForm(f"{name} not an integer")
        return int(text)

    def message(self, path: str) -> bytes:
        """What the form's signature covers."""
        return form_message(
            path.encode("latin-1"),
            redirect=self.text("redirect").encode("latin-1"),
            max_file_size=self.text("max_file_size", "0").encode("latin-1"),
            max_file_count=self.text("max_file_count", "0").encode("latin-1"),
            expires=self.text("expires", "0").encode("latin-1"),
        )


class FormBody:
    """The parts of the request's body, one after the other; pulls what it needs."""

    def __init__(self, source: Any, boundary: bytes) -> None:
        self._read = getattr(source, "read_some", source.read)
        self._parser = MimeParser(boundary)
        self._events: list[Event] = []
        self._at = 0

    def next_event(self) -> Event | None:
        """The next event, None behind the last part. Yields.

        Raises BadForm when the body is no form, FormEnds when all of it has come and it
        is no whole one, ClientDisconnect when it does not come.
        """
        while self._at == len(self._events):
            if self._parser.finished:
                return None
            chunk = self._read(READ_BYTES)
            if not chunk:
                raise FormEnds("no closing boundary")
            try:
                self._events, self._at = self._parser.feed(chunk), 0
            except FormatError as error:
                raise BadForm("invalid starting boundary") from error
        event = self._events[self._at]
        self._at += 1
        return event

    def field_value(self) -> str:
        """The content of the part that was opened. Raises BadForm when too long."""
        pieces: list[bytes] = []
        size = 0
        while True:
            event = self.next_event()
            if not isinstance(event, bytes):
                return b"".join(pieces).decode("latin-1")
            size += len(event)
            if size > FIELD_BYTES_MAX:
                raise BadForm("a field is too long")
            pieces.append(event)


class FileReader(UploadInput):
    """One file of the form as the `wsgi.input` of an upload, up to a size."""

    def __init__(self, body: FormBody, size_max: int) -> None:
        self._body = body
        self._left = size_max
        self._held = b""
        self._ended = False
        self.exceeded = False

    def read_some(self, size: int) -> bytes:
        """Up to `size` bytes as they come, none at the end. Yields.

        Raises BodyTooLarge beyond the size that the form allows.
        """
        if not self._held and not self._ended:
            try:
                event = self._body.next_event()
            except FormEnds as error:
                # What has come is no whole file: the app must not store it.
                raise ClientDisconnect("the form breaks off") from error
            if isinstance(event, bytes):
                self._held = event
                self._left -= len(event)
                if self._left < 0:
                    self.exceeded = True
                    raise BodyTooLarge("max_file_size exceeded")
            else:
                self._ended = True
        chunk, self._held = self._held[:size], self._held[size:]
        return chunk


class Formpost(Filter):
    """The filter."""

    Config = FormpostConfig
    config: FormpostConfig

    def __init__(
        self, app: WsgiApp, config: FormpostConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self._metrics = context.metrics_of("formpost")
        context.info.register(
            "formpost",
            allowed_digests=sorted(config.allowed_digests),
            deprecated_digests=deprecated_among(config.allowed_digests),
        )

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        if environ[env.REQUEST_METHOD] != "POST":
            return self.app(environ, start_response)
        kind = environ.get(env.CONTENT_TYPE) or ""
        if kind[: len(FORM_TYPE)].lower() != FORM_TYPE:
            return self.app(environ, start_response)
        parts = environ[env.PATH_INFO].split("/", 4)
        if len(parts) < 4 or not all(parts[1:4]) or not self.knows_facts(environ):
            return self.app(environ, start_response)
        try:
            response = self._take(environ, parts, parameters(kind)[1])
        except BadForm as error:
            response = Response.text(400, f"FormPost: {error}")
        except BadSigner as error:
            response = unauthorized(parts[2], f"FormPost: {error}")
        except BodyTooLarge as error:
            response = Response.text(400, f"FormPost: {error}")
        except InvalidInput:
            response = unauthorized(parts[2], "FormPost: invalid signature")
        except ClientDisconnect:
            response = Response(499)
        return response(environ, start_response)

    def _take(
        self, environ: Environ, parts: list[str], options: dict[str, str]
    ) -> Response:
        """Read the form, upload its files. Raises InvalidInput. Yields."""
        boundary = options.get("boundary", "")
        if not 0 < len(boundary) <= 200:
            raise BadForm("invalid boundary")
        body = FormBody(environ[env.WSGI_INPUT], boundary.encode("latin-1"))
        form, scope, count, fields = Form(), None, 0, 0
        answer: Response | None = None
        while True:
            event = body.next_event()
            if event is None:
                break
            if not isinstance(event, PartStart):
                assert not isinstance(event, PartEnd), "each part is read to its end"
                raise BadForm("text outside of parts")
            about = parameters(event.headers.get(h.CONTENT_DISPOSITION, ""))[1]
            filename = about.get("filename")
            if filename is None:
                fields += 1
                if fields > FIELDS_MAX:
                    raise BadForm("too many fields")
                value = body.field_value()
                # What comes behind a file could undo what the signature covers.
                if scope is None:
                    form.fields[about.get("name", "").lower()] = value
                continue
            if not filename:
                # What a browser sends of a file input that nothing was chosen for.
                fields += 1
                if fields > FIELDS_MAX:
                    raise BadForm("too many fields")
                body.field_value()
                continue
            if scope is None:
                scope = self._signer(environ, parts, form)
            count += 1
            if count > form.number("max_file_count"):
                raise BadForm("max file count exceeded")
            reader = FileReader(body, form.number("max_file_size"))
            answer = self._upload(environ, form, scope, reader, event.headers, filename)
            if reader.exceeded:
                raise BadForm("max_file_size exceeded")
            if not answer.is_success:
                break
            for _rest in reader:
                pass
        if answer is None:
            raise BadForm("no files to process")
        return _finished(answer, form.text("redirect"))

    def _signer(self, environ: Environ, parts: list[str], form: Form) -> Scope:
        """What the key that signed the form opens. Yields.

        Raises BadForm, BadSigner, BadSignature.
        """
        if form.number("expires") < green.now():
            raise BadSigner("form expired")
        signature = Signature.parse(form.text("signature"))
        if signature.digest not in self.config.allowed_digests:
            raise BadSigner("invalid signature")
        message = form.message(environ[env.PATH_INFO])
        found = None
        for key in keys_of(environ, parts[2], parts[3]):
            if signature.signed_by(key.secret, [message])[0] and found is None:
                found = key.scope
        if found is None:
            raise BadSigner("invalid signature")
        if any(char < " " or char == "\x7f" for char in form.text("redirect")):
            raise BadForm("redirect holds control characters")
        if self._metrics.is_on:
            self._metrics.increment(f"digests.{signature.digest}")
        return found

    def _upload(
        self,
        environ: Environ,
        form: Form,
        scope: Scope,
        reader: FileReader,
        part: Headers,
        filename: str,
    ) -> Response:
        """PUT one file; the answer, its body read. Yields."""
        path = environ[env.PATH_INFO]
        if path.count("/") < 4:
            path += "/"
        headers = Headers({h.TRANSFER_ENCODING: "chunked"})
        for name in (h.CONTENT_TYPE, h.CONTENT_ENCODING):
            value = form.text(name.lower()) or part.get(name)
            if value:
                headers[name] = value
        for name in (h.X_DELETE_AT, h.X_DELETE_AFTER):
            value = form.text(name.lower().replace("-", "_"))
            if value:
                headers[name] = value
        put = sub_environ(
            environ, "PUT", path + filename, headers=headers, source=SOURCE_CODE
        )
        put[env.WSGI_INPUT] = reader
        open_scope(put, scope, USER)
        answer = call(self.app, put)
        answer.drain()
        return answer


def _finished(answer: Response, redirect: str) -> Response:
    """What the browser gets once all files are up, or one has failed."""
    message = "" if answer.is_success else answer.reason
    cors = {
        name: value
        for name, value in answer.headers.items()
        if name.startswith(h.ACCESS_CONTROL)
    }
    if not redirect:
        text = f"{answer.status_line}\r\nFormPost: {message or 'success'}\r\n"
        return Response.text(answer.status, text, cors)
    joint = "&" if "?" in redirect else "?"
    target = f"{redirect}{joint}status={answer.status}&message={quote(message)}"
    link = html.escape(target)
    body = f'<html><body><p><a href="{link}">Click to continue</a></p></body></html>'
    headers = {h.LOCATION: target, h.CONTENT_TYPE: HTML_TYPE, **cors}
    return Response(303, headers, body.encode("latin-1"))


filter_factory = factory(Formpost)
