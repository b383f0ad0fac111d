# SPDX-License-Identifier: Apache-2.0
"""What swift-dispersion-populate and -report share: their account, their setup.

The first spreads containers and objects over a share of the partitions, once; the
second asks every node that should have them: are all copies where the rings put them?
Contract cli §5.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

from swift.core import headers as h
from swift.core.errors import ConfigError, InvalidInput, PeerError, SwiftError
from swift.core.names import quote
from swift.core.policy import StoragePolicy
from swift.core.ring.ring import Ring
from swift.core.settings import bind, boolean, natural, number, option, positive_int
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.config import DEFAULT_SWIFT_DIR, read_conf

DEFAULT_CONF = f"{DEFAULT_SWIFT_DIR}/dispersion.conf"
SECTION = "dispersion"
PROGRESS_S = 5.0
RETRY_PAUSE_S = 0.5
REQUEST_TIMEOUT_S = 30.0
LISTING_LIMIT = 10000

CLEAR_LINE = "\r\x1b[K"


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


# --- A run --------------------------------------------------------------------


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
        print(f"{CLEAR_LINE}{text}, {self._retries} retries", end="", flush=True)

    def end(self) -> None:
        """The line that stays."""
        elapsed = _span(green.monotonic() - self._began)
        text = f"{self._done.format(count=self.count)} for dispersion reporting"
        print(f"{CLEAR_LINE}{text}, {elapsed}, {self._retries} retries")

    @property
    def _retries(self) -> int:
        return self._account.retried - self._retried_before


def _span(seconds: float) -> str:
    for unit_s, unit in ((3600, "h"), (60, "m")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f}{unit}"
    return f"{seconds:.0f}s"


def command_parser(program: str, description: str) -> argparse.ArgumentParser:
    """A parser of what both commands understand."""
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


def load(options: argparse.Namespace) -> tuple[DispersionConfig, Cluster]:
    """The configuration that the command line names, and its cluster.

    Raises ConfigError.
    """
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


def open_setup(
    options: argparse.Namespace, config: DispersionConfig, cluster: Cluster
) -> Setup:
    """Sign in; what a run needs. Raises PeerError, InvalidInput (unknown policy)."""
    policy = next(one for one in cluster.policies if one.is_default)
    if options.policy_name:
        named = cluster.policies.by_name(options.policy_name)
        if named is None:
            raise InvalidInput(f"Unknown storage policy {options.policy_name!r}")
        policy = named
    insecure = options.insecure or config.keystone_api_insecure
    return Setup(config, cluster, policy, Account(config, insecure=insecure))


def each(concurrency: int, items: Iterable[Any], handle: Callable[[Any], None]) -> None:
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
