# SPDX-License-Identifier: Apache-2.0
"""What the quota filters share: when a PUT is too much, and who may be told so.

Contract: middleware 1, 6.
"""

from __future__ import annotations

from dataclasses import dataclass

from swift.core.errors import InvalidInput
from swift.core.names import ContainerName, text_of_wsgi
from swift.wire import environ as env
from swift.wire.environ import Environ
from swift.wire.request import Request, Response

NUMBER_DIGITS_MAX = 30


@dataclass(frozen=True, slots=True)
class Use:
    """What there is already."""

    size_bytes: int
    count: int


def quota(text: str | None) -> int | None:
    """A quota as it is stored; None for none, also when it is no number."""
    if not text or not is_number(text):
        return None
    return int(text)


def is_number(text: str) -> bool:
    """True for digits, and not absurdly many."""
    return text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS_MAX


def object_container(environ: Environ) -> ContainerName | None:
    """The container of the object that a path names; None when it names no object."""
    parts = environ[env.PATH_INFO].split("/", 4)
    if len(parts) < 5 or not all(parts[1:]):
        return None
    try:
        return ContainerName(text_of_wsgi(parts[2]), text_of_wsgi(parts[3]))
    except InvalidInput:
        return None


def added_bytes(environ: Environ) -> int:
    """The declared length of the body; 0 when it is not declared."""
    length = environ.get(env.CONTENT_LENGTH) or "0"
    return int(length) if is_number(length) else 0


def refuse_if_authorised(environ: Environ, text: str, acl: str | None) -> Response:
    """413, or the denial of the auth filter: strangers do not hear of quotas.

    acl: the container's write list. Yields.
    """
    authorize = environ.get(env.AUTHORIZE)
    if authorize is not None:
        request = Request(environ)
        request.acl = acl
        denial: Response | None = authorize(request)
        if denial is not None:
            return denial
    return Response.text(413, text)
