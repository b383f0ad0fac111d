# SPDX-License-Identifier: Apache-2.0
"""Options as dataclass fields, and the parsers of their text.

A `Config` dataclass is the only reader of a section: `bind` turns the section's strings
into one, names file, section and option when a value does not parse, and reports the
names that no field knows (operators' files hold many, and keep working).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from swift.core.errors import ConfigError

TRUE_WORDS = frozenset(("true", "1", "yes", "on", "t", "y"))

_C = TypeVar("_C")
_METADATA_KEY = "swift.option"


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """What a field knows of its option.

    name: the operator's spelling; parse: text to value, raising ValueError;
    doc: one or two sentences for the reference page.
    """

    name: str
    parse: Callable[[str], Any]
    doc: str


def boolean(text: str) -> bool:
    """True for the words Swift calls true, in any case; everything else is False."""
    return text.strip().lower() in TRUE_WORDS


def string(text: str) -> str:
    """The text without surrounding blanks."""
    return text.strip()


def integer(text: str) -> int:
    """A whole number."""
    return int(text.strip())


def positive_int(text: str) -> int:
    """A whole number of at least one."""
    value = integer(text)
    if value < 1:
        raise ValueError("must be greater than 0")
    return value


def natural(text: str) -> int:
    """A whole number of at least zero."""
    value = integer(text)
    if value < 0:
        raise ValueError("must not be negative")
    return value


def number(text: str) -> float:
    """A finite decimal number."""
    value = float(text.strip())
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError("must be a finite number")
    return value


def seconds(text: str) -> float:
    """A length of time: a decimal number that is not negative."""
    value = number(text)
    if value < 0:
        raise ValueError("must not be negative")
    return value


def csv(text: str) -> tuple[str, ...]:
    """The comma-separated elements, stripped, empty ones dropped."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def words(text: str) -> tuple[str, ...]:
    """The blank-separated elements."""
    return tuple(text.split())


def auto_or(parse: Callable[[str], _C]) -> Callable[[str], _C | None]:
    """A parser that reads `auto` as None and the rest by `parse`."""

    def parse_auto(text: str) -> _C | None:
        return None if text.strip().lower() == "auto" else parse(text)

    return parse_auto


def one_of(*choices: str) -> Callable[[str], str]:
    """A parser that takes one of the words, in any case, and gives it in lower case."""

    def parse_choice(text: str) -> str:
        value = text.strip().lower()
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value

    return parse_choice


@dataclass(frozen=True, slots=True)
class Reserve:
    """Free space to keep on a device: an absolute number, or a share of its size."""

    bytes: int = 0
    percent: float = 0.0

    def violated(self, free_bytes: int, total_bytes: int) -> bool:
        """True when no more than the reserve is left."""
        if self.percent:
            return free_bytes * 100.0 <= self.percent * total_bytes
        return self.bytes > 0 and free_bytes <= self.bytes


def reserve(text: str) -> Reserve:
    """`N` bytes or `N%` of the device."""
    value = text.strip()
    if value.endswith("%"):
        percent = seconds(value[:-1])
        if percent > 100:
            raise ValueError("must be at most 100%")
        return Reserve(percent=percent)
    return Reserve(bytes=natural(value))


def option(
    default: Any,
    *,
    doc: str,
    name: str | None = None,
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """A dataclass field that is an option of a configuration file.

    name: the operator's spelling, when it is not the field's own. parse: by default the
    parser that suits the type of `default` (bool, int, float, str, tuple as CSV).
    """
    metadata = {_METADATA_KEY: (name, parse or _parser_for(default), doc)}
    return dataclasses.field(default=default, metadata=metadata)


def options_of(config: type[Any]) -> dict[str, OptionSpec]:
    """Field name → option, in the order of the fields that are options."""
    found = {}
    for field in dataclasses.fields(config):
        if _METADATA_KEY in field.metadata:
            name, parse, doc = field.metadata[_METADATA_KEY]
            found[field.name] = OptionSpec(name or field.name, parse, doc)
    return found


def bind(
    config: type[_C], values: Mapping[str, str], *, source: str, section: str
) -> _C:
    """Make a `config` from the texts of one section.

    source, section: for the message of the ConfigError that a bad value raises.
    """
    arguments = {}
    for field_name, spec in options_of(config).items():
        if spec.name not in values:
            continue
        try:
            arguments[field_name] = spec.parse(values[spec.name])
        except ValueError as error:
            reason = f"{values[spec.name]!r} {error}"
            raise ConfigError(source, section, spec.name, reason) from error
    try:
        return config(**arguments)
    except ValueError as error:
        raise ConfigError(source, section, "-", str(error)) from error


def unknown_options(
    configs: Iterable[type[Any]], values: Mapping[str, str]
) -> list[str]:
    """The names in `values` that no field of `configs` reads, sorted."""
    known = {spec.name for config in configs for spec in options_of(config).values()}
    return sorted(name for name in values if name not in known)


def _parser_for(default: Any) -> Callable[[str], Any]:
    if isinstance(default, bool):
        return boolean
    if isinstance(default, int):
        return integer
    if isinstance(default, float):
        return number
    if isinstance(default, tuple):
        return csv
    return string
