# SPDX-License-Identifier: Apache-2.0
"""`/healthcheck`: the answer that load balancers ask for. Contract: middleware 16."""

from __future__ import annotations

import os.path
from collections.abc import Iterable
from dataclasses import dataclass

from swift.core.settings import option
from swift.wire.environ import PATH_INFO, Environ
from swift.wire.filter import Filter, factory
from swift.wire.request import Response, StartResponse

PATH = "/healthcheck"


@dataclass(frozen=True)
class HealthcheckConfig:
    """[filter:healthcheck]."""

    disable_path: str = option(
        "", doc="While this file exists, the answer is 503 DISABLED BY FILE."
    )


class Healthcheck(Filter):
    """The filter."""

    Config = HealthcheckConfig
    config: HealthcheckConfig

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        if environ[PATH_INFO] != PATH:
            return self.app(environ, start_response)
        disable_path = self.config.disable_path
        if disable_path and os.path.exists(disable_path):
            response = Response.text(503, "DISABLED BY FILE")
        else:
            response = Response.text(200, "OK")
        return response(environ, start_response)


filter_factory = factory(Healthcheck)
