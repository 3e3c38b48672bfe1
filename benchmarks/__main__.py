"""``python -m benchmarks``: compare skart with other libraries on the same work."""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import sys
from fnmatch import fnmatchcase
from itertools import chain

from threadpoolctl import threadpool_limits

from benchmarks import (
    across_models,
    black_box,
    families,
    gaussian_process,
    minimum_norm,
    nets,
    score_based,
    sklearn_pipelines,
    step_by_step,
    trees,
    universal,
    white_box,
    wrappers,
)
from benchmarks._harness import CLOCKS, compare, report

MODULES = (
    across_models,
    white_box,
    minimum_norm,
    sklearn_pipelines,
    families,
    gaussian_process,
    nets,
    score_based,
    universal,
    step_by_step,
    trees,
    black_box,
    wrappers,
)
VERSIONS = ("numpy", "scikit-learn", "torch", "skorch", "adversarial-robustness-toolbox")


def main(arguments=None):
    rows = {row.name: row for row in chain.from_iterable(module.rows() for module in MODULES)}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", help="names or patterns (pgd-*) of rows; all of them by default")
    parser.add_argument("--list", action="store_true", help="list the rows and their contenders")
    parser.add_argument("--quick", action="store_true", help="64 samples and two repetitions: to see that it runs")
    parser.add_argument("--repeat", type=int, default=7, help="repetitions (%(default)s)")
    parser.add_argument("--samples", type=int, default=256, help="samples that are attacked (%(default)s)")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="contenders; all of them by default")
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: time of this process alone, for a busy machine"
    )
    parser.add_argument("--check", action="store_true", help="fail where skart costs more than its bound")
    options = parser.parse_args(arguments)
    patterns = options.rows or ["*"]
    chosen = [row for name, row in rows.items() if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        parser.error(f"no row is called {' or '.join(patterns)}; there are {', '.join(rows)}")
    known = sorted({name for row in chosen for name in row.contenders})
    unknown = sorted(set(options.contenders or ()).difference(known))
    if unknown:
        parser.error(f"no contender is called {' or '.join(unknown)}; there are {', '.join(known)}")
    if options.list:
        for row in chosen:
            print(f"{row.name:20} {', '.join(row.contenders)}")
        return 0
    n_samples, repeat = (64, 2) if options.quick else (options.samples, options.repeat)
    print(_environment(), flush=True)
    kept = True
    with threadpool_limits(1):
        if "torch" in sys.modules or importlib.util.find_spec("torch"):
            import torch

            torch.set_num_threads(1)
        for row in chosen:
            result = compare(row, n_samples=n_samples, repeat=repeat, only=options.contenders, clock=options.clock)
            print("", *report(result), sep="\n", flush=True)
            kept = kept and result.within_bound is not False
    return 0 if kept or not options.check else 1


def _environment():
    versions = [f"Python {platform.python_version()}"]
    for name in VERSIONS:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    return f"{', '.join(versions)}; {os.cpu_count()} cores, one thread"


if __name__ == "__main__":
    sys.exit(main())
