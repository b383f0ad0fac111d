# SPDX-License-Identifier: Apache-2.0
"""swift-ring-builder: make and change rings.

Each command is a function from a session to an exit code; `main` finds the files, loads
the builder and chooses the function. Output, exit codes and the search grammar are what
operators' scripts know.
"""

from __future__ import annotations

import os
import sys
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path

import swift
from swift.cli import ring_changing, ring_files, ring_showing, ring_writing
from swift.cli.ring_arguments import (
    EXIT_ERROR,
    EXIT_OK,
    Command,
    CommandFailed,
    HelpWanted,
    Session,
)
from swift.core.errors import LockTimeout, SwiftError
from swift.storage.fs import FileSystem

LOCK_TIMEOUT_S = 15.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run `swift-ring-builder <file> [command] [arguments]`; the exit code."""
    program = Path(sys.argv[0]).name
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return EXIT_OK
    try:
        builder_path = ring_files.builder_path_of(Path(words[0]))
        if not program.endswith("-safe"):
            return _run(words)
        with FileSystem().locked(str(builder_path.parent / ".lock"), LOCK_TIMEOUT_S):
            return _run(words)
    except LockTimeout:
        print(f"Ring/builder dir currently locked: {builder_path.parent}")
        return EXIT_ERROR
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_ERROR
    except BrokenPipeError:
        # The reader (head, less) has seen enough; what is left is for nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("\nAborting.")
        return EXIT_ERROR
    # Scripts take 1 for "done, with a warning": a crash must not end with Python's 1.
    except Exception:
        traceback.print_exc()
        return EXIT_ERROR


def _run(words: list[str]) -> int:
    given = Path(words[0])
    name = words[1] if len(words) > 1 else ""
    builder_path = ring_files.builder_path_of(given)
    if builder_path != given and name not in ("version", "write_builder"):
        print(f"Note: using {builder_path} instead of {given} as builder file")
    session = Session(
        builder_path=builder_path,
        ring_path=ring_files.ring_path_of(builder_path),
        shown_path=str(builder_path),
        arguments=words[2:],
    )
    command = _COMMANDS.get(name, _unknown(name))
    if name not in _WITHOUT_BUILDER:
        try:
            session.builder = ring_files.read_builder_file(builder_path)
        except FileNotFoundError:
            print(f"Ring Builder file does not exist: {builder_path}")
            return EXIT_ERROR
        except (OSError, SwiftError) as error:
            print(
                f"Problem occurred while reading builder file {builder_path}: {error}"
            )
            return EXIT_ERROR
        ring_files.backup_directory(builder_path)
    try:
        return command(session)
    except HelpWanted:
        print(f"swift-ring-builder <builder_file> {_help_of(command)}")
        return EXIT_ERROR
    except SwiftError as error:
        print(error)
        return EXIT_ERROR


def _unknown(name: str) -> Command:
    def fail(_session: Session) -> int:
        raise CommandFailed(f"Unknown command: {name}")

    return fail


def _help_of(command: Command) -> str:
    return textwrap.dedent(f"    {command.__doc__ or ''}").strip()


def _overview() -> str:
    lines = [f"swift-ring-builder {swift.__version__}", ""]
    for name, command in _COMMANDS.items():
        if name:
            lines += [f"swift-ring-builder <builder_file> {_help_of(command)}", ""]
    quick = textwrap.fill(
        " ".join(sorted(name for name in _COMMANDS if name)),
        width=79,
        initial_indent="Quick list: ",
        subsequent_indent="            ",
    )
    return "\n".join([*lines, _SEARCH_HELP, "", quick, _EXIT_HELP])


_SEARCH_HELP = """\
A <search-value> is one word of any of these parts, in this order; a device must match
all of them:
    d<id> r<region> z<zone> [-]<ip> :<port> R[<r_ip>][:<r_port>] /<device> _<meta>
IPv6 addresses stand in brackets; the - is needed only after a d, r or z part; _<meta>
matches a part of the meta text. For example:
    d74              the device of id 74
    r1z5-1.2.3.4     devices of region 1, zone 5 on one server
    z5:5678          devices of all zones 5 on port 5678
    /sdb1_rack7      devices sdb1 with "rack7" in their meta text
Or options: --id --region --zone --ip --port --replication-ip --replication-port
--device --weight --meta (-u -r -z -i -p -j -q -d -w -m)."""

_EXIT_HELP = "Exit codes: 0 = ok, 1 = done with a warning or nothing done, 2 = error"


_COMMANDS: dict[str, Command] = {
    "": ring_showing.default,
    "add": ring_changing.add,
    "cancel_increase_partition_power": ring_writing.cancel_increase_partition_power,
    "create": ring_changing.create,
    "dispersion": ring_showing.dispersion,
    "finish_increase_partition_power": ring_writing.finish_increase_partition_power,
    "increase_partition_power": ring_writing.increase_partition_power,
    "list_parts": ring_showing.list_parts,
    "prepare_increase_partition_power": ring_writing.prepare_increase_partition_power,
    "pretend_min_part_hours_passed": ring_changing.pretend_min_part_hours_passed,
    "rebalance": ring_writing.rebalance,
    "remove": ring_changing.remove,
    "search": ring_showing.search,
    "set_info": ring_changing.set_info,
    "set_min_part_hours": ring_changing.set_min_part_hours,
    "set_overload": ring_changing.set_overload,
    "set_region": ring_changing.set_region,
    "set_replicas": ring_changing.set_replicas,
    "set_weight": ring_changing.set_weight,
    "set_zone": ring_changing.set_zone,
    "validate": ring_showing.validate,
    "version": ring_showing.version,
    "write_builder": ring_writing.write_builder,
    "write_ring": ring_writing.write_ring,
}
_WITHOUT_BUILDER = ("create", "write_builder", "version")
