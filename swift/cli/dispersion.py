# SPDX-License-Identifier: Apache-2.0
"""swift-dispersion-populate and -report: are all copies where the rings put them?

The first spreads containers and objects over a share of the partitions, once; the
second asks every node that should have them. Contract cli §5.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

from swift.core import headers as h
from swift.core.errors import ConfigError, InvalidInput, PeerError, SwiftError
from swift.core.names import ContainerName, ObjectName, quote
from swift.core.policy import StoragePolicy
from swift.core.ring.devices import Node
from swift.core.ring.ring import Ring
from swift.core.settings import bind, boolean, natural, number, option, positive_int
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.config import DEFAULT_SWIFT_DIR, read_conf
from swift.wire.client import ConnectionPool, TcpConnector
from swift.wire.direct import DirectClient, DirectError

DEFAULT_CONF = f"{DEFAULT_SWIFT_DIR}/dispersion.conf"
SECTION = "dispersion"
PROGRESS_S = 5.0
RETRY_PAUSE_S = 0.5
REQUEST_TIMEOUT_S = 30.0
LISTING_LIMIT = 10000

_CLEAR = "\r\x1b[K"


@dataclass(frozen=True)
class DispersionConfig:
    """[dispersion] of dispersion.conf."""

    auth_url: str = option("", doc="Where a token is asked for.")
    auth_user: str = option("", doc="`account:user`; with version 3 the user.")
    auth_key: str = option("", doc="The user's key.")
    auth_version: str = option("1.0", doc="1.0, or 3 for Keystone.")
    endpoint_type: str = option("publicURL", doc="Keystone: which URL of the store.")
    keystone_api_insecure: bool = option(
        False, parse=boolean, doc="Do not check certificates."
    )
    project_name: str = option("", doc="Keystone: the project.")
    project_domain_name: str = option("Default", doc="Keystone: domain of the project.")
    user_domain_name: str = option("Default", doc="Keystone: domain of the user.")
    region_name: str = option("", doc="Keystone: region of the store; any when unset.")
    swift_dir: str = option(DEFAULT_SWIFT_DIR, doc="Where swift.conf and rings are.")
    dispersion_coverage: float = option(
        1.0, parse=number, doc="Percent of the partitions to cover."
    )
    retries: int = option(5, parse=natural, doc="How often a failed request is tried.")
    concurrency: int = option(25, parse=positive_int, doc="Requests in flight.")
    container_populate: bool = option(True, parse=boolean, doc="Make containers.")
    object_populate: bool = option(True, parse=boolean, doc="Make objects.")
    container_report: bool = option(True, parse=boolean, doc="Report on containers.")
    object_report: bool = option(True, parse=boolean, doc="Report on objects.")
    dump_json: bool = option(False, parse=boolean, doc="Report as one line of JSON.")
    partitions: bool = option(False, parse=boolean, doc="Name partitions with gaps.")


# --- The account, as a client sees it -------------------------------------------------


class Account:
    """The account that holds what is spread; counts requests that were repeated.

    account: its name in the cluster.
    """

    def __init__(self, config: DispersionConfig, *, insecure: bool) -> None:
        self._retries = config.retries
        self._session = requests.Session()
        self._session.verify = not insecure
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=config.concurrency)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)
        self.retried = 0
        sign_in = _sign_in_keystone if config.auth_version[0] == "3" else _sign_in
        self._url, token = sign_in(self._session, config)
        self._session.headers[h.X_AUTH_TOKEN] = token
        self.account = unquote(urlsplit(self._url).path.rstrip("/").split("/")[-1])

    def close(self) -> None:
        """Close its connections."""
        self._session.close()

    def put(self, path: str, headers: dict[str, str], body: bytes = b"") -> None:
        """PUT `/container[/object]`. Yields. Raises PeerError."""
        self._call("PUT", quote(path), headers, body)

    def names(self, path: str, prefix: str) -> list[str]:
        """All names below the account or a container that begin so. Yields."""
        found: list[str] = []
        while True:
            marker = quote(found[-1]) if found else ""
            query = f"?limit={LISTING_LIMIT}&prefix={quote(prefix)}&marker={marker}"
            answer = self._call("GET", quote(path) + query)
            names = answer.text.splitlines() if answer.ok else []
            found += names
            if len(names) < LISTING_LIMIT:
                return found

    def _call(
        self, method: str, target: str, headers: Any = None, body: bytes = b""
    ) -> requests.Response:
        tries = 0
        while True:
            try:
                answer = green.in_thread(
                    self._session.request,
                    method,
                    self._url + target,
                    headers=headers,
                    data=body,
                    timeout=REQUEST_TIMEOUT_S,
                )
            except requests.RequestException as error:
                problem = str(error)
            else:
                if answer.ok or (method == "GET" and answer.status_code == 404):
                    return answer
                problem = f"status {answer.status_code}"
                if answer.status_code < 500:
                    tries = self._retries
            if tries >= self._retries:
                raise PeerError(self._url, f"{method} {target}: {problem}")
            tries += 1
            self.retried += 1
            green.sleep(RETRY_PAUSE_S * tries)


def _sign_in(session: requests.Session, config: DispersionConfig) -> tuple[str, str]:
    """(storage URL, token) by the first protocol. Raises PeerError."""
    headers = {h.X_AUTH_USER: config.auth_user, h.X_AUTH_KEY: config.auth_key}
    answer = _asked(session, "GET", config.auth_url, headers=headers)
    try:
        return answer.headers[h.X_STORAGE_URL], answer.headers[h.X_AUTH_TOKEN]
    except KeyError as error:
        raise PeerError(config.auth_url, f"answered without {error}") from error


def _sign_in_keystone(
    session: requests.Session, config: DispersionConfig
) -> tuple[str, str]:
    """(storage URL, token) by Keystone's version 3. Raises PeerError."""
    project, _, user = config.auth_user.rpartition(":")
    identity = {
        "methods": ["password"],
        "password": {
            "user": {
                "name": user,
                "domain": {"name": config.user_domain_name},
                "password": config.auth_key,
            }
        },
    }
    scope = {
        "project": {
            "name": config.project_name or project,
            "domain": {"name": config.project_domain_name},
        }
    }
    url = f"{config.auth_url.rstrip('/')}/auth/tokens"
    request = {"auth": {"identity": identity, "scope": scope}}
    answer = _asked(session, "POST", url, json=request)
    interface = config.endpoint_type.removesuffix("URL")
    try:
        for service in answer.json()["token"]["catalog"]:
            if service["type"] != "object-store":
                continue
            for endpoint in service["endpoints"]:
                region = endpoint.get("region", "")
                if endpoint["interface"] == interface and config.region_name in (
                    "",
                    region,
                ):
                    return str(endpoint["url"]), answer.headers[h.X_SUBJECT_TOKEN]
    except (ValueError, KeyError, TypeError) as error:
        raise PeerError(url, f"answered what cannot be read: {error!r}") from error
    raise PeerError(url, "knows no URL of the object store")


def _asked(
    session: requests.Session, method: str, url: str, **arguments: Any
) -> requests.Response:
    try:
        answer = green.in_thread(
            session.request, method, url, timeout=REQUEST_TIMEOUT_S, **arguments
        )
    except requests.RequestException as error:
        raise PeerError(url, str(error)) from error
    if not answer.ok:
        raise PeerError(url, f"refused to sign in: status {answer.status_code}")
    return answer


# --- Both commands --------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """What a run knows before it begins."""

    config: DispersionConfig
    cluster: Cluster
    policy: StoragePolicy
    account: Account

    @property
    def container_prefix(self) -> str:
        """What the names of the containers begin with."""
        return f"dispersion_{self.policy.index}_"

    @property
    def object_container(self) -> str:
        """The container of the objects."""
        return f"dispersion_objects_{self.policy.index}"

    def container_partition(self, ring: Ring, name: str) -> int:
        """Where a container is."""
        return ring.partition(self.cluster.salt.digest(self.account.account, name))

    def object_partition(self, ring: Ring, name: str) -> int:
        """Where an object is."""
        return ring.partition(
            self.cluster.salt.digest(self.account.account, self.object_container, name)
        )


class Progress:
    """One line on the terminal that tells how far a step is."""

    def __init__(self, doing: str, done: str, total: int, account: Account) -> None:
        self._doing, self._done = doing, done
        self._total = total
        self._account = account
        self._retried_before = account.retried
        self._began = green.monotonic()
        self._next = self._began + PROGRESS_S
        self.count = 0

    def step(self) -> None:
        """One more is done."""
        self.count += 1
        now = green.monotonic()
        if now < self._next:
            return
        self._next = now + PROGRESS_S
        left_s = (now - self._began) / self.count * max(0, self._total - self.count)
        text = f"{self._doing}: {self.count} of {self._total}, {_span(left_s)} left"
        print(f"{_CLEAR}{text}, {self._retries} retries", end="", flush=True)

    def end(self) -> None:
        """The line that stays."""
        elapsed = _span(green.monotonic() - self._began)
        text = f"{self._done.format(count=self.count)} for dispersion reporting"
        print(f"{_CLEAR}{text}, {elapsed}, {self._retries} retries")

    @property
    def _retries(self) -> int:
        return self._account.retried - self._retried_before


def _span(seconds: float) -> str:
    for unit_s, unit in ((3600, "h"), (60, "m")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f}{unit}"
    return f"{seconds:.0f}s"


def _parser(program: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument(
        "conf", nargs="?", default=DEFAULT_CONF, help="default %(default)s"
    )
    parser.add_argument("--container-only", action="store_true", help="no objects")
    parser.add_argument("--object-only", action="store_true", help="no containers")
    parser.add_argument(
        "--insecure", action="store_true", help="do not check certificates"
    )
    parser.add_argument("-P", "--policy-name", help="the policy to look at")
    return parser


def _load(options: argparse.Namespace) -> tuple[DispersionConfig, Cluster]:
    if not Path(options.conf).exists():
        raise ConfigError(options.conf, SECTION, "-", "no such file")
    conf = read_conf(options.conf)
    values = conf.section(SECTION)
    config = bind(DispersionConfig, values, source=conf.source, section=SECTION)
    if options.container_only:
        config = replace(config, object_populate=False, object_report=False)
    if options.object_only:
        config = replace(config, container_populate=False, container_report=False)
    return config, Cluster.load(config.swift_dir)


def _open(
    options: argparse.Namespace, config: DispersionConfig, cluster: Cluster
) -> Setup:
    policy = next(one for one in cluster.policies if one.is_default)
    if options.policy_name:
        named = cluster.policies.by_name(options.policy_name)
        if named is None:
            raise InvalidInput(f"Unknown storage policy {options.policy_name!r}")
        policy = named
    insecure = options.insecure or config.keystone_api_insecure
    return Setup(config, cluster, policy, Account(config, insecure=insecure))


# --- swift-dispersion-populate --------------------------------------------------------


def populate(argv: Sequence[str] | None = None) -> int:
    """Run swift-dispersion-populate; the exit code."""
    parser = _parser(
        "swift-dispersion-populate",
        "Spread containers and objects over the partitions, for later reports.",
    )
    for kind in ("container", "object"):
        parser.add_argument(
            f"--{kind}-suffix-start", type=int, default=0, metavar="N",
            help=f"{kind}s of lower numbers are there already",
        )  # fmt: skip
    parser.add_argument(
        "--no-overlap", action="store_true", help="add as many again, elsewhere"
    )
    options = parser.parse_args(argv)
    try:
        config, cluster = _load(options)
        setup = _open(options, config, cluster)
        try:
            print(f"Using storage policy: {setup.policy.name} ")
            if config.container_populate:
                _populate_containers(setup, options)
            if config.object_populate:
                _populate_objects(setup, options)
        finally:
            setup.account.close()
    except SwiftError as error:
        print(f"swift-dispersion-populate: {error}", file=sys.stderr)
        return 1
    return 0


def _populate_containers(setup: Setup, options: argparse.Namespace) -> None:
    ring = setup.cluster.container_ring()
    prefix = setup.container_prefix

    def make(name: str) -> None:
        setup.account.put(f"/{name}", {h.X_STORAGE_POLICY: setup.policy.name})

    existing = setup.account.names("", prefix) if options.no_overlap else []
    _spread(
        setup,
        "container",
        ring,
        numbered=lambda n: f"{prefix}{n}",
        partition=lambda name: setup.container_partition(ring, name),
        make=make,
        start=options.container_suffix_start,
        existing=existing,
        show_coverage=options.no_overlap,
    )


def _populate_objects(setup: Setup, options: argparse.Namespace) -> None:
    ring = setup.cluster.object_ring(setup.policy.index)
    container = setup.object_container
    headers = {h.X_STORAGE_POLICY: setup.policy.name}
    setup.account.put(f"/{container}", headers)

    def make(name: str) -> None:
        mark = {h.OBJECT_META + "Dispersion": name}
        setup.account.put(f"/{container}/{name}", mark, name.encode())

    existing = setup.account.names(f"/{container}", "") if options.no_overlap else []
    _spread(
        setup,
        "object",
        ring,
        numbered=lambda n: f"dispersion_{n}",
        partition=lambda name: setup.object_partition(ring, name),
        make=make,
        start=options.object_suffix_start,
        existing=existing,
        show_coverage=options.no_overlap,
    )


def _spread(
    setup: Setup,
    kind: str,
    ring: Ring,
    *,
    numbered: Callable[[int], str],
    partition: Callable[[str], int],
    make: Callable[[str], None],
    start: int,
    existing: Iterable[str],
    show_coverage: bool,
) -> None:
    """Make things on partitions that have none, until enough are covered. Yields.

    start: numbers below are there already. existing: what is, beside.
    """
    covered = {partition(name) for name in existing}
    wanted = int(ring.partition_count * setup.config.dispersion_coverage / 100)
    goal = min(ring.partition_count, len(covered) + wanted)
    progress = Progress(
        f"Creating {kind}s", f"Created {{count}} {kind}s", wanted, setup.account
    )

    def one(name: str) -> None:
        make(name)
        progress.step()

    names = _uncovered(numbered, partition, covered, goal, start)
    _each(setup.config.concurrency, names, one)
    progress.end()
    if show_coverage:
        percent = 100.0 * len(covered) / ring.partition_count
        print(f"{_CLEAR}Total {kind} coverage is now {percent:.2f}%.")


def _uncovered(
    numbered: Callable[[int], str],
    partition: Callable[[str], int],
    covered: set[int],
    goal: int,
    start: int,
) -> Iterator[str]:
    """Names on partitions that are not yet in `covered`, which is filled up to goal."""
    n = 0
    while len(covered) < goal:
        name = numbered(n)
        place = partition(name)
        if place not in covered:
            covered.add(place)
            if n >= start:
                yield name
        n += 1


def _each(
    concurrency: int, items: Iterable[Any], handle: Callable[[Any], None]
) -> None:
    """handle(item) for all, some at a time; the first error ends it. Yields."""
    pool = green.Pool(concurrency)
    errors: list[SwiftError] = []

    def one(item: Any) -> None:
        try:
            handle(item)
        except SwiftError as error:
            errors.append(error)

    for item in items:
        if errors:
            break
        pool.spawn(one, item)
    pool.wait_all()
    if errors:
        raise errors[0]


# --- swift-dispersion-report ----------------------------------------------------------


@dataclass
class Findings:
    """What the nodes said. missing: copies that a partition lacks → partitions."""

    retries: int = 0
    overlapping: int = 0
    copies_found: int = 0
    copies_expected: int = 0
    copies_most: int = 0
    missing: Counter[int] = field(default_factory=Counter)

    @property
    def percent_found(self) -> float:
        """Share of the copies that are where they should be."""
        return 100.0 * self.copies_found / self.copies_expected

    def as_json(self, *, show_complete: bool) -> dict[str, Any]:
        """The fields of the report; missing_0 with show_complete only."""
        return {
            "retries": self.retries,
            "overlapping": self.overlapping,
            "pct_found": self.percent_found,
            "copies_found": self.copies_found,
            "copies_expected": self.copies_expected,
            **{
                f"missing_{copies}": count
                for copies, count in sorted(self.missing.items())
                if copies or show_complete
            },
        }

    def missing_lines(self, *, show_complete: bool) -> Iterator[str]:
        """How many partitions lack how many copies."""
        for copies, count in sorted(self.missing.items()):
            if not copies and not show_complete:
                continue
            left = self.copies_most - copies
            mark = "!!! " if left <= 0 else "! " if left == 1 else ""
            subject = (
                "There was 1 partition"
                if count == 1
                else f"There were {count} partitions"
            )
            yield f"{mark}{subject} missing {_copies(copies, left)}."


def _copies(missing: int, left: int) -> str:
    if left <= 0:
        return "all copies"
    return f"{missing} {'copy' if missing == 1 else 'copies'}"


def report(argv: Sequence[str] | None = None) -> int:
    """Run swift-dispersion-report; the exit code."""
    parser = _parser(
        "swift-dispersion-report",
        "Ask every node for its copy of what swift-dispersion-populate has spread.",
    )
    parser.add_argument("-j", "--dump-json", action="store_true", help="one JSON line")
    parser.add_argument(
        "-d", "--debug", action="store_true", help="404s to standard error"
    )
    parser.add_argument(
        "-p", "--partitions", action="store_true",
        help="partitions that lack copies to standard error",
    )  # fmt: skip
    options = parser.parse_args(argv)
    try:
        config, cluster = _load(options)
        if not config.container_report and not config.object_report:
            raise InvalidInput("neither containers nor objects are to be reported on")
        setup = _open(options, config, cluster)
        try:
            _report(setup, options)
        finally:
            setup.account.close()
    except SwiftError as error:
        print(f"swift-dispersion-report: {error}", file=sys.stderr)
        return 1
    return 0


def _report(setup: Setup, options: argparse.Namespace) -> None:
    config = setup.config
    as_json = options.dump_json or config.dump_json
    if not as_json:
        print(f"Using storage policy: {setup.policy.name} ")
    pool = ConnectionPool(TcpConnector())
    client = DirectClient(
        pool, user_agent="swift-dispersion-report", over_replication=False
    )
    findings: dict[str, Any] = {}
    try:
        for kind, wanted in (
            ("container", config.container_report),
            ("object", config.object_report),
        ):
            if not wanted:
                continue
            survey = Survey(setup, kind, client, options)
            found = survey.run(quiet=as_json)
            findings[kind] = None
            if found is not None:
                findings[kind] = found.as_json(show_complete=kind == "object")
    finally:
        pool.close()
    if as_json:
        print(json.dumps(findings))


class Survey:
    """Asks all primaries for the copies of one kind of thing."""

    def __init__(
        self,
        setup: Setup,
        kind: str,
        client: DirectClient,
        options: argparse.Namespace,
    ) -> None:
        self._setup = setup
        self._kind = kind
        self._client = client
        self._debug = options.debug
        self._show_partitions = options.partitions or setup.config.partitions
        cluster = setup.cluster
        if kind == "container":
            self._ring = cluster.container_ring()
        else:
            self._ring = cluster.object_ring(setup.policy.index)

    def run(self, *, quiet: bool) -> Findings | None:
        """Ask, and print unless `quiet`; None when there is nothing to ask. Yields."""
        kind, setup = self._kind, self._setup
        places, overlapping = self._places()
        if not places:
            print(
                f"No {kind}s to query. Has swift-dispersion-populate been run?",
                file=sys.stderr,
            )
            return None
        findings = Findings(overlapping=overlapping)
        retried_before = setup.account.retried
        progress = Progress(
            f"Querying {kind}s", f"Queried {{count}} {kind}s", len(places),
            setup.account,
        )  # fmt: skip

        def one(place: tuple[int, ContainerName | ObjectName]) -> None:
            self._ask_primaries(*place, findings)
            if quiet:
                progress.count += 1
            else:
                progress.step()

        _each(setup.config.concurrency, sorted(places.items()), one)
        findings.retries = setup.account.retried - retried_before
        if not quiet:
            progress.end()
            self._print(findings, len(places))
        return findings

    def _places(self) -> tuple[dict[int, ContainerName | ObjectName], int]:
        """Partition → one thing on it, and how many more share a partition."""
        setup, ring = self._setup, self._ring
        account = setup.account.account
        places: dict[int, ContainerName | ObjectName] = {}
        overlapping = 0
        if self._kind == "container":
            names = setup.account.names("", setup.container_prefix)
        else:
            names = setup.account.names(f"/{setup.object_container}", "dispersion_")
        for text in names:
            name: ContainerName | ObjectName
            if self._kind == "container":
                name = ContainerName(account, text)
                partition = setup.container_partition(ring, text)
            else:
                name = ObjectName(account, setup.object_container, text)
                partition = setup.object_partition(ring, text)
            overlapping += partition in places
            places.setdefault(partition, name)
        return places, overlapping

    def _ask_primaries(
        self, partition: int, name: ContainerName | ObjectName, findings: Findings
    ) -> None:
        nodes = self._ring.primaries(partition)
        found = sum(self._has_copy(node, partition, name) for node in nodes)
        missing = len(nodes) - found
        findings.copies_expected += len(nodes)
        findings.copies_found += found
        findings.copies_most = max(findings.copies_most, len(nodes))
        findings.missing[missing] += 1
        if missing and self._show_partitions:
            label = f"# {self._kind.capitalize()} partition {partition}"
            copies = "copy" if missing == 1 else "copies"
            print(f"{label} missing {missing} {copies}", file=sys.stderr)

    def _has_copy(
        self, node: Node, partition: int, name: ContainerName | ObjectName
    ) -> bool:
        setup = self._setup
        headers = {h.X_BACKEND_STORAGE_POLICY_INDEX: str(setup.policy.index)}
        where = f"{node.ip}:{node.port}/{node.name}"
        tries = 0
        while True:
            try:
                self._client.head(node, partition, name, headers)
            except DirectError as error:
                if error.status == 404:
                    if self._debug:
                        print(f"ERROR: {where}: 404 for {name.path}", file=sys.stderr)
                    return False
                if error.status == 507:
                    print(f"ERROR: {where} is unmounted", file=sys.stderr)
                    return False
                problem = str(error)
            except PeerError as error:
                problem = str(error)
            else:
                return True
            if tries >= setup.config.retries:
                print(f"ERROR: {where}: {problem}", file=sys.stderr)
                return False
            tries += 1
            setup.account.retried += 1
            green.sleep(RETRY_PAUSE_S * tries)

    def _print(self, findings: Findings, queried: int) -> None:
        kind = self._kind
        if findings.overlapping == 1:
            print("There was 1 overlapping partition")
        elif findings.overlapping:
            print(f"There were {findings.overlapping} overlapping partitions")
        for line in findings.missing_lines(show_complete=kind == "object"):
            print(line)
        print(
            f"{findings.percent_found:.2f}% of {kind} copies found "
            f"({findings.copies_found} of {findings.copies_expected})"
        )
        percent = 100.0 * queried / self._ring.partition_count
        print(f"Sample represents {percent:.2f}% of the {kind} partition space")
