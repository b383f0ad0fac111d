# SPDX-License-Identifier: Apache-2.0
"""Rows of a container's listing as filters show them: facts taken out of one field and
shown in fields of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from swift.core.errors import FormatError
from swift.core.listing import parse_json, records_json
from swift.wire.request import Response


def change_rows(
    answer: Response, mark: bytes, change: Callable[[dict[str, Any]], object]
) -> Response:
    """The answer to a GET of a container, its rows changed in place. Yields.

    mark: what stands in the body if any row is to be changed; without it the listing is
    not even parsed. What is no JSON listing stays as it is.
    """
    if answer.status != 200 or not answer.content_type.startswith("application/json"):
        return answer
    body = answer.body
    if mark in body:
        try:
            records = parse_json(body)
        except FormatError:
            return answer
        for record in records:
            change(record)
        body = records_json(records)
    answer.body = body
    return answer
