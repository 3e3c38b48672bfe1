import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from skart import register_rule
from skart.attacks import FastGradientMethod, ProjectedGradientDescent
from skart.defences import FeatureSqueezing
from skart.exceptions import AttackFailureWarning
from skart.gradients._registry import bind
from skart.metrics import robust_accuracy_score
from skart.oracles import as_oracle

bit_depths = pytest.mark.parametrize("bit_depth", [1, 2, 3, 4, 5, 8, 12])
roundings = pytest.mark.parametrize("rounding", ["floor", "nearest"])
dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def uniform(*shape, low=0.0, high=1.0, seed=0):
    return np.random.default_rng(seed).uniform(low, high, shape)


@bit_depths
def test_floor_is_the_formula_of_the_paper(bit_depth):
    X = np.concatenate([uniform(500, 4), [[0.0, 1.0, 0.5, 1 / 3]]])
    n_steps = 2**bit_depth - 1
    squeezed = FeatureSqueezing(bit_depth).fit_transform(X)
    assert_array_equal(squeezed, np.floor(X * n_steps) / n_steps)


@bit_depths
def test_nearest_is_the_nearest_of_all_values(bit_depth):
    X = uniform(200, 3)
    grid = np.linspace(0, 1, 2**bit_depth)
    nearest = grid[np.abs(X[:, :, None] - grid).argmin(axis=2)]
    assert_allclose(FeatureSqueezing(bit_depth, rounding="nearest").fit_transform(X), nearest, atol=1e-15)


@roundings
def test_a_range_is_the_unit_interval_stretched(rounding):
    U = uniform(100, 3)
    low, high = np.array([-1.0, 0.0, 10.0]), np.array([1.0, 0.5, 14.0])
    unit = FeatureSqueezing(3, rounding=rounding).fit_transform(U)
    scalar = FeatureSqueezing(3, clip_values=(-2, 6), rounding=rounding).fit_transform(8 * U - 2)
    assert_allclose(scalar, 8 * unit - 2, atol=1e-12)
    per_feature = FeatureSqueezing(3, clip_values=(low, high), rounding=rounding)
    assert_allclose(per_feature.fit_transform(low + U * (high - low)), low + unit * (high - low), atol=1e-12)


@roundings
@dtypes
@pytest.mark.parametrize("clip_values", [(0, 1), (-1, 1), (0, 255), (-2.117, 2.64), (0.1, 0.7)])
def test_squeezing_twice_is_squeezing_once(clip_values, rounding, dtype):
    # Values on the grid must stay there: rounding errors would take floor one step down.
    X = np.linspace(*clip_values, 4000).reshape(-1, 4).astype(dtype)
    for bit_depth in (1, 2, 3, 4, 5, 8):
        squeeze = FeatureSqueezing(bit_depth, clip_values=clip_values, rounding=rounding).fit(X)
        once = squeeze.transform(X)
        assert len(np.unique(once)) == 2**bit_depth
        assert_array_equal(squeeze.transform(once), once)


def test_range_of_the_training_data():
    X = uniform(50, 3, low=-4, high=9)
    squeeze = FeatureSqueezing(2, clip_values="fit").fit(X)
    low, high = squeeze.clip_values_
    assert_array_equal(low, X.min(axis=0))
    assert_array_equal(high, X.max(axis=0))
    explicit = FeatureSqueezing(2, clip_values=(low, high)).fit(X)
    assert_array_equal(squeeze.transform(X), explicit.transform(X))
    assert_array_equal(squeeze.transform(X + 100), np.tile(high, (50, 1)))  # later data are clipped
    assert_array_equal(squeeze.transform(X - 100), np.tile(low, (50, 1)))


def test_a_constant_feature_stays():
    X = np.column_stack([np.full(5, 3.0), np.arange(5.0)])
    assert_array_equal(FeatureSqueezing(1, clip_values="fit").fit_transform(X)[:, 0], X[:, 0])


def test_data_outside_an_explicit_range_are_an_error():
    X = uniform(10, 2)
    with pytest.raises(ValueError, match=r"outside clip_values=\(0, 1\).*clip_values='fit'"):
        FeatureSqueezing().fit(16 * X)
    squeeze = FeatureSqueezing().fit(X)
    for outside in (X - 0.5, X + 0.5):
        with pytest.raises(ValueError, match="outside clip_values"):
            squeeze.transform(outside)
    with pytest.raises(ValueError, match="of its feature"):
        FeatureSqueezing(clip_values=([0, 0], [1, 0.1])).fit(X)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"bit_depth": 0}, "bit_depth"),
        ({"bit_depth": 2.5}, "bit_depth"),
        ({"rounding": "up"}, "rounding"),
        ({"clip_values": "data"}, "clip_values"),
        ({"clip_values": (1, 0)}, "low <= high"),
        ({"clip_values": (0, 1, 2)}, "pair"),
        ({"clip_values": ([0, 0, 0], [1, 1, 1])}, "shape"),
        ({"clip_values": (0, np.nan)}, "low <= high"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        FeatureSqueezing(**params).fit(uniform(5, 2))


def test_bad_data():
    X = uniform(5, 2)
    with pytest.raises(NotFittedError):
        FeatureSqueezing().transform(X)
    squeeze = FeatureSqueezing().fit(X)
    with pytest.raises(ValueError, match="features"):
        squeeze.transform(uniform(5, 3))
    with pytest.raises(ValueError, match="NaN"):
        squeeze.transform(np.full((2, 2), np.nan))


@pytest.mark.parametrize("apply_fit", [True, False])
@pytest.mark.parametrize("apply_predict", [True, False])
def test_where_it_applies(apply_fit, apply_predict):
    X = uniform(20, 3)
    squeezed = FeatureSqueezing(1).fit_transform(X)
    squeeze = FeatureSqueezing(1, apply_fit=apply_fit, apply_predict=apply_predict)
    assert_array_equal(squeeze.fit_transform(X), squeezed if apply_fit else X)
    assert_array_equal(squeeze.transform(X), squeezed if apply_predict else X)


def test_a_pipeline_trains_by_one_flag_and_predicts_by_the_other():
    X = uniform(60, 3)
    y = (X[:, 0] > 0.5).astype(int)
    squeezed = FeatureSqueezing(1).fit_transform(X)
    model = make_pipeline(FeatureSqueezing(1, apply_fit=False), LogisticRegression()).fit(X, y)
    trained_clean = LogisticRegression().fit(X, y)
    assert_allclose(model[-1].coef_, trained_clean.coef_)
    assert_allclose(model.predict_proba(X), trained_clean.predict_proba(squeezed))


@roundings
@dtypes
def test_dtype_stays(rounding, dtype):
    X = uniform(20, 3).astype(dtype)
    for clip_values in ((0, 1), "fit", ([0.0] * 3, [1.0] * 3)):
        squeeze = FeatureSqueezing(3, clip_values=clip_values, rounding=rounding)
        assert squeeze.fit_transform(X).dtype == dtype
        assert squeeze.transform(X).dtype == dtype


def test_the_callers_array_stays():
    X = uniform(20, 3)
    kept = X.copy()
    FeatureSqueezing(1, clip_values="fit").fit(X[:10]).transform(X)
    assert_array_equal(X, kept)


def test_images():
    X = uniform(6, 5, 4)
    low, high = X.min(axis=0), X.max(axis=0)
    flat = FeatureSqueezing(2).fit_transform(X.reshape(6, -1))
    assert_array_equal(FeatureSqueezing(2).fit_transform(X), flat.reshape(X.shape))
    fitted = FeatureSqueezing(2, clip_values="fit").fit(X)
    assert fitted.clip_values_[0].shape == (5, 4)
    assert_array_equal(fitted.transform(X), FeatureSqueezing(2, clip_values=(low, high)).fit_transform(X))


def test_data_frames():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(uniform(8, 2), columns=["a", "b"], index=list("stuvwxyz"))
    squeeze = FeatureSqueezing(2).set_output(transform="pandas").fit(X)
    out = squeeze.transform(X)
    assert list(out.columns) == list(squeeze.get_feature_names_out()) == ["a", "b"]
    assert list(out.index) == list(X.index)
    assert_array_equal(out, FeatureSqueezing(2).fit_transform(X.to_numpy()))


def test_clone_and_pickle():
    X = uniform(10, 2)
    squeeze = FeatureSqueezing(3, clip_values="fit", rounding="nearest").fit(X)
    assert clone(squeeze).get_params() == squeeze.get_params()
    assert_array_equal(pickle.loads(pickle.dumps(squeeze)).transform(X), squeeze.transform(X))


# -- attacks go through it --------------------------------------------------------------------------------------------


@roundings
@pytest.mark.parametrize("clip_values", [(0, 1), "fit", ([0.0] * 3, [1.0, 2.0, 3.0])])
def test_the_rule_computes_what_the_transformer_does_and_goes_straight_back(clip_values, rounding):
    X = uniform(30, 3)
    squeeze = FeatureSqueezing(2, clip_values=clip_values, rounding=rounding).fit(X)
    bound, _ = bind(squeeze, np.float64)
    output, pullback = bound.forward(X)
    assert_array_equal(output, squeeze.transform(X))
    cotangent = uniform(30, 3, seed=1)
    assert_array_equal(pullback(cotangent), cotangent)


def test_the_rule_describes_prediction():
    X = uniform(30, 3)
    bound, _ = bind(FeatureSqueezing(1, apply_predict=False).fit(X), np.float64)
    assert_array_equal(bound.forward(X)[0], X)


@roundings
def test_torch_agrees_with_numpy(rounding):
    torch = pytest.importorskip("torch")
    skorch = pytest.importorskip("skorch")
    X = uniform(40, 3).astype(np.float32)
    net = skorch.NeuralNetClassifier(
        torch.nn.Linear(3, 2), criterion=torch.nn.CrossEntropyLoss, classes=[0, 1], train_split=None, verbose=0
    ).initialize()
    squeeze = FeatureSqueezing(2, clip_values="fit", rounding=rounding).fit(X)
    oracle = as_oracle(Pipeline([("squeeze", squeeze), ("net", net)]), X)
    with oracle:
        logits, pullback = oracle.vjp(oracle.asarray(X))
        grad = pullback(torch.tensor([[1.0, 0.0]]).expand(40, 2))
    weight, bias = (parameter.detach().numpy() for parameter in net.module_.parameters())
    assert_allclose(logits.detach().numpy(), squeeze.transform(X) @ weight.T + bias, rtol=1e-5, atol=1e-6)
    assert_allclose(grad.numpy(), np.broadcast_to(weight[0], X.shape), rtol=1e-6)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:600] / 16, y[:600], X[600:900] / 16, y[600:900]


class SqueezingWithItsTrueDerivative(FeatureSqueezing):
    """The same transformer; its rule says what is true almost everywhere, that rounding is flat."""


@register_rule(SqueezingWithItsTrueDerivative)
def flat(defence, backend):
    forward = bind(FeatureSqueezing(**defence.get_params()).fit(np.zeros((2, 64))), np.float64)[0].forward
    return lambda X: (forward(X)[0], lambda cotangent: 0 * cotangent)


def withstood_for_certain(model, X, y, eps):
    """Samples that no perturbation of ``eps`` can take from their class: exact for rounding and a linear model.

    Rounding is monotone, so each feature lies between the rounded ends of its interval, and takes them.
    """
    squeeze, linear = model[0], model[-1]
    low, high = (squeeze.transform(np.clip(X + shift, 0, 1)) for shift in (-eps, eps))
    weights = linear.coef_[y][:, None, :] - linear.coef_  # (n_samples, n_classes, n_features)
    worst = np.where(weights > 0, low[:, None, :], high[:, None, :])
    margins = (weights * worst).sum(axis=2) + linear.intercept_[y][:, None] - linear.intercept_
    margins[np.arange(len(y)), y] = np.inf
    return margins.min(axis=1) > 0


@pytest.mark.parametrize(("bit_depth", "rounding"), [(1, "nearest"), (3, "nearest"), (2, "floor"), (8, "floor")])
def test_an_attack_through_it_comes_close_to_the_optimum(digits, bit_depth, rounding):
    X_train, y_train, X, y = digits
    model = make_pipeline(FeatureSqueezing(bit_depth, rounding=rounding), LogisticRegression(max_iter=500))
    model.fit(X_train, y_train)
    exact = withstood_for_certain(model, X, y, 0.1)
    attack = ProjectedGradientDescent(
        eps=0.1, clip_values=(0, 1), loss="margin", n_restarts=5, max_iter=20, random_state=0
    )
    found = robust_accuracy_score(model, X, y, attack=attack, per_sample=True)
    assert not (exact & ~found).any()
    assert 0.1 < exact.mean() <= found.mean() <= exact.mean() + 0.015 < model.score(X, y) - 0.1


def test_without_the_rule_the_attack_is_blind_and_says_so(digits):
    X_train, y_train, X, y = digits
    scores = {}
    attack = ProjectedGradientDescent(eps=0.1, clip_values=(0, 1), max_iter=20, random_state=0)
    for squeeze in (FeatureSqueezing(4), SqueezingWithItsTrueDerivative(4)):
        model = make_pipeline(squeeze, LogisticRegression(max_iter=500)).fit(X_train, y_train)
        if type(squeeze) is FeatureSqueezing:
            scores["straight through"] = robust_accuracy_score(model, X, y, attack=attack)
        else:
            with pytest.warns(AttackFailureWarning, match="gradient is zero"):
                scores["flat"] = robust_accuracy_score(model, X, y, attack=attack)
    assert scores["straight through"] < scores["flat"] - 0.3


def test_an_attack_without_the_range_is_told_of_it(digits):
    X_train, y_train, X, y = digits
    model = make_pipeline(FeatureSqueezing(4), LogisticRegression(max_iter=500)).fit(X_train, y_train)
    with pytest.raises(ValueError, match="needs the same clip_values"):
        robust_accuracy_score(model, X, y, attack=FastGradientMethod(eps=0.1))
