# SPDX-License-Identifier: Apache-2.0
"""Writes etc/*.conf-sample from the option dataclasses: `make samples`.

Every option has one field, and the sample file says what the field says. A test
compares the files with what this program would write (test/unit/test_samples.py).
"""

from __future__ import annotations

import configparser
import dataclasses
import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from swift.cli import daemons  # noqa: E402
from swift.cli.dispersion import DispersionConfig  # noqa: E402
from swift.cli.drive_audit import (  # noqa: E402
    DEFAULT_PATTERNS,
    DriveAuditConfig,
)
from swift.cli.servers import ThreadConfig  # noqa: E402
from swift.core.names import Limits  # noqa: E402
from swift.core.policy import PolicyOptions  # noqa: E402
from swift.core.settings import OptionSpec, Reserve, options_of  # noqa: E402
from swift.daemons.relinker import RelinkerConfig  # noqa: E402
from swift.runtime.config import ServerConfig  # noqa: E402
from swift.runtime.daemon import DaemonConfig  # noqa: E402
from swift.runtime.logs import LogConfig  # noqa: E402
from swift.runtime.metrics import StatsdConfig  # noqa: E402
from swift.services.account import AccountConfig  # noqa: E402
from swift.services.container import ContainerConfig  # noqa: E402
from swift.services.mem_object import MemoryConfig  # noqa: E402
from swift.services.object import ObjectConfig  # noqa: E402
from swift.services.proxy.options import PolicyConfig, ProxyConfig  # noqa: E402
from swift.storage.object.context import DiskConfig  # noqa: E402
from swift.wire.filter import Filter  # noqa: E402

WIDTH = 88
ETC = ROOT / "etc"

# The order of a pipeline: contract middleware §0.
FILTER_ORDER = (
    "catch_errors", "gatekeeper", "healthcheck", "crossdomain", "proxy_logging",
    "memcache", "etag_quoter", "cname_lookup", "domain_remap", "listing_formats",
    "container_sync", "bulk", "tempurl", "formpost", "ratelimit", "read_only",
    "name_check", "list_endpoints", "tempauth", "staticweb", "copy",
    "container_quotas", "account_quotas", "slo", "dlo", "versioned_writes", "symlink",
    "xprofile", "recon", "backend_ratelimit",
)  # fmt: skip
BACKEND_FILTERS = ("healthcheck", "recon", "backend_ratelimit")
PRIVATE_FILTERS = ("catch_errors", "proxy_logging", "memcache", "symlink")
SPELLINGS = {"log_level": "INFO", "log_facility": "LOG_LOCAL0"}
SECTION_NAMES = {"proxy_logging": "proxy-logging", "memcache": "cache"}
PORTS = {"account": 6202, "container": 6201, "object": 6200, "proxy": 8080}


def text_of(value: Any) -> str:
    """A default as an operator would write it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Reserve):
        return f"{value.percent:g}%" if value.percent else str(value.bytes)
    if isinstance(value, float):
        return f"{value:g}" if value < 1e6 else f"{value:.0f}"
    return str(value)


def shown_default(spec: OptionSpec, value: Any) -> str:
    """A default in the spelling of its option: levels by name, None as auto."""
    if spec.name in SPELLINGS:
        return SPELLINGS[spec.name]
    if value is None:
        try:
            return "auto" if spec.parse("auto") is None else ""
        except ValueError:
            return ""
    if isinstance(value, tuple | list) and not any(value):
        return ""
    if isinstance(value, tuple | list):
        # Some lists are written with commas, some with blanks: as the option reads it.
        for separator in (", ", " "):
            text = separator.join(str(item) for item in value)
            if spec.parse(text) == value:
                return text
    return text_of(value)


def comment(text: str) -> Iterator[str]:
    """The text as comment lines."""
    for line in textwrap.wrap(" ".join(text.split()), WIDTH - 2):
        yield f"# {line}".rstrip()


def option_lines(configs: Iterable[type[Any]], seen: set[str]) -> Iterator[str]:
    """Each option once: what it means, and its default, switched off."""
    for config in configs:
        defaults = {field.name: field.default for field in dataclasses.fields(config)}
        for field_name, spec in options_of(config).items():
            if spec.name in seen:
                continue
            seen.add(spec.name)
            yield from comment(spec.doc)
            text = shown_default(spec, defaults[field_name])
            yield f"# {spec.name} = {text}".rstrip()


def section(
    name: str,
    configs: Iterable[type[Any]],
    *,
    doc: str = "",
    fixed: Iterable[str] = (),
    seen: Iterable[str] = (),
) -> Iterator[str]:
    """One section; `seen`: options that stand elsewhere already."""
    yield ""
    if doc:
        yield from comment(doc)
    yield f"[{name}]"
    yield from fixed
    yield from option_lines(configs, set(seen))


def filters() -> dict[str, type[Any]]:
    """Entry point → Config of every filter that setup.cfg names."""
    setup = configparser.ConfigParser(delimiters=("=",))
    setup.read(ROOT / "setup.cfg")
    found = {}
    lines = setup["options.entry_points"]["paste.filter_factory"].strip().splitlines()
    for line in lines:
        name, _, target = (part.strip() for part in line.partition("="))
        module = importlib.import_module(target.partition(":")[0])
        for kind in vars(module).values():
            if (
                inspect.isclass(kind)
                and issubclass(kind, Filter)
                and kind.__module__ == module.__name__
            ):
                found[name] = kind.Config
    return found


def filter_sections(names: Iterable[str]) -> Iterator[str]:
    """The sections of filters, in the order of the pipeline."""
    known = filters()
    for name in names:
        if name in known:
            fixed = [f"use = egg:swift#{name}"]
            title = SECTION_NAMES.get(name, name)
            yield from section(f"filter:{title}", [known[name]], fixed=fixed)


def names_of(config: type[Any]) -> set[str]:
    """The operator's spellings of a config's options."""
    return {spec.name for spec in options_of(config).values()}


def head(what: str, also: str = "") -> Iterator[str]:
    """The first lines of a file."""
    rule = "Every option is shown with its default; remove the # to change it."
    yield from comment(f"{what} {rule} {also}")


def default_section(
    kind: str, extra: Iterable[type[Any]] = ()
) -> tuple[list[str], set[str]]:
    """[DEFAULT] of a server's file, and the options it has shown."""
    configs = [ServerConfig, LogConfig, StatsdConfig, *extra]
    shown: set[str] = set()
    for config in configs:
        shown |= names_of(config)
    lines = list(
        section(
            "DEFAULT",
            configs,
            fixed=[f"bind_port = {PORTS[kind]}"],
            seen=["bind_port"],
        )
    )
    return lines, shown


def proxy() -> Iterator[str]:
    """proxy-server.conf"""
    yield from head("Configuration of swift-proxy-server.")
    lines, shown = default_section("proxy")
    yield from lines
    known = filters()
    names = [
        SECTION_NAMES.get(name, name)
        for name in FILTER_ORDER
        if name in known and name not in ("recon", "backend_ratelimit", "xprofile")
        and name not in ("read_only", "crossdomain", "name_check", "list_endpoints")
        and name not in ("cname_lookup", "domain_remap", "formpost", "staticweb")
    ]  # fmt: skip
    pipeline = textwrap.fill(
        " ".join([*names, "proxy-logging", "proxy-server"]),
        WIDTH - 4,
        initial_indent="pipeline = ",
        subsequent_indent="    ",
    )
    yield from section("pipeline:main", [], fixed=pipeline.splitlines())
    yield from section(
        "app:proxy-server", [ProxyConfig], fixed=["use = egg:swift#proxy"], seen=shown
    )
    yield from section(
        "proxy-server:policy:0",
        [PolicyConfig],
        doc="What differs for one storage policy, by its index.",
    )
    order = [name for name in FILTER_ORDER if name not in BACKEND_FILTERS[1:]]
    yield from filter_sections(order)


def storage(kind: str, config: type[Any]) -> Iterator[str]:
    """The file of one kind of storage server and its daemons."""
    yield from head(f"Configuration of swift-{kind}-server and the {kind} daemons.")
    extra = (DiskConfig, ThreadConfig, MemoryConfig) if kind == "object" else ()
    lines, shown = default_section(kind)
    yield from lines
    yield from option_lines([DaemonConfig], shown | {"interval", "daemonize"})
    shown |= names_of(DaemonConfig) - {"interval", "daemonize"}
    pipeline = f"pipeline = healthcheck recon {kind}-server"
    yield from section("pipeline:main", [], fixed=[pipeline])
    yield from section(
        f"app:{kind}-server",
        [config, *extra],
        fixed=[f"use = egg:swift#{kind}"],
        seen=shown,
    )
    yield from filter_sections(BACKEND_FILTERS)
    for name, program in sorted(daemons.PROGRAMS.items()):
        if name.startswith(f"{kind}-") and name != "container-reconciler":
            yield from section(name, [program.daemon.Config], seen=shown)
    if kind == "object":
        yield from section("object-relinker", [RelinkerConfig], seen=shown)


def dispersion() -> Iterator[str]:
    """dispersion.conf"""
    yield from head("Configuration of swift-dispersion-populate and -report.")
    yield from section("dispersion", [DispersionConfig])


def drive_audit() -> Iterator[str]:
    """drive-audit.conf"""
    yield from head("Configuration of swift-drive-audit, which cron runs as root.")
    patterns = [
        f"# regex_pattern_{number} = {text}"
        for number, text in enumerate(DEFAULT_PATTERNS, 1)
    ]
    yield from section("drive-audit", [DriveAuditConfig, LogConfig], fixed=patterns)


def private(daemon: str = "") -> Iterator[str]:
    """The file of a private pipeline, and of the daemon that has it for itself."""
    users = f"swift-{daemon}" if daemon else "the pipeline that daemons call"
    yield from head(f"Configuration of {users}.", "Nobody is authorised in it.")
    shown = names_of(LogConfig) | names_of(StatsdConfig)
    configs = [LogConfig, StatsdConfig]
    if daemon:
        configs.append(DaemonConfig)
        shown |= names_of(DaemonConfig) - {"interval", "daemonize"}
    yield from section("DEFAULT", configs, seen=["interval", "daemonize"])
    if daemon:
        config = daemons.PROGRAMS[daemon].daemon.Config
        yield from section(daemon, [config], seen=shown)
    known = filters()
    entries = [name for name in PRIVATE_FILTERS if name in known]
    names = [SECTION_NAMES.get(name, name) for name in entries]
    pipeline = f"pipeline = {' '.join([*names, 'proxy-server'])}"
    yield from section("pipeline:main", [], fixed=[pipeline])
    app = ["use = egg:swift#proxy", "account_autocreate = true"]
    app.append("allow_account_management = true")
    yield from section("app:proxy-server", [], fixed=app)
    for entry, name in zip(entries, names, strict=True):
        yield from section(f"filter:{name}", [], fixed=[f"use = egg:swift#{entry}"])


def swift_conf() -> Iterator[str]:
    """swift.conf"""
    yield from head(
        "What all nodes of a cluster must agree on.",
        "The file must be the same on every node.",
    )
    yield from section(
        "swift-hash",
        [],
        doc="Secret text around every path when it is hashed; at least one of the two. "
        "They decide where every name is stored: never change them.",
        fixed=[
            "swift_hash_path_prefix = changeme",
            "swift_hash_path_suffix = changeme",
        ],
    )
    yield from section(
        "storage-policy:0",
        [PolicyOptions],
        doc="One section a storage policy; exactly one is the default.",
        fixed=["name = standard", "default = yes"],
        seen=["name", "default"],
    )
    yield from section("swift-constraints", [Limits])


def samples() -> dict[str, str]:
    """File name → text."""
    parts = {
        "swift.conf-sample": swift_conf(),
        "proxy-server.conf-sample": proxy(),
        "account-server.conf-sample": storage("account", AccountConfig),
        "container-server.conf-sample": storage("container", ContainerConfig),
        "object-server.conf-sample": storage("object", ObjectConfig),
        "internal-client.conf-sample": private(),
        "object-expirer.conf-sample": private("object-expirer"),
        "container-reconciler.conf-sample": private("container-reconciler"),
        "dispersion.conf-sample": dispersion(),
        "drive-audit.conf-sample": drive_audit(),
    }
    return {name: "\n".join(lines) + "\n" for name, lines in parts.items()}


if __name__ == "__main__":
    ETC.mkdir(exist_ok=True)
    for file_name, text in samples().items():
        (ETC / file_name).write_text(text)
        print(f"etc/{file_name}")
