"""The elastic-net attack."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linprog
from sklearn.datasets import load_digits, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import minmax_scale

from skart.attacks import ElasticNetAttack
from tests.common._discovery import distance


@pytest.fixture(scope="module")
def digits():
    """Threes and eights, and a linear model that tells them apart."""
    X, y = load_digits(return_X_y=True)
    X, y = X[np.isin(y, (3, 8))] / 16, y[np.isin(y, (3, 8))]
    clf = LogisticRegression().fit(X, y)
    right = clf.predict(X) == y
    return clf, X[right][:40], y[right][:40]


def least_sum(clf, X, box):
    """Least 1-norm that takes each sample over the boundary inside a box, by linear programming."""
    best = []
    for x, margin in zip(X, clf.decision_function(X)):
        w = -np.sign(margin) * clf.coef_[0]
        room = np.concatenate([x - box[0], box[1] - x])  # what may go down, and up
        solved = linprog(
            np.ones(2 * len(w)),
            A_ub=-np.concatenate([-w, w])[None],
            b_ub=[-abs(margin)],
            bounds=[(0, None if np.isinf(r) else r) for r in room],
        )
        best.append(solved.fun)
    return np.array(best)


@pytest.mark.parametrize("box", [(0.0, 1.0), (-np.inf, np.inf)])
@pytest.mark.parametrize("targeted", [False, True])
def test_is_nearest_in_the_sum_of_changes(box, targeted, digits):
    clf, X, y = digits
    best = least_sum(clf, X, box)
    # Without a box the whole change is one of a single feature, which takes longer steps of shrinkage to single out.
    attack = ElasticNetAttack(
        clf,
        decision_rule="L1",
        beta=0.1 if np.isfinite(box[1]) else 0.5,
        clip_values=box if np.isfinite(box[1]) else None,
        target="given" if targeted else None,
    )
    result = attack.run(X, np.where(y == 3, 8, 3) if targeted else y)
    assert result.success.all()
    assert_allclose(result.distance, distance(X, result.X_adv, 1), rtol=1e-9)
    relative = result.distance / best
    assert relative.min() >= 1 - 1e-9
    assert np.median(relative) <= 1.02
    assert relative.max() <= 1.05


def test_a_larger_beta_changes_fewer_features(digits):
    clf, X, y = digits
    changed, sums, lengths = [], [], []
    for beta in (0.0, 0.01, 0.1):
        X_adv = ElasticNetAttack(clf, decision_rule="L1", beta=beta, clip_values=(0, 1)).transform(X, y)
        assert np.all(clf.predict(X_adv) != y)
        changed.append(np.mean(X_adv != X))
        sums.append(np.median(distance(X, X_adv, 1)))
        lengths.append(np.median(distance(X, X_adv, 2)))
    assert changed[0] > 2 * changed[1] > 2 * changed[2] > 0
    assert sums[0] > sums[1] > sums[2]
    assert lengths[0] < lengths[1] < lengths[2]


def test_each_rule_is_best_by_its_own_measure(digits):
    clf, X, y = digits
    beta = 0.05
    measures = {
        "L1": lambda X_adv: distance(X, X_adv, 1),
        "L2": lambda X_adv: distance(X, X_adv, 2),
        "EN": lambda X_adv: distance(X, X_adv, 2) ** 2 + beta * distance(X, X_adv, 1),
    }
    found = {}
    for rule in measures:
        result = ElasticNetAttack(clf, decision_rule=rule, beta=beta, clip_values=(0, 1)).run(X, y)
        assert result.success.all()
        assert_allclose(result.distance, distance(X, result.X_adv, 2 if rule == "L2" else 1), rtol=1e-9)
        found[rule] = result.X_adv
    for rule, measure in measures.items():
        values = {other: measure(X_adv).mean() for other, X_adv in found.items()}
        assert values[rule] <= min(values.values()) * (1 + 1e-9)
    assert measures["L1"](found["L1"]).mean() < 0.9 * measures["L1"](found["L2"]).mean()


def test_confidence_box_mask_and_what_stays(digits):
    clf, X, y = digits
    mask = np.arange(64) % 3 > 0
    wrong = np.where(np.arange(40) % 2, 11 - y, y)
    result = ElasticNetAttack(clf, confidence=2.0, clip_values=(X.min(axis=0), X.max(axis=0)), mask=mask).run(X, y)
    assert result.success.mean() > 0.9
    lead = clf.decision_function(result.X_adv) * np.where(y == 8, -1, 1)
    assert lead[result.success].min() >= 2.0
    assert np.median(lead[result.success]) < 2.2
    assert_array_equal(result.X_adv[:, ~mask], X[:, ~mask])
    assert np.all((result.X_adv >= X.min(axis=0)) & (result.X_adv <= X.max(axis=0)))
    kept = ElasticNetAttack(clf).run(X, wrong)
    assert_array_equal(kept.X_adv[wrong != y], X[wrong != y])
    assert np.all(kept.n_queries[8:][(wrong != y)[8:]] == 2)
    assert kept.success.all()


def test_counts_and_early_abort(digits):
    clf, X, y = digits
    params = {"clip_values": (0, 1), "max_iter": 50, "binary_search_steps": 3}
    full, early = (ElasticNetAttack(clf, abort_early=early, **params).run(X, y) for early in (False, True))
    # The first step of a search needs no pass; every other one has a backward pass, and at most two forward.
    assert np.all(full.n_gradients == 1 + 3 * 49)
    assert np.all(full.n_queries[8:] > 1 + 3 * 49 + 3)
    assert np.all(full.n_queries[8:] <= 1 + 3 * 49 + 3 * 50 + 1)
    assert full.success.all()
    assert early.success.all()
    assert early.n_gradients.mean() < 0.9 * full.n_gradients.mean()
    assert np.median(early.distance / full.distance) <= 1.05


def test_weights_go_up_where_they_are_too_small(digits):
    clf, X, y = digits
    params = {"initial_const": 1e-3, "clip_values": (0, 1)}
    assert not ElasticNetAttack(clf, binary_search_steps=1, **params).run(X, y).success.any()
    assert ElasticNetAttack(clf, const_factor=10.0, **params).run(X, y).success.all()


def test_float32_and_no_box():
    X, y = make_classification(60, 8, n_informative=6, n_classes=3, random_state=0)
    X = minmax_scale(X).astype(np.float32)
    clf = LogisticRegression(C=100.0, max_iter=1000).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = ElasticNetAttack(clf, max_iter=50).run(X, y)
    assert result.success.all()
    assert result.X_adv.dtype == np.float32
    for row, label in zip(result.X_adv, y):  # one by one: other rounding than in a batch
        assert clf.predict(row[None])[0] != label


@pytest.mark.parametrize("params", [{"decision_rule": "L0"}, {"beta": -1.0}, {"learning_rate": 0.7}])
def test_parameters_that_do_not_fit(params, digits):
    clf, X, _ = digits
    with pytest.raises(ValueError, match=next(iter(params))):
        ElasticNetAttack(clf, **params).transform(X)
