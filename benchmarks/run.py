"""Speed, memory and accuracy against the other ways to run the same layer on this machine.

    python benchmarks/run.py [--quick] [--only NAME ...] [--threads 1 2] [--passes 9] [--out FOLDER]

Everything timed first passes a gate: outputs and all gradients within 2e-4 (relative L2) of float64.
Contenders take turns in one process; figures are medians over the passes. Writes results.json, table.md
and a plot for each benchmark into FOLDER, benchmarks/results if none is given.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

import torch
from measure import check_gate
from report import markdown, plots

from tasks import TASKS, Row, Settings


def machine() -> dict[str, object]:
    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "processor": model, "cores": os.cpu_count(), "torch": torch.__version__,
        "python": platform.python_version(), "system": platform.platform(),
        "load before": os.getloadavg()[0], "date": time.strftime("%Y-%m-%d"),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "not set"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small shapes and few passes: about two minutes")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), metavar="NAME")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--passes", type=int, help="default 9, quick 3")
    parser.add_argument(
        "--patience", type=int, help="seconds for one peer to be ready; default 180, quick 40"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    settings = Settings(
        tuple(args.threads),
        args.passes or (3 if args.quick else 9),
        args.patience or (40 if args.quick else 180),
        args.quick,
    )
    check_gate()
    rows: list[Row] = []
    about = machine()
    for name in args.only:
        start = time.time()
        for row in TASKS[name](settings):
            rows.append({"benchmark": name, **row})
            print(
                json.dumps({k: v for k, v in rows[-1].items() if k not in ("ms_passes", "errors")}),
                flush=True,
            )
        print(f"# {name}: {time.time() - start:.0f} s", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    for file, text in (
        ("results.json", json.dumps({"machine": about, "rows": rows}, indent=1)),
        ("table.md", markdown(about, rows)),
    ):
        fresh = args.out / (file + ".new")
        fresh.write_text(text)
        fresh.replace(args.out / file)
    plots(rows, args.out)
    print(f"# written to {args.out}")


if __name__ == "__main__":
    main()
