# SPDX-License-Identifier: Apache-2.0
"""`python -m test.sim.run --seed S --count N`: run the histories of N seeds from S on.

Exit code 1 when one fails. A seed fails the same way each time: nothing depends on real
time, on hashes or on addresses (`test.sim.repeat` checks that). What a history is made
of tells doc/source/architecture/simulation.md.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import multiprocessing
import os
import sys
import time
import traceback
from dataclasses import dataclass
from functools import partial

BROKEN = ("fsync", "tombstones", "pending", "rows")
COLLECT_EVERY = 4
"""Histories between two collections of garbage: 10 MB each."""

_TELL_EVERY = 20


@dataclass(frozen=True)
class Told:
    """What one history came to. reason: why it failed, empty when it did not."""

    seed: int
    steps: int
    trace: tuple = ()
    log: tuple = ()
    reason: str = ""


def main(argv=None):
    """Run the histories; the exit code."""
    options = _parser().parse_args(argv)
    seeds = range(options.seed, options.seed + options.count)
    jobs = min(options.jobs or os.cpu_count() or 1, options.count)
    began = time.monotonic()
    passed = failed = 0
    run = partial(tell, broken=options.broken, logs=options.log)
    for told in _all(run, seeds, jobs):
        _show(told, options)
        passed += not told.reason
        failed += bool(told.reason)
        if told.reason and jobs == 1 and not options.keep_going:
            break
        if (passed + failed) % _TELL_EVERY == 0:
            elapsed = time.monotonic() - began
            print(f"{passed + failed} seeds in {elapsed:.1f}s", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def _all(run, seeds, jobs):
    """What `run` gives for each seed; in any order when processes share them."""
    if jobs == 1:
        yield from map(run, seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(run, seeds)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m test.sim.run")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=200, help="how many seeds")
    parser.add_argument(
        "--break",
        dest="broken",
        action="append",
        default=[],
        choices=BROKEN,
        help="break a rule of the disk, to see that it is noticed",
    )
    parser.add_argument("--digest", action="store_true", help="print one for each seed")
    parser.add_argument("--verbose", action="store_true", help="print every history")
    parser.add_argument("--log", action="store_true", help="print what servers logged")
    parser.add_argument("--keep-going", action="store_true", help="after a failure")
    parser.add_argument(
        "--shrink", action="store_true", help="leave out steps while it still fails"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes; 0: one a CPU")
    return parser


def tell(seed, broken=(), skipped=frozenset(), *, logs=False, events=None):
    """Run one history; what it came to.

    skipped: numbers of steps to leave out. events: as for a History.
    """
    # Here, so that each process that shares the seeds has a scheduler of its own.
    from test.sim.history import Failed, History

    # What is collected closes what it holds, and looks at the clock: not in a history.
    gc.disable()
    if seed % COLLECT_EVERY == 0:
        gc.collect()
        gc.freeze()
    history = History(seed, broken, skipped, logs=logs, events=events)
    reason = ""
    try:
        history.run()
    except Failed as error:
        reason = "\n".join((error.when, *error.problems))
    except Exception:
        reason = traceback.format_exc()
    log = tuple(line for _, line in history.world.sink.lines) if logs else ()
    return Told(seed, history.steps, tuple(history.trace), log, reason)


def _show(told, options):
    if told.reason and options.shrink:
        told = shrunk(told, options.broken, logs=options.log)
    if options.digest:
        digest = hashlib.md5("\n".join(told.trace).encode()).hexdigest()
        print(f"seed {told.seed}: {digest}")
    if options.verbose or told.reason:
        print("\n".join(told.trace))
    if options.log:
        print("\n".join(told.log))
    if told.reason:
        print(f"seed {told.seed} FAILED {told.reason}")
        print(f"again: make sim SEED={told.seed} COUNT=1", flush=True)


def shrunk(told, broken, *, logs=False):
    """The same failure, or another, without the steps that it does not need."""
    skipped = frozenset()
    size = told.steps // 2
    while size:
        for start in range(1, told.steps + 1, size):
            fewer = skipped | set(range(start, min(start + size, told.steps + 1)))
            again = (
                tell(told.seed, broken, fewer, logs=logs) if fewer > skipped else None
            )
            if again is not None and again.reason:
                told, skipped = again, fewer
        size //= 2
    return told


if __name__ == "__main__":
    sys.exit(main())
