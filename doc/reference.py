# SPDX-License-Identifier: Apache-2.0
"""Writes the pages of doc/source that are tables of the code: called by conf.py.

Options come from the dataclasses that read them, headers and environ keys from their
registries, metrics from the calls that send them, the rooms of each storey from the
first sentence of each module. The pages are not kept in the repository, so none of them
can be older than the code.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SWIFT = ROOT / "swift"
sys.path[:0] = [str(ROOT), str(HERE)]

import samples  # noqa: E402

from swift.cli import daemons  # noqa: E402
from swift.core import headers  # noqa: E402
from swift.core.names import Limits  # noqa: E402
from swift.core.policy import ErasureOptions, PolicyOptions  # noqa: E402
from swift.core.settings import options_of  # noqa: E402
from swift.runtime.config import ServerConfig  # noqa: E402
from swift.runtime.daemon import DaemonConfig  # noqa: E402
from swift.wire import environ  # noqa: E402

REFERENCE = HERE / "source" / "reference"
ROOMS = HERE / "source" / "architecture" / "rooms"
STOREYS = (
    "core", "runtime", "storage", "wire", "services", "daemons", "middleware", "cli",
)  # fmt: skip

_SENDERS = {
    "count", "decrement", "gauge", "increment", "labelled_count", "labelled_timing",
    "timing", "timing_since", "transfer_rate", "_count",
}  # fmt: skip
_KINDS = {
    "gauge": "gauge", "timing": "time, ms", "timing_since": "time, ms",
    "labelled_timing": "time, ms", "transfer_rate": "ms per kB",
}  # fmt: skip
_BESIDE = "Beside these:"
"""What a Config's docstring says of options whose names are made of others."""
_SOURCES = re.compile(r"\s*(\(contract [^)]*\)|Contracts?:? .*)", re.DOTALL)
"""Where a rule comes from, as the code cites it."""


def cell(text: str) -> str:
    """Text that may stand in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table, with an empty line behind it."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


# --- Options --------------------------------------------------------------------------


def options_table(configs: Sequence[type[Any]], without: set[str]) -> Iterator[str]:
    """The options of some dataclasses, each once, but those that stand elsewhere."""
    rows, seen = [], set(without)
    for config in configs:
        defaults = {field.name: field.default for field in dataclasses.fields(config)}
        for field_name, spec in options_of(config).items():
            if spec.name not in seen:
                seen.add(spec.name)
                default = samples.shown_default(spec, defaults[field_name])
                shown = f"`{cell(default)}`" if default else ""
                rows.append((f"`{spec.name}`", shown, cell(spec.doc)))
    if rows:
        yield from table(("option", "default", "meaning"), rows)
    else:
        yield from ("No options of its own.", "")
    for config in configs:
        _, words, patterns = " ".join((config.__doc__ or "").split()).partition(_BESIDE)
        if words:
            yield from (f"{words}{patterns}", "")


def options() -> Iterator[str]:
    """The page of all options."""
    logs = [samples.LogConfig, samples.StatsdConfig]
    common = set()
    for config in (ServerConfig, *logs):
        common |= samples.names_of(config)
    yield from (
        "# Options",
        "",
        "Every option, with its default, as the dataclasses of the code define it. A",
        "section inherits `[DEFAULT]` of its file. A value that does not parse stops",
        "the program with file, section and option named; an option that nobody knows",
        "is logged and ignored. The sample files in `etc/` show the same options in",
        "their sections.",
        "",
        "## swift.conf",
        "",
        "### `[swift-hash]`",
        "",
    )
    yield from table(
        ("option", "default", "meaning"),
        [
            (
                f"`swift_hash_path_{end}`",
                "",
                "Secret text around every path when it is hashed.",
            )
            for end in ("prefix", "suffix")
        ],
    )
    for title, config in (
        ("`[storage-policy:N]`", PolicyOptions),
        ("`[storage-policy:N]` with `policy_type = erasure_coding`", ErasureOptions),
        ("`[swift-constraints]`", Limits),
    ):
        yield from (f"### {title}", "")
        yield from options_table([config], set())
    yield from ("## Every server", "", "In `[DEFAULT]` or in the app's section.", "")
    yield from options_table([ServerConfig], set())
    yield from ("## Logs and metrics", "", "Of every server, daemon and filter.", "")
    yield from options_table(logs, set())
    yield from ("## The servers", "")
    disk = (samples.DiskConfig, samples.ThreadConfig, samples.MemoryConfig)
    for name, configs in (
        ("app:proxy-server", [samples.ProxyConfig]),
        ("proxy-server:policy:N", [samples.PolicyConfig]),
        ("app:account-server", [samples.AccountConfig]),
        ("app:container-server", [samples.ContainerConfig]),
        ("app:object-server", [samples.ObjectConfig, *disk]),
    ):
        yield from (f"### `[{name}]`", "")
        yield from options_table(configs, common)
    every = samples.names_of(DaemonConfig) - {"interval"}
    yield from ("## The daemons", "", "### Every daemon", "")
    yield from options_table([DaemonConfig], common)
    for name, program in sorted(daemons.PROGRAMS.items()):
        yield from (f"### `[{name}]`", "")
        yield from options_table([program.daemon.Config], common | every)
    yield from ("## The filters", "", "In `[filter:NAME]` with `use = egg:swift#NAME`.")
    yield from ("", "")
    for name, config in sorted(samples.filters().items()):
        yield from (f"### `{name}`", "")
        yield from options_table([config], set())


# --- Registries of names --------------------------------------------------------------


def constants(module: ModuleType) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(heading, [(constant, value)]) of a registry, in its order.

    A heading is a comment on a line of its own after an empty line.
    """
    lines = Path(module.__file__ or "").read_text().splitlines()
    heading, found = "", list[tuple[str, str]]()
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("# ") and not before.strip():
            if found:
                yield heading, found
            heading, found = _SOURCES.sub("", line).strip("# -"), []
        match = re.match(r"([A-Z][A-Z0-9_]+) = \S", line)
        value = getattr(module, match[1], None) if match else None
        if match and isinstance(value, str):
            found.append((match[1], value))
    if found:
        yield heading, found


def kept(name: str) -> str:
    """What becomes of a header that a client sends."""
    if headers.is_internal(name):
        return "internal"
    resources = ("account", "container", "object")
    if any(name.startswith(headers.META[kind]) for kind in resources):
        return "metadata of its owner"
    if name in headers.ALLOWED_OBJECT_HEADERS:
        return "stored with an object"
    return ""


def header_page() -> Iterator[str]:
    """The page of all header names."""
    yield from (
        "# Headers",
        "",
        "The names that the code knows (`swift/core/headers.py`). *Internal* ones pass",
        "between parts of the cluster only: `gatekeeper` takes them out of requests",
        "and answers of clients. A name that ends in a dash is the beginning of a",
        "family. Names are compared without regard to case.",
        "",
    )
    for heading, found in constants(headers):
        yield from (f"## {heading}", "")
        sensitive = {name.lower() for name in headers.SENSITIVE}
        rows = []
        for constant, name in found:
            notes = [kept(name)]
            if name.lower() in sensitive:
                notes.append("logs show its beginning only")
            note = "; ".join(filter(None, notes))
            rows.append((f"`{name}`", note, f"`{constant}`"))
        yield from table(("header", "", "in code"), rows)


def environ_page() -> Iterator[str]:
    """The page of all environ keys."""
    yield from (
        "# Environ keys",
        "",
        "What filters may find in a WSGI environ (`swift/wire/environ.py`). Names that",
        "filters of third parties read keep the spelling that they know.",
        "",
    )
    for heading, found in constants(environ):
        yield from (f"## {heading}", "")
        rows = [(f"`{value}`", f"`{constant}`") for constant, value in found]
        yield from table(("key", "in code"), rows)


# --- Metrics --------------------------------------------------------------------------


def pattern_of(node: ast.expr) -> str | None:
    """A metric's name as it stands in a call; `{…}` where something is put in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = []
        for piece in node.values:
            if isinstance(piece, ast.Constant):
                parts.append(str(piece.value))
            elif isinstance(piece, ast.FormattedValue):
                word = ast.unparse(piece.value).rpartition(".")[2].strip("_()")
                parts.append(f"{{{word}}}")
        text = "".join(parts)
        return text if re.search(r"[a-z]", re.sub(r"\{.*?\}", "", text)) else None
    return None


def metrics_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(name, kind) of each metric that a module sends by a name in the call."""
    texts = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        sender = node.func.attr
        receiver = ast.unparse(node.func.value)
        is_ours = "metrics" in receiver or (sender == "_count" and receiver == "self")
        if sender not in _SENDERS or not is_ours or not node.args:
            continue
        first = node.args[0]
        name = texts.get(first.id) if isinstance(first, ast.Name) else pattern_of(first)
        if name:
            yield name, _KINDS.get(sender, "count")


def metrics_page() -> Iterator[str]:
    """The page of all metrics."""
    yield from (
        "# Metrics",
        "",
        "Sent to statsd when `log_statsd_host` is set. A name in full is",
        "`[log_statsd_metric_prefix.]SERVER.NAME`, where SERVER is the log name of the",
        "server, daemon or filter (`object-server`, `object-updater`,",
        "`proxy-server.tempurl`, …). `{…}` stands for what the code puts in. Labelled",
        "metrics (`swift_…`) go out when `statsd_label_mode` names a dialect.",
        "",
        "The access log's names are made from their parts:",
        "`TYPE.METHOD.STATUS.timing`, `.first-byte.timing` and `.xfer`, by policy also",
        "`object.policy.INDEX.METHOD.STATUS.…`; TYPE is `account`, `container`,",
        "`object` or the source of a request that a filter makes.",
        "",
        "Each handler of a storage server is timed: `METHOD.timing` when its answer is",
        "below 500, `METHOD.errors.timing` when it is not.",
        "",
    )
    rows = []
    for path in sorted(SWIFT.rglob("*.py")):
        found = sorted(set(metrics_of(ast.parse(path.read_text()))))
        room = path.relative_to(SWIFT).with_suffix("")
        if str(room) != "runtime/metrics":
            rows += [(f"`{name}`", kind, f"{room}") for name, kind in found]
    yield from table(("name", "kind", "sent by"), rows)


# --- Rooms ----------------------------------------------------------------------------


def subject_of(path: Path) -> str:
    """The first sentence or so of a module: its docstring's first paragraph."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    first = text.partition("\n\n")[0]
    return cell(_SOURCES.sub("", first))


def rooms(storey: str) -> Iterator[str]:
    """The table of a storey's rooms."""
    rows = []
    for path in sorted((SWIFT / storey).rglob("*.py")):
        subject = subject_of(path)
        if subject:
            room = path.relative_to(SWIFT / storey).with_suffix("")
            rows.append((f"`{room}`", subject))
    yield from table(("room", "subject"), rows)


def pages() -> dict[Path, str]:
    """Path → text of every page that is made."""
    parts = {
        REFERENCE / "options.md": options(),
        REFERENCE / "headers.md": header_page(),
        REFERENCE / "environ.md": environ_page(),
        REFERENCE / "metrics.md": metrics_page(),
    }
    for storey in STOREYS:
        parts[ROOMS / f"{storey}.md"] = rooms(storey)
    return {path: "\n".join(lines) for path, lines in parts.items()}


def write() -> None:
    """Write the pages that differ from what is there."""
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


if __name__ == "__main__":
    write()
