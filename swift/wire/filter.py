# SPDX-License-Identifier: Apache-2.0
"""What every filter of a pipeline is made of, and what it may know of its process.

A filter module holds a frozen `Config`, a class on `Filter`, and
`filter_factory = factory(Class)`; its entry point makes it known to .conf files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from swift.core.settings import bind, unknown_options
from swift.runtime.cluster import Cluster
from swift.runtime.config import DEFAULT_SWIFT_DIR
from swift.runtime.logs import Logger, get_logger
from swift.runtime.metrics import Metrics, StatsdSender, get_metrics
from swift.wire.environ import INFO_FETCHER, Environ
from swift.wire.request import StartResponse, WsgiApp

_C = TypeVar("_C")


class InfoRegistry:
    """The facts that /info shows: feature → name → value.

    admin_features are shown to callers with the admin key only.
    """

    def __init__(self) -> None:
        self.features: dict[str, dict[str, Any]] = {}
        self.admin_features: dict[str, dict[str, Any]] = {}

    def register(self, name: str, admin: bool = False, **facts: Any) -> None:
        """Announce a feature, or more facts of one."""
        kept = self.admin_features if admin else self.features
        kept.setdefault(name, {}).update(facts)


class Process:
    """What all filters and the app of one pipeline share.

    The cluster is read from swift_dir when it is first asked for, unless one is given.
    console: logs go to stderr as well.
    """

    def __init__(
        self,
        conf: Mapping[str, str],
        *,
        source: str = "-",
        cluster: Cluster | None = None,
        log: Logger | None = None,
        log_name: str = "swift",
        console: bool = False,
    ) -> None:
        self.conf = conf
        self.source = source
        self.console = console
        self.swift_dir = conf.get("swift_dir", DEFAULT_SWIFT_DIR)
        self.log_name = conf.get("log_name", log_name)
        self._logs: dict[tuple[tuple[str, str], ...], Logger] = {}
        if log is not None:
            self._logs[_log_options(conf)] = log
        self.log = self.logger(conf)
        self.info = InfoRegistry()
        # The sections of a configuration that is no file; None where `source` is one.
        self.sections: Mapping[str, Mapping[str, str]] | None = None
        # An infocache.InfoFetcher, which the proxy app puts here for the filters.
        self.info_fetcher: Any = None
        # Lowered by a part whose state other workers would not share.
        self.workers_max: int | None = None
        self._cluster = cluster
        self._metrics: dict[str, Metrics] = {}
        self._statsd: StatsdSender | None = None

    @property
    def cluster(self) -> Cluster:
        """The cluster. Raises ConfigError."""
        if self._cluster is None:
            self._cluster = Cluster.load(self.swift_dir, log=self.log)
        return self._cluster

    def logger(self, conf: Mapping[str, str]) -> Logger:
        """The log that a section's log_* options describe; shared if they agree."""
        key = _log_options(conf)
        found = self._logs.get(key)
        if found is None:
            found = get_logger(
                conf, self.log_name, console=self.console, source=self.source
            )
            self._logs[key] = found
        return found

    def metrics(self, tail: str) -> Metrics:
        """The counters whose legacy names begin with `tail`; one object a name."""
        found = self._metrics.get(tail)
        if found is None:
            found = get_metrics(
                self.conf, tail, source=self.source, sender=self._statsd
            )
            if self._statsd is None:
                self._statsd = found.sender
            self._metrics[tail] = found
        return found


def _log_options(conf: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(
        sorted(
            (name, value)
            for name, value in conf.items()
            if name.startswith("log_") and not name.startswith("log_statsd_")
        )
    )


class PipelineContext(dict[str, str]):
    """[DEFAULT] of the .conf, as factories get it, and what the process knows.

    section: the section of the part that is being made, for messages. local: the
    options of that section.
    """

    def __init__(
        self,
        conf: Mapping[str, str] | None = None,
        process: Process | None = None,
        section: str = "-",
        local: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(conf or {})
        self.process = process or Process(self)
        self.section = section
        self.local = local or {}

    @classmethod
    def of(cls, global_conf: Mapping[str, str] | None) -> PipelineContext:
        """The context itself, or one made of a plain mapping (for tests)."""
        if isinstance(global_conf, PipelineContext):
            return global_conf
        return cls(global_conf)

    @property
    def cluster(self) -> Cluster:
        """The cluster. Raises ConfigError."""
        return self.process.cluster

    @property
    def swift_dir(self) -> str:
        """Where swift.conf and the rings are."""
        return self.process.swift_dir

    @property
    def source(self) -> str:
        """The .conf file, for messages."""
        return self.process.source

    @property
    def info(self) -> InfoRegistry:
        """What /info shows."""
        return self.process.info

    @property
    def metrics(self) -> Metrics:
        """The counters under the process's own log name."""
        return self.process.metrics(self.process.log_name)

    def metrics_of(self, tail: str) -> Metrics:
        """The counters whose legacy names begin with `tail` (`tempauth.AUTH_`)."""
        return self.process.metrics(tail)

    def logger(self, name: str = "") -> Logger:
        """The log of this part, with the log_* options of its section.

        name: who asks, for readers of the code; it does not change the lines.
        """
        return self.process.logger({**self, **self.local})

    def bind(self, config: type[_C], local_conf: Mapping[str, str]) -> _C:
        """Make a Config of the section over [DEFAULT]; log options that nobody knows.

        Raises ConfigError naming file, section and option.
        """
        values = {**self, **local_conf}
        for name in unknown_options([config], local_conf):
            if not name.startswith(("log_", "statsd_", "access_log_")):
                self.process.log.debug(
                    "%s [%s]: option %s is unknown", self.source, self.section, name
                )
        return bind(config, values, source=self.source, section=self.section)


@dataclass(frozen=True)
class NoOptions:
    """The Config of a filter without options."""


class Filter:
    """One filter: sees each request before the app and each answer after it.

    Subclasses set `Config` and override `__call__`; `config` is an instance of Config.
    """

    Config: ClassVar[type[Any]] = NoOptions

    def __init__(self, app: WsgiApp, config: Any, context: PipelineContext) -> None:
        self.app = app
        self.config = config
        self.context = context
        self.log = context.logger(context.section)

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request; here, as the app does."""
        return self.app(environ, start_response)

    def knows_facts(self, environ: Environ) -> bool:
        """See that wire.infocache can be asked; False without a proxy app to ask.

        The cache filter does this for every request to its right.
        """
        if INFO_FETCHER not in environ:
            fetcher = self.context.process.info_fetcher
            if fetcher is None:
                return False
            environ[INFO_FETCHER] = fetcher
        return True


FilterFactory = Callable[..., Callable[[WsgiApp], WsgiApp]]


def factory(cls: type[Filter]) -> FilterFactory:
    """The paste.filter_factory of a Filter class."""

    def filter_factory(
        global_conf: Mapping[str, str] | None, **local_conf: str
    ) -> Callable[[WsgiApp], WsgiApp]:
        context = PipelineContext.of(global_conf)
        config = context.bind(cls.Config, local_conf)

        def make(app: WsgiApp) -> WsgiApp:
            return cls(app, config, context)

        return make

    return filter_factory
