# SPDX-License-Identifier: Apache-2.0
"""`/crossdomain.xml`: the policy file for browser plug-ins. Contract: middleware 9."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from swift.core.headers import CONTENT_TYPE
from swift.core.settings import option
from swift.wire.environ import PATH_INFO, REQUEST_METHOD, Environ
from swift.wire.filter import Filter, PipelineContext, factory
from swift.wire.request import Response, StartResponse, WsgiApp

PATH = "/crossdomain.xml"

_DOCUMENT = """<?xml version="1.0"?>
<!DOCTYPE cross-domain-policy SYSTEM \
"http://www.adobe.com/xml/dtds/cross-domain-policy.dtd" >
<cross-domain-policy>
{policy}
</cross-domain-policy>"""


@dataclass(frozen=True)
class CrossdomainConfig:
    """[filter:crossdomain] of proxy-server.conf."""

    cross_domain_policy: str = option(
        '<allow-access-from domain="*" secure="false" />',
        doc="The elements of the policy; may go over several lines.",
    )


class Crossdomain(Filter):
    """The filter."""

    Config = CrossdomainConfig
    config: CrossdomainConfig

    def __init__(
        self, app: WsgiApp, config: CrossdomainConfig, context: PipelineContext
    ) -> None:
        super().__init__(app, config, context)
        self._document = _DOCUMENT.format(policy=config.cross_domain_policy).encode()
        context.info.register("crossdomain")

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        if environ[PATH_INFO] != PATH or environ[REQUEST_METHOD] not in ("GET", "HEAD"):
            return self.app(environ, start_response)
        headers = {CONTENT_TYPE: "application/xml"}
        return Response(200, headers, self._document)(environ, start_response)


filter_factory = factory(Crossdomain)
