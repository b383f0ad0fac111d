# SPDX-License-Identifier: Apache-2.0
"""Reports of long work: 200 at once, blanks while it lasts, then the outcome.

Serves bulk and whatever else answers so. The work runs in a green thread of its own; a
client that leaves ends it.

Contract: middleware 3 (Report), 8 and 26 (heartbeat).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

from swift.core.errors import InvalidInput
from swift.core.listing import listing_format
from swift.runtime import green
from swift.wire.request import REASONS

TEXT = "text/plain"
JSON = "application/json"
XML_TYPES = ("application/xml", "text/xml")

XML_PROLOG = b'<?xml version="1.0" encoding="UTF-8"?>\n'
_END_OF_BLANKS = b"\r\n\r\n"


def report_type(accept: str | None) -> str | None:
    """The media type that a client takes a report in, None when it takes none."""
    try:
        return listing_format(None, accept)
    except InvalidInput:
        return None


def status_line(status: int) -> str:
    """`404 Not Found`."""
    return f"{status} {REASONS.get(status, 'Unknown')}"


@dataclass(slots=True)
class Report:
    """What became of the work.

    root: of the XML form. counters: name → number. errors: (quoted name, status line).
    extra: further texts, by name, such as headers of an answer.
    """

    root: str
    counters: dict[str, int] = field(default_factory=dict)
    status: str = ""
    body: str = ""
    errors: list[tuple[str, str]] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)

    def conclude(self, status: int, body: str = "") -> None:
        """Set the status that the request would have had, and a sentence."""
        self.status, self.body = status_line(status), body

    @property
    def facts(self) -> dict[str, Any]:
        """All but the errors."""
        return {
            "Response Status": self.status,
            "Response Body": self.body,
            **self.counters,
            **self.extra,
        }

    def render(self, media_type: str) -> bytes:
        """The report in a media type of `report_type`; XML without its prolog."""
        if media_type == JSON:
            return json.dumps({**self.facts, "Errors": self.errors}).encode("ascii")
        if media_type in XML_TYPES:
            return self._xml().encode("utf-8", "replace")
        return self._text().encode("utf-8", "replace")

    def _text(self) -> str:
        facts = self.facts
        lines = [f"{name}: {facts[name]}\n" for name in sorted(facts)]
        lines.append("Errors:\n")
        lines += [f"{name}, {status}\n" for name, status in self.errors]
        return "".join(lines)

    def _xml(self) -> str:
        facts = self.facts
        pieces = [f"<{self.root}>\n"]
        for name in sorted(facts):
            tag = name.lower().replace(" ", "_")
            pieces.append(f"<{tag}>{_escaped(facts[name])}</{tag}>\n")
        pieces.append("<errors>\n")
        for name, status in self.errors:
            pieces.append(
                f"<object><name>{_escaped(name)}</name>"
                f"<status>{_escaped(status)}</status></object>\n"
            )
        pieces.append(f"</errors>\n</{self.root}>\n")
        return "".join(pieces)


def _escaped(value: object) -> str:
    # XML 1.0 knows no control characters but three; names are quoted, bodies may hold
    # anything.
    text = "".join(
        char if char >= " " or char in "\t\n\r" else "?" for char in str(value)
    )
    return escape(text)


class ReportBody:
    """The body of a long answer: runs the work, sends blanks, then the report.

    work: fills the report in, in a green thread of its own. When it raises, the report
    says 500 and the error goes to `trouble`.
    """

    def __init__(
        self,
        work: Callable[[Report], None],
        report: Report,
        *,
        media_type: str,
        interval_s: float,
        trouble: Callable[[BaseException], None],
    ) -> None:
        self._work = work
        self._report = report
        self._type = media_type
        self._interval_s = interval_s
        self._trouble = trouble
        self._done: green.Event[None] = green.Event()
        self._thread: green.Thread | None = None

    def __iter__(self) -> Iterator[bytes]:
        """Yields."""
        self._thread = green.spawn(self._run)
        beats = 0
        while not self._done.is_set():
            try:
                self._done.wait(self._interval_s or None)
            except TimeoutError:
                is_first_of_xml = not beats and self._type in XML_TYPES
                yield XML_PROLOG if is_first_of_xml else b" "
                beats += 1
        self._thread = None
        end = _END_OF_BLANKS if beats or self._type not in XML_TYPES else b""
        yield end + self._report.render(self._type)

    def _run(self) -> None:
        try:
            self._work(self._report)
        except (Exception, green.Timeout) as error:
            self._trouble(error)
            self._report.conclude(500)
        self._done.set()

    def close(self) -> None:
        """End the work, if the client did not wait for it."""
        if self._thread is not None:
            self._thread.kill()
            self._thread = None
