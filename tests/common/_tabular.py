"""A table of people with columns of every kind, and the labels of a known rule."""

import numpy as np
import pytest

__all__ = ["people"]


def people(n_samples=240, seed=0):
    """A pandas frame and string labels of three classes."""
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(seed)
    X = pandas.DataFrame(
        {
            "age": rng.normal(40, 10, n_samples),
            "city": rng.choice(["rome", "oslo", "bern"], n_samples),
            "rooms": rng.integers(1, 6, n_samples),
            "grade": pandas.Categorical(rng.choice(["lo", "mid", "hi"], n_samples), categories=["lo", "mid", "hi"]),
            "income": rng.lognormal(3, 0.5, n_samples),
            "own": rng.random(n_samples) < 0.5,
            "level": rng.integers(0, 3, n_samples),
        }
    )
    score = (X.age - 40) / 10 + (X.city == "rome") - X.income / 30 + 0.5 * X.own + (X.level == 1) + (X.grade == "hi")
    low, high = np.quantile(score, [1 / 3, 2 / 3])
    return X, np.where(score > high, "yes", np.where(score > low, "maybe", "no"))
