"""Contract 3, on every public attack that discovery finds."""

import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal
from scipy.optimize import linprog
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import make_classification
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import minmax_scale

from skart import register_rule
from skart.attacks._base import AscentAttack, BlackBoxAttack
from skart.exceptions import AttackFailureWarning
from tests.common._discovery import distance, has, learns, make_attack, public_attacks, takes_any_model
from tests.common._models import as_net, blobs, fitted_mlp, trained_net

# Those that learn in `fit`, and those for one family of models, have tests of their own.
ATTACKS = [cls for cls in public_attacks() if not learns(cls) and takes_any_model(cls)]
NORMS = (1, 2, np.inf)
DUAL = {1: np.inf, 2: 2, np.inf: 1}
# Attacks that bound a norm, those that take several steps, and those that can be aimed.
BOUNDED = [cls for cls in ATTACKS if has(cls, "norm", "eps")]
# Those that go on until the loss is at its highest; others stop as soon as a sample is adversarial.
ASCENT = [cls for cls in BOUNDED if issubclass(cls, AscentAttack)]
ITERATIVE = [cls for cls in BOUNDED if has(cls, "max_iter")]
TARGETED = [cls for cls in ATTACKS if has(cls, "target")]
SPREAD = [cls for cls in ATTACKS if has(cls, "n_jobs", "batch_size")]

each_attack = pytest.mark.parametrize("cls", ATTACKS)
each_bounded = pytest.mark.parametrize("cls", BOUNDED)
each_targeted = pytest.mark.parametrize("cls", TARGETED)


@pytest.fixture(autouse=True)
def _what_the_attack_takes(request):
    """Skip norms and losses that an attack refuses; what it takes is said by the attack itself."""
    drawn = getattr(request.node, "callspec", None)
    cls = drawn and drawn.params.get("cls")
    wanted = cls and {name: drawn.params[name] for name in ("norm",) if name in drawn.params}
    if cls and has(cls, *wanted, *drawn.params.get("params", ())):
        try:
            make_attack(cls, **wanted, **drawn.params.get("params", {}))._validate_params()
        except ValueError as refusal:
            pytest.skip(str(refusal))


@pytest.fixture(scope="module")
def data():
    return blobs()


@pytest.fixture(scope="module")
def mlp(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fitted_mlp(*data)


@pytest.fixture(scope="module")
def linear():
    """A binary linear model, with its data in the unit cube."""
    X, y = make_classification(40, 5, n_informative=5, n_redundant=0, random_state=1)
    X = np.clip(minmax_scale(X), 0, 1)
    return LogisticRegression(C=10.0).fit(X, y), X, y


# ---- the ball, the box and the mask -------------------------------------------------------------------------


@each_bounded
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_stays_in_the_ball(cls, norm, dtype, offset, data):
    X, y = data
    # Far from zero a float32 sum loses most of its digits: a tenth of eps, here.
    X = (X + offset).astype(dtype)
    clf = LogisticRegression(C=100.0, max_iter=2000).fit(X - np.asarray(offset, dtype=dtype), y)
    clf.intercept_ -= clf.coef_ @ np.full(X.shape[1], offset, dtype=dtype)
    eps = 0.0123
    X_adv = make_attack(cls, clf, norm=norm, eps=eps, max_iter=6).transform(X, y)
    assert X_adv.dtype == dtype
    assert distance(X, X_adv, norm).max() > 0.5 * eps
    assert distance(X, X_adv, norm).max() <= eps * (1 + 1e-6)
    if norm == np.inf:
        assert np.abs(X_adv - X).max() <= eps


@each_bounded
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_stays_in_the_box_and_the_mask(cls, norm, dtype, data, mlp):
    X, y = data
    X = X.astype(dtype)
    low, high = np.quantile(X, [0.1, 0.9], axis=0).astype(dtype)
    X = np.clip(X, low, high)
    attack = make_attack(cls, mlp, norm=norm, eps=0.3, max_iter=6, clip_values=(low, high), mask=[0, 2, 3])
    X_adv = attack.transform(X, y)
    assert np.all(X_adv >= low)
    assert np.all(X_adv <= high)
    assert_array_equal(X_adv[:, [1, 4, 5]], X[:, [1, 4, 5]])
    assert distance(X, X_adv, norm).max() <= 0.3 * (1 + 1e-6)
    assert np.any(X_adv == high)  # the box was felt


@each_bounded
@pytest.mark.parametrize("norm", NORMS)
def test_stays_in_the_ball_of_a_radius_for_each_feature(cls, norm, data, mlp):
    X, y = data
    eps = np.array([0.1, 0.2, 0.0, 0.3, 0.05, 0.1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        X_adv = make_attack(cls, mlp, norm=norm, eps=eps, max_iter=6).transform(X, y)
    assert_array_equal(X_adv[:, 2], X[:, 2])
    free = eps > 0
    relative = distance((X / np.where(free, eps, 1))[:, free], (X_adv / np.where(free, eps, 1))[:, free], norm)
    assert relative.max() <= 1 + 1e-6
    assert relative.max() > 0.9


@each_bounded
@pytest.mark.parametrize("norm", NORMS)
def test_without_radius_nothing_changes_and_nothing_is_said(cls, norm, data, mlp):
    X, y = data
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = make_attack(cls, mlp, norm=norm, eps=0.0, max_iter=3).run(X, y)
    assert_array_equal(result.X_adv, X)
    assert not np.shares_memory(result.X_adv, X)
    assert_array_equal(result.success, mlp.predict(X) != y)


@each_bounded
@pytest.mark.parametrize("norm", NORMS)
def test_what_needs_no_attack_comes_back_as_a_copy(cls, norm, data, mlp):
    X, _ = data
    wrong = (mlp.predict(X) + 1) % 3
    result = make_attack(cls, mlp, norm=norm, minimal=True, early_stop=True, random_start=False).run(X, wrong)
    assert result.success.all()
    assert not np.shares_memory(result.X_adv, X)


# ---- what the attack is for ---------------------------------------------------------------------------------


def gain(clf, X, X_adv, y):
    """By how much the margin has moved towards the other class."""
    sign = np.where(y == clf.classes_[1], -1.0, 1.0)
    return sign * (clf.decision_function(X_adv) - clf.decision_function(X))


@pytest.mark.parametrize("cls", ASCENT)
@pytest.mark.parametrize("norm", NORMS)
def test_reaches_the_linear_optimum(cls, norm, linear):
    clf, X, y = linear
    X_adv = make_attack(cls, clf, norm=norm, eps=0.3, eps_step=0.3, max_iter=40).transform(X, y)
    # A linear score moves by at most eps * ||w||_dual inside the ball.
    assert_allclose(gain(clf, X, X_adv, y), 0.3 * np.linalg.norm(clf.coef_[0], ord=DUAL[norm]), rtol=1e-6)


@pytest.mark.parametrize("cls", [cls for cls in ASCENT if has(cls, "clip_values", "mask")])
@pytest.mark.parametrize("norm", [1, np.inf])
def test_reaches_the_linear_optimum_in_box_and_mask(cls, norm, linear):
    clf, X, y = linear
    eps, free = 0.6, np.array([True, True, False, True, True])
    X_adv = make_attack(cls, clf, norm=norm, eps=eps, max_iter=100, clip_values=(0, 1), mask=free).transform(X, y)
    # In the 1-norm, steps along one feature and projections end within half a step of a vertex that the box cuts off.
    slack = 2.5 / 100 if norm == 1 and has(cls, "max_iter") else 1e-6
    w, n_features = clf.coef_[0], X.shape[1]
    for x, x_gain, label in zip(X, gain(clf, X, X_adv, y), y):
        sign = -1.0 if label == clf.classes_[1] else 1.0
        # Steps up and down as separate variables make the problem a linear program.
        up, down = np.where(free, 1 - x, 0.0), np.where(free, x, 0.0)
        limit = eps if norm == np.inf else np.inf
        best = linprog(
            -sign * np.concatenate([w, -w]),
            A_ub=np.ones((1, 2 * n_features)) if norm == 1 else None,
            b_ub=[eps] if norm == 1 else None,
            bounds=[(0, min(room, limit)) for room in np.concatenate([up, down])],
        )
        assert (1 - slack) * -best.fun <= x_gain <= -best.fun * (1 + 1e-9)


@each_attack
def test_success_is_what_the_model_says(cls, data, mlp):
    X, y = data
    attack = make_attack(cls, mlp, eps=0.15, max_iter=5)
    result = attack.run(X, y)
    assert result.success.mean() > 0.1
    if has(cls, "eps"):  # others go as far as it takes
        assert result.success.mean() < 1
    assert_array_equal(result.success, mlp.predict(result.X_adv) != y)
    assert_array_equal(result.y_adv, mlp.predict(result.X_adv))
    assert_array_equal(result.y, y)
    if has(cls, "norm"):
        assert_allclose(result.distance, distance(X, result.X_adv, attack.norm), rtol=1e-12)
    assert "60 samples" in repr(result)


@each_attack
def test_transform_is_the_samples_of_run(cls, data, mlp):
    X, y = data
    attack = make_attack(cls, mlp, eps=0.15, max_iter=5)
    assert_array_equal(attack.transform(X, y), attack.run(X, y).X_adv)
    # Without labels, those that the model gives are the ones to leave.
    assert_array_equal(attack.transform(X), attack.transform(X, mlp.predict(X)))


# ---- NumPy and torch ----------------------------------------------------------------------------------------


@each_attack
@pytest.mark.parametrize("norm", NORMS)
def test_numpy_and_torch_agree(cls, norm, data, mlp):
    X, y = data
    if not has(cls, "norm") and norm != 2:
        pytest.skip("one norm only")
    if has(cls, "norm") and not any(norm in option.options for option in cls._parameter_constraints["norm"]):
        pytest.skip("not a norm of this attack")
    params = {"norm": norm, "eps": 0.3, "max_iter": 8, "clip_values": (0, 1)}
    of_numpy = make_attack(cls, mlp, **params).run(X, y)
    of_torch = make_attack(cls, as_net(mlp), **params).run(X, y)
    assert isinstance(of_torch.X_adv, np.ndarray)
    assert_allclose(of_torch.X_adv, of_numpy.X_adv, rtol=0, atol=1e-6)
    assert_array_equal(of_torch.success, of_numpy.success)
    assert_array_equal(of_torch.n_queries, of_numpy.n_queries)
    assert_array_equal(of_torch.n_gradients, of_numpy.n_gradients)


@each_attack
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_come_back_as_tensors(cls, dtype, data, mlp):
    X, y = data
    X = torch.as_tensor(X, dtype=dtype).requires_grad_()
    clean = X.detach().clone()
    for model in (mlp, trained_net(*data)):
        X_adv = make_attack(cls, model, eps=0.2, max_iter=4).transform(X, torch.as_tensor(y))
        assert isinstance(X_adv, torch.Tensor)
        assert (X_adv.dtype, X_adv.shape, X_adv.requires_grad) == (dtype, X.shape, False)
        as_array = make_attack(cls, model, eps=0.2, max_iter=4).transform(X.detach().numpy(), y)
        assert_array_equal(X_adv.numpy(), as_array)
    assert torch.equal(X.detach(), clean)
    assert X.requires_grad
    assert X.grad is None


@each_attack
def test_float32_comes_back_as_float32(cls, data, mlp):
    X, y = data
    X = X.astype(np.float32)
    for model in (mlp, trained_net(*data)):
        result = make_attack(cls, model, eps=0.2, max_iter=4).run(X, y)
        assert result.X_adv.dtype == np.float32
        assert_array_equal(model.predict(result.X_adv) != y, result.success)


@each_attack
def test_nets_take_float64(cls, data):
    X, y = data
    net = trained_net(X, y)
    result = make_attack(cls, net, eps=0.2, max_iter=4).run(X, y)
    assert result.X_adv.dtype == np.float64
    assert_array_equal(net.predict(result.X_adv.astype(np.float32)) != y, result.success)


# ---- repetition, copies, processes --------------------------------------------------------------------------


@pytest.mark.parametrize("cls", SPREAD)
def test_processes_change_nothing(cls, data, mlp):
    X, y = data
    params = {"eps": 0.2, "max_iter": 4, "batch_size": 25}  # three batches: one process gets two of them
    alone = make_attack(cls, mlp, n_jobs=1, **params).run(X, y)
    spread = make_attack(cls, mlp, n_jobs=2, **params).run(X, y)
    assert_array_equal(spread.X_adv, alone.X_adv)
    for name in ("y_adv", "success", "distance", "n_queries", "n_gradients"):
        assert_array_equal(getattr(spread, name), getattr(alone, name))


@each_attack
def test_an_integer_random_state_repeats(cls, data, mlp):
    X, y = data
    attack = make_attack(cls, mlp, eps=0.2, max_iter=4, random_state=3)
    assert_array_equal(attack.transform(X, y), attack.transform(X, y))


@each_attack
@pytest.mark.parametrize("model", ["mlp", "net"])
def test_copies_attack_alike(cls, model, data, mlp):
    X, y = data
    estimator = mlp if model == "mlp" else as_net(mlp)
    attack = make_attack(cls, FrozenEstimator(estimator), eps=0.2, max_iter=4).fit(X, y)
    X_adv = attack.transform(X, y)
    assert_array_equal(pickle.loads(pickle.dumps(attack)).transform(X, y), X_adv)
    again = clone(attack)
    assert not hasattr(again, "estimator_")
    assert_array_equal(again.fit(X, y).transform(X, y), X_adv)
    assert set(vars(again)) == set(vars(attack))


@each_attack
def test_leaves_the_caller_alone(cls, data, mlp):
    X, y = data
    caller = np.random.RandomState(0)
    given = {"random_state": caller, "mask": np.arange(6) > 1, "clip_values": (np.zeros(6), np.ones(6))}
    attack = make_attack(cls, mlp, eps=0.2, max_iter=4, **given)
    X, y = X.copy(), y.copy()
    arrays = [X, y, given["mask"], *given["clip_values"]]

    def state():
        drawn = (caller.get_state(), np.random.get_state(), torch.get_rng_state().numpy().tobytes())  # noqa: NPY002
        held = {name: id(value) for name, value in vars(attack).items()}
        return pickle.dumps((drawn, [array.tobytes() for array in arrays], held))

    before = state()
    result = attack.run(X, y)
    assert state() == before
    result.X_adv[:] = 7.0  # the caller's own array from here on
    assert state() == before
    for array in arrays:
        array.flags.writeable = False
    attack.transform(X, y)


# ---- counts -------------------------------------------------------------------------------------------------


class CountingClassifier(ClassifierMixin, BaseEstimator):
    """A linear classifier that counts the samples that it and its rule see."""

    def fit(self, X, y):
        inner = LogisticRegression(C=10.0).fit(X, y)
        self.classes_, self.coef_, self.intercept_ = inner.classes_, inner.coef_, inner.intercept_
        self.n_features_in_ = X.shape[1]
        self.n_forward_ = self.n_pulled_ = 0
        return self

    def decision_function(self, X):
        self.n_forward_ += len(X)
        return X @ self.coef_.T + self.intercept_

    def predict(self, X):
        return self.classes_[self.decision_function(X).argmax(axis=1)]


@register_rule(CountingClassifier)
def counting_rule(model, backend):
    def forward(X):
        model.n_forward_ += len(X)

        def pullback(cotangent):
            model.n_pulled_ += len(X)
            return cotangent @ model.coef_

        return X @ model.coef_.T + model.intercept_, pullback

    return forward


VARIANTS = [
    {},
    {"early_stop": True},
    {"n_restarts": 3},
    {"minimal": True},
    {"target": "least_likely"},
    {"target": "runner_up", "batch_size": 7},
    {"loss": "kl"},
    {"loss": "dlr"},
]


@each_attack
@pytest.mark.parametrize("params", VARIANTS, ids=str)
@pytest.mark.parametrize("n_samples", [3, 60])
@pytest.mark.filterwarnings("ignore::skart.exceptions.AttackFailureWarning")  # "kl" from the clean sample
def test_counts_are_those_of_the_model(cls, params, n_samples, data):
    if not has(cls, *params):
        pytest.skip("a parameter that this attack does not have")
    X, y = data
    model = CountingClassifier().fit(X, y)
    result = make_attack(cls, model, eps=0.2, max_iter=5, **params).run(X[:n_samples])
    assert result.n_queries.sum() == model.n_forward_ > 0
    assert result.n_gradients.sum() == model.n_pulled_


@each_attack
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.filterwarnings("ignore:.*two answers to the same question")
def test_counts_are_those_of_the_module(cls, dtype, noise, data):
    X, y = data
    net = trained_net(X, y)
    net.module_.register_forward_pre_hook(lambda module, args: args[0] + noise * torch.randn_like(args[0]))
    seen = []
    hook = net.module_.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    result = make_attack(cls, net, eps=0.2, max_iter=5, batch_size=32).run(X.astype(dtype), y)
    hook.remove()
    assert result.n_queries.sum() == sum(seen)


# ---- labels and targets -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def named(data):
    """A model of string classes, that large perturbations can take anywhere."""
    X, y = data
    names = np.array(["ant", "bee", "cat"])
    return LogisticRegression(C=10.0).fit(X, names[y]), X, names[y]


@each_targeted
@pytest.mark.parametrize("target", ["bee", ["bee"], "least_likely", "runner_up", "random", "given"], ids=str)
def test_targets_are_reached(cls, target, named):
    clf, X, y = named
    given = np.roll(clf.classes_, 1)[np.searchsorted(clf.classes_, y)]
    order = clf.classes_[clf.predict_proba(X).argsort(axis=1)]
    predicted = clf.predict(X)
    steps = 300 if issubclass(cls, BlackBoxAttack) else 30
    result = make_attack(cls, clf, eps=1.5, max_iter=steps, target=target).run(X, given if target == "given" else None)
    goal = {"least_likely": order[:, 0], "runner_up": order[:, 1], "given": given}
    if target == "random":
        assert np.all(result.y != predicted)
        assert len(np.unique(result.y)) == 3
    else:
        assert_array_equal(result.y, goal.get(target, "bee") if isinstance(target, str) else "bee")
    assert_array_equal(clf.predict(result.X_adv), result.y_adv)
    assert_array_equal(result.success, result.y_adv == result.y)
    # One step cannot turn on its way; several steps get everywhere.
    assert result.success.mean() >= (1.0 if has(cls, "max_iter") else 0.6)


@each_targeted
def test_a_class_named_like_a_reserved_word(cls, data):
    X, y = data
    clf = LogisticRegression(C=10.0).fit(X, np.array(["given", "random", "other"])[y])
    with pytest.raises(ValueError, match=r"reserved word and also a class.*target=\['random'\]"):
        make_attack(cls, clf, target="random").transform(X)
    result = make_attack(cls, clf, eps=1.5, max_iter=30, target=["random"]).run(X)
    assert_array_equal(result.y, "random")
    assert result.success.mean() > 0.6


# ---- data frames --------------------------------------------------------------------------------------------


@each_attack
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pandas_frames_go_round(cls, dtype, named):
    _, X, y = named
    frame = pd.DataFrame(X.astype(dtype), columns=list("abcdef"), index=np.arange(len(X))[::-1] * 10)
    labels = pd.Series(y, index=frame.index)
    clf = LogisticRegression(C=10.0).fit(frame, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if not has(cls, "eps"):  # two features may not be enough
            warnings.simplefilter("ignore", AttackFailureWarning)
        result = make_attack(cls, clf, eps=0.2, max_iter=5, mask=["a", "c"]).run(frame, labels)
        verdict = clf.predict(result.X_adv)
        assert_array_equal(
            make_attack(cls, clf, eps=0.2, max_iter=5, mask=[0, 2]).transform(frame.to_numpy(), y), result.X_adv
        )
    assert_array_equal(result.X_adv.columns, frame.columns)
    assert_array_equal(result.X_adv.index, frame.index)
    assert set(result.X_adv.dtypes) == {np.dtype(dtype)}
    assert_frame_equal(result.X_adv[list("bdef")], frame[list("bdef")])
    assert_array_equal(result.success, verdict != y)
    assert result.success.any()


@each_attack
def test_polars_frames_go_round(cls, named):
    _, X, y = named
    frame = pl.DataFrame(X, schema=list("abcdef")).with_columns(pl.lit(1).alias("n"))
    clf = LogisticRegression(C=10.0).fit(frame, pl.Series(y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if not has(cls, "eps"):
            warnings.simplefilter("ignore", AttackFailureWarning)
        X_adv = make_attack(cls, clf, eps=0.2, max_iter=5, mask=["a", "c"]).transform(frame, pl.Series(y))
        clf.predict(X_adv)
    assert isinstance(X_adv, pl.DataFrame)
    assert X_adv.columns == frame.columns
    assert X_adv.drop("a", "c").equals(frame.drop("a", "c"))
    assert X_adv.schema == frame.schema  # the integer column, which stayed, is one of integers still
    assert not X_adv["a"].equals(frame["a"])


@each_attack
def test_integer_columns_become_float_where_they_change(cls, named):
    _, X, y = named
    frame = pd.DataFrame((X * 10).round().astype(np.int64), columns=list("abcdef"))
    clf = LogisticRegression(max_iter=1000).fit(frame, y)
    X_adv = make_attack(cls, clf, eps=0.7, max_iter=5, mask=["a", "c"]).transform(frame, y)
    assert [str(dtype) for dtype in X_adv.dtypes] == ["float64", "int64", "float64", "int64", "int64", "int64"]


@each_attack
def test_set_output(cls, named):
    clf, X, y = named
    attack = make_attack(cls, clf, eps=0.2, max_iter=4).fit(X, y)
    plain = attack.transform(X, y)
    assert isinstance(plain, np.ndarray)
    wrapped = attack.set_output(transform="pandas").transform(X, y)
    assert isinstance(wrapped, pd.DataFrame)
    assert_array_equal(wrapped.columns, attack.get_feature_names_out())
    assert_array_equal(wrapped.to_numpy(), plain)
    frame = pd.DataFrame(X, columns=list("abcdef"), index=np.arange(len(X)) + 5)
    wrapped = attack.fit(frame, y).transform(frame, y)
    assert_array_equal(wrapped.columns, frame.columns)
    assert_array_equal(wrapped.index, frame.index)
