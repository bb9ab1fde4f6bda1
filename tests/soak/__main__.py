"""``python -m tests.soak``: a long run under load and faults, on servers of its own.

Prints a line every ten seconds, and the report as JSON at the end. Ends with 1 if the account does
not balance or something else is wrong; then the logs and the history stay where the report says.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from tests.soak.soak import Plan, soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--duration-s", type=float, default=600)
    parser.add_argument("--rate", type=int, default=1_000, help="events a second")
    parser.add_argument("--fault-every-s", type=float, default=5)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--keep", action="store_true", help="keep logs and data of a good run too")
    given = parser.parse_args()
    plan = Plan(given.duration_s, given.rate, given.fault_every_s, given.seed)
    directory = Path(tempfile.mkdtemp(prefix="capsules-soak-"))
    good = False
    try:
        report = soak(plan, directory, lambda line: print(line, flush=True))
        good = not report.complaints
        print(json.dumps(report.as_dict(), indent=2))
    finally:
        if good and not given.keep:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            print(f"seed {plan.seed}: logs and history are in {directory}", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
