"""What survives what: every scenario of `tests/faults/scenarios.py`, as often as is asked.

    python -m benchmarks.faults [--times 20] [--only NAME …] [--write docs/reliability.md]

Moments are drawn at random from the seed. A disturbed run *survived* where the run after it
completes and has the certificate and the embeddings, bit for bit, of a run that nothing disturbed.
``--write`` puts the table where the file has its place.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import traceback
from pathlib import Path

from tests.faults.scenarios import SCENARIOS, undisturbed

BEGIN, END = "<!-- table -->", "<!-- end of table -->"


def tried(what: str, times: int, seed: int) -> tuple[int, int]:
    """How often, and how often it survived."""
    survived = 0
    with tempfile.TemporaryDirectory(prefix="isohop-faults-") as name:
        expected, seconds = undisturbed(Path(name) / "undisturbed")
        for number in range(times):
            draw = random.Random(f"{seed} {what} {number}")  # noqa: S311
            try:
                found = SCENARIOS[what](Path(name) / f"{number:03d}", seconds, draw)
                survived += found.certificate == expected.certificate and found.embeddings.equals(
                    expected.embeddings
                )
            except AssertionError:
                traceback.print_exc()
            print(f"{what}: {survived} of {number + 1}", file=sys.stderr, flush=True)
    return times, survived


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--write", type=Path, metavar="FILE", help="a file with a place for it")
    asked = parser.parse_args()
    lines = ["| what | tried | survived |", "|---|---|---|"]
    for what in asked.only:
        times, survived = tried(what, asked.times, asked.seed)
        lines.append(f"| {what} | {times} | {survived} |")
    table = "\n".join(lines)
    print(table)
    if asked.write is not None:
        before, _, rest = asked.write.read_text("utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        asked.write.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
