# SPDX-License-Identifier: Apache-2.0
"""What may be sent with an account, a container or an object: sizes, names, times.

The proxy asks here before it troubles a backend; the order of the checks of one request
is the proxy's. Each function gives None, or the `Refusal` that the client gets. Values
are WSGI strings, so that their length is their bytes. Contract: api 4, 5, 8 and 10.
"""

from __future__ import annotations

from dataclasses import dataclass

from swift.core.headers import (
    CONTENT_LENGTH,
    CONTENT_TYPE,
    IF_NONE_MATCH,
    META,
    REMOVE,
    SLO_SIZE,
    TRANSFER_ENCODING,
    X_BACKEND_ALLOW_OWN_PARAMETERS,
    X_DELETE_AFTER,
    X_DELETE_AT,
    Headers,
)
from swift.core.names import BadEncoding, Limits, text_of_wsgi
from swift.core.timestamp import normal_delete_at

_OWN_PARAMETER = "swift_"
"""Content-Type parameters that begin so are the cluster's own."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request goes no further: a status and the text of its body."""

    status: int
    text: str


def check_metadata(headers: Headers, resource: str, limits: Limits) -> Refusal | None:
    """Hold user metadata to the limits; resource: account, container or object."""
    prefix = META[resource]
    skip = len(prefix)
    longest = limits.max_header_size
    count = size = 0
    for name, value in headers.items():
        if len(value) > longest:
            return Refusal(400, f"Header value too long: {name[:128]}")
        if not name.startswith(prefix):
            continue
        key = name[skip:]
        if not key:
            return Refusal(400, "Metadata name cannot be empty")
        if resource != "object" and not (_is_text(key) and _is_text(value)):
            return Refusal(400, "Metadata must be valid UTF-8")
        count += 1
        size += len(key) + len(value)
        if len(key) > limits.max_meta_name_length:
            return Refusal(
                400,
                f"Metadata name too long: {name[:128]}; max "
                f"{limits.max_meta_name_length}",
            )
        if len(value) > limits.max_meta_value_length:
            return Refusal(
                400,
                f"Metadata value longer than {limits.max_meta_value_length}: "
                f"{name[:128]}",
            )
    if count > limits.max_meta_count:
        return Refusal(400, f"Too many metadata items; max {limits.max_meta_count}")
    if size > limits.max_meta_overall_size:
        return Refusal(
            400, f"Total metadata too large; max {limits.max_meta_overall_size}"
        )
    return None


def _is_text(value: str) -> bool:
    if value.isascii():
        return "\x00" not in value
    try:
        return "\x00" not in text_of_wsgi(value)
    except BadEncoding:
        return False


def removals(headers: Headers, resource: str) -> dict[str, str]:
    """What `X-Remove-…` headers ask for, as the headers they empty.

    `X-Remove-Container-Meta-Foo: x` → {`X-Container-Meta-Foo`: ``}; also the access
    lists and the other settings of the resource.
    """
    prefix = f"{REMOVE}{resource.capitalize()}-"
    return {
        f"X-{name[len(REMOVE) :]}": ""
        for name in headers
        if name.startswith(prefix) or name.startswith(_REMOVE_VERSIONS)
    }


_REMOVE_VERSIONS = f"{REMOVE}Versions-Location"


def check_if_none_match(headers: Headers) -> Refusal | None:
    """A PUT takes no other value than `*`."""
    value = headers.get(IF_NONE_MATCH)
    if value is None or value.strip() == "*":
        return None
    return Refusal(400, "If-None-Match only supports *")


def check_framing(headers: Headers, limits: Limits) -> Refusal | int | None:
    """The length of a PUT's body, None when it is chunked, or a Refusal."""
    coding = headers.get(TRANSFER_ENCODING)
    text = headers.get(CONTENT_LENGTH)
    if coding:
        codings = [item.strip().lower() for item in coding.split(",")]
        if len(codings) > 1:
            return Refusal(501, "Transfer-Encoding of more than one coding")
        if codings != ["chunked"]:
            return Refusal(400, "Invalid Transfer-Encoding header value")
        return None
    if text is None or text == "":
        return Refusal(411, "Missing Content-Length header.")
    if not (text.isascii() and text.isdigit()):
        return Refusal(400, "Invalid Content-Length header value")
    length = int(text)
    if length > limits.max_file_size:
        return Refusal(413, "Your request is too large.")
    return length


def settle_delete_at(headers: Headers, now: float) -> Refusal | None:
    """Turn X-Delete-After into X-Delete-At and give that its ten digits, in place."""
    if X_DELETE_AFTER in headers:
        after = _whole(headers[X_DELETE_AFTER])
        if after is None:
            return Refusal(400, f"Non-integer {X_DELETE_AFTER}")
        if after <= 0:
            return Refusal(400, f"{X_DELETE_AFTER} in past")
        headers[X_DELETE_AT] = normal_delete_at(now + after)
    if X_DELETE_AT in headers:
        at = _whole(headers[X_DELETE_AT])
        if at is None:
            return Refusal(400, f"Non-integer {X_DELETE_AT}")
        if at <= now:
            return Refusal(400, f"{X_DELETE_AT} in past")
        headers[X_DELETE_AT] = normal_delete_at(at)
    return None


def _whole(text: str) -> int | None:
    # Python takes underscores between digits; the wire does not. Twenty digits are more
    # than any time has, and the clamp that follows makes them ten.
    value = text.strip()
    digits = value[1:] if value[:1] in ("-", "+") else value
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 20:
        return None
    return int(value)


def check_content_type(headers: Headers) -> Refusal | None:
    """A Content-Type is UTF-8."""
    value = headers.get(CONTENT_TYPE, "")
    if value.isascii():
        return None
    try:
        text_of_wsgi(value)
    except BadEncoding:
        return Refusal(400, "Please specify a valid UTF-8 Content-Type")
    return None


def check_own_parameters(headers: Headers) -> Refusal | None:
    """No parameter of a Content-Type may look like one that the cluster adds."""
    value = headers.get(CONTENT_TYPE, "")
    # Filters that add such a parameter send what no client can along with it.
    if _OWN_PARAMETER not in value or (
        SLO_SIZE in headers or X_BACKEND_ALLOW_OWN_PARAMETERS in headers
    ):
        return None
    for parameter in value.split(";")[1:]:
        if parameter.strip().startswith(_OWN_PARAMETER):
            return Refusal(
                400, f"Invalid Content-Type, {_OWN_PARAMETER}* is not a valid parameter"
            )
    return None


def without_swift_bytes(content_type: str) -> str:
    """A stored content type without the `swift_bytes` that large objects keep in it."""
    if "swift_bytes" not in content_type:
        return content_type
    kept = [
        part
        for part in content_type.split(";")
        if not part.strip().lower().startswith("swift_bytes=")
    ]
    return ";".join(kept)


def check_name_lengths(
    limits: Limits, *, account: str, container: str = "", obj: str = ""
) -> Refusal | None:
    """Hold the length of the last part that is given to its limit, in characters."""
    if obj:
        length, limit, what = len(obj), limits.max_object_name_length, "Object"
    elif container:
        length = len(container)
        limit, what = limits.container_name_length(account), "Container"
    else:
        length = len(account)
        limit, what = limits.account_name_length(account), "Account"
    if length <= limit:
        return None
    return Refusal(400, f"{what} name length of {length} longer than {limit}")
