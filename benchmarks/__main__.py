"""Every benchmark, one process each, one after the other: `python -m benchmarks [NAME ...]`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Shared code, and the record of what was tried, which is run by hand.
_NOT_SUITES = {"__init__", "__main__", "measure", "plain", "superposition_variants"}
LOGS = Path("results/bench")


def suites() -> list[str]:
    """Names of the benchmarks, that is of the package's modules that write results/bench/NAME.json."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _NOT_SUITES)


def main(arguments: list[str]) -> int:
    """Run the named benchmarks, or all; the exit status is 1 if one of them failed and 2 for an unknown name."""
    known = suites()
    unknown = [name for name in arguments if name not in known]
    if unknown:
        print(f"benchmarks: {', '.join(unknown)} is not valid; there are {', '.join(known)}", file=sys.stderr)
        return 2
    LOGS.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in arguments or known:
        print(f"\n== {name}", flush=True)
        # What the libraries log while they are measured is for whoever looks for a fault.
        log = LOGS / f"{name}.log"
        with log.open("wb") as errors:
            done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], stderr=errors, check=False)
        if done.returncode:
            failed.append(name)
            print(*log.read_text(errors="replace").splitlines()[-10:], sep="\n", file=sys.stderr)
            print(f"{name} ended with status {done.returncode}; see {log}", file=sys.stderr)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
