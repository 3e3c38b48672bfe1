import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris, make_classification
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from skart.attacks import FastGradientMethod, ProjectedGradientDescent
from skart.metrics import empirical_robustness, loss_sensitivity, minimal_distances, robust_accuracy_score

DUAL = {np.inf: 1, 2: 2, 1: np.inf}
norms = pytest.mark.parametrize("norm", list(DUAL))
STEP = 0.02


@pytest.fixture(scope="module")
def binary():
    X, y = make_classification(n_samples=120, n_features=5, class_sep=0.8, flip_y=0.1, random_state=0)
    return LogisticRegression().fit(X, y), X, y


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return LogisticRegression(max_iter=500).fit(X, y), X, y


def distance_to_plane(clf, X, norm):
    """What it takes to cross the plane of a binary linear model: |margin| / ||w||_dual."""
    return np.abs(clf.decision_function(X)) / np.linalg.norm(clf.coef_[0], ord=DUAL[norm])


@norms
def test_robust_accuracy_is_the_share_beyond_eps(binary, norm):
    clf, X, y = binary
    eps = 0.5
    exact = (clf.predict(X) == y) & (distance_to_plane(clf, X, norm) > eps)
    assert 0.1 < exact.mean() < 0.9 * clf.score(X, y)
    attack = ProjectedGradientDescent(norm=norm, eps=eps, random_state=0)
    assert_array_equal(robust_accuracy_score(clf, X, y, attack=attack, per_sample=True), exact)
    assert robust_accuracy_score(clf, X, y, attack=attack) == pytest.approx(exact.mean())


def test_a_sample_that_the_attack_sets_right_does_not_count(binary):
    clf, X, y = binary
    # Aimed at class 1, the attack turns every prediction into 1, also the wrong ones of samples that are of class 1.
    attack = ProjectedGradientDescent(eps=10.0, target=1, random_state=0)
    assert ((clf.predict(X) == 0) & (y == 1)).any()
    withstood = robust_accuracy_score(clf, X, y, attack=attack, per_sample=True)
    assert_array_equal(withstood, (clf.predict(X) == 1) & (y == 1))


def test_robust_accuracy_takes_a_column_of_labels(binary):
    clf, X, y = binary
    attack = FastGradientMethod(eps=0.3)
    assert robust_accuracy_score(clf, X, y[:, None], attack=attack) == robust_accuracy_score(clf, X, y, attack=attack)


def test_robust_accuracy_with_string_labels_and_frames(iris):
    pd = pytest.importorskip("pandas")
    clf, X, y = iris
    attack = FastGradientMethod(eps=0.5)
    expected = robust_accuracy_score(clf, X, y, attack=attack)
    names = np.array(["setosa", "versicolor", "virginica"])
    X_frame = pd.DataFrame(X, columns=["a", "b", "c", "d"], index=np.arange(len(X))[::-1])
    y_series = pd.Series(names[y], index=X_frame.index)
    named = LogisticRegression(max_iter=500).fit(X_frame, y_series)
    assert robust_accuracy_score(named, X_frame, y_series, attack=attack) == expected
    assert_allclose(loss_sensitivity(named, X_frame, y_series), loss_sensitivity(clf, X, y), rtol=1e-6)
    assert_allclose(empirical_robustness(named, X_frame, attack=attack), empirical_robustness(clf, X, attack=attack))
    assert_allclose(
        minimal_distances(named, X_frame, y_series, attack=attack), minimal_distances(clf, X, y, attack=attack)
    )


@norms
def test_minimal_distance_is_that_to_the_plane(binary, norm):
    clf, X, y = binary
    exact = distance_to_plane(clf, X, norm)
    attack = FastGradientMethod(norm=norm, minimal=True, eps_step=STEP, eps_max=exact.max() + STEP)
    found = minimal_distances(clf, X, attack=attack)
    assert (found >= exact).all()
    assert (found <= exact + STEP * (1 + 1e-6)).all()


def test_failures_are_infinite_and_errors_of_the_model_are_at_zero(binary):
    clf, X, y = binary
    exact = distance_to_plane(clf, X, np.inf)
    eps_max = 25 * STEP
    found = minimal_distances(clf, X, y, attack=FastGradientMethod(minimal=True, eps_step=STEP, eps_max=eps_max))
    wrong = clf.predict(X) != y
    assert wrong.any()
    assert_array_equal(found == 0, wrong)
    assert_array_equal(np.isinf(found), ~wrong & (exact > eps_max))


def test_empirical_robustness_by_hand(binary):
    clf, X, _ = binary
    eps_max = 25 * STEP
    attack = FastGradientMethod(norm=2, minimal=True, eps_step=STEP, eps_max=eps_max)
    exact = distance_to_plane(clf, X, 2)
    # The first multiple of the step beyond the plane, over the length of the sample; failures are left out.
    relative = np.where(exact < eps_max, np.ceil(exact / STEP) * STEP / np.linalg.norm(X, axis=1), np.nan)
    assert 0.1 < np.isnan(relative).mean() < 0.9
    assert_allclose(empirical_robustness(clf, X, attack=attack, per_sample=True), relative, rtol=1e-9)
    assert empirical_robustness(clf, X, attack=attack) == pytest.approx(np.nanmean(relative), rel=1e-9)


def test_empirical_robustness_without_success_is_nan_and_warns(binary):
    clf, X, _ = binary
    with pytest.warns(RuntimeWarning, match="succeeded on none of 120 samples"):
        robustness = empirical_robustness(clf, X, attack=FastGradientMethod(eps=1e-6))
    assert np.isnan(robustness)
    assert np.isnan(empirical_robustness(clf, X, attack=FastGradientMethod(eps=1e-6), per_sample=True)).all()


def test_empirical_robustness_refuses_a_target(binary):
    clf, X, _ = binary
    with pytest.raises(ValueError, match="untargeted"):
        empirical_robustness(clf, X, attack=FastGradientMethod(target=1))


def test_loss_sensitivity_of_a_binary_linear_model(binary):
    clf, X, y = binary
    # The gradient of the cross-entropy is (p - y) w.
    exact = np.abs(clf.predict_proba(X)[:, 1] - y) * np.linalg.norm(clf.coef_[0])
    assert_allclose(loss_sensitivity(clf, X, y, per_sample=True), exact, rtol=1e-6)
    assert loss_sensitivity(clf, X, y) == pytest.approx(exact.mean(), rel=1e-6)


def test_loss_sensitivity_of_several_classes(iris):
    clf, X, y = iris
    grad = (clf.predict_proba(X) - np.eye(3)[y]) @ clf.coef_
    assert_allclose(loss_sensitivity(clf, X, y, per_sample=True), np.linalg.norm(grad, axis=1), rtol=1e-6)


def test_loss_sensitivity_against_central_differences():
    X, y = load_iris(return_X_y=True)
    clf = MLPClassifier((8,), activation="tanh", max_iter=20, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        clf.fit(X, y)
    h, columns = 1e-5, []
    for shift in h * np.eye(4):
        losses = [-clf.predict_log_proba(X + sign * shift)[np.arange(len(y)), y] for sign in (1, -1)]
        columns.append((losses[0] - losses[1]) / (2 * h))
    exact = np.linalg.norm(columns, axis=0)
    assert_allclose(loss_sensitivity(clf, X, y, per_sample=True, batch_size=40), exact, rtol=1e-6)


def test_an_attack_with_its_own_estimator_is_judged_by_the_model_at_hand(binary):
    clf, X, y = binary
    own = LogisticRegression().fit(X[:, ::-1], y)  # it takes the features for others, so its samples transfer badly
    attack = FastGradientMethod(own, eps=1.0)
    X_adv = attack.transform(X, y)
    assert (own.predict(X_adv) != clf.predict(X_adv)).any()

    withstood = (clf.predict(X) == y) & (clf.predict(X_adv) == y)
    assert_array_equal(robust_accuracy_score(clf, X, y, attack=attack, per_sample=True), withstood)
    distances = minimal_distances(clf, X, y, attack=attack)
    assert_array_equal(np.isfinite(distances), ~withstood)
    assert_allclose(distances[~withstood], np.where(clf.predict(X) == y, 1.0, 0.0)[~withstood])

    predicted = clf.predict(X)
    changed = clf.predict(attack.transform(X, predicted)) != predicted
    relative = empirical_robustness(clf, X, attack=attack, per_sample=True)
    assert_array_equal(np.isfinite(relative), changed)
    assert attack.estimator is own


def test_metrics_leave_the_attack_as_it_was(binary):
    clf, X, y = binary
    attack = FastGradientMethod(eps=0.1)
    before = dict(vars(attack))
    robust_accuracy_score(clf, X, y, attack=attack)
    minimal_distances(clf, X, y, attack=attack)
    empirical_robustness(clf, X, attack=attack, per_sample=True)
    assert vars(attack) == before


@pytest.mark.parametrize("metric", [robust_accuracy_score, minimal_distances])
def test_errors(binary, metric):
    clf, X, y = binary
    with pytest.raises(TypeError, match="one of skart's attacks"):
        metric(clf, X, y, attack="pgd")
    with pytest.raises(ValueError, match="inconsistent numbers of samples|as many"):
        metric(clf, X, y[:-1], attack=FastGradientMethod())
    with pytest.raises(NotFittedError):
        metric(LogisticRegression(), X, y, attack=FastGradientMethod())


def test_given_targets_make_no_score(binary):
    clf, X, y = binary
    with pytest.raises(ValueError, match="target='given'"):
        robust_accuracy_score(clf, X, y, attack=FastGradientMethod(target="given"))
