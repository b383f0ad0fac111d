# SPDX-License-Identifier: Apache-2.0
"""Refuses names that hold forbidden characters or are too long.

Contract: middleware 21.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from swift.core.errors import InvalidInput
from swift.core.names import text_of_wsgi
from swift.core.settings import natural, option
from swift.wire.environ import PATH_INFO, Environ
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.request import Response, StartResponse, WsgiApp


def regexp(text: str) -> str:
    """A regular expression; empty for none."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return text


def characters(text: str) -> str:
    """Characters, all of which count."""
    return text


@dataclass(frozen=True)
class NameCheckConfig:
    """[filter:name_check] of proxy-server.conf."""

    forbidden_chars: str = option(
        "'\"`<>", parse=characters, doc="Characters that no path may hold."
    )
    maximum_length: int = option(
        255, parse=natural, doc="Most characters of a path, slashes counted."
    )
    forbidden_regexp: str = option(
        r"/\./|/\.\./|/\.$|/\.\.$",
        parse=regexp,
        doc="A path in which this is found is refused; empty for none.",
    )


class NameCheck(Filter):
    """The filter."""

    Config = NameCheckConfig
    config: NameCheckConfig

    def __init__(
        self, app: WsgiApp, config: NameCheckConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self._forbidden = frozenset(config.forbidden_chars)
        self._pattern = (
            re.compile(config.forbidden_regexp) if config.forbidden_regexp else None
        )
        context.info.register(
            "name_check",
            forbidden_chars=config.forbidden_chars,
            maximum_length=config.maximum_length,
            forbidden_regexp=config.forbidden_regexp,
        )

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        try:
            path = text_of_wsgi(environ[PATH_INFO])
        except InvalidInput:
            # No text has these bytes; the proxy says so with its own status.
            return self.app(environ, start_response)
        fault = self._fault(path)
        if fault is None:
            return self.app(environ, start_response)
        return Response.text(400, fault)(environ, start_response)

    def _fault(self, path: str) -> str | None:
        if not self._forbidden.isdisjoint(path):
            return f"A name must not hold any of {self.config.forbidden_chars}"
        if len(path) > self.config.maximum_length:
            return f"The path is over {self.config.maximum_length} characters long"
        if self._pattern is not None and self._pattern.search(path):
            return f"A name must not match {self.config.forbidden_regexp}"
        return None


filter_factory = factory(NameCheck)
