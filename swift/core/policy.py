# SPDX-License-Identifier: Apache-2.0
"""Storage policies: what kinds of durability the cluster offers, by index and by name.

Read from the [storage-policy:N] sections of swift.conf. What a policy's kind means is
asked of its `redundancy`; no other room looks at `policy_type`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from swift.core.erasure import (
    DATA_FRAGMENTS,
    DEFAULT_SEGMENT_SIZE,
    DUPLICATION,
    EC_TYPE,
    PARITY_FRAGMENTS,
    SAFE_VAND_PARITY_MAX,
    SEGMENT_SIZE,
    SEGMENT_SIZE_MAX,
    SEGMENT_SIZE_MIN,
    ErasureCoding,
)
from swift.core.errors import ConfigError, InvalidInput
from swift.core.redundancy import POLICY_TYPE, Redundancy, Replication
from swift.core.settings import bind, boolean, csv, option, positive_int

LEGACY_NAME = "Policy-0"
_SECTION = re.compile(r"storage-policy:(\d+)\Z")
_NAME = re.compile(r"[A-Za-z0-9-]+\Z")


@dataclass(frozen=True)
class PolicyOptions:
    """[storage-policy:N] of swift.conf, whatever the kind."""

    name: str = option("", doc="Letters, digits and dashes; unique in any case.")
    aliases: tuple[str, ...] = option((), parse=csv, doc="Further names, by commas.")
    policy_type: str = option("replication", doc="How objects are kept.")
    default: bool = option(False, parse=boolean, doc="For containers that name none.")
    deprecated: bool = option(False, parse=boolean, doc="Not for new containers.")
    diskfile_module: str = option("", doc="Storage engine, egg:package#entry.")


@dataclass(frozen=True)
class StoragePolicy:
    """One policy.

    names: the name and then the aliases. engine: entry point of group swift.diskfile.
    """

    index: int
    names: tuple[str, ...]
    redundancy: Redundancy
    is_default: bool = False
    is_deprecated: bool = False
    engine: str = "egg:swift#replication.fs"

    @property
    def name(self) -> str:
        """The name that is shown."""
        return self.names[0]

    def _suffixed(self, base: str) -> str:
        return f"{base}-{self.index}" if self.index else base

    @property
    def ring_name(self) -> str:
        """`object` or `object-N`, the stem of the ring file."""
        return self._suffixed("object")

    @property
    def objects_dir(self) -> str:
        """`objects[-N]`, below a device."""
        return self._suffixed("objects")

    @property
    def tmp_dir(self) -> str:
        """`tmp[-N]`, below a device."""
        return self._suffixed("tmp")

    @property
    def pending_dir(self) -> str:
        """`async_pending[-N]`, below a device."""
        return self._suffixed("async_pending")


Reader = Callable[[Mapping[str, str], str, str], Redundancy]
"""(options, file, section) → redundancy; raises ConfigError."""


def _read_replication(
    values: Mapping[str, str], source: str, section: str
) -> Redundancy:
    return Replication()


@dataclass(frozen=True)
class ErasureOptions:
    """[storage-policy:N] of swift.conf, erasure coding only.

    None of them may change once the policy has data.
    """

    ec_type: str = option("", doc="Coding back end of the installed liberasurecode.")
    data: int = option(
        0,
        name=DATA_FRAGMENTS,
        parse=positive_int,
        doc="Fragments that an object is cut into.",
    )
    parity: int = option(
        0,
        name=PARITY_FRAGMENTS,
        parse=positive_int,
        doc="Fragments that may be lost.",
    )
    segment_size: int = option(
        DEFAULT_SEGMENT_SIZE,
        name=SEGMENT_SIZE,
        parse=positive_int,
        doc="Bytes that are encoded at once.",
    )
    duplication: int = option(
        1,
        name=DUPLICATION,
        parse=positive_int,
        doc="How often each fragment is kept; the ring has so many times more nodes.",
    )
    deprecated: bool = option(False, parse=boolean, doc="Not for new containers.")


def _read_erasure_coding(
    values: Mapping[str, str], source: str, section: str
) -> Redundancy:
    options = bind(ErasureOptions, values, source=source, section=section)
    name = values.get("name", LEGACY_NAME)

    def refuse(option_name: str, reason: str) -> ConfigError:
        return ConfigError(source, section, option_name, f"policy {name}: {reason}")

    for option_name, value in (
        (EC_TYPE, options.ec_type),
        (DATA_FRAGMENTS, options.data),
        (PARITY_FRAGMENTS, options.parity),
    ):
        if not value:
            raise refuse(option_name, "must be set")
    if not SEGMENT_SIZE_MIN <= options.segment_size <= SEGMENT_SIZE_MAX:
        raise refuse(
            SEGMENT_SIZE,
            f"segments of {options.segment_size} bytes; {SEGMENT_SIZE_MIN} to "
            f"{SEGMENT_SIZE_MAX} make sense",
        )
    if (
        options.ec_type == "isa_l_rs_vand"
        and options.parity > SAFE_VAND_PARITY_MAX
        and not options.deprecated
    ):
        raise refuse(
            PARITY_FRAGMENTS,
            f"isa_l_rs_vand with more than {SAFE_VAND_PARITY_MAX} cannot come back "
            "from some losses; use isa_l_rs_cauchy, and deprecate this policy if it "
            "has data",
        )
    try:
        return ErasureCoding(
            options.ec_type,
            options.data,
            options.parity,
            segment_size=options.segment_size,
            duplication=options.duplication,
        )
    except InvalidInput as error:
        raise refuse(EC_TYPE, str(error)) from error


_READERS: dict[str, Reader] = {
    "replication": _read_replication,
    "erasure_coding": _read_erasure_coding,
}
_ENGINES = {
    "replication": "egg:swift#replication.fs",
    "erasure_coding": "egg:swift#erasure_coding.fs",
}


class StoragePolicies:
    """The policies of a cluster; exactly one is the default, index 0 always exists."""

    def __init__(self, policies: list[StoragePolicy], source: str = "-") -> None:
        self._by_index = {policy.index: policy for policy in policies}
        self._by_name: dict[str, StoragePolicy] = {}
        for policy in policies:
            for name in policy.names:
                if name.lower() in self._by_name:
                    raise ConfigError(
                        source,
                        f"storage-policy:{policy.index}",
                        "name",
                        f"{name!r} is taken by another policy",
                    )
                self._by_name[name.lower()] = policy
        defaults = [policy for policy in policies if policy.is_default]
        if len(defaults) != 1:
            raise ConfigError(
                source, "storage-policy", "default", "exactly one must be the default"
            )
        self.default = defaults[0]

    def __iter__(self) -> Iterator[StoragePolicy]:
        return iter(self._by_index[index] for index in sorted(self._by_index))

    def __len__(self) -> int:
        return len(self._by_index)

    def by_index(self, index: int | str | None) -> StoragePolicy | None:
        """The policy of an index (None or empty: 0), or None when there is none."""
        try:
            return self._by_index.get(int(index or 0))
        except ValueError:
            return None

    def by_name(self, name: str) -> StoragePolicy | None:
        """The policy of a name or alias in any case, or None."""
        return self._by_name.get(name.lower())

    @classmethod
    def from_sections(
        cls, sections: Mapping[str, Mapping[str, str]], source: str
    ) -> StoragePolicies:
        """Read the sections of swift.conf; without any, policy 0 is `Policy-0`."""
        policies: list[StoragePolicy] = []
        for section, values in sections.items():
            if not section.startswith("storage-policy:"):
                continue
            match = _SECTION.match(section)
            if match is None:
                raise ConfigError(source, section, "-", "index is no number")
            index = int(match[1])
            if any(policy.index == index for policy in policies):
                # One would hide the other, and with it how its data is stored.
                raise ConfigError(source, section, "-", f"another policy is {index}")
            policies.append(_read_policy(index, values, source, section))
        if not policies:
            policies = [StoragePolicy(0, (LEGACY_NAME,), Replication())]
        if not any(policy.index == 0 for policy in policies):
            raise ConfigError(source, "storage-policy:0", "-", "policy 0 must exist")
        if len(policies) == 1 and not policies[0].is_default:
            if policies[0].is_deprecated:
                raise ConfigError(
                    source, "storage-policy:0", "deprecated", "the only policy is"
                )
            policies = [_as_default(policies[0])]
        return cls(policies, source)


def _as_default(policy: StoragePolicy) -> StoragePolicy:
    return StoragePolicy(
        policy.index, policy.names, policy.redundancy, True, False, policy.engine
    )


def _read_policy(
    index: int, values: Mapping[str, str], source: str, section: str
) -> StoragePolicy:
    options = bind(PolicyOptions, values, source=source, section=section)
    names = [options.name or (LEGACY_NAME if index == 0 else "")]
    names += [alias for alias in options.aliases if alias not in names]
    for name in names:
        if not _NAME.match(name):
            raise ConfigError(source, section, "name", f"{name!r} is no policy name")
        if name.lower() == LEGACY_NAME.lower() and index != 0:
            raise ConfigError(source, section, "name", f"{name} is kept for policy 0")
    if options.deprecated and options.default:
        raise ConfigError(source, section, "deprecated", "the default cannot be")
    reader = _READERS.get(options.policy_type)
    if reader is None:
        raise ConfigError(
            source, section, POLICY_TYPE, f"{options.policy_type!r} is unknown"
        )
    return StoragePolicy(
        index,
        tuple(names),
        reader(values, source, section),
        options.default,
        options.deprecated,
        options.diskfile_module or _ENGINES[options.policy_type],
    )
