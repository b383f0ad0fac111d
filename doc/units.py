# SPDX-License-Identifier: Apache-2.0
"""Writes etc/systemd: a unit for every server and daemon. Part of `make samples`.

test/unit/test_units.py compares the files with what this program would write.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from swift.cli.daemons import PROGRAMS  # noqa: E402

UNITS = ROOT / "etc" / "systemd"
SERVERS = ("proxy", "account", "container", "object")
OWN_FILE = ("container-reconciler", "object-expirer")
"""Daemons that read a .conf file of their own, not that of their server."""

UNIT = """\
[Unit]
Description=swift {title}
Wants=network-online.target
After=network-online.target time-sync.target

[Service]
Type=notify
User=swift
CacheDirectory=swift
ExecStart=/usr/bin/swift-{name} /etc/swift/{conf}.conf
{reload}KillMode=mixed
Restart=on-failure
LimitNOFILE=65536
NoNewPrivileges=true
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""

SEAMLESS = """\
# A new master checks the configuration and serves before the old workers end.
ExecReload=/bin/kill -USR1 $MAINPID
"""


def units() -> dict[str, str]:
    """File name → text."""
    found = {}
    for kind in SERVERS:
        name = f"{kind}-server"
        found[f"swift-{kind}.service"] = UNIT.format(
            title=f"{kind} server", name=name, conf=name, reload=SEAMLESS
        )
    for name in PROGRAMS:
        conf = name if name in OWN_FILE else f"{name.partition('-')[0]}-server"
        found[f"swift-{name}.service"] = UNIT.format(
            title=name.replace("-", " "), name=name, conf=conf, reload=""
        )
    return found


if __name__ == "__main__":
    UNITS.mkdir(parents=True, exist_ok=True)
    for file_name, text in units().items():
        (UNITS / file_name).write_text(text)
        print(f"etc/systemd/{file_name}")
