# SPDX-License-Identifier: Apache-2.0
"""swift-get-nodes, swift-ring-composer and swift-ring-builder-analyzer.

The first says where a name lives and how to look there by hand; the second makes one
ring out of several builders; the third plays a story of changes through a builder and
shows how it copes.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

from swift.cli import ring_files
from swift.core.errors import InvalidInput, SwiftError
from swift.core.hashing import SUFFIX_LENGTH
from swift.core.headers import X_BACKEND_STORAGE_POLICY_INDEX
from swift.core.names import name_of, quote
from swift.core.ring.builder import RingBuilder
from swift.core.ring.composite import CompositeBuilder
from swift.core.ring.devices import Node, bracketed, parse_new_device
from swift.core.ring.ring import Ring
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.config import DEFAULT_SWIFT_DIR

_DATA_DIRS = {"account": "accounts", "container": "containers", "object": "objects"}
_HANDOFF = "[Handoff]"


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are left to the command: each has its own exit code."""

    def error(self, message: str) -> NoReturn:
        raise InvalidInput(message)


# The doors of the three commands come first, what they share after them.


def get_nodes(argv: Sequence[str] | None = None) -> int:
    """Run swift-get-nodes; the exit code."""
    parser = _Parser(
        prog="swift-get-nodes",
        usage="%(prog)s [options] <ring.gz> <account> [<container> [<object>]]\n"
        "       %(prog)s [options] -P <policy> <account> [<container> [<object>]]\n"
        "       %(prog)s [options] <ring.gz> -p <partition>",
        description="Show the nodes of an account, container or object, and commands "
        "to look there.",
    )
    parser.add_argument("-a", "--all", action="store_true", help="show all handoffs")
    parser.add_argument("-p", "--partition", help="a partition instead of a path")
    parser.add_argument("-P", "--policy-name", help="a policy instead of a ring")
    parser.add_argument("-d", "--swift-dir", default=DEFAULT_SWIFT_DIR)
    parser.add_argument(
        "-Q", "--quoted", action="store_true", help="the path is percent-encoded"
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    try:
        options = parser.parse_intermixed_args(argv)
        lines = list(_lines_of_target(options))
    except (SwiftError, OSError) as error:
        parser.print_help()
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    print(*lines, sep="\n")
    return 0


def composer(argv: Sequence[str] | None = None) -> int:
    """Run swift-ring-composer; the exit code."""
    parser = argparse.ArgumentParser(
        prog="swift-ring-composer", description="Make one ring of several builders."
    )
    parser.add_argument("composite_builder", type=Path)
    commands = parser.add_subparsers(dest="command", metavar="show|compose")
    commands.add_parser("show", help="show what the composite was made from")
    compose = commands.add_parser("compose", help="make the composite ring")
    compose.add_argument("builders", nargs="*", type=Path)
    compose.add_argument("--output", required=True, type=Path, metavar="RING")
    compose.add_argument("--force", action="store_true", help="also without changes")
    options = parser.parse_args(argv)
    print(
        "NOTE: this tool is experimental; do not rely on its output yet.",
        file=sys.stderr,
    )
    if options.command is None:
        parser.print_usage(sys.stderr)
        return 1
    try:
        if options.command == "show":
            return _show_composite(options.composite_builder)
        return _compose(options)
    except (SwiftError, OSError) as error:
        print(f"An error occurred: {error}", file=sys.stderr)
        return 2


def analyzer(argv: Sequence[str] | None = None) -> int:
    """Run swift-ring-builder-analyzer; the exit code."""
    parser = argparse.ArgumentParser(
        prog="swift-ring-builder-analyzer",
        description="Play a scenario of changes through a ring builder.",
    )
    parser.add_argument(
        "-c", "--check", action="store_true", help="only check the scenario"
    )
    parser.add_argument("scenario", type=Path, metavar="SCENARIO.json")
    options = parser.parse_args(argv)
    try:
        scenario = Scenario.parse(options.scenario.read_bytes())
        if not options.check:
            _play(scenario)
    except (SwiftError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


@dataclass(frozen=True, slots=True)
class Location:
    """Where to look: what swift-get-nodes shows.

    path: `/a[/c[/o]]` decoded, None when only a partition was asked for; digest: hex of
    its hash; data_dir: directory below a device; policy_index: None leaves the header
    out.
    """

    ring: Ring
    partition: int
    path: str | None
    digest: str | None
    data_dir: str
    policy_index: int | None
    all_handoffs: bool


def location_lines(location: Location) -> Iterator[str]:
    """Partition, nodes, curl and ssh commands."""
    ring, partition = location.ring, location.partition
    primaries = list(ring.primaries(partition))
    handoffs: list[Node] = []
    for node in ring.handoffs(partition):
        if not location.all_handoffs and len(handoffs) == len(primaries):
            break
        handoffs.append(node)
    nodes = primaries + handoffs
    yield f"Partition\t{partition}"
    yield f"Hash     \t{location.digest}"
    yield ""
    for node in nodes:
        mark = "" if node.is_primary else f"\t {_HANDOFF}"
        yield f"Server:Port Device\t{_address(node)} {node.name}{mark}"
    yield from ("", "")
    target = "/None" if location.path is None else quote(location.path)
    header = ""
    if location.policy_index is not None:
        header = f' -H "{X_BACKEND_STORAGE_POLICY_INDEX}: {location.policy_index}"'
    for node in nodes:
        url = f"http://{_address(node)}/{node.name}/{partition}{target}"
        mark = "" if node.is_primary else f" # {_HANDOFF}"
        yield f'curl -g -I -XHEAD "{url}"{header} --path-as-is{mark}'
    yield from ("", "")
    yield "Use your own device location of servers:"
    yield 'such as "export DEVICE=/srv/node"'
    place = f"{location.data_dir}/{partition}"
    if location.digest is not None:
        place += f"/{location.digest[-SUFFIX_LENGTH:]}/{location.digest}"
    for node in nodes:
        mark = "" if node.is_primary else f" # {_HANDOFF}"
        yield (
            f'ssh {node.ip} "ls -lah ${{DEVICE:-/srv/node*}}/{node.name}/{place}"{mark}'
        )
    yield ""
    yield (
        "note: `/srv/node*` is used as default value of `devices`, the real value is "
        "set in the config file on each storage node."
    )


def _address(node: Node) -> str:
    return f"{bracketed(node.ip)}:{node.port}"


def _lines_of_target(options: argparse.Namespace) -> Iterator[str]:
    words = list(options.words)
    ring_path = None
    policy_index = None
    cluster = None
    if options.policy_name is None:
        if not words:
            raise InvalidInput("no ring given")
        ring_path = Path(words.pop(0))
    else:
        cluster = Cluster.load(options.swift_dir)
        policy = cluster.policies.by_name(options.policy_name)
        if policy is None:
            raise InvalidInput(f"no policy named {options.policy_name!r}")
        policy_index = policy.index
    account, container, obj = _target(words, quoted=options.quoted)
    if not account and options.partition is None:
        raise InvalidInput("no target given")
    kind = "object" if obj else "container" if container else "account"
    if ring_path is None:
        stem = kind
        if not account or kind == "object":
            stem = f"object-{policy_index}" if policy_index else "object"
        ring_path = Path(options.swift_dir) / f"{stem}{ring_files.RING_SUFFIX}"
    ring_name = ring_path.name.removesuffix(ring_files.RING_SUFFIX)
    ring_kind, _, suffix = ring_name.partition("-")
    if ring_kind == "object" and suffix.isdecimal():
        policy_index = int(suffix)
    if not account:
        kind = ring_kind if ring_kind in _DATA_DIRS else "object"
    ring = ring_files.read_ring_file(ring_path)
    data_dir = _DATA_DIRS[kind]
    if kind != "object":
        policy_index = None
    elif policy_index:
        data_dir += f"-{policy_index}"
    if not account:
        partition = _partition(options.partition, ring)
        yield from location_lines(
            Location(ring, partition, None, None, data_dir, policy_index, options.all)
        )
        return
    if ring_kind in _DATA_DIRS and ring_kind != kind:
        yield f"WARNING: ring {ring_name!r} is not of the type of the path ({kind})"
    if cluster is None:
        cluster = Cluster.load(options.swift_dir)
    name = name_of(account, container, obj)
    digest = cluster.salt.digest_of(name)
    yield ""
    yield f"Account  \t{quote(account)}"
    yield f"Container\t{quote(container) if container else None}"
    yield f"Object   \t{quote(obj) if obj else None}"
    yield from ("", "")
    yield from location_lines(
        Location(
            ring,
            ring.partition(digest),
            name.path,
            digest.hex(),
            data_dir,
            policy_index,
            options.all,
        )
    )


def _target(words: list[str], *, quoted: bool) -> tuple[str, str, str]:
    """Account, container and object; the path may be one word `a/c/o`."""
    if len(words) == 1 and "/" in words[0]:
        words = words[0].removeprefix("/").split("/", 2)
    if len(words) > 3:
        raise InvalidInput("too many arguments")
    if quoted:
        words = [unquote(word, errors="surrogateescape") for word in words]
    account, container, obj = (*words, "", "", "")[:3]
    if obj and not container:
        raise InvalidInput("an object needs a container")
    return account, container, obj


def _partition(text: str, ring: Ring) -> int:
    try:
        partition = int(text)
    except ValueError:
        partition = -1
    if not 0 <= partition < ring.partition_count:
        raise InvalidInput(
            f"partition {text!r} is not in 0..{ring.partition_count - 1}"
        )
    return partition


def _show_composite(path: Path) -> int:
    note = CompositeBuilder.load(path.read_bytes())
    print(json.dumps(note.facts(), indent=4, sort_keys=True))
    return 0


def _compose(options: argparse.Namespace) -> int:
    path: Path = options.composite_builder
    note = CompositeBuilder()
    if path.exists():
        note = CompositeBuilder.load(path.read_bytes())
    paths = [str(each.resolve()) for each in options.builders]
    if not paths:
        paths = [note.builder_files[each.id] for each in note.components]
    builders = {each: ring_files.read_builder_file(Path(each)) for each in paths}
    ring = note.compose(builders, force=options.force)
    note.saved_path = str(path.resolve())
    ring_files.write_ring_file(options.output, ring)
    ring_files.replace_file(path, note.dump())
    return 0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A story for the analyzer: rounds of steps, each followed by rebalances."""

    part_power: int
    replicas: float
    overload: float
    random_seed: Any
    rounds: tuple[tuple[tuple[Any, ...], ...], ...]

    @classmethod
    def parse(cls, data: bytes) -> Scenario:
        """The scenario in a JSON text. Raises InvalidInput naming what is wrong."""
        try:
            state = json.loads(data)
        except ValueError as error:
            raise InvalidInput(f"Invalid JSON: {error}") from error
        try:
            scenario = cls(
                part_power=int(state["part_power"]),
                replicas=float(state["replicas"]),
                overload=float(state["overload"]),
                random_seed=state["random_seed"],
                rounds=tuple(
                    tuple(_step(step) for step in steps) for steps in state["rounds"]
                ),
            )
        except KeyError as error:
            raise InvalidInput(f"Invalid scenario: no {error}") from error
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"Invalid scenario: {error}") from error
        if not 1 <= scenario.part_power <= 32:
            raise InvalidInput("Invalid scenario: part_power must be in 1..32")
        if scenario.replicas < 1:
            raise InvalidInput("Invalid scenario: replicas must be at least 1")
        if scenario.overload < 0:
            raise InvalidInput("Invalid scenario: overload must be at least 0")
        return scenario


def _step(step: Any) -> tuple[Any, ...]:
    """One checked step: ("add", device, weight), ("remove", id), …"""
    if not isinstance(step, list) or not step:
        raise InvalidInput(f"Invalid scenario: step {step!r}")
    match step:
        case ["add", str(word), (int() | float()) as weight]:
            return ("add", parse_new_device(word), float(weight))
        case ["remove", int(device_id)]:
            return ("remove", device_id)
        case ["set_weight", int(device_id), (int() | float()) as weight]:
            return ("set_weight", device_id, float(weight))
        case ["save", str(path)]:
            return ("save", path)
    raise InvalidInput(f"Invalid scenario: step {step!r}")


def _play(scenario: Scenario) -> None:
    rng = random.Random(scenario.random_seed)  # noqa: S311 (a story to be replayed)
    builder = RingBuilder(scenario.part_power, scenario.replicas, 1)
    builder.set_overload(scenario.overload)
    for number, steps in enumerate(scenario.rounds, 1):
        print(f"Round {number}")
        for step in steps:
            _apply(builder, step)
        _settle(builder, rng)


def _apply(builder: RingBuilder, step: tuple[Any, ...]) -> None:
    match step:
        case ("add", device, weight):
            builder.add_device(
                region=1 if device.region is None else device.region,
                zone=device.zone,
                ip=device.ip,
                port=device.port,
                replication_ip=device.replication_ip,
                replication_port=device.replication_port,
                name=device.name,
                meta=device.meta,
                weight=weight,
            )
        case ("remove", device_id):
            builder.remove_device(device_id)
        case ("set_weight", device_id, weight):
            builder.set_weight(device_id, weight)
        case ("save", path):
            ring_files.write_builder_file(Path(path), builder)


def _settle(builder: RingBuilder, rng: random.Random) -> None:
    """Rebalance until nothing moves or the balance stands still."""
    number = 0
    balance = float("inf")
    while True:
        number += 1
        if builder.rows is not None:
            builder.pretend_min_part_hours_passed()
        result = builder.rebalance(now=green.now(), rng=rng)
        print(
            f"\tRebalance {number}: moved {result.moved} parts, "
            f"balance is {result.balance:.6f}, {result.removed} removed devs"
        )
        if not result.moved or abs(balance - result.balance) < 1:
            return
        balance = result.balance
