"""The long form of the fault kit (tests/faults): damage, kills, full disks, hostile files, fuzzing, soak.

    python scripts/fault_check.py                       as many trials as each campaign is worth: some hours
    python scripts/fault_check.py --minutes 30          shared among the campaigns, the larger ones get more
    python scripts/fault_check.py --only kills          campaigns with "kills" in their names
    python scripts/fault_check.py --only fuzzed --minutes 30 --rounds 1000

Prints a line a campaign as it ends, what every fault was, and a table. Exit code 0 without a fault, else 5.
"""

import argparse
import secrets
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from faults import runner  # noqa: E402
from faults.campaigns import CAMPAIGNS  # noqa: E402


def main():
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--minutes", type=float, help="for all campaigns together (default: until all is done)"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="campaigns with this in their names")
    parser.add_argument("--seed", type=int, help="repeats a run (default: drawn, and printed)")
    parser.add_argument(
        "--rounds", type=float, default=1, metavar="X", help="times the usual number of trials"
    )
    args = parser.parse_args()
    chosen = {name: campaign for name, campaign in CAMPAIGNS.items() if args.only in name}
    if not chosen:
        print(f'no campaign has "{args.only}" in its name; there are {", ".join(CAMPAIGNS)}', file=sys.stderr)
        return 2
    seed = secrets.randbelow(10**6) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    begin, reports = time.monotonic(), []
    for number, (name, campaign) in enumerate(chosen.items()):
        seconds = None
        if args.minutes is not None:  # what earlier ones did not need goes to those that follow
            left = 60 * args.minutes - (time.monotonic() - begin)
            weights = [c.seconds for c in list(chosen.values())[number:]]
            seconds = max(1.0, left * weights[0] / sum(weights))
        report = runner.run(name, seed, max(1, round(campaign.long * args.rounds)), seconds)
        reports.append(report)
        print(
            f"{name}: {report.trials():,} trials in {report.seconds:.0f} s, {len(report.faults)} faults",
            flush=True,
        )
        for kind, what, text in report.faults[:10]:
            print(f"  {kind} | {what[:2000]}\n    " + text.replace("\n", "\n    "), flush=True)
    print("\n".join(["", *runner.table(reports)]))
    return 5 if any(report.faults for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
