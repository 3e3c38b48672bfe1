"""Broken models make an attack warn and sound ones do not; whatever happens, the model is left as it was."""

import copy
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skart import register_rule
from skart.attacks import BasicIterativeMethod, FastGradientMethod, ProjectedGradientDescent
from skart.exceptions import AttackFailureWarning
from tests.common._models import as_net, blobs, fitted_mlp, trained_net, wrap_module

EPS = 0.25


def attack(model, cls=ProjectedGradientDescent, **params):
    params = {"eps": EPS, "random_state": 0, **({} if cls is FastGradientMethod else {"max_iter": 10}), **params}
    return cls(model, **params)


def complaints(model, X, y=None, cls=ProjectedGradientDescent, **params):
    """Messages of the warnings of one attack, and its result."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = attack(model, cls, **params).run(X, y)
    assert all(issubclass(item.category, AttackFailureWarning) for item in caught)
    return [str(item.message) for item in caught], result


@pytest.fixture(scope="module")
def data():
    X, y = blobs()
    return X.astype(np.float32), y


@pytest.fixture
def net(data):
    return trained_net(*data)


class Wrapped(nn.Module):
    """A trained module with something in front of it or behind it."""

    def __init__(self, inner, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.inner = inner
        self.before = before
        self.after = after

    def forward(self, x):
        return self.after(self.inner(self.before(x)))


# ---- sound models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [FastGradientMethod, BasicIterativeMethod, ProjectedGradientDescent])
@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_sound_models_make_no_complaint(cls, norm, data, net):
    X, y = data
    for model in (
        net,
        LogisticRegression(C=10.0).fit(X, y),
        make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y),
    ):
        said, result = complaints(model, X, y, cls, norm=norm, clip_values=(0, 1))
        assert said == []
        assert 0 < result.success.mean()
    # Far inside its class a sound model is sure, and its gradient small but not gone.
    sure = LogisticRegression(C=1e6, max_iter=10_000).fit(X, y)
    assert complaints(sure, X, y, cls, norm=norm, eps=1e-3)[0] == []


# ---- broken models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [FastGradientMethod, BasicIterativeMethod, ProjectedGradientDescent])
def test_quantised_input(cls, data, net):
    X, y = data
    X = np.round(X * 16) / 16  # on the grid, so that the model is as good as it was
    broken = wrap_module(Wrapped(net.module_, before=lambda x: torch.round(x * 16) / 16))
    said, result = complaints(broken, X, y, cls)
    flat = np.count_nonzero(~result.success)
    assert flat > 30
    assert said == [
        f"{cls.__name__}: the gradient is zero at the start for {flat} of 60 samples: the attack was blind there. A "
        "step that rounds, quantises or thresholds has a zero gradient: register a pullback for it "
        "(`skart.register_rule`; straight-through is the usual choice), start at random points, or attack by decisions."
    ]


class Rounding(torch.autograd.Function):
    """Straight-through rounding: what the warning advises."""

    @staticmethod
    def forward(ctx, x):
        return torch.round(x * 16) / 16

    @staticmethod
    def backward(ctx, grad):
        return grad


def test_the_advice_for_quantised_input_helps(data, net):
    X, y = data
    X = np.round(X * 16) / 16
    said, result = complaints(wrap_module(Wrapped(net.module_, before=Rounding.apply)), X, y)
    assert said == []
    assert result.success.mean() > 0.8


def test_saturated_probabilities(data, net):
    X, y = data
    module = Wrapped(net.module_, after=lambda z: torch.softmax(1e6 * z, dim=1))
    said, result = complaints(wrap_module(module, criterion=nn.NLLLoss), X, y)
    assert result.success.mean() < 0.3
    assert len(said) == 1
    assert "probabilities are saturated, and the gradient underflows to zero for" in said[0]
    assert "Attack a version that gives logits" in said[0]
    # The advice: the same model with its logits in sight, where a large scale does no harm.
    said, result = complaints(wrap_module(Wrapped(net.module_, after=lambda z: 1e6 * z)), X, y)
    assert said == []
    assert result.success.mean() > 0.8


def test_gradients_that_are_not_finite(data, net):
    X, y = data
    # The square root of what is zero has an infinite derivative, and zero times infinity is no number.
    module = Wrapped(net.module_, before=lambda x: x + torch.sqrt((x - 0.5).square() * (x > 0.5)))
    said, result = complaints(wrap_module(module), X, y)
    assert any(
        "the gradient was NaN or infinite for" in text and "Look for a division by zero" in text for text in said
    )
    assert np.isfinite(result.X_adv).all()
    assert np.abs(result.X_adv - X).max() <= EPS


def test_scores_that_are_not_finite(data, net):
    X, y = data
    module = Wrapped(net.module_, before=lambda x: torch.where(x > 1.05, torch.nan, x))
    said, result = complaints(wrap_module(module), X, y)
    assert any("scores were NaN or infinite for" in text and "overflow" in text for text in said)
    assert np.isfinite(result.X_adv).all()


def test_random_net(data, net):
    X, y = data
    module = Wrapped(net.module_, before=lambda x: x + 0.1 * torch.randn_like(x))
    said, _ = complaints(wrap_module(module), X, y)
    assert any("the model gave two answers to the same question" in text for text in said)
    assert any("average over it (an expectation over transformations)" in text for text in said)


class NoisyClassifier(ClassifierMixin, BaseEstimator):
    """A linear classifier with noise on its scores, from a generator of its own."""

    def fit(self, X, y):
        inner = LogisticRegression(C=10.0).fit(X, y)
        self.classes_, self.coef_, self.intercept_ = inner.classes_, inner.coef_, inner.intercept_
        self.rng_ = np.random.default_rng(0)
        return self

    def decision_function(self, X):
        return X @ self.coef_.T + self.intercept_ + 0.1 * self.rng_.standard_normal((len(X), len(self.classes_)))

    def predict(self, X):
        return self.classes_[self.decision_function(X).argmax(axis=1)]


@register_rule(NoisyClassifier)
def noisy_rule(model, backend):
    return lambda X: (X @ model.coef_.T + model.intercept_, lambda cotangent: cotangent @ model.coef_)


def test_random_classifier(data):
    X, y = data
    said, _ = complaints(NoisyClassifier().fit(X, y), X, y)
    assert len(said) == 1
    assert "the model gave two answers to the same question" in said[0]


class Remembering(nn.Module):
    """A module that keeps statistics of what it sees, in eval mode too."""

    def __init__(self, inner, in_place):
        super().__init__()
        self.inner = inner
        self.in_place = in_place
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.in_place:
            self.seen += 1
        else:
            self.seen = self.seen + 1
        return self.inner(x)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_forward_pass_with_side_effects(in_place, data, net):
    X, y = data
    module = Remembering(net.module_, in_place)
    said, _ = complaints(wrap_module(module), X, y)
    assert any("Remembering changed its buffers (seen) while it was asked in eval mode" in text for text in said)
    assert float(module.seen) == 0


def test_samples_that_come_back_unchanged(data):
    X, y = data
    clf = LogisticRegression(C=10.0).fit(X, y)
    clf.coef_[:, :3] = 0.0
    # The gradient is there, but not among the features that may change.
    said, result = complaints(clf, X, cls=BasicIterativeMethod, mask=[0, 1, 2])
    assert said == [
        "BasicIterativeMethod: 60 of 60 samples came back unchanged and count as failures. The attack found nothing "
        "better than the clean sample: this is no evidence of robustness. Check eps against the scale of the data, the "
        "mask and clip_values, and the model's gradient."
    ]
    assert_array_equal(result.X_adv, X)


def test_warnings_point_at_the_caller(data, net):
    X, y = data
    broken = attack(wrap_module(Wrapped(net.module_, before=lambda x: torch.round(x * 16) / 16)))
    for call in (broken.run, broken.transform):
        with pytest.warns(AttackFailureWarning) as caught:
            call(X, y)
        assert {item.filename for item in caught} == {__file__}


def test_success_is_judged_afresh(data):
    """A rule that is right about scores, on a model whose `predict` follows another one."""
    X, y = data

    class Stubborn(LogisticRegression):
        def predict(self, X):
            return np.zeros(len(X), dtype=int)

    register_rule(Stubborn, lambda model, backend: backend.bind(model.twin_))
    model = Stubborn(C=10.0).fit(X, y)
    model.twin_ = LogisticRegression(C=10.0).fit(X, y)
    result = attack(model).run(X)
    # The scores were moved to another class; the model says what it says.
    assert np.any(model.twin_.predict(result.X_adv) != 0)
    assert not result.success.any()
    assert_array_equal(result.y_adv, 0)


# ---- what is left behind ------------------------------------------------------------------------------------


def snapshot(module):
    return (
        [part.training for part in module.modules()],
        [(parameter.requires_grad, parameter.grad) for parameter in module.parameters()],
        copy.deepcopy(module.state_dict()),
    )


def same(first, second):
    return (
        first[:2] == second[:2]
        and first[2].keys() == second[2].keys()
        and all(torch.equal(first[2][name], second[2][name]) for name in first[2])
    )


@pytest.mark.parametrize("in_pipeline", [False, True])
def test_a_net_is_left_as_it_was_found(in_pipeline, data, net):
    X, y = data
    module = net.module_
    module.train()
    module[1].eval()  # a mixture of modes
    module[0].bias.requires_grad_(False)
    model = make_pipeline(FrozenEstimator(StandardScaler().fit(X)), net) if in_pipeline else net
    before = snapshot(module)
    attack(model).run(X, y)
    assert same(snapshot(module), before)
    with torch.no_grad():
        attack(model).run(X, y)
    with torch.inference_mode():
        attack(model).run(X, y)
    assert same(snapshot(module), before)
    assert torch.is_grad_enabled()


def test_a_net_is_left_as_it_was_found_after_an_error(data, net):
    X, y = data
    calls = []

    def fail_later(x):
        calls.append(len(x))
        if len(calls) > 8:
            raise RuntimeError("out of order")
        return x

    module = Wrapped(net.module_, before=fail_later).train()
    model = wrap_module(module)
    module.train()
    before = snapshot(module)
    with pytest.raises(RuntimeError, match="out of order"):
        attack(model).run(X, y)
    assert len(calls) == 9
    assert same(snapshot(module), before)
    calls.clear()
    # So too where the caller's parameters are at fault.
    with pytest.raises(ValueError, match="is no class of the model"):
        attack(model, target=17).run(X, y)
    assert same(snapshot(module), before)


def test_dropout_is_off_during_an_attack(data, net):
    X, y = data
    module = nn.Sequential(net.module_, nn.Dropout(0.5))
    model = wrap_module(module)
    module.train()
    said, _ = complaints(model, X, y)
    assert said == []
    assert module[1].training


def test_a_net_of_doubles_stays_one(data):
    X, y = blobs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = as_net(fitted_mlp(X, y))
    attack(net).run(X.astype(np.float32), y)
    assert {parameter.dtype for parameter in net.module_.parameters()} == {torch.float64}
