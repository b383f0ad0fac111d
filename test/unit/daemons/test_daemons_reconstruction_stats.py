# SPDX-License-Identifier: Apache-2.0
"""What reconstructors tell recon, summed up over devices."""

from __future__ import annotations

import pytest

from swift.daemons import reconstruction_stats as stats


def test_all_devices_took_from_the_first_beginning_to_the_last_end():
    found = {
        "d1": {stats.TIME: 2.0, stats.LAST: 1000.0, "pid": 1},
        "d2": {stats.TIME: 1.0, stats.LAST: 1060.0, "pid": 2},
        "gone": {stats.TIME: 9.0, stats.LAST: 9000.0, "pid": 3},
    }
    assert stats.aggregated(found, ["d1", "d2"]) == {
        stats.PER_DISK: {"gone": {}},
        stats.TIME: 3.0,
        stats.LAST: 1060.0,
    }


@pytest.mark.parametrize("found", [None, [], {}, {"d1": {stats.TIME: "x"}}, {"d1": 3}])
def test_what_is_not_complete_is_not_summed_up(found):
    assert stats.aggregated(found, ["d1", "d2"]) == {}
