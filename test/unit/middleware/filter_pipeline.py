# SPDX-License-Identifier: Apache-2.0
"""What the tests of filters share: a context without files, an app that remembers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from swift.core.hashing import HashSalt
from swift.core.headers import Headers
from swift.core.names import Limits
from swift.core.policy import StoragePolicies
from swift.runtime.cluster import Cluster
from swift.runtime.logs import DEBUG, ListSink, Logger
from swift.wire import environ as env
from swift.wire.environ import blank
from swift.wire.filter import PipelineContext, Process
from swift.wire.request import Request, Response, call


class FakeApp:
    """The end of a pipeline: answers by `METHOD path`, keeps the environs it saw.

    An answer is a Response, or a function of the environ that gives one. With
    `authorizes`, the callback of the auth filter is asked first.
    """

    def __init__(self, authorizes: bool = False) -> None:
        self.answers: dict[str, Any] = {}
        self.seen: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.authorizes = authorizes
        self.acl: str | None = None

    def __call__(self, environ: Any, start_response: Any) -> Any:
        self.seen.append(environ)
        if self.authorizes and environ.get(env.AUTHORIZE):
            request = Request(environ)
            request.acl = self.acl
            denial = environ[env.AUTHORIZE](request)
            if denial is not None:
                return denial(environ, start_response)
        method = environ["REQUEST_METHOD"]
        if method == "PUT":
            self.bodies.append(environ["wsgi.input"].read())
        answer = self.answers.get(
            f"{method} {environ['PATH_INFO']}", self.answers.get("*", Response(404))
        )
        if not isinstance(answer, Response):
            answer = answer(environ)
        return answer(environ, start_response)

    @property
    def last(self) -> dict[str, Any]:
        return self.seen[-1]

    def lines(self) -> list[str]:
        """`METHOD path` of all requests seen."""
        return [f"{e['REQUEST_METHOD']} {e['PATH_INFO']}" for e in self.seen]


class Bench:
    """One filter (or several, outermost first) before a FakeApp."""

    def __init__(
        self, *names: str, authorizes: bool = False, conf: Any = (), **options: str
    ) -> None:
        self.sink = ListSink()
        cluster = Cluster(
            swift_dir="/nowhere",
            salt=HashSalt(b"prefix", b"suffix"),
            limits=Limits(),
            policies=StoragePolicies.from_sections({}, "-"),
            rings={},
        )
        log = Logger("test", [self.sink], level=DEBUG)
        default = dict(conf, swift_dir="/nowhere")
        self.process = Process(default, cluster=cluster, log=log)
        self.context = PipelineContext(default, self.process)
        self.end = FakeApp(authorizes)
        self.app: Callable[..., Any] = self.end
        for name in reversed(names):
            module = importlib.import_module(f"swift.middleware.{name}")
            own = options if len(names) == 1 else {}
            self.app = module.filter_factory(self.context, **own)(self.app)

    def ask(
        self,
        method: str,
        path: str,
        headers: Any = (),
        body: bytes | None = None,
        **extra: Any,
    ) -> Response:
        """Run a request; the body of the answer is still unread."""
        environ = blank(path, method=method, headers=dict(headers), body=body)
        environ.update(extra)
        self.environ = environ
        return call(self.app, environ)

    @property
    def log_lines(self) -> list[str]:
        return [line for _level, line in self.sink.lines]


def found(body: bytes = b"", status: int = 200, **headers: str) -> Response:
    """An answer with headers written with underscores."""
    named = Headers(**headers)
    named.setdefault("Content-Type", "application/octet-stream")
    return Response(status, named, body)
