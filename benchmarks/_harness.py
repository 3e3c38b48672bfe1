"""Runs contenders on the same work, in turns in one process, and says what each of them cost and reached.

A row of the comparison is an attack on a task. A task is a model with its samples: it offers the bare passes that any
attack is made of, says what the model answers, and exists in a second version that counts the passes made on it. A
contender is a function ``prepare(task)`` that returns ``run()``, which returns the adversarial samples; only ``run`` is
timed.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Counts", "Passes", "Row", "compare", "report"]

# What a repetition spends on a contender at least, so that short runs are repeated more often than long ones.
SECONDS_A_TURN = 0.3


class Passes(NamedTuple):
    """Passes over all samples that an algorithm needs."""

    gradients: int  # forward and backward
    values: int  # forward alone

    def __str__(self):
        return f"{self.gradients} forward-backward + {self.values} forward"


@dataclass
class Counts:
    """Passes that were made on a task: calls of the model, and samples in them."""

    forward_calls: int = 0
    forward_samples: int = 0
    backward_calls: int = 0
    backward_samples: int = 0

    def forward(self, n_samples):
        self.forward_calls += 1
        self.forward_samples += n_samples

    def backward(self, n_samples):
        self.backward_calls += 1
        self.backward_samples += n_samples


class Row(NamedTuple):
    """One attack on one task.

    ``task(n_samples, counts)`` makes the task; with ``counts=None`` nothing is counted and nothing slowed down.
    ``bound`` is the most that skart may cost, in units of the floor.
    """

    name: str
    task: Callable
    floor: Passes
    contenders: dict[str, Callable]
    bound: float | None = None


class Outcome(NamedTuple):
    """What one contender cost and reached."""

    times: list[float]
    success: float
    distances: dict[str, float]  # median over the successes, by norm
    counts: Counts
    error: str | None = None


class Result(NamedTuple):
    """All that was measured in one row."""

    row: Row
    n_samples: int
    floor: list[float]
    value_pass: list[float]
    outcomes: dict[str, Outcome]

    @property
    def gradient_time(self):
        """Time of one bare forward-backward pass."""
        if not self.row.floor.gradients:  # a row that asks for scores alone
            return 0.0
        return (min(self.floor) - self.row.floor.values * min(self.value_pass)) / self.row.floor.gradients

    def own_passes(self, counts):
        """Time of the bare passes that a contender made."""
        alone = max(counts.forward_samples - counts.backward_samples, 0)
        passes = counts.backward_samples * self.gradient_time + alone * min(self.value_pass)
        return passes / self.n_samples

    def ratio(self, name, statistic=min):
        """Time of a contender in units of the floor."""
        return statistic(self.outcomes[name].times) / statistic(self.floor)

    @property
    def within_bound(self):
        """Whether skart kept its bound; None where there is none to keep."""
        if self.row.bound is None or "skart" not in self.outcomes:
            return None
        return self.ratio("skart") <= self.row.bound


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def compare(row, *, n_samples, repeat, only=None, clock="wall"):
    """Measure the contenders of a row, or ``only`` some of them."""
    task = row.task(n_samples, None)

    def floor():
        for _ in range(row.floor.gradients):
            task.gradient_pass()
        for _ in range(row.floor.values):
            task.value_pass()

    runs: dict[str, Callable] = {"the floor": floor, "a value pass": task.value_pass}
    judged: dict[str, Any] = {}
    for name, prepare in row.contenders.items():
        if only is not None and name not in only:
            continue
        counts = Counts()
        try:
            counted = prepare(row.task(n_samples, counts))
            # What preparing asks of the model is not part of the attack.
            vars(counts).update(vars(Counts()))
            counted()
            runs[name] = prepare(task)
            judged[name] = (_judge(task, runs[name]()), counts)
        except ImportError as error:
            raise SystemExit(
                f"{name} cannot be imported ({error}). `make bench` installs all contenders; `--contenders skart` does "
                "without the others."
            ) from error
        except Exception as error:
            if name == "skart":
                raise
            runs.pop(name, None)
            judged[name] = f"raised {type(error).__name__}: {error}".splitlines()[0]
    times = _in_turns(runs, repeat, CLOCKS[clock])
    outcomes = {
        name: Outcome([], np.nan, {}, Counts(), verdict)
        if isinstance(verdict, str)
        else Outcome(times[name], *verdict[0], verdict[1])
        for name, verdict in judged.items()
    }
    return Result(row, task.X.shape[0], times["the floor"], times["a value pass"], outcomes)


def _in_turns(runs, repeat, clock):
    """Times of every run: in each repetition all have their turn, and another one is first."""
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    calls = {}
    for name in names:  # warm up, and see how many calls make a turn
        start = clock()
        runs[name]()
        calls[name] = int(np.clip(SECONDS_A_TURN / (clock() - start), 1, 20))
    gc.collect()
    gc.disable()
    try:
        for repetition in range(repeat):
            first = repetition % len(names)
            for name in names[first:] + names[:first]:
                for _ in range(calls[name]):
                    start = clock()
                    runs[name]()
                    times[name].append(clock() - start)
            gc.collect()
    finally:
        gc.enable()
    return times


def _judge(task, X_adv):
    """Success as the model itself says of the returned array, and the median distances of the successes."""
    X_adv = np.asarray(X_adv)
    success = task.predict(X_adv) != task.y
    delta = (X_adv.astype(np.float64) - task.X).reshape(len(X_adv), -1)[success]
    distances = {}
    for name, norm in {"l1": 1, "l2": 2, "linf": np.inf}.items():
        lengths = np.linalg.norm(delta, ord=norm, axis=1)
        distances[name] = float(np.median(lengths)) if len(lengths) else np.nan
    return float(success.mean()), distances


COLUMNS = (
    ("contender", "<12"),
    ("best ms", ">9"),
    ("median ms", ">10"),
    ("x floor", ">8"),
    ("median", ">7"),
    ("x own", ">6"),
    ("x skart", ">8"),
    ("success", ">8"),
    ("l1", ">7"),
    ("l2", ">6"),
    ("linf", ">7"),
    ("forward", ">14"),
    ("backward", ">14"),
)


def report(result):
    """The row as lines of text."""
    row = result.row
    yield f"{row.name}: {result.n_samples} samples; floor = {row.floor}"
    yield _line(name for name, _ in COLUMNS)
    yield _line(["(floor)", *_milliseconds(result.floor), "1.000", "1.000"])
    skart = result.outcomes.get("skart")
    for name, outcome in result.outcomes.items():
        if outcome.error is not None:
            yield f"{name:12} {outcome.error}"
            continue
        counts = outcome.counts
        yield _line(
            [
                name,
                *_milliseconds(outcome.times),
                f"{result.ratio(name):.3f}",
                f"{result.ratio(name, np.median):.3f}",
                f"{min(outcome.times) / result.own_passes(counts):.3f}" if counts.forward_samples else "",
                f"{min(outcome.times) / min(skart.times):.2f}" if skart else "",
                f"{outcome.success:.1%}",
                *(f"{distance:.4g}" for distance in outcome.distances.values()),
                f"{counts.forward_calls} ({counts.forward_samples})",
                f"{counts.backward_calls} ({counts.backward_samples})",
            ]
        )
    if result.within_bound is not None:
        verdict = "kept" if result.within_bound else "NOT KEPT"
        yield f"bound: skart at most {row.bound} x floor: {verdict}"


def _milliseconds(times):
    return f"{min(times) * 1e3:.1f}", f"{np.median(times) * 1e3:.1f}"


def _line(cells):
    return " ".join(f"{cell:{width}}" for cell, (_, width) in zip(cells, COLUMNS)).rstrip()
