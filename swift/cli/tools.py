# SPDX-License-Identifier: Apache-2.0
"""swift-form-signature and swift-container-deleter.

Contract: cli, small tools.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from swift.core import headers as h
from swift.core.errors import SwiftError
from swift.core.expiry import QUEUE_ACCOUNT
from swift.core.expiry_queue import ASYNC_DELETE_TYPE
from swift.core.names import ContainerName
from swift.core.signing import form_message, mac
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.config import DEFAULT_SWIFT_DIR, read_conf
from swift.runtime.logs import NULL_LOG
from swift.wire.internal_client import CONF_NAME, InternalClient, load_internal_client

# --- swift-form-signature -------------------------------------------------------------

FORM_WORDS = ("path", "redirect", "max_file_size", "max_file_count", "seconds", "key")


def form_signature(argv: Sequence[str] | None = None) -> int:
    """Run swift-form-signature; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) != len(FORM_WORDS):
        usage = " ".join(f"<{word}>" for word in FORM_WORDS)
        print(f"Syntax: swift-form-signature {usage}")
        print("Example: swift-form-signature /v1/AUTH_a/c/pre_ https://example.com \\")
        print("    2147483648 10 86400 mykey")
        return 1
    path, redirect, *numbers, key = words
    fault = _form_fault(path, numbers)
    if fault is not None:
        print(fault)
        return 1
    max_file_size, max_file_count, seconds = numbers
    expires = str(int(green.now() + int(seconds)))
    message = form_message(
        os.fsencode(path),
        redirect=os.fsencode(redirect),
        max_file_size=max_file_size.encode(),
        max_file_count=max_file_count.encode(),
        expires=expires.encode(),
    )
    signature = mac("sha1", key, message).hex()
    print(f"  Expires: {expires}")
    print(f"Signature: {signature}")
    print()
    fields = {
        "redirect": redirect,
        "max_file_size": max_file_size,
        "max_file_count": max_file_count,
        "expires": expires,
        "signature": signature,
    }
    print(sample_form(path, fields, int(max_file_count)))
    return 0


def _form_fault(path: str, numbers: Sequence[str]) -> str | None:
    """What is wrong with the words, None when nothing is."""
    for name, text, least in zip(FORM_WORDS[2:5], numbers, (0, 1, 1), strict=True):
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            return f"<{name}> must be a whole number of at least {least}, not {text}."
    parts = path.split("/", 4)
    if len(parts) < 4 or parts[0] or parts[1] != "v1" or not all(parts[2:4]):
        return (
            "<path> must name a container and may begin the objects' names: "
            "/v1/account/container[/prefix]"
        )
    return None


def sample_form(path: str, fields: dict[str, str], count: int) -> str:
    """A page's form that uploads to the path; `count` places for files."""
    lines = [
        "A form to start from (put your server before the path):",
        "",
        f'<form action="{escape(path)}" method="POST" enctype="multipart/form-data">',
    ]
    lines += [
        f'  <input type="hidden" name="{name}" value="{escape(value)}" />'
        for name, value in fields.items()
        if value
    ]
    lines += [f'  <input type="file" name="file{i}" /><br />' for i in range(count)]
    lines += ['  <input type="submit" />', "</form>"]
    return "\n".join(lines)


# --- swift-container-deleter ----------------------------------------------------------

BATCH_ROWS = 10_000
PROGRESS_S = 10.0
EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e"


def container_deleter(argv: Sequence[str] | None = None) -> int:
    """Run swift-container-deleter; the exit code."""
    options = _deleter_parser().parse_args(argv)
    try:
        stamp = Timestamp.parse(options.timestamp) if options.timestamp else None
        client = _internal_client(options)
        marked = mark_for_deletion(
            client,
            ContainerName(options.account, options.container),
            stamp or Timestamp.at(green.now()),
            query={
                name: value
                for name, value in (
                    ("prefix", options.prefix),
                    ("marker", options.marker),
                    ("end_marker", options.end_marker),
                )
                if value
            },
            progress=lambda line: print(line, flush=True),
        )
    except SwiftError as error:
        print(f"swift-container-deleter: {error}", file=sys.stderr)
        return 1
    print(f"Finished. Marked {marked} objects for deletion.")
    return 0


def _deleter_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swift-container-deleter",
        description="Queue every object of a container for deletion by the object "
        "expirer. The container itself stays.",
    )
    parser.add_argument(
        "--config",
        default=os.path.join(DEFAULT_SWIFT_DIR, CONF_NAME),
        help="pipeline of the internal client (default %(default)s)",
    )
    parser.add_argument(
        "--request-tries", type=int, default=3, help="tries at a request (default 3)"
    )
    parser.add_argument("--prefix", default="", help="only names that begin so")
    parser.add_argument("--marker", default="", help="only names after this one")
    parser.add_argument("--end-marker", default="", help="only names before this one")
    parser.add_argument(
        "--timestamp", default="", help="objects newer than this stay (default now)"
    )
    parser.add_argument("account")
    parser.add_argument("container")
    return parser


def _internal_client(options: argparse.Namespace) -> InternalClient:
    """The client that the options describe. Raises ConfigError."""
    swift_dir, path = DEFAULT_SWIFT_DIR, None
    if options.config != os.path.join(DEFAULT_SWIFT_DIR, CONF_NAME) or os.path.exists(
        options.config
    ):
        path = options.config
        swift_dir = read_conf(path).defaults.get("swift_dir", DEFAULT_SWIFT_DIR)
    return load_internal_client(
        path,
        cluster=Cluster.load(swift_dir),
        log=NULL_LOG,
        user_agent="swift-container-deleter",
        tries=options.request_tries,
    )


def mark_for_deletion(
    client: InternalClient,
    container: ContainerName,
    stamp: Timestamp,
    *,
    query: dict[str, str],
    progress: Callable[[str], object],
) -> int:
    """Queue the objects of a container; how many they were. Yields.

    stamp: of the deletes. progress: told of a line now and then. Raises
    UnexpectedAnswer.
    """
    queue = ContainerName(QUEUE_ACCOUNT, str(int(stamp.seconds)))
    headers = {
        h.X_BACKEND_ALLOW_PRIVATE_METHODS: "True",
        h.X_BACKEND_STORAGE_POLICY_INDEX: "0",
        h.X_TIMESTAMP: stamp.internal,
        h.CONTENT_TYPE: "application/json",
    }
    marked, last, told_at = 0, "", green.monotonic()
    rows: list[dict[str, Any]] = []

    def send() -> None:
        nonlocal marked, told_at
        if not rows:
            return
        client.settle("UPDATE", queue, headers, body=json.dumps(rows).encode("ascii"))
        marked += len(rows)
        rows.clear()
        if green.monotonic() - told_at >= PROGRESS_S:
            told_at = green.monotonic()
            progress(f"Marked {marked} objects for deletion, through {last!r}")

    for found in client.objects(container, **query):
        last = str(found["name"])
        rows.append(
            {
                "name": f"{stamp.internal}-{container.account}"
                f"/{container.container}/{last}",
                "deleted": 0,
                "created_at": stamp.internal,
                "etag": EMPTY_MD5,
                "size": 0,
                "storage_policy_index": 0,
                "content_type": ASYNC_DELETE_TYPE,
            }
        )
        if len(rows) == BATCH_ROWS:
            send()
    send()
    return marked
