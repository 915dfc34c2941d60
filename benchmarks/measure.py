"""What every benchmark shares: its arguments, a table on the screen, figures in a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"


def parser_of(
    description: str, quick: str = "less of the same, within ten minutes"
) -> argparse.ArgumentParser:
    """``--quick`` and ``--json FILE``, to which a benchmark adds its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser


Part = Callable[[Path], Mapping[str, float]]
"""A part of a benchmark that needs a process of its own: figures, from what lies in a folder."""


def sizes_asked(
    description: str,
    what: str,
    sizes: Sequence[int],
    quick: Sequence[int],
    parts: Mapping[str, Part],
) -> tuple[list[int], Path | None]:
    """The sizes to measure, and the file for the figures. Called by `run_part`, it runs that part
    and ends instead."""
    parser = parser_of(description, ", ".join(map(str, quick)))
    parser.add_argument(f"--{what}", type=int, nargs="+", default=list(sizes), dest="sizes")
    parser.add_argument("--part", choices=parts, help="one alone, into --json: what this runs")
    parser.add_argument("--folder", type=Path, help="of --part")
    asked = parser.parse_args()
    if asked.part is not None:
        asked.json.write_text(json.dumps(dict(parts[asked.part](asked.folder))), "utf-8")
        sys.exit()
    return list(quick if asked.quick else asked.sizes), asked.json


def run_part(module: str, part: str, folder: Path) -> tuple[dict[str, float], Cost]:
    """The figures of a part in a process of its own, and what it cost."""
    result = folder / "figures.json"
    command = [sys.executable, "-m", module, "--part", part]
    cost = cost_of([*command, "--folder", str(folder), "--json", str(result)], told=True)
    return json.loads(result.read_text("utf-8")), cost


_others: Any = None


def _meet(others: Any) -> None:
    global _others  # a process of a pool has no other place
    _others = others


def all_at_once() -> None:
    """In a process of `side_by_side`: wait for the others."""
    _others.wait()


def side_by_side(measure: Part, folder: Path) -> dict[str, float]:
    """The means of what as many processes find as there are cores. ``measure`` calls `all_at_once`
    before it looks at the clock: cores that share caches, memory and heat are slower together."""
    cores, context = len(os.sched_getaffinity(0)), get_context("spawn")
    others = context.Barrier(cores)
    with ProcessPoolExecutor(cores, context, _meet, (others,)) as processes:
        found = list(processes.map(measure, [folder] * cores))
    return {name: sum(one[name] for one in found) / cores for name in found[0]}


def over_seeds(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean of each figure, and its deviation where there are several."""
    figures = {}
    for name, values in found.items():
        figures[name] = float(np.mean(values))
        if len(values) > 1:
            figures[f"{name} deviation"] = float(np.std(values, ddof=1))
    return figures


def show(title: str, figures: Mapping[str, float], file: Path | None) -> None:
    """Print figures named ``dataset/setting/model/metric``, some of a group of nodes,
    ``dataset/setting/group/model/metric``; and write them where asked."""
    table = Table(title=title, title_justify="left")
    for column in ("dataset", "setting", "group", "model", "metric", "value"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for name, value in figures.items():
        *about, model, metric = name.split("/")
        dataset, setting = (*about, "", "")[:2]
        table.add_row(dataset, setting, "/".join(about[2:]), model, metric, f"{value:,.4g}")
    Console().print(table)
    if file is not None:
        file.write_text(json.dumps(dict(figures), indent=1) + "\n", "utf-8")


@dataclass(frozen=True)
class Cost:
    """Wall-clock seconds and the peak resident memory, in bytes, of a command and all its
    descendants together (sampled twice a second; proportional set size where the system tells
    it, so that shared pages count once)."""

    seconds: float
    memory: int


def cost_of(command: Sequence[str], told: bool = False) -> Cost:
    """Run a command to its end; ``told``: its output is printed as it comes. Raises `SystemExit`
    with that output when it fails."""
    peak = 0
    clock = time.monotonic()
    # What is run is this project's own command line.
    process = subprocess.Popen(  # noqa: S603
        list(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
        cwd=ROOT,
    )
    lines: list[str] = []

    def read() -> None:
        for line in process.stdout or ():
            lines.append(line)
            if told:
                print(line, end="", flush=True)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while process.poll() is None:
        peak = max(peak, _memory(process.pid))
        time.sleep(0.5)
    seconds = time.monotonic() - clock
    reader.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{''.join(lines)}")
    return Cost(seconds, peak)


def _memory(pid: int) -> int:
    try:
        parent = psutil.Process(pid)
        processes = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in processes:
        try:
            memory = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        total += getattr(memory, "pss", memory.rss)
    return total
