# SPDX-License-Identifier: Apache-2.0
"""Devices of a ring, the tiers they fail in, and the search words of ring-builder.

A device is one disk as the ring sees it: where it is (region, zone, server, port), how
much it should hold (weight), and what an operator noted about it. Ring and builder
files keep it as a dict; keys that we do not know travel along in `extra`, so that
nothing is lost when a file written by another tool is read and written again.

Format: doc/source/formats/ring.md.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from swift.core.errors import FormatError, InvalidInput

Tier = tuple[Any, ...]
"""(region,), (region, zone), (region, zone, ip) or (region, zone, ip, device id)."""

_KNOWN_KEYS = frozenset(
    (
        "id",
        "region",
        "zone",
        "ip",
        "port",
        "replication_ip",
        "replication_port",
        "device",
        "weight",
        "meta",
    )
)


class BadDevice(InvalidInput):
    """A device, search word or change that cannot be used."""


@dataclass(frozen=True, slots=True)
class Device:
    """One disk of a ring.

    name: the "device" key, a directory below the devices root; weight: 0 = draining;
    extra: keys of the file that are not ours, kept as they were.
    """

    id: int
    region: int
    zone: int
    ip: str
    port: int
    replication_ip: str
    replication_port: int
    name: str
    weight: float
    meta: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Device:
        """The device that a ring or builder file describes.

        Old files lack region, meta and the replication address: they default to 1, ""
        and the service address. Raises FormatError for missing or mistyped keys.
        """
        try:
            ip = _text(entry["ip"])
            port = int(entry["port"])
            weight = entry["weight"]
            if isinstance(weight, bool) or not isinstance(weight, (int, float)):
                weight = float(weight)
            # Old builders hold None where newer ones leave the key out.
            replication_ip = entry.get("replication_ip")
            replication_port = entry.get("replication_port")
            region = entry.get("region")
            meta = entry.get("meta")
            return cls(
                id=int(entry["id"]),
                region=1 if region is None else int(region),
                zone=int(entry["zone"]),
                ip=ip,
                port=port,
                replication_ip=ip if replication_ip is None else _text(replication_ip),
                replication_port=(
                    port if replication_port is None else int(replication_port)
                ),
                name=_text(entry["device"]),
                weight=weight,
                meta="" if meta is None else _text(meta),
                extra={
                    key: value for key, value in entry.items() if key not in _KNOWN_KEYS
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError("ring device", f"{error!r} in {entry!r}") from error

    def as_dict(self) -> dict[str, Any]:
        """The entry of a ring file."""
        return {
            "id": self.id,
            "region": self.region,
            "zone": self.zone,
            "ip": self.ip,
            "port": self.port,
            "weight": self.weight,
            "device": self.name,
            "meta": self.meta,
            "replication_ip": self.replication_ip,
            "replication_port": self.replication_port,
            **self.extra,
        }

    def for_replication(self) -> Device:
        """The device, with its address for replication in the place of the other."""
        return replace(self, ip=self.replication_ip, port=self.replication_port)

    @property
    def tiers(self) -> tuple[Tier, Tier, Tier, Tier]:
        """The failure domains around the device, widest first.

        The port is no part of it: two servers on one address fail together.
        """
        return (
            (self.region,),
            (self.region, self.zone),
            (self.region, self.zone, self.ip),
            (self.region, self.zone, self.ip, self.id),
        )

    def __str__(self) -> str:
        """`d3r1z2-10.0.0.7:6200R10.1.0.7:6300/sdb_"meta"`, as commands print it."""
        return (
            f"d{self.id}r{self.region}z{self.zone}-{bracketed(self.ip)}:{self.port}"
            f"R{bracketed(self.replication_ip)}:{self.replication_port}"
            f'/{self.name}_"{self.meta}"'
        )


@dataclass(frozen=True, slots=True)
class Node:
    """A device in the role it plays for one partition.

    A primary has an `index` (its place among the primaries), a handoff a
    `handoff_index`.
    """

    device: Device
    index: int | None = None
    handoff_index: int | None = None

    @property
    def id(self) -> int:
        return self.device.id

    @property
    def region(self) -> int:
        return self.device.region

    @property
    def zone(self) -> int:
        return self.device.zone

    @property
    def ip(self) -> str:
        return self.device.ip

    @property
    def port(self) -> int:
        return self.device.port

    @property
    def replication_ip(self) -> str:
        return self.device.replication_ip

    @property
    def replication_port(self) -> int:
        return self.device.replication_port

    @property
    def name(self) -> str:
        return self.device.name

    @property
    def is_primary(self) -> bool:
        return self.index is not None


@dataclass(frozen=True, slots=True)
class Search:
    """Which devices are meant; every part that is not None must match.

    meta matches a substring, all else exactly.
    """

    id: int | None = None
    region: int | None = None
    zone: int | None = None
    ip: str | None = None
    port: int | None = None
    replication_ip: str | None = None
    replication_port: int | None = None
    name: str | None = None
    weight: float | None = None
    meta: str | None = None

    def matches(self, device: Device) -> bool:
        """True when every given part fits."""
        return (
            self.id in (None, device.id)
            and self.region in (None, device.region)
            and self.zone in (None, device.zone)
            and self.ip in (None, normal_address(device.ip))
            and self.port in (None, device.port)
            and self.replication_ip in (None, normal_address(device.replication_ip))
            and self.replication_port in (None, device.replication_port)
            and self.name in (None, device.name)
            and self.weight in (None, device.weight)
            and (self.meta is None or self.meta in device.meta)
        )

    def select(self, devices: Iterable[Device | None]) -> list[Device]:
        """The devices that match, in the order given; holes are skipped."""
        return [each for each in devices if each is not None and self.matches(each)]


@dataclass(frozen=True, slots=True)
class NewDevice:
    """What an operator says of a device that is to be added.

    region is None when it was not said; weight comes separately.
    """

    region: int | None
    zone: int
    ip: str
    port: int
    replication_ip: str
    replication_port: int
    name: str
    meta: str


_ADDRESS = r"\[[0-9a-fA-F:.]+\]|[0-9]+(?:\.[0-9]+){3}"
_TAIL = (
    r"(?::(?P<port>[0-9]+))?"
    rf"(?P<replication>R(?P<replication_ip>{_ADDRESS})?"
    r"(?::(?P<replication_port>[0-9]+))?)?"
    r"(?:/(?P<name>[^_]*))?"
    r"(?:_(?P<meta>.*))?"
)
_SEARCH = re.compile(
    r"(?:d(?P<id>[0-9]+))?(?:r(?P<region>[0-9]+))?(?:z(?P<zone>[0-9]+))?"
    rf"(?:-?(?P<ip>{_ADDRESS}))?{_TAIL}",
    re.DOTALL,
)
_CHANGE = re.compile(rf"(?P<ip>{_ADDRESS})?{_TAIL}", re.DOTALL)
_ADD = re.compile(
    rf"(?:r(?P<region>[0-9]+))?z(?P<zone>[0-9]+)-(?P<ip>{_ADDRESS}):(?P<port>[0-9]+)"
    rf"(?P<replication>R(?P<replication_ip>{_ADDRESS})"
    r":(?P<replication_port>[0-9]+))?"
    r"/(?P<name>[^_]+)(?:_(?P<meta>.*))?",
    re.DOTALL,
)
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
    r"(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*\Z"
)


def parse_search(word: str) -> Search:
    """The search that an operator's word means.

    `d<id>r<region>z<zone>-<ip>:<port>R<ip>:<port>/<device>_<meta>`, any subset of the
    parts in this order. Raises BadDevice for anything else.
    """
    return Search(**_parts(_SEARCH, word, "search value"))


def parse_change(word: str) -> dict[str, Any]:
    """The fields that `[ip][:port][R[r_ip][:r_port]][/device][_meta]` changes."""
    parts = _parts(_CHANGE, word, "change")
    return {key: value for key, value in parts.items() if value is not None}


def parse_new_device(word: str) -> NewDevice:
    """The device of `[r<R>]z<Z>-<ip>:<port>[R<r_ip>:<r_port>]/<device>[_<meta>]`."""
    parts = _parts(_ADD, word, "add value")
    return new_device(**parts)


def new_device(
    *,
    zone: int,
    ip: str,
    port: int,
    name: str,
    region: int | None = None,
    replication_ip: str | None = None,
    replication_port: int | None = None,
    meta: str | None = None,
) -> NewDevice:
    """A checked description; replication defaults to the service address.

    Raises BadDevice for an address that is neither IP nor host name, a port outside
    1..65535, or a name that is empty or has blanks around it.
    """
    ip = checked_address(ip)
    replication_ip = ip if not replication_ip else checked_address(replication_ip)
    if replication_port is None:
        replication_port = port
    for number in (port, replication_port):
        checked_port(number)
    if zone < 0 or (region is not None and region < 0):
        raise BadDevice("region and zone are numbers of at least 0")
    return NewDevice(
        region=region,
        zone=zone,
        ip=ip,
        port=port,
        replication_ip=replication_ip,
        replication_port=replication_port,
        name=checked_name(name),
        meta=meta or "",
    )


def checked_name(name: str) -> str:
    """The name of a device directory, or BadDevice."""
    if not name or name != name.strip():
        raise BadDevice(f"device name {name!r} is empty or has blanks around it")
    return name


def checked_port(port: int) -> int:
    """A TCP port, or BadDevice."""
    if not 0 < port < 65536:
        raise BadDevice(f"port {port} is not in 1..65535")
    return port


def checked_address(text: str) -> str:
    """The normal form of an IP address or host name, or BadDevice."""
    address = normal_address(text)
    if _is_ip(address):
        return address
    # All digits and dots is a mistyped address; as a host name it would wait for DNS.
    if not _HOST_NAME.match(address) or not any(c.isalpha() for c in address):
        raise BadDevice(f"{text!r} is neither an IP address nor a host name")
    return address


def normal_address(text: str) -> str:
    """Lower case; IPv6 without brackets and with all its digits."""
    bare = text.strip()
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1]
    if ":" in bare:
        try:
            return ipaddress.IPv6Address(bare).exploded.lower()
        except ValueError:
            return bare.lower()
    return bare.lower()


def bracketed(ip: str) -> str:
    """The address as it stands before a port: IPv6 in brackets."""
    return f"[{ip}]" if ":" in ip else ip


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _parts(pattern: re.Pattern[str], word: str, what: str) -> dict[str, Any]:
    """The named groups of the pattern as values; BadDevice for a word that has none."""
    match = pattern.fullmatch(word)
    if match is None or not word:
        raise BadDevice(f"invalid {what}: {word!r}")
    groups: dict[str, Any] = match.groupdict()
    if groups.pop("replication", None) == "R":
        raise BadDevice(f"invalid {what}: {word!r} has nothing after R")
    convert: dict[str, Callable[[str], Any]] = {
        "id": int,
        "region": int,
        "zone": int,
        "port": int,
        "replication_port": int,
        "ip": checked_address,
        "replication_ip": checked_address,
    }
    return {
        key: value if value is None or key not in convert else convert[key](value)
        for key, value in groups.items()
    }


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value
