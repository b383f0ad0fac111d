# SPDX-License-Identifier: Apache-2.0
"""`python -m test.sim.run --seed S --count N`: run the histories of N seeds from S on.

Exit code 1 when one fails. A seed fails the same way each time: the hash seed of the
interpreter is fixed, and nothing depends on real time.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import subprocess
import sys
import time
import traceback

BROKEN = ("fsync", "tombstones", "pending", "rows")


def main(argv=None):
    """Run the histories; the exit code."""
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
    parser.add_argument("--jobs", type=int, default=1, help="processes; 0: one a CPU")
    options = parser.parse_args(argv)
    jobs = min(options.jobs or os.cpu_count() or 1, options.count)
    if jobs > 1:
        return _shared(options, jobs, sys.argv[1:] if argv is None else argv)
    from test.sim.history import Failed, History

    # Most objects of a history live until its end.
    gc.set_threshold(100_000)
    began = time.monotonic()
    passed = failed = 0
    for seed in range(options.seed, options.seed + options.count):
        history = History(seed, options.broken, logs=options.log)
        reason = None
        try:
            history.run()
        except Failed as error:
            reason = "\n".join((error.when, *error.problems))
        except Exception:
            reason = traceback.format_exc()
        if options.digest:
            digest = hashlib.md5("\n".join(history.trace).encode()).hexdigest()
            print(f"seed {seed}: {digest}")
        if options.verbose or reason is not None:
            print("\n".join(history.trace))
        if options.log:
            print("\n".join(line for _, line in history.world.sink.lines))
        if reason is not None:
            failed += 1
            print(f"seed {seed} FAILED {reason}")
            print(f"again: make sim SEED={seed} COUNT=1", flush=True)
            if not options.keep_going:
                break
        else:
            passed += 1
        if (passed + failed) % 20 == 0:
            print(
                f"{passed + failed} seeds in {time.monotonic() - began:.1f}s",
                flush=True,
            )
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def _shared(options, jobs, argv):
    """Share the seeds between processes; the exit code."""
    running = []
    for number in range(jobs):
        seeds = range(options.seed, options.seed + options.count)[number::jobs]
        first = options.seed + sum(
            len(range(options.count)[earlier::jobs]) for earlier in range(number)
        )
        command = [sys.executable, "-m", "test.sim.run", *argv, "--jobs", "1"]
        command += ["--seed", str(first), "--count", str(len(seeds))]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    passed = failed = 0
    for process in running:
        output = process.communicate()[0]
        lines = output.splitlines()
        words = lines[-1].split() if lines else []
        if len(words) == 4 and words[1] == "passed,":
            passed += int(words[0])
            failed += int(words[2])
            lines = lines[:-1]
        else:
            failed += 1
        if process.returncode:
            print("\n".join(lines))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "test.sim.run", *sys.argv[1:]])
    sys.exit(main())
