# SPDX-License-Identifier: Apache-2.0
"""Every option that is accepted does something, or stands in the list of those that
are accepted for old files' sake."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "swift"

WITHOUT_EFFECT = {
    "db_preallocation": "SQLite allocates what it needs",
    "access_log_route": "names a logger of a library that is not used here",
    "cooperative_period": "disks are read in threads, so that others run meanwhile",
}
"""Field → why it means nothing here. An option that one class of several ignores
(lockup_timeout of the object replicator) says so in its own line of the reference."""


def modules() -> Iterator[ast.Module]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ast.parse(path.read_text(), str(path))


def fields(module: ast.Module) -> Iterator[tuple[str, str]]:
    """(class, field) of each option that a module declares."""
    for node in ast.walk(module):
        if not isinstance(node, ast.ClassDef):
            continue
        for line in node.body:
            if (
                isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and isinstance(line.value, ast.Call)
                and isinstance(line.value.func, ast.Name)
                and line.value.func.id == "option"
            ):
                yield node.name, line.target.id


def attributes_read(module: ast.Module) -> Iterator[str]:
    """Names read as attributes; `getattr` with a literal counts too."""
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "getattr"
            and isinstance(node.args[1], ast.Constant)
        ):
            yield node.args[1].value


TREES = list(modules())
READ = {name for tree in TREES for name in attributes_read(tree)}
DECLARED = sorted({field for tree in TREES for field in fields(tree)})


@pytest.mark.parametrize(("owner", "field"), DECLARED, ids=".".join)
def test_an_option_is_read_or_is_known_to_do_nothing(owner: str, field: str) -> None:
    assert (field in READ) != (field in WITHOUT_EFFECT), f"{owner}.{field}"


def test_the_list_of_what_does_nothing_names_options_that_there_are() -> None:
    assert set(WITHOUT_EFFECT) <= {field for _, field in DECLARED}
