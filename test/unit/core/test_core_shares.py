# SPDX-License-Identifier: Apache-2.0
"""A queue is shared without talking, and every item has one owner."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.errors import ConfigError
from swift.core.settings import bind
from swift.core.shares import Share, ShareOptions


@given(st.integers(1, 9), st.binary(min_size=1, max_size=16))
def test_an_item_belongs_to_one_of_all_processes(processes, digest):
    owners = [n for n in range(processes) if Share(processes, n).holds(digest)]
    assert owners == [int.from_bytes(digest, "big") % processes]


def test_who_shares_with_nobody_takes_all():
    assert Share().holds(b"any")
    assert Share(1).holds(b"any")


@pytest.mark.parametrize(
    ("processes", "process"), [(2, 2), (0, 1), (-1, 0), (3, -1), (1, 1)]
)
def test_a_share_that_there_is_not_is_refused(processes, process):
    with pytest.raises(ValueError, match="process must be less than processes"):
        Share(processes, process)
    values = {"processes": str(processes), "process": str(process)}
    with pytest.raises(ConfigError):
        bind(ShareOptions, values, source="-", section="-")


def test_the_options_name_a_share():
    assert ShareOptions(processes=3, process=2).share == Share(3, 2)
