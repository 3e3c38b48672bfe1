"""The adapter of torch modules: what outputs mean, what comes in, and that the module is left as it was found."""

import copy
import functools
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from skart.attacks import FastGradientMethod, ProjectedGradientDescent  # noqa: E402
from skart.defences import FeatureSqueezing  # noqa: E402
from skart.estimators import SkorchClassifier, TorchClassifier  # noqa: E402
from skart.exceptions import AttackFailureWarning  # noqa: E402
from skart.gradients._torch import log_of, torch_forward  # noqa: E402
from skart.metrics import make_robustness_scorer  # noqa: E402
from skart.oracles import Oracle, class_gradient, loss_gradient  # noqa: E402
from skart.utils import check_rule  # noqa: E402

N_FEATURES = 5
LETTERS = np.array(["a", "b", "c"])
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def mlp(n_outputs, *end, dtype=torch.float64, scale=1.0, n_inputs=N_FEATURES):
    """A smooth module; ``end`` follows its last linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(n_inputs, 8), nn.Tanh(), nn.Linear(8, n_outputs), *end)
    module[2].weight.data *= scale
    module[2].bias.data *= scale
    return module.to(dtype)


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(60, N_FEATURES))


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def plain(module, X):
    """What the module itself gives, as NumPy."""
    with torch.no_grad():
        output = module(torch.as_tensor(X))
    return (output[0] if isinstance(output, tuple) else output).numpy()


def softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


class Ends(nn.Module):
    """A module whose last step is a function, not a module."""

    def __init__(self, inner, end):
        super().__init__()
        self.inner, self.end = inner, end

    def forward(self, x):
        return self.end(self.inner(x))


class Both(nn.Module):
    """A module that ends in the softmax which it defined first, and returns something else, too."""

    def __init__(self, inner):
        super().__init__()
        self.softmax, self.inner = nn.Softmax(dim=-1), inner

    def forward(self, x):
        return self.softmax(self.inner(x)), x.sum().detach()


# Name: classifier, and the logits or the one margin of the module without its end.
CASES = {
    "logits": (lambda: mlp(3), "logits"),
    "two logits": (lambda: mlp(2), "logits"),
    "one logit": (lambda: mlp(1), "logits"),
    "one flat logit": (lambda: mlp(1, nn.Flatten(0)), "logits"),
    "log-probabilities": (lambda: mlp(3, nn.LogSoftmax(dim=1)), "log_proba"),
    "log-probabilities of a function": (lambda: Ends(mlp(3), lambda z: z.log_softmax(1)), "log_proba"),
    "softmax": (lambda: mlp(3, nn.Softmax(dim=1)), "proba"),
    "softmax of two": (lambda: mlp(2, nn.Softmax(dim=-1)), "proba"),
    "softmax in a part": (lambda: nn.Sequential(nn.Identity(), mlp(3, nn.Sequential(nn.Softmax(dim=1)))), "proba"),
    "softmax in a tuple": (lambda: Both(mlp(3)), "proba"),
    "softmax of a function": (lambda: Ends(mlp(3), lambda z: z.softmax(1)), "proba"),
    "sigmoid": (lambda: mlp(1, nn.Sigmoid()), "proba"),
    "flat sigmoid": (lambda: mlp(1, nn.Flatten(0), nn.Sigmoid()), "proba"),
    "sigmoid of a function": (lambda: Ends(mlp(1), torch.sigmoid), "proba"),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request):
    """A classifier, and the logits that its module has inside, as rows."""
    make, output = CASES[request.param]
    module = make()
    inner = next(part for part in module.modules() if isinstance(part, nn.Linear) and part.in_features == 8)
    n_classes = max(inner.out_features, 2)

    def logits(X):
        kept = []
        handle = inner.register_forward_hook(lambda part, args, out: kept.append(out.detach().numpy()))
        plain(module, X)
        handle.remove()
        z = kept[0]
        return z if z.shape[1] > 1 else np.column_stack([np.zeros(len(z)), z[:, 0]])

    return TorchClassifier(module, ["z", "a", "m"][:n_classes], output=output), logits


def test_outputs_mean_what_they_say(case, X):
    clf, logits = case
    proba = softmax(logits(X))
    assert_allclose(clf.predict_proba(X), proba, rtol=1e-10)
    assert_array_equal(clf.classes_, ["z", "a", "m"][: proba.shape[1]])
    assert_array_equal(clf.predict(X), clf.classes_[proba.argmax(axis=1)])
    assert len(set(clf.predict(X))) > 1
    scores = clf.decision_function(X)
    if proba.shape[1] == 2:
        assert_allclose(scores, np.log(proba[:, 1] / proba[:, 0]), rtol=1e-8, atol=1e-10)
    else:
        assert_allclose(softmax(scores), proba, rtol=1e-10)


def test_rule(case, X):
    clf, logits = case
    check_rule(clf, X)
    oracle = Oracle(clf, X)
    assert oracle.access == "gradients"
    assert_allclose(softmax(oracle.logits(oracle.asarray(X)).numpy()), softmax(logits(X)), rtol=1e-10)
    assert_array_equal(oracle.labels(oracle.asarray(X)), clf.predict(X))


@pytest.mark.parametrize(
    ("end", "n_outputs", "scale"),
    [(nn.Softmax(dim=1), 3, 1e3), (nn.Softmax(dim=1), 2, 1e3), (nn.Sigmoid(), 1, 1e3), (nn.LogSoftmax(dim=1), 3, 1e3)],
    ids=lambda value: str(value),
)
def test_gradients_do_not_underflow_where_probabilities_do(X, end, n_outputs, scale):
    """In float32, exp(-104) is zero, and 1 - 1e-8 is one."""
    output = "log_proba" if isinstance(end, nn.LogSoftmax) else "proba"
    module = mlp(n_outputs, end, dtype=torch.float32, scale=scale)
    classes = LETTERS[: max(n_outputs, 2)]
    X = X.astype(np.float32)
    clf, bare = TorchClassifier(module, classes, output=output), TorchClassifier(module[:3], classes)
    if output == "proba":
        assert (clf.predict_proba(X).max(axis=1) == 1).mean() > 0.9
    expected = Oracle(bare, X)
    oracle = Oracle(clf, X)
    x = oracle.asarray(X)
    logits, pullback = oracle.vjp(x)
    theirs, their_pullback = expected.vjp(x)
    cotangent = torch.ones_like(logits)
    cotangent[:, 0] = 1 - logits.shape[1]  # its rows sum to zero
    assert_allclose(pullback(cotangent).numpy(), their_pullback(cotangent).numpy(), rtol=1e-3, atol=1)
    assert abs(their_pullback(cotangent).numpy()).max(axis=1).min() > 1


def test_attack_on_saturated_probabilities_is_as_strong_as_on_logits():
    pytest.importorskip("skorch")
    from tests.common._models import wrap_module

    X = np.random.default_rng(0).normal(size=(50, N_FEATURES)).astype(np.float32)
    module = mlp(3, nn.Softmax(dim=1), dtype=torch.float32, scale=1e3)
    success = {
        "logits": TorchClassifier(module[:3], [0, 1, 2]),
        "TorchClassifier": TorchClassifier(module, [0, 1, 2], output="proba"),
        "skorch": wrap_module(module, criterion=nn.NLLLoss),
        "skorch, no nonlinearity": wrap_module(module, criterion=nn.MultiMarginLoss, predict_nonlinearity=None),
    }
    for name, clf in success.items():
        attack = ProjectedGradientDescent(clf, eps=1.0, max_iter=10, random_state=0, loss="margin")
        success[name] = attack.run(X).success
    assert 0.3 < success["logits"].mean()
    for name, reached in success.items():
        assert_array_equal(reached, success["logits"], err_msg=name)


def test_saturated_sigmoid_of_skorch():
    pytest.importorskip("skorch")
    from skorch import NeuralNetBinaryClassifier

    X = np.random.default_rng(0).normal(size=(50, N_FEATURES)).astype(np.float32)
    module = mlp(1, nn.Sigmoid(), dtype=torch.float32, scale=1e3)
    for threshold in (0.5, 0.7):
        net = NeuralNetBinaryClassifier(module, criterion=nn.BCELoss, threshold=threshold, verbose=0).initialize()
        oracle = Oracle(net, X)
        logits, pullback = oracle.vjp(oracle.asarray(X))
        margin = plain(module[:2], X) @ module[2].weight.detach().numpy()[0] + module[2].bias.item()
        assert_allclose((logits[:, 1] - logits[:, 0]).numpy(), margin - np.log(threshold / (1 - threshold)), rtol=1e-3)
        grad = pullback(torch.tensor([[-1.0, 1.0]]).expand(50, 2))
        assert abs(grad.numpy()).max(axis=1).min() > 1


class Misleading(nn.Module):
    """Modules in which a softmax gives the output only seemingly."""

    def __init__(self, how):
        super().__init__()
        self.how, self.inner, self.softmax = how, mlp(3), nn.Softmax(dim=1)

    def forward(self, x):
        z = self.inner(x)
        proba = self.softmax(z)
        if self.how == "changed":  # (1 - 0.1) p + 0.1 / 3
            return 0.9 * proba + 0.1 / 3
        if self.how == "changed in place":
            with torch.no_grad():
                proba.copy_(0.9 * proba + 0.1 / 3)
            return proba
        if self.how == "input changed in place":
            with torch.no_grad():
                z.mul_(2)
            return proba
        return self.softmax(proba)  # twice: what goes into the last one are probabilities


@pytest.mark.parametrize("how", ["changed", "input changed in place", "twice"])
def test_what_only_looks_like_a_last_softmax_is_read_as_it_is(X, how):
    module = Misleading(how)
    clf = TorchClassifier(module, LETTERS, output="proba")
    check_rule(clf, X)
    assert_allclose(clf.predict_proba(X), plain(module, X))


def test_output_written_to_after_the_softmax_is_the_output(X):
    module = Misleading("changed in place")
    clf = TorchClassifier(module, LETTERS, output="proba")
    oracle = Oracle(clf, X)
    assert_allclose(softmax(oracle.logits(oracle.asarray(X)).numpy()), plain(module, X), rtol=1e-10)


@pytest.mark.parametrize("hook", ["forward", "pre"])
def test_a_hook_of_the_user_s_on_the_last_softmax_counts(X, hook):
    module = mlp(3, nn.Softmax(dim=1))
    if hook == "forward":
        module[3].register_forward_hook(lambda part, args, out: 0.5 * out + 0.5 / 3)
    else:
        module[3].register_forward_pre_hook(lambda part, args: (3 * args[0],))
    check_rule(TorchClassifier(module, LETTERS, output="proba"), X)
    assert len(module[3]._forward_hooks) + len(module[3]._forward_pre_hooks) == 1


def test_softmax_along_another_axis_is_no_end(X):
    module = Ends(mlp(3, nn.Softmax(dim=0)), lambda p: p / p.sum(dim=1, keepdim=True))
    assert_allclose(TorchClassifier(module, LETTERS, output="proba").predict_proba(X).sum(axis=1), 1)
    with pytest.raises(ValueError, match="its values are none"):
        Oracle(TorchClassifier(module.inner, LETTERS, output="proba"), X)
    # What goes into it differs by more than a constant for each row.
    logits, _ = torch_forward(module.inner, log_of, torch.float64, early=lambda z: z)(torch.as_tensor(X))
    assert_allclose(logits.numpy(), np.log(plain(module.inner, X)), rtol=1e-10)


def as_frame(X):
    return pd.DataFrame(X, columns=list("abcde"))


@pytest.mark.parametrize(
    "form",
    [
        np.asarray,
        np.float32,
        np.asfortranarray,
        as_frame,
        torch.as_tensor,
        np.ndarray.tolist,
        lambda X: np.rint(X).astype(int),
    ],
    ids=["float64", "float32", "fortran", "frame", "tensor", "list", "integers"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_form_of_data_gives_what_the_module_gives(X, form, dtype):
    module = mlp(3, dtype=dtype)
    asked = form(X)
    with torch.no_grad():
        expected = module(torch.tensor(np.asarray(asked), dtype=dtype)).double().numpy()
    clf = TorchClassifier(module, LETTERS, batch_size=60)
    proba = clf.predict_proba(asked)
    assert proba.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert_allclose(proba, softmax(expected), rtol=1e-5)
    assert_array_equal(clf.predict(asked), LETTERS[expected.argmax(axis=1)])


@pytest.mark.parametrize("batch_size", [1, 7, 60, 1000])
def test_batches(X, batch_size):
    sizes = []
    module = mlp(3)
    module.register_forward_hook(lambda part, args, out: sizes.append(len(out)))
    proba = TorchClassifier(module, LETTERS, batch_size=batch_size).predict_proba(X)
    assert max(sizes) == min(batch_size, 60)
    assert sum(sizes) == 60
    assert_allclose(proba, softmax(plain(module, X)), rtol=1e-10)


def image_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 4 * 3, 3, dtype=torch.float32)
        ).double()


def test_flat_rows_are_read_as_images():
    module = image_net()
    images = np.random.default_rng(0).normal(size=(12, 2, 6, 5))
    flat = images.reshape(12, 60)
    clf = TorchClassifier(module, LETTERS, input_shape=(2, 6, 5))
    expected = softmax(plain(module, images))
    for given in (images, flat, torch.as_tensor(flat)):
        assert_allclose(clf.predict_proba(given), expected)
    check_rule(clf, flat)
    check_rule(clf, images)
    grad = loss_gradient(clf, images, clf.predict(images))
    assert grad.shape == images.shape
    assert_allclose(loss_gradient(clf, flat, clf.predict(flat)), grad.reshape(12, 60))
    assert_allclose(loss_gradient(TorchClassifier(module, LETTERS), images, clf.predict(images)), grad)
    result = FastGradientMethod(clf, eps=0.5).run(flat)
    assert result.X_adv.shape == flat.shape
    for wrong in (flat[:, :59], images[:, :1], images.reshape(12, 2, 30)):
        with pytest.raises(ValueError, match=r"input_shape=\(2, 6, 5\) takes samples of that shape, or rows of 60"):
            clf.predict(wrong)


class Stateful(nn.Module):
    """All that can be disturbed: normalisation, dropout, a frozen parameter, a part in another mode, a gradient."""

    def __init__(self, in_place=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.norm, self.inner = nn.BatchNorm1d(N_FEATURES), nn.BatchNorm1d(8)
            self.first, self.dropout, self.last = nn.Linear(N_FEATURES, 8), nn.Dropout(0.5), nn.Linear(8, 3)
            self.norm(torch.randn(20, N_FEATURES))
        self.softmax = nn.Softmax(dim=1)
        self.first.bias.requires_grad_(False)
        self.last.weight.grad = torch.ones_like(self.last.weight)
        self.inner.eval()
        self.fail_after, self.in_place = np.inf, in_place

    def forward(self, x):
        self.fail_after -= 1
        if self.fail_after < 0:
            raise ArithmeticError("no more")
        if self.in_place:
            x -= 1
        return self.softmax(self.last(self.dropout(self.inner(torch.relu(self.first(self.norm(x)))))))


def state(module):
    return (
        [(name, part.training) for name, part in module.named_modules()],
        [
            (name, p.requires_grad, p.device, p.data_ptr(), p.tolist(), None if p.grad is None else p.grad.tolist())
            for name, p in module.named_parameters()
        ],
        [(name, id(b), b.device, b.tolist()) for name, b in module.named_buffers()],
        [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
    )


def ask_all(clf, X):
    clf.predict(X), clf.predict_proba(X), clf.decision_function(X)
    loss_gradient(clf, X, clf.predict(X)), class_gradient(clf, X)
    FastGradientMethod(clf, eps=0.1).transform(X)
    ProjectedGradientDescent(clf, eps=0.1, max_iter=3, random_state=0, batch_size=25).run(X)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("in_place", [False, True])
def test_module_and_data_are_left_as_they_were_found(X, device, in_place):
    module = Stateful(in_place).to(device)
    before, original = state(module), X.copy()
    assert module.training
    assert not module.inner.training
    single = X.astype(np.float32)
    clf = TorchClassifier(module, LETTERS, output="proba")
    for given in (X, single, torch.as_tensor(single, device=device)):
        ask_all(clf, given)
        assert state(module) == before
    assert_array_equal(X, original)
    assert_array_equal(single, original.astype(np.float32))
    assert_array_equal(clf.predict_proba(X), clf.predict_proba(X))  # no dropout
    # In eval mode, as in the formula.
    twin = copy.deepcopy(module).eval()
    with torch.no_grad():
        expected = twin(torch.tensor(single, device=device)).cpu().numpy()
    assert_allclose(clf.predict_proba(X), expected, rtol=1e-6)


class Renormalising(nn.Module):
    """A module that normalises by the batch in eval mode, too, and goes on to keep statistics."""

    def __init__(self):
        super().__init__()
        self.norm, self.inner = nn.BatchNorm1d(N_FEATURES, dtype=torch.float64), mlp(3)

    def forward(self, x):
        norm = self.norm
        return self.inner(nn.functional.batch_norm(x, norm.running_mean, norm.running_var, training=True))


def test_statistics_that_change_in_eval_mode_are_put_back_and_reported(X):
    """They change without a new version of the buffer."""
    module = Renormalising()
    before = state(module)
    with pytest.warns(AttackFailureWarning, match="changed its buffers.*running_mean"):
        loss_gradient(TorchClassifier(module, LETTERS), X, np.repeat("a", 60))
    assert state(module) == before


@pytest.mark.parametrize("passes", range(7))
def test_module_is_left_as_it_was_found_by_an_attack_that_raised(X, passes):
    module = Stateful()
    clf = TorchClassifier(module, LETTERS, output="proba", batch_size=20)
    before = state(module)
    module.fail_after = passes
    with pytest.raises(ArithmeticError):
        ProjectedGradientDescent(clf, eps=0.1, max_iter=4, random_state=0, batch_size=30).run(X)
    assert state(module) == before


@pytest.mark.filterwarnings("ignore::skart.exceptions.AttackFailureWarning")  # a ReLU net, far from its boundary
def test_numpy_and_torch_make_the_same_attack():
    """The same weights in scikit-learn's network and in a torch module."""
    X, y = make_classification(80, 6, n_informative=5, n_redundant=0, n_classes=3, random_state=0)
    for activation, layer in (("tanh", nn.Tanh), ("logistic", nn.Sigmoid), ("relu", nn.ReLU)):
        net = MLPClassifier((12, 7), activation=activation, max_iter=60, random_state=0)
        with pytest.warns(Warning, match="converge"):
            net.fit(X, LETTERS[y])
        layers = []
        for weights, bias in zip(net.coefs_, net.intercepts_):
            layers += [nn.Linear(*weights.shape, dtype=torch.float64), layer()]
            layers[-2].weight.data, layers[-2].bias.data = torch.tensor(weights.T), torch.tensor(bias)
        clf = TorchClassifier(nn.Sequential(*layers[:-1]), net.classes_)
        assert_allclose(clf.predict_proba(X), net.predict_proba(X), rtol=1e-10)
        attacks = [
            FastGradientMethod(eps=0.3),
            FastGradientMethod(eps=1.0, norm=2),
            ProjectedGradientDescent(eps=0.3, max_iter=10, random_state=0),
            ProjectedGradientDescent(eps=1.0, norm=2, max_iter=10, random_state=0, loss="margin", target="a"),
        ]
        for attack in attacks:
            numpy_result = clone(attack).set_params(estimator=net).run(X, None if attack.target else LETTERS[y])
            torch_result = clone(attack).set_params(estimator=clf).run(X, None if attack.target else LETTERS[y])
            assert_allclose(torch_result.X_adv, numpy_result.X_adv, rtol=1e-8, atol=1e-8)
            assert_array_equal(torch_result.y_adv, numpy_result.y_adv)
            assert numpy_result.success.any()


# Training


def trainer(n_outputs=3, *end, **params):
    module = mlp(n_outputs, *end, dtype=torch.float32, n_inputs=4)
    adam = functools.partial(torch.optim.Adam, lr=0.02)
    return TorchClassifier(module, **{"classes": LETTERS, "optimizer": adam, "random_state": 0, **params})


@pytest.mark.parametrize(
    ("end", "output"), [((), "logits"), ((nn.LogSoftmax(dim=1),), "log_proba"), ((nn.Softmax(dim=1),), "proba")]
)
def test_fit_trains_a_copy(iris, end, output):
    X, y = iris
    clf = trainer(3, *end, output=output)
    before = state(clf.module)
    assert clf.score(X, LETTERS[y]) < 0.8  # it answers all the same
    frame = pd.DataFrame(X, columns=list("abcd"))
    assert clf.fit(frame, LETTERS[y]) is clf
    assert clf.score(frame, LETTERS[y]) > 0.9
    assert state(clf.module) == before
    assert clf.module_ is not clf.module
    assert not clf.module_.training
    assert list(clf.feature_names_in_) == list("abcd")
    assert all(parameter.grad is None for parameter in clf.module_.parameters())


@pytest.mark.parametrize(("end", "output"), [((), "logits"), ((nn.Sigmoid(),), "proba")])
def test_fit_with_one_output(iris, end, output):
    X, y = iris
    clf = trainer(1, *end, output=output, classes=["no", "yes"])
    labels = np.where(y == 0, "yes", "no")
    assert clf.fit(X, labels).score(X, labels) > 0.95


@pytest.mark.parametrize("n_batches", [1, 2])
def test_training_goes_by_the_cross_entropy(iris, n_batches):
    """Two full steps of gradient descent, by hand."""
    X, y = iris
    if n_batches == 2:  # two batches that are the same, however they are drawn
        X, y = np.repeat(X[60:61], 150, axis=0), np.repeat(y[60:61], 150)
    sgd = functools.partial(torch.optim.SGD, lr=0.5)
    clf = trainer(optimizer=sgd, max_epochs=2 // n_batches, batch_size=150 // n_batches)
    clf.fit(X, LETTERS[y])
    twin = copy.deepcopy(clf.module)
    for _ in range(2):
        loss = nn.CrossEntropyLoss()(twin(torch.tensor(X, dtype=torch.float32)), torch.tensor(y))
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        for parameter, gradient in zip(twin.parameters(), gradients):
            parameter.data -= 0.5 * gradient
    for parameter, trained in zip(twin.parameters(), clf.module_.parameters()):
        assert_allclose(parameter.detach(), trained.detach(), rtol=1e-4, atol=1e-6)


def test_partial_fit_goes_on(iris):
    X, y = iris
    labels = LETTERS[y]
    once = trainer(max_epochs=3).fit(X, labels)
    clf = trainer().partial_fit(X[:50], labels[:50], classes=LETTERS)
    module, optimizer = clf.module_, clf.optimizer_
    for _ in range(25):
        clf.partial_fit(X, labels)
    assert clf.module_ is module
    assert clf.optimizer_ is optimizer
    assert clf.score(X, labels) > max(0.9, once.score(X, labels) - 0.05)
    assert clf.fit(X, labels).module_ is not module  # anew, from the given weights
    assert not hasattr(TorchClassifier(mlp(3), LETTERS), "partial_fit")
    with pytest.raises(ValueError, match="'q', which is not in the given classes"):
        trainer().partial_fit(X, labels, classes=["a", "b", "c", "q"])


def test_random_state_determines_training_and_leaves_the_global_generator(iris):
    X, y = iris
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    before = torch.random.get_rng_state()
    fits = [
        TorchClassifier(module, LETTERS, optimizer=torch.optim.Adam, max_epochs=2, random_state=seed).fit(X, LETTERS[y])
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_array_equal(fits[0].predict_proba(X), fits[1].predict_proba(X))
    assert not np.allclose(fits[0].predict_proba(X), fits[2].predict_proba(X))


def test_last_batch_is_never_a_single_sample(iris):
    """Batch normalisation refuses one."""
    X, y = iris
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    clf = TorchClassifier(module, LETTERS, optimizer=torch.optim.Adam, batch_size=50, max_epochs=2, random_state=0)
    clf.fit(X[:101], LETTERS[y[:101]])
    assert clf.module_[1].num_batches_tracked == 6
    assert clf.module[1].num_batches_tracked == 0


def test_frozen_parameters_stay(iris):
    X, y = iris
    clf = trainer()
    clf.module[0].requires_grad_(False)
    clf.fit(X, LETTERS[y])
    assert torch.equal(clf.module_[0].weight, clf.module[0].weight)
    assert not torch.equal(clf.module_[2].weight, clf.module[2].weight)


def test_lazy_module(iris):
    X, y = iris
    clf = TorchClassifier(nn.LazyLinear(3), LETTERS, optimizer=torch.optim.Adam, random_state=0)
    with pytest.raises(NotFittedError):
        clf.predict(X)
    with pytest.raises(NotFittedError):
        Oracle(clf, X)
    assert clf.fit(X, LETTERS[y]).predict(X).shape == (150,)
    assert clf.module.in_features == 0
    with pytest.raises(ValueError, match="X has 3 features, but TorchClassifier is expecting 4"):
        clf.predict(X[:, :3])


def test_a_fit_that_raises_changes_nothing(iris):
    X, y = iris
    clf = trainer(max_epochs=2).fit(X, LETTERS[y])
    module, expected = clf.module_, clf.predict_proba(X)
    with pytest.raises(ValueError, match="'z', which is not in the given classes"):
        clf.fit(X, np.array(["a", "b", "z"])[y])
    with pytest.raises(RuntimeError):
        clf.fit(X[:, :3], LETTERS[y])
    assert clf.module_ is module
    assert_array_equal(clf.predict_proba(X), expected)


# Composition


def test_trained_module_needs_no_fit_and_refuses_one(X):
    clf = TorchClassifier(mlp(3), LETTERS)
    y = clf.predict(X)
    with pytest.raises(ValueError, match=r"no optimizer.*FrozenEstimator\(clf\).*SkorchClassifier"):
        clf.fit(X, y)
    with pytest.raises(ValueError, match="no optimizer"):
        FastGradientMethod(clf).fit(X, y)
    assert FastGradientMethod(FrozenEstimator(clf)).fit(X, y).transform(X).shape == X.shape
    assert FastGradientMethod(clf).transform(X).shape == X.shape


def test_clone_keeps_the_weights(X):
    clf = TorchClassifier(mlp(3), LETTERS, batch_size=7)
    twin = clone(clf)
    assert twin.module is not clf.module
    assert_array_equal(twin.predict_proba(X), clf.predict_proba(X))
    twin.module[0].weight.data.zero_()
    assert not np.allclose(twin.predict_proba(X), clf.predict_proba(X))
    assert clone(FrozenEstimator(clf)).estimator.module is clf.module


def test_pickle(iris):
    X, y = iris
    clf = trainer(max_epochs=2).fit(X, LETTERS[y])
    again = pickle.loads(pickle.dumps(clf))
    assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    again.partial_fit(X, LETTERS[y])  # the optimizer has the parameters of the module beside it
    assert not np.allclose(again.predict_proba(X), clf.predict_proba(X))


def test_in_cross_validation_and_search_with_string_labels():
    X, y = load_iris(return_X_y=True, as_frame=True)
    labels = y.map(dict(enumerate(["setosa", "versicolor", "virginica"])))
    clf = make_pipeline(StandardScaler(), trainer(classes=["setosa", "versicolor", "virginica"], batch_size=20))
    scores = cross_val_score(clf, X, labels, cv=3, error_score="raise")
    assert scores.min() > 0.85
    robust = make_robustness_scorer(FastGradientMethod(eps=0.5))
    attacked = cross_val_score(clf, X, labels, cv=3, scoring=robust, error_score="raise")
    assert np.all(attacked < scores - 0.05)
    grid = {"torchclassifier__max_epochs": [1, 20], "torchclassifier__batch_size": [20]}
    search = GridSearchCV(clf, grid, cv=2, error_score="raise").fit(X, labels)
    assert search.best_params_["torchclassifier__max_epochs"] == 20
    assert FastGradientMethod(search, eps=0.5).run(X[:20]).X_adv.columns.tolist() == X.columns.tolist()


def test_trained_module_behind_a_defence_in_a_search_with_a_robustness_scorer(iris):
    X, y = load_iris(return_X_y=True, as_frame=True)
    scaler = StandardScaler().fit(X.to_numpy())
    net = trainer().fit(scaler.transform(X.to_numpy()), LETTERS[y])
    squeezing = FeatureSqueezing(clip_values=(0, 8), bit_depth=3)
    pipe = Pipeline([("squeeze", squeezing), ("scale", FrozenEstimator(scaler)), ("clf", FrozenEstimator(net))])
    robust = make_robustness_scorer(ProjectedGradientDescent(eps=0.5, max_iter=5, clip_values=(0, 8), random_state=0))
    search = GridSearchCV(pipe, {"squeeze__bit_depth": [1, 6]}, scoring=robust, cv=3, error_score="raise")
    search.fit(X, LETTERS[y])
    assert np.all((search.cv_results_["mean_test_score"] >= 0) & (search.cv_results_["mean_test_score"] < 0.9))
    assert search.best_estimator_["clf"].estimator is net


@pytest.mark.parametrize("device", DEVICES)
def test_module_stays_on_its_device(X, device):
    module = mlp(3).to(device)
    clf = TorchClassifier(module, LETTERS)
    for given in (X, torch.as_tensor(X), torch.as_tensor(X, device=device)):
        result = FastGradientMethod(clf, eps=0.3).run(given)
        assert type(result.X_adv) is type(given)
        assert getattr(result.X_adv, "device", None) == getattr(given, "device", None)
    assert next(module.parameters()).device.type == device
    assert Oracle(clf, X).device.type == device
    trained = TorchClassifier(module, LETTERS, optimizer=torch.optim.Adam, random_state=0).fit(X, clf.predict(X))
    assert next(trained.module_.parameters()).device.type == device


def test_keeps_tables_that_a_module_makes_in_its_first_call(X):
    """A table made in inference mode could never be used in a backward pass."""

    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.table = mlp(3), None

        def forward(self, x):
            if self.table is None:
                self.table = torch.linspace(1, 2, x.shape[1], dtype=x.dtype) * 1
            return self.inner(x * self.table)

    clf = TorchClassifier(Cached(), LETTERS)
    clf.predict(X)
    check_rule(clf, X)


# Wrong use


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: TorchClassifier(nn.Linear, LETTERS), TypeError, r"got the class Linear.*Linear\(\.\.\.\)"),
        (lambda: TorchClassifier(np.tanh, LETTERS), TypeError, "got ufunc.*BlackBoxClassifier"),
        (lambda: TorchClassifier(mlp(3), ["a", "b"]), ValueError, "3 outputs for 2 classes"),
        (lambda: TorchClassifier(mlp(3), list("abcd")), ValueError, "3 outputs for 4 classes"),
        (lambda: TorchClassifier(mlp(1), LETTERS), ValueError, "1 outputs for 3 classes.*single one for two classes"),
        (lambda: TorchClassifier(mlp(3, nn.Unflatten(1, (1, 3))), LETTERS), ValueError, r"shape \(\d+, 1, 3\)"),
        (lambda: TorchClassifier(mlp(3), ["a", "a", "b"]), ValueError, "different labels"),
        (lambda: TorchClassifier(mlp(3), ["a"]), ValueError, "two or more"),
        (lambda: TorchClassifier(mlp(3), LETTERS, output="proba"), ValueError, "probabilities.*none.*'logits'"),
        (
            lambda: TorchClassifier(mlp(3, nn.LogSoftmax(1)), LETTERS, output="proba"),
            ValueError,
            "probabilities.*none.*'log_proba'",
        ),
        (lambda: TorchClassifier(mlp(3), LETTERS, output="log_proba"), ValueError, "logarithms.*'logits'"),
        (
            lambda: TorchClassifier(mlp(3, nn.Softmax(1)), LETTERS, output="log_proba"),
            ValueError,
            "logarithms.*'proba'",
        ),
        (lambda: TorchClassifier(mlp(3, nn.Softmax(1)), LETTERS), ValueError, "probabilities.*Say output='proba'"),
        (lambda: TorchClassifier(mlp(1, nn.Sigmoid()), ["a", "b"]), ValueError, "Sigmoid.*Say output='proba'"),
        (lambda: TorchClassifier(mlp(1), ["a", "b"], output="proba"), ValueError, "values from.*output='logits'"),
        (lambda: TorchClassifier(mlp(1), ["a", "b"], output="log_proba"), ValueError, "one for each class"),
        (lambda: TorchClassifier(mlp(3), LETTERS, output="probabilities"), ValueError, "'output' parameter.*'proba'"),
        (lambda: TorchClassifier(mlp(3), LETTERS, batch_size=0), ValueError, "batch_size"),
        (lambda: TorchClassifier(Ends(mlp(3), lambda z: {"z": z}), LETTERS), TypeError, "gives a dict.*Wrap"),
    ],
)
def test_wrong_use(X, make, error, message):
    clf = make()
    for ask in (clf.predict, clf.predict_proba, lambda X: Oracle(clf, X), lambda X: FastGradientMethod(clf).run(X)):
        with pytest.raises(error, match=message):
            ask(X)


def test_wrong_outputs_are_found_before_training(iris):
    X, y = iris
    with pytest.raises(ValueError, match="3 outputs for 4 classes"):
        trainer(classes=list("abcd")).fit(X, LETTERS[y])
    with pytest.raises(TypeError, match="got the class"):
        TorchClassifier(nn.Linear, LETTERS, optimizer=torch.optim.Adam).fit(X, LETTERS[y])


def test_broken_module_warns(X):
    clf = TorchClassifier(Ends(mlp(3), lambda z: z.detach().round().requires_grad_() * 1.0), LETTERS)
    with pytest.raises(Exception, match="does not depend on the input"):
        FastGradientMethod(clf).transform(X)
    flat = TorchClassifier(Ends(mlp(3), lambda z: z.round()), LETTERS)
    with pytest.warns(AttackFailureWarning, match="zero"):
        FastGradientMethod(flat, eps=0.01).transform(X)


def test_without_torch_the_error_names_the_extra(monkeypatch, X):
    clf = TorchClassifier(mlp(3), LETTERS)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"skart\[torch\]"):
        clf.predict(X)


def test_import_needs_no_torch():
    code = "import sys, skart.estimators, skart.oracles; assert not {'torch', 'skorch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_same_as_skorch_s_adapter(iris):
    skorch = pytest.importorskip("skorch")
    X, y = iris
    net = skorch.NeuralNetClassifier(mlp(3, dtype=torch.float32, n_inputs=4), criterion=nn.CrossEntropyLoss, verbose=0)
    theirs = SkorchClassifier(net.initialize(), classes=LETTERS)
    ours = TorchClassifier(net.module_, LETTERS)
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-6)
    assert_array_equal(FastGradientMethod(ours, eps=0.2).transform(X), FastGradientMethod(theirs, eps=0.2).transform(X))
