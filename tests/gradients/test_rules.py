"""Every rule against central differences, scikit-learn's own output and `predict`, with NumPy and torch."""

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    LogisticRegression,
    LogisticRegressionCV,
    Perceptron,
    RidgeClassifier,
    RidgeClassifierCV,
    SGDClassifier,
)
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC, NuSVC
from sklearn.utils.fixes import parse_version

from skart._core._arrays import to_numpy
from skart._core._objectives import log_softmax
from skart.exceptions import GradientUnavailableError
from skart.gradients._registry import numpy_backend
from skart.oracles import as_oracle
from skart.utils import check_rule

OLD_SKLEARN = parse_version(sklearn.__version__) < parse_version("1.8")
KERNELS = ("linear", "poly", "rbf", "sigmoid")


def _standardised(load):
    X, y = load(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.fixture(scope="module")
def iris():
    return _standardised(load_iris)


@pytest.fixture(scope="module")
def cancer():
    return _standardised(load_breast_cancer)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:600] / 16, y[:600]


@pytest.fixture(params=["iris", "cancer"], ids=["3 classes", "2 classes"])
def data(request):
    return request.getfixturevalue(request.param)


# Logits are log-probabilities: their softmax is predict_proba.
PROBABILISTIC = [
    LogisticRegression(),
    LogisticRegression(fit_intercept=False),
    LogisticRegressionCV(Cs=2, cv=2, max_iter=500),
    SGDClassifier(loss="log_loss", alpha=0.1),
    LinearDiscriminantAnalysis(),
    LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    LinearDiscriminantAnalysis(solver="eigen"),
    *(
        MLPClassifier((8, 6), activation=activation, solver="lbfgs", max_iter=30, random_state=0)
        for activation in ("identity", "logistic", "tanh", "relu")
    ),
    MLPClassifier((), solver="lbfgs", max_iter=30, random_state=0),
]
# Logits are decision values.
DECISIVE = [
    *(SGDClassifier(loss=loss) for loss in ("hinge", "modified_huber", "squared_error")),
    RidgeClassifier(),
    RidgeClassifier(fit_intercept=False),
    RidgeClassifierCV(),
    Perceptron(),
    LinearSVC(),
    LinearSVC(fit_intercept=False),
    LinearSVC(multi_class="crammer_singer", max_iter=10_000),
]


def _name(value):
    return repr(value).replace("\n", " ") if hasattr(value, "fit") else None


# Models are not trained to the end here; the mathematics of a rule does not depend on it.
pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::FutureWarning:sklearn"
)


@pytest.mark.parametrize("estimator", PROBABILISTIC, ids=_name)
def test_log_probabilities(estimator, data):
    X, y = data
    model = clone(estimator).fit(X, y)
    check_rule(model, X)
    logits = as_oracle(model, X).logits(X)
    assert_allclose(np.exp(log_softmax(logits)), model.predict_proba(X), atol=1e-6)
    assert_allclose(model.classes_[logits.argmax(axis=1)], model.predict(X))


@pytest.mark.parametrize("estimator", DECISIVE, ids=_name)
def test_decision_values(estimator, data):
    X, y = data
    model = clone(estimator).fit(X, y)
    check_rule(model, X)
    logits = as_oracle(model, X).logits(X)
    decision = model.decision_function(X)
    if decision.ndim == 1:
        assert_allclose(logits[:, 0], 0)
        logits_of_decision = logits[:, 1]
    else:
        logits_of_decision = logits
    assert_allclose(logits_of_decision, decision, atol=1e-10)
    assert_allclose(model.classes_[logits.argmax(axis=1)], model.predict(X))


@pytest.mark.skipif(not OLD_SKLEARN, reason="scikit-learn 1.8 dropped one-vs-rest logistic regression")
@pytest.mark.parametrize(
    "parameters", [{"solver": "liblinear"}, {"multi_class": "ovr"}, {"multi_class": "multinomial"}], ids=str
)
def test_logistic_regression_of_old(parameters, data):
    X, y = data
    model = LogisticRegression(**parameters).fit(X, y)
    check_rule(model, X)
    logits = as_oracle(model, X).logits(X)
    assert_allclose(np.exp(log_softmax(logits)), model.predict_proba(X), atol=1e-6)


def test_sparse_coefficients(iris):
    X, y = iris
    dense = LogisticRegression().fit(X, y)
    expected = as_oracle(dense, X).logits(X)
    assert_allclose(as_oracle(dense.sparsify(), X, check=False).logits(X), expected)


def test_log_sigmoid_does_not_overflow(iris):
    X, y = iris
    model = SGDClassifier(loss="log_loss", random_state=0).fit(X, y)
    model.coef_ = model.coef_ * 1e4
    with np.errstate(all="raise", under="ignore"):
        logits, pullback = as_oracle(model, X, check=False).vjp(X)
        grad = pullback(np.ones_like(logits))
    assert np.isfinite(logits).all()
    assert np.isfinite(grad).all()


def _pairs_by_definition(model, X):
    """The decision values of all pairs, coefficient by coefficient as libsvm's manual has them."""
    kernel = {
        "linear": lambda x, c: x @ c,
        "poly": lambda x, c: (model._gamma * (x @ c) + model.coef0) ** model.degree,
        "rbf": lambda x, c: np.exp(-model._gamma * ((x - c) ** 2).sum()),
        "sigmoid": lambda x, c: np.tanh(model._gamma * (x @ c) + model.coef0),
    }[model.kernel]
    start = np.append(0, np.cumsum(model.n_support_))
    values = np.array([[kernel(x, c) for c in model.support_vectors_] for x in X])
    columns = []
    n_classes = len(model.classes_)
    for i in range(n_classes):
        for j in range(i + 1, n_classes):
            of_i, of_j = slice(start[i], start[i + 1]), slice(start[j], start[j + 1])
            columns.append(
                values[:, of_i] @ model.dual_coef_[j - 1, of_i]
                + values[:, of_j] @ model.dual_coef_[i, of_j]
                + model.intercept_[len(columns)]
            )
    return np.stack(columns, axis=1)


def _pairwise(model, X, dtype="float64"):
    from skart.gradients._kernel import libsvm_pairs, pairwise

    return pairwise(*libsvm_pairs(model, numpy_backend(dtype)))(X.astype(dtype))[0]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "parameters",
    [{}, {"gamma": "auto", "coef0": 0.3, "degree": 2}, {"gamma": 0.05, "class_weight": "balanced", "C": 3.0}],
    ids=str,
)
def test_svc_pairs(kernel, parameters, digits):
    X, y = digits
    model = SVC(kernel=kernel, decision_function_shape="ovo", **parameters).fit(X[:300], y[:300])
    pairs = _pairwise(model, X[300:])
    assert_allclose(pairs, model.decision_function(X[300:]), rtol=0, atol=1e-8)
    assert_allclose(pairs[:3], _pairs_by_definition(model, X[300:303]), rtol=0, atol=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_svc_pairs_in_float32(kernel, digits):
    X, y = digits
    # Far from the origin, where distances by the expansion of the square would cancel.
    X = X + 100 if kernel == "rbf" else X
    model = SVC(kernel=kernel, decision_function_shape="ovo").fit(X[:300], y[:300])
    X = X.astype(np.float32)
    pairs = _pairwise(model, X[300:], "float32")
    assert pairs.dtype == np.float32
    assert_allclose(pairs, model.decision_function(X[300:]), atol=2e-4)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", ["ovr", "ovo"])
def test_svc(kernel, shape, data):
    X, y = data
    model = SVC(kernel=kernel, decision_function_shape=shape, coef0=0.2).fit(X, y)
    check_rule(model, X)
    oracle = as_oracle(model, X)
    logits = oracle.logits(X)
    assert_allclose(model.classes_[logits.argmax(axis=1)], model.predict(X))
    if len(model.classes_) == 2:
        assert_allclose(logits, np.stack([np.zeros(len(X)), model.decision_function(X)], axis=1), atol=1e-8)
    elif shape == "ovr":
        assert_allclose(logits, model.decision_function(X), atol=1e-8)


@pytest.mark.parametrize("degree", [0, 1, 2, 5])
def test_polynomial_degrees(degree, iris):
    X, y = iris
    check_rule(SVC(kernel="poly", degree=degree, coef0=0.5).fit(X, y == 2), X)


@pytest.mark.parametrize("kernel", KERNELS)
def test_svc_margins(kernel, digits):
    X, y = digits
    model = SVC(kernel=kernel, decision_function_shape="ovo").fit(X[:300], y[:300])
    X = X[300:]
    check_rule(model, X)
    oracle = as_oracle(model, X)
    margins = oracle.vjp(X, scores="margins")[0]
    # By brute force: the least of the margins of class k over the others.
    pairs, first, second = model.decision_function(X), *np.triu_indices(10, 1)
    expected = [np.concatenate([pairs[:, first == k], -pairs[:, second == k]], axis=1).min(axis=1) for k in range(10)]
    assert_allclose(margins, np.stack(expected, axis=1), atol=1e-8)
    # Whoever wins all comparisons is the prediction.
    wins = margins.max(axis=1) > 0
    assert wins.mean() > 0.9
    assert_allclose(margins.argmax(axis=1)[wins], model.predict(X)[wins])


@pytest.mark.parametrize("scores", ["logits", "margins"])
def test_svc_in_blocks(scores, data, monkeypatch):
    from skart.gradients import _kernel

    X, y = data
    model = SVC().fit(X, y)
    cotangent = np.random.default_rng(0).normal(size=(len(X), len(model.classes_)))
    monkeypatch.setattr(_kernel, "_BLOCK_BYTES", 2**40)
    expected, pullback = as_oracle(model, X).vjp(X, scores=scores)
    expected_grad = pullback(cotangent)
    monkeypatch.setattr(_kernel, "_BLOCK_BYTES", 1)  # sixteen rows each, and a rest
    output, pullback = as_oracle(model, X).vjp(X, scores=scores)
    assert_allclose(output, expected, atol=1e-10)
    assert_allclose(pullback(cotangent), expected_grad, atol=1e-10)


def test_svc_margins_at_a_tie():
    # Two rivals at the same distance share the derivative.
    from skart.gradients._kernel import smallest_margins

    forward = smallest_margins(lambda X: (X, lambda cotangent: cotangent), np.eye(3), np.zeros(3), 3)
    margins, pullback = forward(np.array([[1.0, 1.0, 0.5]]))  # d(0, 1), d(0, 2), d(1, 2)
    assert_allclose(margins, [[1.0, -1.0, -1.0]])
    assert_allclose(pullback(np.array([[1.0, 0.0, 0.0]])), [[0.5, 0.5, 0.0]])


def test_svc_breaks_ties(digits):
    X, y = digits
    model = SVC(kernel="sigmoid", gamma=0.2, break_ties=True).fit(X[:300], y[:300])
    assert not np.array_equal(
        model.predict(X), clone(model).set_params(break_ties=False).fit(X[:300], y[:300]).predict(X)
    )
    assert_allclose(as_oracle(model, X).logits(X).argmax(axis=1), model.predict(X))


def test_svc_with_probability(data):
    # Platt's probabilities disagree with `predict`; the logits stay decision values.
    X, y = data
    plain = SVC().fit(X, y)
    model = SVC(probability=True, random_state=0).fit(X, y)
    assert_allclose(as_oracle(model, X).logits(X), as_oracle(plain, X).logits(X), atol=1e-8)
    check_rule(model, X)


def test_svc_fitted_on_sparse_data(data):
    from scipy.sparse import csr_matrix

    X, y = data
    model = SVC(C=2.0).fit(csr_matrix(X), y)
    assert_allclose(as_oracle(model, X).logits(X), as_oracle(SVC(C=2.0).fit(X, y), X).logits(X), atol=1e-6)


def test_nu_svc(data):
    X, y = data
    check_rule(NuSVC(nu=0.1).fit(X, y), X)


def test_svc_kernels_without_rule(iris):
    X, y = iris

    def my_kernel(A, B):
        return A @ B.T

    with pytest.raises(GradientUnavailableError, match="kernel=my_kernel has no gradient rule.*'rbf'"):
        as_oracle(SVC(kernel=my_kernel).fit(X, y), X).vjp(X)
    K = X @ X.T
    with pytest.raises(GradientUnavailableError, match="kernel='precomputed' has no gradient rule"):
        as_oracle(SVC(kernel="precomputed").fit(K, y), K).vjp(K)


def test_strings_as_labels(iris):
    X, y = iris
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    for estimator in (SVC(), LogisticRegression(), MLPClassifier((5,), max_iter=5)):
        model = estimator.fit(X, names)
        check_rule(model, X)
        logits = as_oracle(model, X).logits(X)
        assert (model.classes_[logits.argmax(axis=1)] == model.predict(X)).all()


@pytest.mark.parametrize("activation", ["logistic", "tanh", "relu"])
def test_perceptron_that_is_saturated(activation, iris):
    X, y = iris
    model = MLPClassifier((8,), activation=activation, max_iter=5, random_state=0).fit(X, y)
    with np.errstate(all="raise", under="ignore"):
        logits, pullback = as_oracle(model, X, check=False).vjp(1e6 * X)
        grad = pullback(np.ones_like(logits))
    assert np.isfinite(logits).all()
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("estimator", [MLPClassifier((5,), max_iter=5), RidgeClassifier()], ids=_name)
def test_multilabel_is_refused(estimator, iris):
    X, y = iris
    model = estimator.fit(X, np.stack([y > 0, y > 1, y > 0], axis=1).astype(int))
    with pytest.raises(GradientUnavailableError, match=rf"{type(estimator).__name__} was fitted on several labels"):
        numpy_backend("float64").bind(model)


TRANSFORMERS = [
    StandardScaler(),
    StandardScaler(with_mean=False),
    StandardScaler(with_std=False),
    StandardScaler(with_mean=False, with_std=False),
    MinMaxScaler(),
    MinMaxScaler((-1, 3)),
    MinMaxScaler(clip=True),
    MinMaxScaler((-1, 3), clip=True),
    Normalizer(),
    Normalizer("l1"),
    Normalizer("max"),
    PCA(10),
    PCA(10, whiten=True),
    PCA(0.8, svd_solver="full"),
    FunctionTransformer(),
    FunctionTransformer(np.log1p),
    LinearDiscriminantAnalysis(n_components=5),
    LinearDiscriminantAnalysis(n_components=5, solver="eigen", shrinkage=0.1),
]


@pytest.mark.parametrize("estimator", TRANSFORMERS, ids=_name)
def test_transformers(estimator, digits):
    X, y = digits
    X = 3 + 2 * X[:, X.std(axis=0) > 0.05]
    step = clone(estimator).fit(X[:300], y[:300])
    check_rule(step, X[300:])
    backend = numpy_backend("float32")
    bound = backend.bind(step)
    output = (bound.transform or bound.forward)(X.astype(np.float32))[0]
    assert output.dtype == np.float32
    assert_allclose(output, step.transform(X), rtol=1e-3, atol=1e-3)


def test_constant_features(digits):
    X, y = digits  # with pixels that are blank in every image
    for step in (StandardScaler(), MinMaxScaler(clip=True), PCA(whiten=True)):
        check_rule(step.fit(X[:300]), X[300:])


def test_clipped_range():
    step = MinMaxScaler(clip=True).fit([[0.0], [10.0]])
    X = np.array([[-1.0], [0.0], [5.0], [10.0], [11.0]])
    output, pullback = numpy_backend("float64").bind(step).forward(X)
    assert_allclose(output, step.transform(X))
    # The border counts as inside, or no blank pixel would ever move.
    assert_allclose(pullback(np.ones_like(X))[:, 0], [0, 0.1, 0.1, 0.1, 0])


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_normalizer_of_rows_of_zeros(norm):
    step = Normalizer(norm).fit(np.ones((1, 3)))
    X = np.array([[0.0, 0.0, 0.0], [1e-17, 0.0, 0.0], [3.0, -4.0, 0.0]])
    output, pullback = numpy_backend("float64").bind(step).forward(X)
    assert_allclose(output, step.transform(X))
    cotangent = np.array([[1.0, 2.0, 3.0]] * 3)
    assert_allclose(pullback(cotangent)[:2], cotangent[:2])


@pytest.mark.parametrize("function", [np.exp, np.expm1, np.log, np.log1p, np.sqrt, np.square, np.tanh])
def test_known_functions(function):
    X = np.random.default_rng(0).uniform(0.5, 2, size=(20, 4))
    check_rule(FunctionTransformer(function).fit(X), X)


def test_mixed_pipeline(digits):
    X, y = digits
    model = Pipeline(
        [
            ("none", None),
            ("scale", MinMaxScaler(clip=True)),
            ("inner", make_pipeline(StandardScaler(), PCA(20), "passthrough")),
            ("skip", "passthrough"),
            ("frozen", FrozenEstimator(Normalizer().fit(np.ones((1, 20))))),
            ("lda", LinearDiscriminantAnalysis()),
            ("clf", SVC()),
        ]
    ).fit(X[:300], y[:300])
    check_rule(model, X[300:])
    oracle = as_oracle(model, X[300:])
    assert_allclose(oracle.logits(X[300:]), model.decision_function(X[300:]), atol=1e-8)
    assert oracle._bound.margins is not None
    check_rule(FrozenEstimator(model), X[300:])
    check_rule(model[:-1], X[300:])


def test_pipelines_without_work(iris):
    X, y = iris
    check_rule(Pipeline([("a", "passthrough")]).fit(X), X)
    check_rule(make_pipeline(StandardScaler(), "passthrough").fit(X), X)
    check_rule(make_pipeline(LogisticRegression()).fit(X, y), X)
    check_rule(make_pipeline(LinearDiscriminantAnalysis(), "passthrough").fit(X, y), X)


def test_classifier_as_a_step_inside(iris):
    # An LDA in the middle of a Pipeline projects; at its end it classifies.
    X, y = iris
    lda = LinearDiscriminantAnalysis(n_components=2)
    for inner in (lda, FrozenEstimator(clone(lda).fit(X, y)), make_pipeline(StandardScaler(), lda)):
        model = make_pipeline(inner, LogisticRegression()).fit(X, y)
        check_rule(model, X)
        assert_allclose(np.exp(log_softmax(as_oracle(model, X).logits(X))), model.predict_proba(X), atol=1e-6)


def test_searches(iris):
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.model_selection import HalvingGridSearchCV, HalvingRandomSearchCV

    X, y = iris
    model = make_pipeline(StandardScaler(), SVC())
    grid = {"svc__C": [1, 10]}
    for search in (
        GridSearchCV(model, grid, cv=2),
        RandomizedSearchCV(model, grid, n_iter=2, cv=2),
        HalvingGridSearchCV(model, grid, cv=2),
        HalvingRandomSearchCV(model, grid, n_candidates=2, cv=2),
    ):
        fitted = search.fit(X, y)
        check_rule(fitted, X)
        expected = as_oracle(fitted.best_estimator_, X).logits(X)
        assert_allclose(as_oracle(fitted, X).logits(X), expected)
    unfit = GridSearchCV(model, grid, cv=2, refit=False).fit(X, y)
    with pytest.raises(GradientUnavailableError, match="refit=False"):
        numpy_backend("float64").bind(unfit)
    with pytest.raises(TypeError, match="refit=False"):
        as_oracle(unfit, X)


def test_a_search_over_a_tree_names_its_part(iris):
    from sklearn.tree import DecisionTreeClassifier

    X, y = iris
    search = GridSearchCV(
        Pipeline([("scale", StandardScaler()), ("tree", DecisionTreeClassifier())]), {"tree__max_depth": [2]}, cv=2
    ).fit(X, y)
    oracle = as_oracle(search, X)
    assert oracle.access == "scores"
    with pytest.raises(
        GradientUnavailableError,
        match="^best_estimator_: step 'tree': DecisionTreeClassifier has no gradient: its tree is",
    ):
        oracle.vjp(X)


def test_torch_computes_the_same(digits):
    torch = pytest.importorskip("torch")
    from skart.gradients._registry import torch_backend

    X, y = digits
    model = make_pipeline(StandardScaler(), PCA(20), SVC()).fit(X, y)
    ours = numpy_backend("float64").bind(model)
    theirs = torch_backend("float64", torch.device("cpu")).bind(model)
    rng = np.random.default_rng(0)
    for forward, other in ((ours.forward, theirs.forward), (ours.margins, theirs.margins)):
        output, pullback = forward(X)
        tensor, other_pullback = other(torch.from_numpy(X))
        cotangent = rng.normal(size=output.shape)
        assert_allclose(to_numpy(tensor), output, atol=1e-10)
        assert_allclose(to_numpy(other_pullback(torch.from_numpy(cotangent))), pullback(cotangent), atol=1e-10)
