"""High confidence and low uncertainty: both bounds hold, and SciPy's SLSQP from the same start comes no nearer."""

import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF, DotProduct
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, minmax_scale

from skart._core._hclu import nearest_feasible
from skart.attacks import HighConfidenceLowUncertainty
from skart.exceptions import AttackFailureWarning, GradientUnavailableError
from skart.oracles import Oracle, as_oracle

# Where nothing keeps both bounds a sample comes back, and the attack says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*came back unchanged:skart.exceptions.AttackFailureWarning")

CANCER, MALIGN = load_breast_cancer(return_X_y=True)
CANCER = np.clip(minmax_scale(CANCER), 0, 1)
IRIS, SPECIES = load_iris(return_X_y=True)
SPECIES = np.array(["se", "ve", "vi"])[SPECIES]


@pytest.fixture(scope="module")
def binary():
    return GaussianProcessClassifier(9.0 * RBF(1.0), optimizer=None).fit(CANCER[:100], MALIGN[:100]), CANCER[100:130]


@pytest.fixture(scope="module")
def three():
    return GaussianProcessClassifier(9.0 * RBF(1.0), optimizer=None).fit(IRIS, SPECIES), IRIS[::5]


def variances(clf, X):
    """Latent variances by scikit-learn's own attributes, (n_samples, n_functions)."""
    parts = [clf.base_estimator_] if clf.n_classes_ == 2 else clf.base_estimator_.estimators_
    columns = []
    for part in parts:
        cross = part.kernel_(part.X_train_, X)
        v = np.linalg.solve(part.L_, part.W_sr_[:, None] * cross)
        columns.append(part.kernel_.diag(X) - np.sum(v * v, axis=0))
    return np.stack(columns, axis=1)


def by_scipy(clf, x, goal, confidence):
    """Distance that SLSQP ends at, infinite where it does not end."""
    oracle = as_oracle(clf, x[None])
    largest = variances(clf, x[None])[0, 0]

    def both(z):
        values, _ = oracle.vjp(z[None], scores="uncertainty")
        return np.array([values[0, goal] - np.log(confidence), 1 - values[0, 2] / largest])

    def slopes(z):
        _, pull = oracle.vjp(z[None], scores="uncertainty")
        cotangents = np.zeros((2, 1, 3))
        cotangents[0, 0, goal], cotangents[1, 0, 2] = 1, -1 / largest
        return np.stack([pull(cotangent)[0] for cotangent in cotangents])

    found = minimize(
        lambda z: 0.5 * np.sum((z - x) ** 2),
        x,
        jac=lambda z: z - x,
        bounds=[(0, 1)] * len(x),
        constraints={"type": "ineq", "fun": both, "jac": slopes},
        method="SLSQP",
        options={"maxiter": 300, "ftol": 1e-10},
    )
    return np.linalg.norm(found.x - x) if found.success and both(found.x).min() > -1e-6 else np.inf


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_keeps_both_bounds_in_the_dtype_that_comes_back(binary, dtype):
    clf, X = binary
    X = X.astype(dtype)
    result = HighConfidenceLowUncertainty(clf, confidence=0.9, clip_values=(0, 1)).run(X)
    assert result.X_adv.dtype == dtype
    assert result.success.mean() > 0.9
    done = result.success
    rows = np.arange(len(X))
    position = np.searchsorted(clf.classes_, result.y_adv)
    assert np.all(clf.predict_proba(result.X_adv)[rows, position][done] >= 0.9)
    assert np.all(variances(clf, result.X_adv)[done] <= variances(clf, X)[done])
    assert result.X_adv.min() >= 0
    assert result.X_adv.max() <= 1
    assert_array_equal(result.X_adv[~done], X[~done])


def test_scipy_comes_no_nearer(binary):
    clf, X = binary
    X = X[:12]
    result = HighConfidenceLowUncertainty(clf, confidence=0.9, clip_values=(0, 1)).run(X)
    goals = 1 - np.searchsorted(clf.classes_, clf.predict(X))
    reference = np.array([by_scipy(clf, x, goal, 0.9) for x, goal in zip(X, goals)])
    known = np.isfinite(reference)
    assert known.sum() >= 6
    assert np.all(result.success[known])
    assert np.all(result.distance[known] <= 1.001 * reference[known])


def test_linear_latent_function():
    # With one constraint at work and a linear latent function whose variance hardly matters, the way is straight.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = (X @ [1.0, -2.0, 0.5] > 0).astype(int)
    clf = GaussianProcessClassifier(DotProduct(1e-3), optimizer=None).fit(X, y)
    result = HighConfidenceLowUncertainty(clf, confidence=0.6, max_variance=1e3).run(X)
    assert result.success.all()
    reached = clf.predict_proba(result.X_adv)
    assert_allclose(reached.max(axis=1), 0.6, atol=2e-4)


@pytest.mark.parametrize("largest", [1.0, 2.0])
def test_a_bound_of_its_own(binary, largest):
    clf, X = binary
    attack = HighConfidenceLowUncertainty(clf, confidence=0.7, max_variance=largest)
    result = attack.run(X)
    assert result.success.any()
    assert np.all(variances(clf, result.X_adv[result.success]) <= largest)
    free = attack.set_params(max_variance=1e6).run(X)
    both = free.success & result.success
    assert np.all(free.distance[both] <= 1.0001 * result.distance[both])


@pytest.mark.parametrize("ratio", [0.8, 1.5])
def test_variance_of_the_clean_sample_times_a_ratio(binary, ratio):
    clf, X = binary
    attack = HighConfidenceLowUncertainty(clf, confidence=0.9, variance_ratio=ratio)
    result = attack.run(X)
    done = result.success
    assert done.mean() > 0.5
    share = variances(clf, result.X_adv[done]) / variances(clf, X[done])
    # The bound holds some search, and gives way to some.
    assert 0.99 * min(ratio, 1.05) < share.max() <= ratio
    for k in np.flatnonzero(done)[:3]:
        attack.set_params(max_variance=ratio * variances(clf, X[[k]])[0, 0])
        assert_allclose(attack.transform(X[[k]]), result.X_adv[[k]], atol=1e-5)


def test_three_classes(three):
    clf, X = three
    result = HighConfidenceLowUncertainty(clf, confidence=0.6).run(X)
    done = result.success
    assert done.mean() > 0.3
    assert clf.predict_proba(result.X_adv[done]).max(axis=1).min() >= 0.6
    assert np.all(variances(clf, result.X_adv)[done] <= variances(clf, X)[done])
    aimed = HighConfidenceLowUncertainty(clf, confidence=0.6, target="ve").run(X)
    assert np.all(aimed.y_adv[aimed.success] == "ve")
    assert aimed.success.mean() > 0.5
    rest = aimed.success & (clf.predict(X) != "ve")
    assert np.all(clf.predict_proba(aimed.X_adv[rest])[:, 1] >= 0.6)


def test_a_sample_that_keeps_the_bounds_comes_back(three):
    clf, X = three
    X = X[clf.predict_proba(X)[:, 0] > 0.6]
    result = HighConfidenceLowUncertainty(clf, confidence=0.55, target="se", max_variance=100.0).run(X)
    assert_array_equal(result.X_adv, X)
    assert result.success.all()


def test_failures_are_honest(binary):
    clf, X = binary
    with pytest.warns(AttackFailureWarning, match="came back unchanged and count as failures"):
        result = HighConfidenceLowUncertainty(clf, confidence=0.999).run(X)
    assert not result.success.any()
    assert_array_equal(result.X_adv, X)


def test_mask_frames_batches_and_processes(binary):
    clf, X = binary
    frame = pd.DataFrame(X, columns=[f"c{k}" for k in range(30)])
    attack = HighConfidenceLowUncertainty(clf, confidence=0.8, mask=[f"c{k}" for k in range(20)], clip_values=(0, 1))
    result = attack.run(frame)
    assert list(result.X_adv.columns) == list(frame.columns)
    assert_array_equal(result.X_adv.iloc[:, 20:], frame.iloc[:, 20:])
    assert result.success.any()
    spread = attack.set_params(batch_size=8, n_jobs=2).run(frame)
    assert_allclose(spread.X_adv, result.X_adv, atol=1e-6)
    assert_array_equal(pickle.loads(pickle.dumps(attack)).transform(frame), spread.X_adv)


def test_counts(binary, monkeypatch):
    clf, X = binary
    forward, pulled = [], []
    vjp = Oracle.vjp

    def counted(self, X, scores="logits"):
        values, pull = vjp(self, X, scores)
        forward.append(len(X))
        return values, lambda cotangent: pulled.append(len(cotangent)) or pull(cotangent)

    monkeypatch.setattr(Oracle, "vjp", counted)
    result = HighConfidenceLowUncertainty(clf, confidence=0.9).run(X)
    # The oracle looks at the first eight before; labels to leave and the verdict are one query each.
    assert result.n_queries.sum() - 2 * len(X) - 8 * 2 <= sum(forward) <= result.n_queries.sum() - len(X)
    assert result.n_gradients.sum() == sum(pulled)


def test_fits_a_surrogate_of_its_own_family():
    attack = HighConfidenceLowUncertainty(confidence=0.7).fit(CANCER[:60], MALIGN[:60])
    assert isinstance(attack.estimator_, GaussianProcessClassifier)
    assert attack.run(CANCER[60:80]).success.mean() > 0.5


def test_in_a_pipeline():
    X, y = 3 * CANCER + 1, MALIGN
    clf = make_pipeline(MinMaxScaler(), GaussianProcessClassifier(9.0 * RBF(1.0), optimizer=None)).fit(X[:80], y[:80])
    result = HighConfidenceLowUncertainty(clf, confidence=0.8, clip_values=(1, 4)).run(X[80:95])
    assert result.success.any()
    done = result.success
    assert clf.predict_proba(result.X_adv[done]).max(axis=1).min() >= 0.8
    before, after = (variances(clf[-1], clf[0].transform(Z)) for Z in (X[80:95][done], result.X_adv[done]))
    assert np.all(after <= before)


def test_models_without_uncertainty():
    clf = LogisticRegression().fit(CANCER, MALIGN)
    with pytest.raises(
        GradientUnavailableError, match="variance of a latent function, and LogisticRegression has none"
    ):
        HighConfidenceLowUncertainty(clf).transform(CANCER[:3])


@pytest.mark.parametrize(
    "params", [{"confidence": 0.5}, {"confidence": 1.0}, {"max_variance": 0.0}, {"variance_ratio": 0.0}, {"tol": 0.0}]
)
def test_parameters_that_do_not_fit(binary, params):
    with pytest.raises(ValueError, match=next(iter(params))):
        HighConfidenceLowUncertainty(binary[0], **params).transform(binary[1])


# ---- the search alone ---------------------------------------------------------------------------------------


class HalfSpaceAndDisc:
    """``a.x >= b`` and ``|x - c| <= r``, as constraints on two features."""

    def __init__(self, xp, a, b, c, r):
        self.xp, self.a, self.b, self.c, self.r = xp, xp.asarray(a), xp.asarray(b), xp.asarray(c), r

    def __getitem__(self, rows):
        part = HalfSpaceAndDisc(self.xp, self.a, self.b[rows], self.c, self.r)
        return part

    def __call__(self, x):
        xp = self.xp
        off = x - self.c
        values = xp.stack([self.b - xp.sum(x * self.a, axis=1), xp.sum(off * off, axis=1) - self.r**2], axis=1)
        slopes = lambda: xp.stack([xp.broadcast_to(-self.a, x.shape), 2 * off], axis=1)
        return values, slopes, xp.all(values <= 1e-7, axis=1)


def test_search_finds_the_nearest_point(xp):
    x = xp.asarray([[0.0, 0.0], [0.0, -2.0], [0.5, 3.0], [3.0, 0.0]], dtype=xp.float64)
    b = xp.asarray([2.0, 2.0, 2.5, 2.0], dtype=xp.float64)
    a, c = np.array([1.0, 0.0]), np.array([2.0, 1.0])
    constraints = HalfSpaceAndDisc(xp, a, b, c, 1.0)
    low, high = xp.full_like(x, -10.0), xp.full_like(x, 10.0)
    found = nearest_feasible(x, constraints, lower=low, upper=high, max_iter=200, tol=1e-9)
    for k in range(4):
        start, bound = np.asarray(x[k, ...]), float(b[k])
        exact = minimize(
            lambda z, start=start: np.sum((z - start) ** 2),
            c,
            constraints=[
                {"type": "ineq", "fun": lambda z, bound=bound: z @ a - bound},
                {"type": "ineq", "fun": lambda z: 1 - np.sum((z - c) ** 2)},
            ],
            options={"ftol": 1e-14},
        )
        assert_allclose(np.asarray(found.x[k, ...]), exact.x, atol=1e-4)
        assert_allclose(float(found.size[k]), exact.fun, atol=1e-4)


def test_search_says_where_nothing_is_feasible(xp):
    x = xp.zeros((3, 2), dtype=xp.float64)
    constraints = HalfSpaceAndDisc(xp, [1.0, 0.0], [5.0, 5.0, 2.0], [2.0, 1.0], 1.0)
    low, high = xp.full_like(x, -10.0), xp.full_like(x, 10.0)
    found = nearest_feasible(x, constraints, lower=low, upper=high, max_iter=100, tol=1e-6)
    assert_array_equal(np.isfinite(np.asarray(found.size)), [False, False, True])
    assert_array_equal(np.asarray(found.x)[:2], np.zeros((2, 2)))
