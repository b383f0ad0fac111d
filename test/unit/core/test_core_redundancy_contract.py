# SPDX-License-Identifier: Apache-2.0
"""Both schemes keep the contract of a redundancy."""

from __future__ import annotations

from test.unit.core.redundancy_contract import RedundancyContract


class TestEveryScheme(RedundancyContract):
    """See the contract."""
