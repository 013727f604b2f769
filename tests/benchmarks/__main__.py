"""python -m tests.benchmarks [NAME ...] runs the benchmarks, without a NAME all of
them, each in a process of its own; results go to data/results/cost/NAME.json."""

from __future__ import annotations

import subprocess
import sys
import time

NAMES = (
    "parts",
    "bank",
    "history",
    "sampling",
    "dedup",
    "overhead",
    "memory",
    "operations",
    "ranks",
    "peers",
    "gpu",
)


def main(names: list[str]) -> int:
    """Run them one after the other; go on where one fails, and say so at the end."""
    failed = []
    for name in names or NAMES:
        began = time.time()
        if subprocess.run(
            [sys.executable, "-m", f"tests.benchmarks.{name}"]
        ).returncode:
            failed.append(name)
        print(f"-- {name}: {time.time() - began:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
