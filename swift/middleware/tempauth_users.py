# SPDX-License-Identifier: Apache-2.0
"""The options of tempauth, and the users that its section names.

Contract: middleware 29.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from swift.core.names import quote_segment
from swift.core.settings import boolean, natural, one_of, option
from swift.middleware.fernet_tokens import FernetTokens

ADMIN = ".admin"
HOST_MARK = "$HOST"

_USER_WORDS = ("user_", "user64_")


def prefixes(text: str) -> tuple[str, ...]:
    """Reseller prefixes, each ending in `_`; `''` is the empty one."""
    found = []
    for word in text.split(","):
        word = word.strip()
        if word == "''":
            word = ""
        elif word and not word.endswith("_"):
            word += "_"
        if word not in found:
            found.append(word)
    return tuple(found)


def path_prefix(text: str) -> str:
    """A path that begins and ends with a slash."""
    word = text.strip().strip("/")
    if not word:
        raise ValueError("must not be empty")
    return f"/{word}/"


@dataclass(frozen=True)
class TempauthConfig:
    """[filter:tempauth] of proxy-server.conf.

    Beside these: `user_<account>_<user> = <key> [groups…] [url]`, the same with
    `user64_` and base64 names, `<PREFIX>_require_group`, `fernet_key_<id>`.
    """

    reseller_prefixes: tuple[str, ...] = option(
        ("AUTH_",),
        name="reseller_prefix",
        parse=prefixes,
        doc="What this filter's accounts begin with; the first is for tokens.",
    )
    require_group: str = option(
        "", doc="A group that is needed beside the account's own, for every prefix."
    )
    auth_prefix: str = option(
        "/auth/", parse=path_prefix, doc="Path below which tokens are given."
    )
    token_life_s: int = option(
        86400, name="token_life", parse=natural, doc="How long a token is good."
    )
    allow_overrides: bool = option(
        True, parse=boolean, doc="Leave requests alone that are authorised already."
    )
    storage_url_scheme: str = option(
        "default",
        parse=one_of("default", "http", "https"),
        doc="Scheme of the storage URL; `default` is the request's.",
    )
    active_fernet_key_id: str = option(
        "", doc="Key under which new tokens are encrypted; unset keeps them in cache."
    )


@dataclass(frozen=True, slots=True)
class User:
    """One line of the configuration.

    groups: as written, without the URL. url: of the account, `$HOST` for the request's
    scheme and host.
    """

    account: str
    name: str
    key: str
    groups: tuple[str, ...]
    url: str

    @property
    def identity(self) -> str:
        """`account:user`, which is a group as well."""
        return f"{self.account}:{self.name}"

    def groups_text(self, reseller_prefixes: Iterable[str]) -> str:
        """The groups that a token of this user stands for, by commas.

        `.admin` stands for the accounts: one for each prefix, and that of the URL.
        """
        groups = [self.account, self.identity]
        groups += [group for group in self.groups if group != ADMIN]
        if ADMIN in self.groups:
            groups += [f"{prefix}{self.account}" for prefix in reseller_prefixes]
            own = unquote(self.url.rstrip("/").rpartition("/")[2])
            if own not in groups:
                groups.append(own)
        return ",".join(groups)


def read_users(conf: Mapping[str, str], default_prefix: str) -> dict[str, User]:
    """`account:user` → User of all such options; raises ValueError."""
    users = {}
    for option_name, value in conf.items():
        if not option_name.startswith(_USER_WORDS):
            continue
        word, _, rest = option_name.partition("_")
        account, _, name = rest.partition("_")
        if word == "user64":
            account, name = _base64_text(account), _base64_text(name)
        parts = value.split()
        if not account or not name or not parts:
            raise ValueError(f"{word}_<account>_<user> needs names and a key")
        url = f"{HOST_MARK}/v1/{quote_segment(default_prefix + account)}"
        groups = parts[1:]
        if groups and ("://" in groups[-1] or groups[-1].startswith(HOST_MARK)):
            url = groups.pop()
        user = User(account, name, parts[0], tuple(groups), url)
        users[user.identity] = user
    return users


def _base64_text(text: str) -> str:
    padded = text + "=" * (-len(text) % 4)
    try:
        return base64.b64decode(padded, validate=True).decode("utf-8")
    except ValueError as error:
        raise ValueError("user64_ needs names in base64 of UTF-8") from error


@dataclass(frozen=True, slots=True)
class Users:
    """What the configuration says beside the options: users, keys, group rules."""

    by_identity: Mapping[str, User]
    require_group: Mapping[str, str]
    fernet_keys: Mapping[str, str]

    @classmethod
    def of(cls, config: TempauthConfig, varying: Mapping[str, str]) -> Users:
        """What the options whose names vary say. Raises ValueError."""
        keys = {
            name.removeprefix("fernet_key_"): value
            for name, value in varying.items()
            if name.startswith("fernet_key_")
        }
        active = config.active_fernet_key_id
        if active and active not in keys:
            raise ValueError(f"no fernet_key_{active} for active_fernet_key_id")
        FernetTokens("", keys, active)
        by_identity = read_users(varying, config.reseller_prefixes[0])
        return cls(by_identity, _group_rules(config, varying), keys)


def split_options(
    options: Mapping[str, str],
) -> tuple[dict[str, str], dict[str, str]]:
    """The options of fixed names, and those whose names vary: users, keys, groups."""
    varying = {
        name: value
        for name, value in options.items()
        if name.startswith((*_USER_WORDS, "fernet_key_"))
        or (name.endswith("_require_group") and name != "require_group")
    }
    fixed = {name: value for name, value in options.items() if name not in varying}
    return fixed, varying


def _group_rules(config: TempauthConfig, varying: Mapping[str, str]) -> dict[str, str]:
    """Reseller prefix → group that is needed beside the account's."""
    rules = {}
    for prefix in config.reseller_prefixes:
        own = varying.get(f"{prefix.rstrip('_')}_require_group") if prefix else None
        rules[prefix] = (own or config.require_group).strip()
    return rules
