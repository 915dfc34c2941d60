"""What survives what: every scenario of `tests/faults/scenarios.py`, as often as is asked.

    python -m benchmarks.faults [--times 20] [--only NAME …] [--write docs/reliability.md]

Moments are drawn at random from the seed. A disturbed run *survived* where the run after it
completes and has the certificate and the embeddings, bit for bit, of a run that nothing disturbed.
``--write`` puts each row, once it is there, into the table of a file.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import traceback
from pathlib import Path

from tests.faults.scenarios import SCENARIOS, undisturbed

from isohop.errors import IsohopError

HEAD = ["| what | tried | survived |", "|---|---|---|"]
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


def tried(what: str, times: int, seed: int) -> tuple[int, int]:
    """How often, and how often it survived."""
    survived = 0
    with tempfile.TemporaryDirectory(prefix="isohop-faults-") as name:
        usual = undisturbed(Path(name) / "undisturbed")
        for number in range(times):
            draw = random.Random(f"{seed} {what} {number}")  # noqa: S311
            try:
                found = SCENARIOS[what](Path(name) / f"{number:03d}", usual, draw)
                same = found.certificate == usual.result.certificate
                survived += same and found.embeddings.equals(usual.result.embeddings)
            except (AssertionError, IsohopError):
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
    for what in asked.only:
        row = "| {} | {} | {} |".format(what, *tried(what, asked.times, asked.seed))
        print(row, flush=True)
        if asked.write is not None:
            text = asked.write.read_text("utf-8")
            asked.write.write_text(with_row(text, what, row), "utf-8")


def with_row(text: str, what: str, row: str) -> str:
    """The text of a file with that row in its table, in place of one that says the same."""
    before, _, rest = text.partition(BEGIN)
    table, _, after = rest.partition(END)
    rows = [line for line in table.splitlines() if line.startswith("|")] or [*HEAD]
    at = [line.split("|")[1].strip() for line in rows]
    if what in at:
        rows[at.index(what)] = row
    else:
        rows.append(row)
    return "\n".join([before + BEGIN, *rows, END]) + after


if __name__ == "__main__":
    main()
