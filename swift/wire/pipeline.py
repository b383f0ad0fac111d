# SPDX-License-Identifier: Apache-2.0
"""From a paste .conf to a WSGI application: sections, filters, and those put in place.

PasteDeploy finds sections, entry points and composites; this room reads the files (one
or a directory), makes the parts, each with a PipelineContext for its global_conf, and
sees to it that a proxy has the filters without which it is not safe or not whole
(contract middleware §0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from paste.deploy import loadwsgi

from swift.core.errors import ConfigError
from swift.runtime.config import DEFAULT, ConfFile, read_conf
from swift.wire.filter import PipelineContext, Process
from swift.wire.request import WsgiApp

PACKAGE = "swift"
FILTERS = "paste.filter_factory"
PROXY_ENTRY = "proxy"


@dataclass(frozen=True, slots=True)
class Required:
    """A filter that a proxy must have.

    after: entry points; it goes right behind the right-most of those present (of a
    filter that stands twice, the first counts), else to the front. first_only: only the
    filter at the very front counts.
    """

    entry: str
    after: tuple[str, ...] = ()
    first_only: bool = False


_COPY_AFTER = (
    "staticweb",
    "tempauth",
    "keystoneauth",
    "catch_errors",
    "gatekeeper",
    "proxy_logging",
)
REQUIRED = (
    Required("catch_errors"),
    Required("gatekeeper", ("catch_errors",), first_only=True),
    Required(
        "listing_formats", ("catch_errors", "gatekeeper", "proxy_logging", "memcache")
    ),
    Required("copy", _COPY_AFTER),
    Required("dlo", ("copy", *_COPY_AFTER)),
    Required("versioned_writes", ("slo", "dlo", "copy", *_COPY_AFTER)),
)
"""In the order in which they stand; they are put in place from last to first."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A loaded application. names: its parts, from the front to the app."""

    app: WsgiApp
    process: Process
    names: tuple[str, ...]


def positions(present: list[str], installed: frozenset[str]) -> list[tuple[str, int]]:
    """The filters to insert, one after the other: (entry point, index at that moment).

    present: the pipeline's entry points, an empty string for a filter that has none.
    installed: filters that there are; those that do not exist are not asked for.
    """
    names = list(present)
    steps = []
    for required in reversed(REQUIRED):
        if required.entry in names or required.entry not in installed:
            continue
        index = 0
        for name in required.after:
            if name in names and not (required.first_only and names[0] != name):
                index = max(index, names.index(name) + 1)
        names.insert(index, required.entry)
        steps.append((required.entry, index))
    return steps


def load_pipeline(
    path: str,
    process: Process | None = None,
    *,
    name: str = "main",
    insert_required: bool = True,
) -> Pipeline:
    """Build the application that a .conf file or directory describes.

    insert_required: False for pipelines that are private to a program, which stay as
    they are written. Raises ConfigError, also when a part cannot be found or imported.
    """
    return build_pipeline(
        read_conf(path), process, name=name, insert_required=insert_required
    )


def build_pipeline(
    conf: ConfFile,
    process: Process | None = None,
    *,
    name: str = "main",
    insert_required: bool = True,
) -> Pipeline:
    """As `load_pipeline`, of a file that has been read, or never was one."""
    if process is None:
        process = Process(conf.interpolated_defaults(), source=conf.source)
    loader = _Loader(conf, process)
    try:
        context = loader.app_context(name)
    except (LookupError, ImportError, metadata.PackageNotFoundError) as error:
        reason = str(error.args[0]) if error.args else str(error)
        raise ConfigError(conf.source, f"pipeline:{name}", "-", reason) from error
    if context.object_type is not loadwsgi.PIPELINE:
        return Pipeline(_made(context, process), process, (_name_of(context),))
    if insert_required and _entry_of(context.app_context) == PROXY_ENTRY:
        _insert_required(context, process)
    parts = [*context.filter_contexts, context.app_context]
    names = tuple(_name_of(part) for part in parts)
    process.log.info('%s: pipeline is "%s"', conf.source, " ".join(names))
    return Pipeline(_made(context, process), process, names)


def app_section_name(path: str, name: str = "main") -> str:
    """The section of the app at the end of a pipeline, such as `app:proxy-server`.

    Looks at the file only, imports nothing. Raises ConfigError.
    """
    conf = read_conf(path)
    for kind in ("app", "application", "composite", "filter-app"):
        if f"{kind}:{name}" in conf.sections:
            return f"{kind}:{name}"
    words = conf.sections.get(f"pipeline:{name}", {}).get("pipeline", "").split()
    if not words:
        raise ConfigError(conf.source, f"pipeline:{name}", "pipeline", "missing")
    for kind in ("app", "application", "composite"):
        if f"{kind}:{words[-1]}" in conf.sections:
            return f"{kind}:{words[-1]}"
    raise ConfigError(conf.source, f"app:{words[-1]}", "-", "no such section")


class _Loader(loadwsgi.ConfigLoader):  # type: ignore[misc]
    """PasteDeploy's loader over our reading of the files."""

    def __init__(self, conf: ConfFile, process: Process) -> None:
        self.filename = conf.source
        self._process = process
        parser = loadwsgi.NicerConfigParser(
            conf.source, strict=False, interpolation=None
        )
        parser.optionxform = str
        parser.read_dict(
            {
                DEFAULT: conf.interpolated_defaults(),
                **{name: conf.interpolated(name) for name in conf.sections},
            }
        )
        self.parser = parser

    def get_context(
        self,
        object_type: Any,
        name: str | None = None,
        global_conf: Mapping[str, str] | None = None,
    ) -> Any:
        context = super().get_context(object_type, name, global_conf)
        if not self.absolute_name(name):
            context.section = self.find_config_section(object_type, name)
        return context

    def get_app(
        self, name: str | None = None, global_conf: Mapping[str, str] | None = None
    ) -> WsgiApp:
        """An app of this file, for composite factories."""
        app: WsgiApp = _made(self.app_context(name, global_conf), self._process)
        return app

    def get_filter(
        self, name: str | None = None, global_conf: Mapping[str, str] | None = None
    ) -> Callable[[WsgiApp], WsgiApp]:
        """A filter of this file, for composite factories."""
        made: Callable[[WsgiApp], WsgiApp] = _made(
            self.filter_context(name, global_conf), self._process
        )
        return made


def _made(context: Any, process: Process) -> Any:
    """The app, or the function from app to filtered app, of a PasteDeploy context."""
    kind = context.object_type
    if kind is loadwsgi.PIPELINE:
        app = _made(context.app_context, process)
        for part in reversed(context.filter_contexts):
            app = _made(part, process)(app)
        return app
    if kind is loadwsgi.FILTER_APP:
        app = _made(context.next_context, process)
        return _made(context.filter_context, process)(app)
    if kind is loadwsgi.FILTER_WITH:
        outer = _made(context.filter_context, process)
        inner = _made(context.next_context, process)
        if context.next_context.object_type is loadwsgi.FILTER:
            return lambda app: outer(inner(app))
        return outer(inner)
    return _made_part(context, process)


def _made_part(context: Any, process: Process) -> Any:
    section = getattr(context, "section", "-")
    local = context.local_conf
    conf = PipelineContext(context.global_conf, process, section, local)
    make = context.object
    if context.protocol in ("paste.composite_factory", "paste.composit_factory"):
        return make(context.loader, conf, **local)
    if context.protocol == "paste.filter_app_factory":
        return lambda app: make(app, conf, **local)
    try:
        return make(conf, **local)
    except ValueError as error:
        raise ConfigError(process.source, section, "-", str(error)) from error


def _insert_required(context: Any, process: Process) -> None:
    present = [_entry_of(part) for part in context.filter_contexts]
    installed = frozenset(
        entry.name
        for entry in metadata.distribution(PACKAGE).entry_points
        if entry.group == FILTERS
    )
    for entry, index in positions(present, installed):
        part = loadwsgi.loadcontext(
            loadwsgi.FILTER,
            f"egg:{PACKAGE}#{entry}",
            global_conf=dict(context.app_context.global_conf),
        )
        part.section = f"filter:{entry}"
        context.filter_contexts.insert(index, part)
        process.log.info("pipeline: added filter %s at position %d", entry, index)


def _entry_of(context: Any) -> str:
    """The entry point of a part when it is one of ours, else an empty string."""
    while context.object_type is loadwsgi.FILTER_WITH:
        context = context.next_context
    distribution = getattr(context, "distribution", None)
    if distribution is None or distribution.metadata["Name"] != PACKAGE:
        return ""
    return context.entry_point_name or ""


def _name_of(context: Any) -> str:
    section: str = getattr(context, "section", "-")
    return section.partition(":")[2].strip() or section
