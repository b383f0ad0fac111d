# SPDX-License-Identifier: Apache-2.0
"""What would bend the house: import rules, doors, literals, entry points, options."""

from __future__ import annotations

import ast
import configparser
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "swift"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

MAY_IMPORT = {
    "core": {"core"},
    "runtime": {"core", "runtime"},
    "storage": {"core", "runtime", "storage"},
    "wire": {"core", "runtime", "wire"},
    "services": {"core", "runtime", "storage", "wire", "services"},
    "daemons": {"core", "runtime", "storage", "wire", "daemons"},
    "middleware": {"core", "runtime", "wire", "middleware"},
    "s3": {"core", "runtime", "wire", "s3"},
    "console": {"core", "runtime", "wire", "console"},
    "cli": {"core", "runtime", "storage", "wire", "services", "daemons", "cli"},
}

# The rooms that serve filters; a filter itself is imported by nobody.
FILTER_ROOMS = {
    "segments", "object_versioning", "encrypter", "decrypter", "cipher", "signed",
    "reports", "quotas", "slo_put", "slo_delete", "version_copies",
    "version_listing", "listed", "upload_input", "fernet_tokens", "tempauth_users",
}  # fmt: skip

NOT_IN_CORE = {
    "time", "random", "os", "socket", "threading", "logging", "subprocess",
}  # fmt: skip
GREEN = {"eventlet", "greenlet"}
GREEN_DOOR = "runtime/scheduler/"  # behind runtime/green.py, its only importer
CLOCK_DOORS = {"runtime/scheduler/clock.py"}
SOCKET_DOORS = {
    "runtime/logs.py", "runtime/metrics.py", "runtime/process.py",
    "wire/channel.py", "wire/client.py", "wire/master.py", "wire/server.py",
    "wire/protocol.py",
}  # fmt: skip
SQLITE_DOOR = {"storage/db/connection.py"}
DISK_DOORS = {"storage/fs.py", "storage/db/connection.py"}
FILE_CALLS = {
    "open", "listdir", "scandir", "rename", "replace", "unlink", "remove", "mkdir",
    "makedirs", "rmdir", "link", "fsync", "fdatasync", "stat", "lstat", "utime",
    "truncate", "ftruncate", "statvfs", "walk", "getxattr", "setxattr", "symlink",
    "readlink", "chmod", "chown",
}  # fmt: skip
LITERAL_HOMES = {"core/headers.py", "wire/environ.py"}


def rel(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def ours(module: ast.Module) -> Iterator[str]:
    for name in imports(module):
        if name.startswith("swift."):
            yield name


@pytest.mark.parametrize("path", MODULES, ids=rel)
def test_imports_run_down_the_storeys(path: Path) -> None:
    storey = rel(path).split("/")[0]
    if storey == "__init__.py":
        return
    for name in ours(tree(path)):
        other = name.split(".")[1]
        assert other in MAY_IMPORT[storey], f"{storey} imports {name}"
        if rel(path).startswith("services/proxy/"):
            assert other != "storage", "the proxy has no disks"
        if other == "middleware":
            assert name.split(".")[2] in FILTER_ROOMS, f"{name} is a filter"


@pytest.mark.parametrize("path", MODULES, ids=rel)
def test_imports_stand_at_the_top_and_name_what_they_take(path: Path) -> None:
    module = tree(path)
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in ast.walk(node):
                assert not isinstance(inner, ast.Import | ast.ImportFrom), (
                    f"import inside {node.name}, line {inner.lineno}"
                )
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names)
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except, line {node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=rel)
def test_the_doors_are_the_only_ways_out(path: Path) -> None:
    where, module = rel(path), tree(path)
    tops = {name.split(".")[0] for name in imports(module)}
    if where.startswith("core/"):
        assert not tops & NOT_IN_CORE
    if not where.startswith(GREEN_DOOR):
        assert not tops & GREEN
        if where != "runtime/green.py":
            assert not any("runtime.scheduler" in name for name in imports(module))
    if where not in CLOCK_DOORS:
        assert "time" not in tops
    if where not in SOCKET_DOORS:
        assert "socket" not in tops
    if where not in SQLITE_DOOR:
        assert "sqlite3" not in tops
    if where not in DISK_DOORS:
        assert "xattr" not in tops


@pytest.mark.parametrize("path", MODULES, ids=rel)
def test_files_are_touched_through_the_disk_door(path: Path) -> None:
    where = rel(path)
    from_storage_up = not where.startswith(("core/", "runtime/", "cli/"))
    if where in DISK_DOORS or not (from_storage_up or where.startswith("core/")):
        return
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name):
            assert node.func.id != "open", f"open(), line {node.lineno}"
        elif (
            isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "os"
        ):
            assert node.func.attr not in FILE_CALLS, (
                f"os.{node.func.attr}(), line {node.lineno}"
            )


def docstrings(module: ast.Module) -> set[int]:
    """The ids of string nodes that stand alone: they document and decide nothing."""
    return {
        id(node.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


@pytest.mark.parametrize("path", MODULES, ids=rel)
def test_header_and_environ_names_are_written_once(path: Path) -> None:
    if rel(path) in LITERAL_HOMES:
        return
    module = tree(path)
    prose = docstrings(module)
    for node in ast.walk(module):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in prose
        ):
            assert not re.match(r"(X-[A-Z]|HTTP_X_)", node.value), (
                f"{node.value!r}, line {node.lineno}"
            )


def test_inner_init_files_are_empty() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent != PACKAGE:
            assert path.read_text() == "", rel(path)


def test_no_two_files_import_each_other() -> None:
    graph: dict[str, set[str]] = {}
    names = {rel(path).removesuffix(".py").replace("/", "."): path for path in MODULES}
    for name, path in names.items():
        wanted = {item.removeprefix("swift.") for item in ours(tree_at_runtime(path))}
        graph[name] = {
            target
            for item in wanted
            for target in (item, item.rpartition(".")[0])
            if target in names and target != name
        }
    state: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert state.get(name) != 1, " -> ".join((*trail, name))
        if name in state:
            return
        state[name] = 1
        for target in graph[name]:
            visit(target, (*trail, name))
        state[name] = 2

    for name in graph:
        visit(name, ())


def tree_at_runtime(path: Path) -> ast.Module:
    """The module without its `if TYPE_CHECKING:` blocks."""
    module = tree(path)
    module.body = [
        node
        for node in module.body
        if not (
            isinstance(node, ast.If)
            and isinstance(node.test, ast.Name)
            and node.test.id == "TYPE_CHECKING"
        )
    ]
    return module


def entry_points() -> Iterator[tuple[str, str, str]]:
    setup = configparser.ConfigParser(delimiters=("=",))
    setup.optionxform = str  # type: ignore[assignment, method-assign]
    setup.read(ROOT / "setup.cfg")
    for group, lines in setup["options.entry_points"].items():
        for line in lines.strip().splitlines():
            name, _, target = (part.strip() for part in line.partition("="))
            yield group, name, target


@pytest.mark.parametrize(("group", "name", "target"), list(entry_points()))
def test_every_entry_point_imports(group: str, name: str, target: str) -> None:
    module, _, attribute = target.partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))
    if group == "console_scripts":
        launcher = ROOT / "bin" / name
        assert launcher.read_text().splitlines()[1] == (
            f"from {module} import {attribute}"
        )
        assert launcher.stat().st_mode & 0o111
