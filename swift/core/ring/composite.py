# SPDX-License-Identifier: Apache-2.0
"""Rings made of other rings: one component a region, each with its own builder.

The tables of the components are laid on top of each other, their device ids moved up so
that all differ. A composite builder is the note beside the ring that says which
components, in which order and of which versions, it was made from; a later composition
must fit it, or every partition of a component would change its place.

Format: doc/source/formats/ring.md, composite rings.
"""

from __future__ import annotations

import dataclasses
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swift.core.errors import FormatError
from swift.core.ring.builder import RingBuilder, RingError
from swift.core.ring.devices import Device
from swift.core.ring.ring import Ring, Row, dev_id_bytes_for, row_type

_SERIALIZATION_VERSION = 1
_COMPONENTS_MIN = 2


class CompositionError(RingError):
    """Components that do not go together, or not with the last composition."""


@dataclass(frozen=True, slots=True)
class Component:
    """What a composite remembers of one component."""

    id: str
    version: int
    replicas: int

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "replicas": self.replicas, "version": self.version}


@dataclass
class CompositeBuilder:
    """The note about a composite ring.

    version: +1 for every composition, 0 before the first; builder_files: component id →
    path of its builder; saved_path: where the note was written last.
    """

    version: int = 0
    components: tuple[Component, ...] = ()
    builder_files: dict[str, str] = field(default_factory=dict)
    saved_path: str | None = None

    @classmethod
    def load(cls, data: bytes) -> CompositeBuilder:
        """The note in a composite builder file. Raises FormatError for other bytes."""
        try:
            state = json.loads(data)
            if state["serialization_version"] != _SERIALIZATION_VERSION:
                raise FormatError("composite builder", "unknown serialization version")
            return cls(
                version=int(state["version"]),
                components=tuple(
                    Component(str(c["id"]), int(c["version"]), int(c["replicas"]))
                    for c in state["components"]
                ),
                builder_files=dict(state["component_builder_files"]),
                saved_path=state.get("saved_path"),
            )
        except (LookupError, TypeError, ValueError) as error:
            raise FormatError(
                "composite builder", f"{type(error).__name__}: {error}"
            ) from error

    def dump(self) -> bytes:
        """The bytes of a composite builder file."""
        state = {
            **self.facts(),
            "saved_path": self.saved_path,
            "serialization_version": _SERIALIZATION_VERSION,
        }
        return json.dumps(state, sort_keys=True).encode("ascii")

    def facts(self) -> dict[str, Any]:
        """What `swift-ring-composer show` prints."""
        return {
            "component_builder_files": self.builder_files,
            "components": [component.as_dict() for component in self.components],
            "version": self.version,
        }

    def compose(self, builders: Mapping[str, RingBuilder], *, force: bool) -> Ring:
        """The composite of these components; the note is brought up to date.

        builders: path → builder, in the order of the composition. force: also when no
        component has changed. Raises CompositionError and leaves the note alone.
        """
        ring = compose(list(builders.values()))
        components = tuple(_component(builder) for builder in builders.values())
        if self.components:
            _check_same_components(self.components, components)
            if components == self.components and not force:
                raise CompositionError(
                    "no component has been modified since the last composition"
                )
        self.components = components
        self.builder_files = {
            component.id: path
            for component, path in zip(components, builders, strict=True)
        }
        self.version += 1
        return ring


def compose(builders: Sequence[RingBuilder]) -> Ring:
    """The ring of all components' replicas. Raises CompositionError."""
    _check_components(builders)
    width = dev_id_bytes_for(sum(len(builder.devices) for builder in builders) - 1)
    devices: list[Device | None] = []
    rows: list[Row] = []
    for builder in builders:
        offset = len(devices)
        for device, entry in zip(builder.devices, builder.entries(), strict=True):
            devices.append(
                None if device is None else _moved(device, entry or {}, offset)
            )
        for row in builder.rows or []:
            rows.append(array(row_type(width), [d + offset for d in row]))
    return Ring(part_power=builders[0].part_power, devices=devices, rows=rows)


def _moved(device: Device, entry: Mapping[str, Any], offset: int) -> Device:
    # The builder's counters come along: rings that other tools composed have them.
    counters = {key: entry[key] for key in ("parts", "parts_wanted")}
    return dataclasses.replace(
        device, id=device.id + offset, extra={**device.extra, **counters}
    )


def _component(builder: RingBuilder) -> Component:
    assert builder.id is not None, "components are checked before"
    return Component(builder.id, builder.version, int(builder.replicas))


def _check_components(builders: Sequence[RingBuilder]) -> None:
    if len(builders) < _COMPONENTS_MIN:
        raise CompositionError(f"a composite needs at least {_COMPONENTS_MIN} builders")
    problems = []
    ids = [builder.id for builder in builders]
    if None in ids:
        problems.append("a component has no id; save it with swift-ring-builder")
    if len(set(ids)) != len(ids):
        problems.append("a component is given twice")
    if len({builder.part_power for builder in builders}) > 1:
        problems.append("components differ in part power")
    for number, builder in enumerate(builders):
        if builder.replicas != int(builder.replicas):
            problems.append(f"component {number} has {builder.replicas} replicas")
        if builder.rows is None or builder.devices_changed:
            problems.append(f"component {number} has changes: rebalance it first")
        if builder.next_part_power is not None:
            problems.append(f"component {number} is changing its part power")
    regions: dict[int, int] = {}
    places: dict[tuple[str, int, str], int] = {}
    for number, builder in enumerate(builders):
        for device in builder.present_devices:
            if regions.setdefault(device.region, number) != number:
                problems.append(f"region {device.region} is in two components")
                break
        for device in builder.present_devices:
            place = (device.ip, device.port, device.name)
            if places.setdefault(place, number) != number:
                problems.append(f"device {device} is in two components")
    if problems:
        raise CompositionError("; ".join(problems))


def _check_same_components(
    before: Sequence[Component], after: Sequence[Component]
) -> None:
    if len(before) != len(after):
        raise CompositionError(f"{len(after)} components instead of {len(before)}")
    for old, new in zip(before, after, strict=True):
        if old.id != new.id:
            raise CompositionError(f"component {new.id} instead of {old.id}")
        if old.replicas != new.replicas:
            raise CompositionError(
                f"component {new.id}: {new.replicas} replicas instead of {old.replicas}"
            )
        if new.version < old.version:
            raise CompositionError(
                f"component {new.id}: version {new.version} is older than {old.version}"
            )
