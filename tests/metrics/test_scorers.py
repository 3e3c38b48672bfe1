import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skart.attacks import FastGradientMethod, ProjectedGradientDescent
from skart.metrics import (
    loss_sensitivity,
    make_robustness_scorer,
    minimal_distances,
    neg_loss_sensitivity,
    robust_accuracy_score,
)

ATTACK = FastGradientMethod(eps=0.4)


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return LogisticRegression(max_iter=500).fit(X, y), X, y


def range_of_samples(estimator, X, y):
    """A scorer that tells what it was given: the largest value."""
    return float(np.max(X))


@pytest.mark.parametrize("metric", ["accuracy", "median_distance", "balanced_accuracy", range_of_samples])
def test_scorers_can_be_pickled(iris, metric):
    scorer = make_robustness_scorer(ATTACK, metric)
    assert pickle.loads(pickle.dumps(scorer))(*iris) == scorer(*iris)


def test_scores(iris):
    clf, X, y = iris
    robust = make_robustness_scorer(ATTACK)(clf, X, y)
    assert robust == robust_accuracy_score(clf, X, y, attack=ATTACK)
    assert 0.1 < robust < 0.9 * clf.score(X, y)
    X_adv = FastGradientMethod(clf, eps=0.4).transform(X, y)
    balanced = make_robustness_scorer(ATTACK, "balanced_accuracy")(clf, X, y)
    assert balanced == balanced_accuracy_score(y, clf.predict(X_adv))
    assert neg_loss_sensitivity(clf, X, y) == -loss_sensitivity(clf, X, y) < 0


def test_median_distance_counts_failures(iris):
    clf, X, y = iris
    attack = FastGradientMethod(minimal=True, eps_step=0.05, eps_max=1.0)
    distances = minimal_distances(clf, X, y, attack=attack)
    scorer = make_robustness_scorer(attack, "median_distance", max_distance=0.3)
    assert scorer(clf, X, y) == np.median(np.minimum(distances, 0.3))
    hopeless = FastGradientMethod(minimal=True, eps_step=1e-3, eps_max=1e-3)
    assert make_robustness_scorer(hopeless, "median_distance")(clf, X, y) == np.inf
    assert make_robustness_scorer(hopeless, "median_distance", max_distance=2)(clf, X, y) == 2.0


def test_cross_validation_attacks_the_model_of_each_fold(iris):
    _, X, y = iris
    model = make_pipeline(StandardScaler(), LogisticRegression())
    folds = StratifiedKFold(3)
    scores = cross_val_score(model, X, y, scoring=make_robustness_scorer(ATTACK), cv=folds, error_score="raise")
    for score, (train, test) in zip(scores, folds.split(X, y)):
        fitted = model.fit(X[train], y[train])
        X_adv = FastGradientMethod(fitted, eps=0.4).transform(X[test], y[test])
        both = (fitted.predict(X[test]) == y[test]) & (fitted.predict(X_adv) == y[test])
        assert score == both.mean()


def test_grid_search_in_two_processes(iris):
    _, X, y = iris
    attack = ProjectedGradientDescent(eps=0.4, max_iter=5, random_state=0)
    scoring = {
        "robust": make_robustness_scorer(attack),
        "distance": make_robustness_scorer(FastGradientMethod(minimal=True), "median_distance", max_distance=1),
        "smooth": neg_loss_sensitivity,
    }
    model = make_pipeline(StandardScaler(), LogisticRegression())
    grid = {"logisticregression__C": [1e-4, 1.0]}
    found = [
        GridSearchCV(model, grid, scoring=scoring, refit="robust", cv=3, n_jobs=n_jobs, error_score="raise").fit(X, y)
        for n_jobs in (1, 2)
    ]
    for name in scoring:
        one, two = (search.cv_results_[f"mean_test_{name}"] for search in found)
        assert_allclose(one, two)
        assert one[0] != one[1]
    robust = found[0].cv_results_["mean_test_robust"]
    assert found[1].best_params_["logisticregression__C"] == grid["logisticregression__C"][int(np.argmax(robust))]


def test_an_attack_with_its_own_estimator_stays_there_and_transfers(iris):
    _, X, y = iris
    surrogate = LogisticRegression(C=1e-3).fit(X, y)
    attack = FastGradientMethod(surrogate, eps=0.4)
    victim = LogisticRegression(max_iter=500).fit(X, y)
    X_adv = attack.transform(X, y)
    expected = ((victim.predict(X) == y) & (victim.predict(X_adv) == y)).mean()
    scorer = make_robustness_scorer(attack)
    assert scorer(victim, X, y) == expected
    assert scorer(victim, X, y) != make_robustness_scorer(ATTACK)(victim, X, y)
    assert attack.estimator is surrogate
    assert not hasattr(attack, "estimator_")


def test_what_an_attack_learns_it_learns_beforehand(iris):
    clf, X, y = iris
    attack = FastGradientMethod(eps=50.0, clip_values="fit")
    scorer = make_robustness_scorer(attack, range_of_samples)
    with pytest.raises(NotFittedError, match="clip_values='fit'"):
        scorer(clf, X, y)
    # A wide range for the fit: were it learnt from the data that are scored, samples could not leave theirs.
    attack.fit(np.concatenate([X, X + 10, X - 10]), np.concatenate([y, y, y]))
    learnt = dict(vars(attack))
    assert scorer(clf, X, y) == X.max() + 10
    assert vars(attack).keys() == learnt.keys()
    assert all(vars(attack)[name] is value for name, value in learnt.items())


def test_the_attack_is_taken_as_it_is(iris):
    before = dict(vars(ATTACK))
    make_robustness_scorer(ATTACK)(*iris)
    assert vars(ATTACK) == before


def test_string_labels_and_frames(iris):
    pd = pytest.importorskip("pandas")
    clf, X, y = iris
    X_frame = pd.DataFrame(X, columns=list("abcd"))
    names = pd.Series(np.array(["x", "y", "z"])[y])
    named = LogisticRegression(max_iter=500).fit(X_frame, names)
    for metric in ("accuracy", "median_distance", "balanced_accuracy"):
        scorer = make_robustness_scorer(ATTACK, metric, max_distance=9)
        assert scorer(named, X_frame, names) == scorer(clf, X, y)
    scores = cross_val_score(named, X_frame, names, scoring=make_robustness_scorer(ATTACK), error_score="raise")
    assert_array_equal(scores, cross_val_score(clf, X, y, scoring=make_robustness_scorer(ATTACK)))


def test_bad_arguments():
    with pytest.raises(TypeError, match="an instance"):
        make_robustness_scorer(FastGradientMethod)
    with pytest.raises(ValueError, match="accuraci"):
        make_robustness_scorer(ATTACK, "accuraci")
    with pytest.raises(TypeError, match="callable"):
        make_robustness_scorer(ATTACK, 3)
    for max_distance in (0, -1, np.nan):
        with pytest.raises(ValueError, match="max_distance"):
            make_robustness_scorer(ATTACK, "median_distance", max_distance=max_distance)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "median_distance"])
def test_given_targets_make_no_score(metric):
    with pytest.raises(ValueError, match="target='given'"):
        make_robustness_scorer(FastGradientMethod(target="given"), metric)


def test_repr_says_how_it_was_made():
    assert repr(make_robustness_scorer(ATTACK, "median_distance", max_distance=2)) == (
        f"make_robustness_scorer({ATTACK!r}, metric='median_distance', max_distance=2)"
    )
