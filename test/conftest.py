# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests.

Properties have no time limit, for the machines that run them are shared and slow at
times. In CI their examples are the same in every run; elsewhere they are drawn anew,
and a failure prints how to see it again.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "shared",
    deadline=None,
    print_blob=True,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared")
