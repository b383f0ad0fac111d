# SPDX-License-Identifier: Apache-2.0
"""`python -m test.sim.repeat --seed S --count N`: is one seed one history?

Two processes, whose hashes of text differ, run the same seeds, one of them from the
last on, so that what a process keeps from one history to the next differs too. All that
happens in the doors is compared: steps of the disks, messages, and the time of each.
The first difference of a seed is shown with what came before it. Exit code 1 when there
is any.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import deque
from itertools import zip_longest

SHOWN = 12
"""Lines of the common past of a difference."""


def main(argv=None):
    """Compare two runs of each seed, or print the events of one; the exit code."""
    options = _parser().parse_args(argv)
    seeds = range(options.seed, options.seed + options.count)
    if options.into:
        write_events(reversed(seeds) if options.backwards else seeds, options.into)
        return 0
    with tempfile.TemporaryDirectory(prefix="sim-") as folder:
        sides = [
            _start(seeds, f"{folder}/{name}", hash_seed, backwards)
            for name, hash_seed, backwards in (("one", 1, False), ("two", 2, True))
        ]
        if any(side.wait() for side in sides):
            return 2
        differing = [seed for seed in seeds if not _is_same(folder, seed)]
    print(f"{len(seeds) - len(differing)} of {len(seeds)} seeds repeat themselves")
    return 1 if differing else 0


def _parser():
    parser = argparse.ArgumentParser(prog="python -m test.sim.repeat")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=20, help="how many seeds")
    parser.add_argument("--into", help="a directory: write events, compare nothing")
    parser.add_argument("--backwards", action="store_true", help="the last seed first")
    return parser


def write_events(seeds, folder):
    """Run histories; a file with the events of each, named by its seed."""
    from test.sim.run import tell

    for seed in seeds:
        with open(f"{folder}/{seed}", "w", encoding="utf-8") as stream:
            told = tell(seed, events=lambda line: stream.write(f"{line}\n"))
            stream.write("\n".join((*told.trace, told.reason)))


def _start(seeds, folder, hash_seed, backwards):
    os.mkdir(folder)
    command = [sys.executable, "-m", "test.sim.repeat", "--into", folder]
    command += ["--seed", str(seeds.start), "--count", str(len(seeds))]
    return subprocess.Popen(
        command + ["--backwards"] * backwards,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
    )


def _is_same(folder, seed):
    """True when both sides wrote the same of a seed; the difference is printed."""
    past = deque(maxlen=SHOWN)
    with (
        open(f"{folder}/one/{seed}", encoding="utf-8") as one,
        open(f"{folder}/two/{seed}", encoding="utf-8") as two,
    ):
        for number, (ours, theirs) in enumerate(zip_longest(one, two, fillvalue=""), 1):
            if ours != theirs:
                print(f"seed {seed}: line {number} differs")
                print("".join(f"    {line}" for line in past), end="")
                print(f"one {ours}two {theirs}", flush=True)
                return False
            past.append(ours)
    return True


if __name__ == "__main__":
    sys.exit(main())
