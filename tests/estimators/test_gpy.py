"""GPy's classifier: what GPy itself says, exact gradients for every kernel that has them, and every attack."""

import pickle
import warnings
from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler, minmax_scale

from skart.attacks._base import GradientAttack
from skart.estimators import GPyClassifier
from skart.exceptions import GradientUnavailableError
from skart.oracles import as_oracle
from skart.utils import check_rule
from tests.common._discovery import has, learns, make_attack, public_attacks
from tests.estimators._every_attack import EVERY_ATTACK, check_attack

GPy = pytest.importorskip("GPy")

X, y = load_iris(return_X_y=True)
X, y = StandardScaler().fit_transform(X)[::4], np.array(["se", "ve", "vi"])[y[::4]]
HARD = y != "se"
BINARY = (X[HARD], y[HARD])
FIXED = GPyClassifier(optimize=False, random_state=0)
INFERENCE = GPy.inference.latent_function_inference
STEPS = GPy.likelihoods.Bernoulli(GPy.likelihoods.link_functions.Heaviside())

KERNELS = {
    "rbf": GPy.kern.RBF(4, variance=3.0, lengthscale=1.5),
    "lengths": GPy.kern.RBF(4, lengthscale=[1.0, 2.0, 0.5, 3.0], ARD=True),
    "some features": GPy.kern.RBF(2, active_dims=[1, 3]),
    "reordered": GPy.kern.RBF(4, lengthscale=[1.0, 2.0, 0.5, 3.0], ARD=True, active_dims=[3, 1, 0, 2]),
    "exponential": GPy.kern.Exponential(4),
    "matern32": GPy.kern.Matern32(4, lengthscale=2.0),
    "matern52": GPy.kern.Matern52(4),
    "rational": GPy.kern.RatQuad(4, power=0.7),
    "cosine": GPy.kern.Cosine(4, lengthscale=3.0),
    "linear": GPy.kern.Linear(4),
    "mlp": GPy.kern.MLP(4),
    "sum": GPy.kern.RBF(4) + GPy.kern.Linear(4) + GPy.kern.White(4, 0.1) + GPy.kern.Bias(4),
    "product": GPy.kern.Matern52(4) * GPy.kern.Linear(4),
}


def joint_error(model, X):
    """Largest difference of a pulled random cotangent of logits and variances from central differences."""
    oracle = as_oracle(model, X)
    values, pull = oracle.vjp(X, scores="uncertainty")
    weights = np.random.default_rng(0).normal(size=values.shape)
    grad = pull(weights)
    steps = 1e-5 * np.eye(X.shape[1])
    ends = [[oracle.vjp(X + sign * step, "uncertainty")[0] for sign in (1, -1)] for step in steps]
    slopes = np.stack([np.sum((up - down) * weights, axis=1) / 2e-5 for up, down in ends], axis=1)
    return np.abs(grad - slopes).max() / np.abs(slopes).max()


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_kernels(kernel):
    model = clone(FIXED).set_params(kernel=kernel).fit(*BINARY)
    away = X + 0.01  # a training point lies on the kink of an exponential kernel
    check_rule(model, away)
    assert joint_error(model, away) < 1e-6
    assert_allclose(model.predict_proba(X)[:, 1], model.models_[0].predict(X)[0][:, 0], rtol=1e-9)
    assert_allclose(model.predictive_variance(X), model.models_[0].predict_noiseless(X)[1][:, 0], rtol=1e-9)
    values = as_oracle(model, X).vjp(X, scores="uncertainty")[0]
    assert_allclose(np.exp(values[:, :2]), model.predict_proba(X), rtol=1e-6)
    assert_allclose(values[:, 2], model.predictive_variance(X), rtol=1e-6)
    assert np.isfinite(as_oracle(model, X).vjp(BINARY[0])[1](np.ones((len(BINARY[0]), 2)))).all()


def test_one_class_against_the_rest():
    model = clone(FIXED).fit(X, y)
    check_rule(model, X)
    assert joint_error(model, X) < 1e-6
    single = np.concatenate([part.predict(X)[0] for part in model.models_], axis=1)
    assert_allclose(model.predict_proba(X), single / single.sum(axis=1, keepdims=True), rtol=1e-9)
    assert_array_equal(model.predict(X), model.classes_[single.argmax(axis=1)])
    assert model.predictive_variance(X).shape == (len(X), 3)
    for part, name in zip(model.models_, model.classes_):
        assert_array_equal(np.asarray(part.Y)[:, 0], y == name)


@pytest.mark.parametrize(
    "params",
    [
        {"likelihood": STEPS},
        {"inference_method": INFERENCE.Laplace()},
        {"kernel": partial(GPy.kern.Matern32, lengthscale=2.0)},
    ],
    ids=["step function", "laplace", "made by a callable"],
)
def test_likelihood_inference_and_kernel_are_those_given(params):
    model = clone(FIXED).set_params(**params).fit(*BINARY)
    check_rule(model, X)
    assert joint_error(model, X) < 1e-6
    assert_allclose(model.predict_proba(X)[:, 1], model.models_[0].predict(X)[0][:, 0], rtol=1e-9)
    assert model.score(*BINARY) > 0.9
    if "inference_method" in params:
        assert isinstance(model.models_[0].inference_method, type(params["inference_method"]))


def test_gpy_alone_is_no_better():
    data, labels = load_breast_cancer(return_X_y=True)
    data, train, test = minmax_scale(data), slice(100), slice(100, None)
    ours = GPyClassifier(max_iter=8, random_state=3).fit(data[train], labels[train])
    state = np.random.get_state()  # noqa: NPY002 - that which GPy draws from
    try:
        np.random.seed(np.random.RandomState(3).randint(np.iinfo(np.int32).max))  # noqa: NPY002
        alone = GPy.models.GPClassification(data[train], labels[train, None].astype(float), GPy.kern.RBF(30))
        alone.optimize(max_iters=8)
    finally:
        np.random.set_state(state)  # noqa: NPY002
    assert_allclose(ours.predict_proba(data)[:, 1], alone.predict(data)[0][:, 0], rtol=1e-6)
    assert ours.score(data[test], labels[test]) > 0.93
    assert 1 <= ours.n_iter_ <= 20
    assert ours.models_[0].kern.lengthscale.item() != 1


def test_far_from_the_border_logits_do_not_underflow():
    kernel = GPy.kern.Linear(1, variances=[1e4])
    model = GPyClassifier(kernel, optimize=False, random_state=0).fit([[-1.0], [-0.5], [0.5], [1.0]], [0, 0, 1, 1])
    model.models_[0].kern.variances = [1e4]
    far = 1e3 * np.array([[-1.0], [1.0]])
    steep = clone(model).set_params(likelihood=STEPS)
    steep.fit([[-1.0], [-0.5], [0.5], [1.0]], [0, 0, 1, 1])
    for clf in (model, steep):
        logits, pull = as_oracle(clf, far).vjp(far)
        assert np.isfinite(logits).all()
        assert np.isfinite(pull(np.ones_like(logits))).all()


def test_random_state_alone_decides_and_numpy_is_left_as_it_was():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = clone(FIXED).fit(*BINARY).predict_proba(X)
    assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    np.random.random(3)  # noqa: NPY002
    assert_array_equal(clone(FIXED).fit(*BINARY).predict_proba(X), first)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    broken = clone(FIXED).set_params(kernel=GPy.kern.Cosine(4))
    with pytest.raises(ValueError, match="inference failed"):
        broken.fit(*BINARY)
    assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert not hasattr(broken, "classes_")


def test_what_is_given_is_not_changed():
    kernel, inference = GPy.kern.RBF(4), INFERENCE.EP()
    model = GPyClassifier(kernel, inference_method=inference, max_iter=3, random_state=0)
    once = model.fit(*BINARY).predict_proba(X)
    assert kernel.lengthscale.item() == 1
    assert model.models_[0].kern.lengthscale.item() != 1
    assert_array_equal(model.fit(*BINARY).predict_proba(X), once)
    assert_array_equal(clone(model).fit(*BINARY).predict_proba(X), once)
    assert_allclose(pickle.loads(pickle.dumps(model)).predict_proba(X), once, rtol=1e-12)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kernel": "rbf"}, r"kernel must be a kernel of GPy.*GPy\.kern\.RBF\(4\).*got 'rbf'"),
        ({"kernel": lambda n_features: n_features}, "kernel must be a kernel of GPy"),
        (
            {"likelihood": GPy.likelihoods.Gaussian()},
            "Bernoulli with the link Probit.*got Gaussian with the link Ident",
        ),
        ({"likelihood": "probit"}, r"got str\."),
        (
            {"likelihood": GPy.likelihoods.Bernoulli(GPy.likelihoods.link_functions.Cloglog())},
            "got Bernoulli with the link Cloglog",
        ),
        ({"likelihood": GPy.likelihoods.Bernoulli}, r"got the class Bernoulli\."),
        ({"kernel": GPy.kern.RBF(5)}, r"'rbf' reads 5 features, and X has 4.*GPy\.kern\.RBF\(4\)"),
        ({"kernel": GPy.kern.RBF(1, active_dims=[6]) + GPy.kern.Linear(4)}, "'sum' reads 7 features, and X has 4"),
        ({"inference_method": "laplace"}, r"EP\(\) or a Laplace\(\) of GPy\.inference.*got 'laplace'"),
        ({"inference_method": INFERENCE.Laplace}, "got the class Laplace"),
        ({"inference_method": INFERENCE.ExactGaussianInference()}, "got <.*ExactGaussianInference"),
        ({"inference_method": INFERENCE.Laplace(), "likelihood": STEPS}, r"link Heaviside has none.*Probit, or EP\(\)"),
        # A cosine of distances is no covariance in four dimensions.
        ({"kernel": GPy.kern.Cosine(4)}, "inference failed with the kernel 'Cosine'.*not positive definite"),
    ],
)
def test_parameters_that_do_not_fit(params, message):
    with pytest.raises(ValueError, match=message):
        clone(FIXED).set_params(**params).fit(*BINARY)


def test_one_class():
    with pytest.raises(ValueError, match="two classes or more; y holds one class, 've'"):
        FIXED.fit(X[y == "ve"], y[y == "ve"])


@pytest.mark.parametrize(
    "kernel", [GPy.kern.Poly(4), GPy.kern.RBF(4) + GPy.kern.Poly(4), GPy.kern.Poly(4) * GPy.kern.RBF(4)], ids=str
)
def test_kernels_without_gradients(kernel):
    model = clone(FIXED).set_params(kernel=kernel).fit(*BINARY)
    assert model.score(*BINARY) > 0.8
    assert as_oracle(model, X).access == "scores"
    with pytest.raises(GradientUnavailableError, match="GPy's kernel .* has no gradient by its input.*RBF, Matern32"):
        as_oracle(model, X).vjp(X)


ATTACKS = [cls for cls in public_attacks() if issubclass(cls, GradientAttack)]
BLACK_BOX = [cls for cls in EVERY_ATTACK if not issubclass(cls, GradientAttack)]


@pytest.mark.parametrize("cls", ATTACKS)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.filterwarnings("ignore::skart.exceptions.AttackFailureWarning")
def test_every_gradient_attack(cls, classes):
    data, labels = BINARY if classes == 2 else (X, y)
    data = minmax_scale(data)
    kernel = GPy.kern.RBF(4, variance=9.0, lengthscale=0.5)
    model = clone(FIXED).set_params(kernel=kernel).fit(data, labels)
    params = {name: value for name, value in {"eps": 0.3, "confidence": 0.6}.items() if has(cls, name)}
    if cls.__name__ != "HighConfidenceLowUncertainty":
        params.pop("confidence", None)
    if has(cls, "image_shape"):
        params["image_shape"] = (2, 2)
    attack = make_attack(cls, model, clip_values=(0, 1), **params)
    if learns(cls):
        attack.fit(data, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = attack.run(data)
    assert result.success.mean() > (0.1 if learns(cls) else 0.3)
    assert_array_equal(result.y_adv, attack._fitted_estimator().predict(result.X_adv))


@pytest.mark.parametrize("cls", BLACK_BOX)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.filterwarnings("ignore::skart.exceptions.AttackFailureWarning")
def test_every_attack_by_scores_or_decisions(cls, classes):
    data, labels = BINARY if classes == 2 else (X, y)
    check_attack(cls, clone(FIXED).fit(data, labels), data, labels)


def test_in_a_pipeline():
    raw, labels = load_iris(return_X_y=True)
    model = make_pipeline(MinMaxScaler(), clone(FIXED).set_params(kernel=GPy.kern.RBF(4, lengthscale=0.5)))
    model.fit(raw[::3], labels[::3])
    check_rule(model, raw[::3])
    assert joint_error(model, raw[::3]) < 1e-6
    single = as_oracle(model, raw.astype(np.float32))
    values, pull = single.vjp(raw.astype(np.float32), scores="uncertainty")
    assert values.dtype == np.float32
    assert pull(values).dtype == np.float32
    assert_allclose(values[:, 3:], model[-1].predictive_variance(model[0].transform(raw)), rtol=1e-3, atol=1e-6)
