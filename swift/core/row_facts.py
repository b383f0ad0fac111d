# SPDX-License-Identifier: Apache-2.0
"""What the container's row shall say of an object that was written.

The object server tells the container's databases; when it died before it could, the
proxy does. Both say the same: the size, type and etag of the body, unless headers or
footers of the PUT put something in their place. Contract: backend-http 2.1 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence

from swift.core.headers import (
    BACKEND_UPDATE_OVERRIDE,
    SYSMETA_UPDATE_OVERRIDE,
    X_CONTENT_TYPE,
    X_ETAG,
    X_SIZE,
    X_TIMESTAMP,
    Headers,
)
from swift.core.timestamp import Timestamp


def put_facts(
    *,
    size: int | str,
    content_type: str,
    timestamp: Timestamp,
    etag: str,
    overrides: Sequence[Headers] = (),
) -> Headers:
    """The headers of a row's update after a PUT.

    overrides: the headers of the request, then its footers; each may hold overrides, of
    which the stronger family wins, and in a family the later source.
    """
    facts = Headers.titled(
        [
            (X_SIZE, str(size)),
            (X_CONTENT_TYPE, content_type),
            (X_TIMESTAMP, timestamp.internal),
            (X_ETAG, etag),
        ]
    )
    found = [
        pair
        for source in overrides
        for pair in source.items()
        if pair[0].startswith(_OVERRIDES)
    ]
    for prefix in _OVERRIDES:
        for name, value in found:
            if name.startswith(prefix):
                facts["X-" + name[len(prefix) :]] = value
    return facts


_OVERRIDES = (BACKEND_UPDATE_OVERRIDE, SYSMETA_UPDATE_OVERRIDE)
"""The families of overrides, the stronger one last."""
