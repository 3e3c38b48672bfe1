"""The rule of skorch nets: what the module's output means, and that the module is left as it was found."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

torch = pytest.importorskip("torch")
pytest.importorskip("skorch")

from array_api_compat import is_torch_namespace  # noqa: E402
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier  # noqa: E402
from skorch.dataset import Dataset  # noqa: E402
from torch import nn  # noqa: E402

from skart.attacks import FastGradientMethod, ProjectedGradientDescent  # noqa: E402
from skart.exceptions import AttackFailureWarning, GradientUnavailableError  # noqa: E402
from skart.oracles import Oracle, class_gradient, loss_gradient  # noqa: E402

N_FEATURES = 5
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def mlp(n_outputs, *head, dtype=torch.float64, scale=1.0):
    """A smooth module; ``head`` follows its last linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(N_FEATURES, 8), nn.Tanh(), nn.Linear(8, n_outputs), *head)
    module[2].weight.data *= scale
    return module.to(dtype)


def classifier(module, criterion=nn.CrossEntropyLoss, **params):
    return NeuralNetClassifier(module, criterion=criterion, verbose=0, **params).initialize()


def binary(module, criterion=nn.BCEWithLogitsLoss, **params):
    return NeuralNetBinaryClassifier(module, criterion=criterion, verbose=0, **params).initialize()


class AndMore(nn.Module):
    """A module that returns its features, too."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x), x.detach()


def two_columns(output):
    p = torch.sigmoid(output.reshape(-1))
    return torch.stack([1 - p, p], dim=1)


NETS = {
    "logits, CrossEntropyLoss": lambda: classifier(mlp(3)),
    "log-probabilities, CrossEntropyLoss": lambda: classifier(mlp(3, nn.LogSoftmax(dim=1))),
    "two logits, CrossEntropyLoss": lambda: classifier(mlp(2)),
    "probabilities, NLLLoss": lambda: classifier(mlp(3, nn.Softmax(dim=1)), nn.NLLLoss),
    "logits, NLLLoss, nonlinearity": lambda: classifier(
        mlp(3), nn.NLLLoss, predict_nonlinearity=lambda output: torch.softmax(output / 2, dim=1)
    ),
    "probabilities, no nonlinearity": lambda: classifier(mlp(3, nn.Softmax(dim=1)), predict_nonlinearity=None),
    "probabilities, criterion of another kind": lambda: classifier(mlp(3, nn.Softmax(dim=1)), nn.MultiMarginLoss),
    "one logit, BCEWithLogitsLoss": lambda: binary(mlp(1)),
    "one flat logit, BCEWithLogitsLoss": lambda: binary(mlp(1, nn.Flatten(0))),
    "one flat logit, BCEWithLogitsLoss, not binary": lambda: classifier(mlp(1, nn.Flatten(0)), nn.BCEWithLogitsLoss),
    "one logit, threshold 0.3": lambda: binary(mlp(1, scale=5), threshold=0.3),
    "one probability, BCELoss": lambda: binary(mlp(1, nn.Sigmoid()), nn.BCELoss),
    "one probability, BCELoss, threshold 0.6": lambda: binary(mlp(1, nn.Sigmoid(), scale=5), nn.BCELoss, threshold=0.6),
    "one logit, nonlinearity, threshold 0.6": lambda: binary(
        mlp(1, scale=5), predict_nonlinearity=two_columns, threshold=0.6
    ),
    "a tuple": lambda: classifier(AndMore(mlp(3))),
    "a tuple, one logit": lambda: binary(AndMore(mlp(1))),
}


@pytest.fixture(params=NETS, ids=lambda name: name.replace(" ", "-"))
def net(request):
    return NETS[request.param]()


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(60, N_FEATURES))


def ask(oracle, X):
    """Logits, and the pullback of NumPy cotangents."""
    logits, pullback = oracle.vjp(oracle.asarray(X))
    return logits.cpu().numpy(), lambda cotangent: pullback(oracle.asarray(cotangent)).cpu().numpy()


def log_odds(proba):
    """Logarithms of probabilities up to a constant for each row."""
    return np.log(proba) - np.log(proba).mean(axis=1, keepdims=True)


def assert_pulls_back(predict_proba, oracle, X, rtol=1e-6):
    """The pullback agrees with central differences of the estimator's own probabilities, along random directions."""
    rng = np.random.default_rng(1)
    logits, pullback = ask(oracle, X)
    cotangent = rng.normal(size=logits.shape)
    # Weights that sum to zero do not see the constant of each row, which logits are free to have.
    cotangent -= cotangent.mean(axis=1, keepdims=True)
    grad = pullback(cotangent)
    assert grad.dtype == np.float64
    for _ in range(3):
        step = 1e-5 * rng.normal(size=X.shape)
        difference = np.log(predict_proba(X + step)) - np.log(predict_proba(X - step))
        expected = (cotangent * difference).sum(axis=1) / 2
        assert_allclose((grad * step).sum(axis=1), expected, rtol=rtol, atol=1e-6 * np.abs(expected).mean())


def test_convention(net, X):
    oracle = Oracle(net, X)
    assert oracle.access == "gradients"
    assert is_torch_namespace(oracle.xp)
    logits, _ = ask(oracle, X)
    proba = net.predict_proba(X)
    assert_array_equal(logits.argmax(axis=1), net.predict(X))
    assert_array_equal(oracle.labels(oracle.asarray(X)), net.predict(X))
    assert_array_equal(oracle.classes_, np.arange(proba.shape[1]))
    threshold = getattr(net, "threshold", 0.5)
    shift = np.array([0.0, np.log(threshold / (1 - threshold))]) if threshold != 0.5 else 0.0
    assert_allclose(log_odds(np.exp(logits + shift)), log_odds(proba), atol=1e-6)
    if threshold == 0.5:
        assert_allclose(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), proba, rtol=1e-6)
    assert_allclose(oracle.proba(oracle.asarray(X)).numpy(), proba, rtol=1e-12)


def test_central_differences(net, X):
    assert_pulls_back(net.predict_proba, Oracle(net, X), X)


def test_threshold_moves_labels(X):
    """Labels of the same module differ between thresholds, or the tests above would show nothing."""
    labels = [ask(Oracle(binary(mlp(1, scale=5), threshold=t), X), X)[0].argmax(axis=1).mean() for t in (0.3, 0.5, 0.7)]
    assert 1 > labels[0] > labels[1] > labels[2] > 0
    with pytest.raises(ValueError, match="one class only"):
        Oracle(binary(mlp(1), threshold=1.0), X)


def test_single_precision_is_cast_at_the_net_s_border(X):
    double, single = classifier(mlp(3)), classifier(mlp(3, dtype=torch.float32))
    oracle = Oracle(single, X)
    assert oracle.dtype == torch.float64
    ours, theirs = ask(oracle, X), ask(Oracle(double, X), X)
    assert_allclose(ours[0], theirs[0], atol=1e-5)
    cotangent = np.eye(3)[np.arange(60) % 3]
    assert ours[1](cotangent).dtype == np.float64
    assert_allclose(ours[1](cotangent), theirs[1](cotangent), atol=1e-5)
    assert Oracle(double, X.astype(np.float32)).vjp(torch.zeros(1, N_FEATURES))[0].dtype == torch.float32


@pytest.mark.parametrize("kind", ["numpy", "pandas"])
def test_pipeline_runs_in_torch_from_end_to_end(X, kind):
    y = np.arange(60) % 3
    data = pd.DataFrame(3 * X + 1, columns=list("abcde")) if kind == "pandas" else 3 * X + 1
    scaler, pca = StandardScaler().fit(data), PCA(N_FEATURES, whiten=True).fit(X)
    pipe = make_pipeline(scaler, pca, classifier(mlp(3)))
    oracle = Oracle(pipe, data)
    assert is_torch_namespace(oracle.xp)
    assert oracle.dtype == torch.float64
    own = pipe[1:]  # asked with arrays
    values = np.asarray(data)
    assert_pulls_back(lambda X: own.predict_proba((X - scaler.mean_) / scaler.scale_), oracle, values)
    assert_array_equal(oracle.positions(oracle.asarray(values)), pipe.predict(data))
    grad = loss_gradient(pipe, data, y)
    assert isinstance(grad, np.ndarray)
    assert grad.dtype == np.float64


@pytest.mark.parametrize(("data_dtype", "net_dtype"), [(np.float64, torch.float32), (np.float32, torch.float64)])
@pytest.mark.parametrize("check", [True, False])
def test_bare_net_in_a_pipeline_on_the_other_precision(X, data_dtype, net_dtype, check):
    X = X.astype(data_dtype)
    other = np.float32 if data_dtype == np.float64 else np.float64
    pipe = make_pipeline(StandardScaler().fit(X), classifier(mlp(3, dtype=net_dtype)))
    with pytest.raises(RuntimeError, match="dtype"):
        pipe.predict(X)  # skorch's trap
    oracle = Oracle(pipe, X, check=check)
    x = oracle.asarray(X)
    assert_array_equal(oracle.labels(x), pipe.predict(X.astype(other)))
    assert_allclose(oracle.proba(x).numpy(), pipe.predict_proba(X.astype(other)), rtol=1e-5)
    result = FastGradientMethod(pipe, eps=1.0).run(X)
    assert result.X_adv.dtype == data_dtype
    assert_array_equal(pipe.predict(result.X_adv.astype(other)), result.y_adv)


def test_wrong_number_of_features_is_reported_as_the_net_says_it(X):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Oracle(make_pipeline(StandardScaler().fit(X[:, :4]), classifier(mlp(3))), X[:, :4])


def test_data_frame_is_an_array_to_a_bare_net(X):
    net = classifier(mlp(3, dtype=torch.float32))
    data = pd.DataFrame(X, columns=list("abcde"))
    result = ProjectedGradientDescent(net, eps=0.5, max_iter=5, random_state=0).run(data)
    assert list(result.X_adv.columns) == list("abcde")
    assert_array_equal(net.predict(result.X_adv.to_numpy(np.float32)), result.y_adv)
    assert result.success.any()


def test_string_labels_point_to_the_adapter(X):
    with pytest.raises(ValueError, match="'a', a class unknown.*SkorchClassifier"):
        FastGradientMethod(classifier(mlp(3))).transform(X, np.array(["a", "b", "c"])[np.arange(60) % 3])


class Stateful(nn.Module):
    """All that can be disturbed: normalisation, dropout, a frozen parameter, a part in another mode, a gradient."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.norm, self.inner = nn.BatchNorm1d(N_FEATURES), nn.BatchNorm1d(8)
            self.first, self.dropout, self.last = nn.Linear(N_FEATURES, 8), nn.Dropout(0.5), nn.Linear(8, 3)
        self.norm(torch.randn(20, N_FEATURES))
        self.first.bias.requires_grad_(False)
        self.inner.eval()
        self.fail = False

    def forward(self, x):
        if self.fail:
            raise ArithmeticError("no more")
        return self.last(self.dropout(self.inner(torch.relu(self.first(self.norm(x))))))


def state(module):
    return (
        [(name, part.training) for name, part in module.named_modules()],
        [
            (name, p.requires_grad, p.device, p.data_ptr(), p.tolist(), None if p.grad is None else p.grad.tolist())
            for name, p in module.named_parameters()
        ],
        [(name, id(b), b.device, b.tolist()) for name, b in module.named_buffers()],
        [len(part._forward_hooks) for part in module.modules()],
    )


@pytest.mark.parametrize("device", DEVICES)
def test_module_is_left_as_it_was_found(X, device):
    net = classifier(Stateful(), device=device)
    module = net.module_.train()
    module.inner.eval()
    module.last.weight.grad = torch.ones_like(module.last.weight)
    net.criterion_.train()
    before = state(module)
    x = torch.as_tensor(X, dtype=torch.float32, device=device)
    original = x.clone()
    oracle = Oracle(net, x)
    assert state(module) == before
    logits, pullback = oracle.vjp(x)
    grad = pullback(torch.ones_like(logits))
    assert grad.device == x.device
    assert_array_equal(oracle.logits(x).cpu(), oracle.logits(x).cpu())  # no dropout
    oracle.labels(x), oracle.proba(x)
    assert state(module) == before
    with oracle:
        assert not any(part.training for part in module.modules())
        assert not any(parameter.requires_grad for parameter in module.parameters())
        pullback(torch.ones_like(logits))
    assert state(module) == before
    assert net.criterion_.training
    FastGradientMethod(net, eps=0.1).transform(X)
    assert state(module) == before
    assert torch.equal(x, original)
    assert not x.requires_grad
    assert x.grad is None
    assert not logits.requires_grad
    assert not grad.requires_grad


def test_module_is_left_as_it_was_found_when_something_raises(X):
    net = classifier(Stateful())
    module = net.module_.train()
    before = state(module)
    x = torch.as_tensor(X, dtype=torch.float32)
    oracle = Oracle(net, x)
    module.fail = True
    with pytest.raises(ArithmeticError):
        oracle.vjp(x)
    assert state(module) == before
    with pytest.raises(ArithmeticError), oracle:
        oracle.labels(x)
    assert state(module) == before
    with pytest.raises(ArithmeticError):
        FastGradientMethod(net, eps=0.1).transform(X)
    assert state(module) == before
    module.fail = False
    with pytest.raises(RuntimeError), oracle:
        oracle.vjp(x)[1](torch.ones(2, 2))
    assert state(module) == before


class Counting(nn.Module):
    """A module that keeps count of its passes in a buffer, in place or anew."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place, self.inner = in_place, mlp(3)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        if self.in_place:
            self.passes += 1
        else:
            self.passes = self.passes + 1
        return self.inner(x)


@pytest.mark.parametrize("in_place", [True, False])
def test_changed_buffers_are_put_back_and_reported(X, in_place):
    net = classifier(Counting(in_place))
    buffer = net.module_.passes
    with pytest.warns(AttackFailureWarning, match="passes"):
        Oracle(net, X)
    assert net.module_.passes is buffer
    assert buffer == 0


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp(3)

    def forward(self, x):
        x -= 0.5
        x *= 2
        return self.inner(x)


@pytest.mark.parametrize("wrap", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_module_that_works_in_place_spoils_no_data(X, wrap):
    data, original = wrap(X.copy()), X.copy()
    # d/dx f(2 (x - 1/2)) = 2 f'.
    expected = 2 * np.asarray(class_gradient(classifier(mlp(3)), 2 * (X - 0.5)))
    assert_allclose(class_gradient(classifier(InPlace()), data), expected, rtol=1e-12)
    assert_array_equal(data, original)


class Cut(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.inner = how, mlp(3)

    def forward(self, x):
        return self.inner(self.how(x))


@pytest.mark.parametrize(
    "how",
    [torch.detach, lambda x: torch.from_numpy(np.sign(x.detach().numpy())), lambda x: (x > 0).to(x.dtype)],
    ids=["detach", "numpy", "comparison"],
)
def test_cut_graph(X, how):
    net = classifier(Cut(how))
    oracle = Oracle(net, X)
    logits, pullback = ask(oracle, X)  # a forward pass is all right
    assert_allclose(logits[:, 1] - logits[:, 0], np.log(net.predict_proba(X)) @ [-1, 1, 0])
    with pytest.raises(GradientUnavailableError, match="Cut: the output does not depend on the input"):
        pullback(np.ones((60, 3)))
    with pytest.raises(GradientUnavailableError, match="Cut"):
        FastGradientMethod(net).transform(X)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: classifier(mlp(3, nn.LogSoftmax(dim=1)), nn.NLLLoss), "log-probabilities.*CrossEntropyLoss"),
        (lambda: classifier(mlp(3), nn.NLLLoss), "no probabilities.*CrossEntropyLoss"),
        (lambda: classifier(mlp(3), predict_nonlinearity=None), "no probabilities.*predict_nonlinearity=None"),
        (lambda: classifier(mlp(3), nn.MultiMarginLoss), "no probabilities.*MultiMarginLoss.*Softmax"),
        (lambda: binary(mlp(1), nn.BCELoss), "no probabilities.*BCEWithLogitsLoss"),
        (lambda: classifier(mlp(1)), r"\(8, 1\).*NeuralNetBinaryClassifier"),
        (lambda: classifier(mlp(1), nn.BCEWithLogitsLoss), "NeuralNetBinaryClassifier"),
        (lambda: classifier(mlp(3), nn.BCEWithLogitsLoss), "CrossEntropyLoss for several outputs"),
        (lambda: binary(mlp(3)), r"\(n, 1\)"),
    ],
    ids=[
        "log-probabilities for probabilities",
        "logits for probabilities",
        "nonlinearity None",
        "scores of another criterion",
        "logit for probability",
        "one output for CrossEntropyLoss",
        "one column in a classifier",
        "several outputs for BCEWithLogitsLoss",
        "several outputs in a binary net",
    ],
)
def test_outputs_that_do_not_fit_the_criterion(X, make, message):
    with pytest.raises(ValueError, match=message):
        Oracle(make(), X)


def test_net_without_weights():
    X = np.zeros((3, N_FEATURES))
    with pytest.raises(NotFittedError):
        Oracle(NeuralNetClassifier(mlp(3), criterion=nn.CrossEntropyLoss), X)
    with pytest.raises(NotFittedError, match="lazy"):
        Oracle(classifier(nn.LazyLinear(3)), X)


def test_initialized_net_needs_no_training(X):
    net = classifier(mlp(4))
    assert not hasattr(net, "classes_")
    oracle = Oracle(net, X)
    assert_array_equal(oracle.classes_, [0, 1, 2, 3])
    assert_array_equal(Oracle(net, X, check=False).classes_, [0, 1, 2, 3])


class Doubling(Dataset):
    def transform(self, X, y):
        X, y = super().transform(X, y)
        return 2 * X, y


def test_the_net_s_own_loading_is_respected(X):
    """A dataset that changes the samples is part of the model, and no part of the rule."""
    with pytest.raises(ValueError, match="does not compute what the model's own predict_proba says"):
        Oracle(classifier(mlp(3), dataset=Doubling), X)
    plain = classifier(mlp(3), iterator_valid__drop_last=False, iterator_valid__batch_size=7)
    oracle = Oracle(plain, X)
    assert_array_equal(oracle.labels(oracle.asarray(X)), plain.predict(X))


@pytest.mark.slow
def test_compiled_net_is_the_same(X):
    module = mlp(3)
    plain = classifier(module)
    compiled = classifier(module, compile=True, compile__backend="eager")
    compiled.module_.train()
    assert_allclose(class_gradient(compiled, X), class_gradient(plain, X), rtol=1e-12)
    assert compiled.module_.training
    assert module.training
    nll = classifier(mlp(3, nn.Softmax(dim=1)), nn.NLLLoss, compile=True, compile__backend="eager")
    assert_pulls_back(nll.predict_proba, Oracle(nll, X), X)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_caller_s_grad_mode_does_not_matter(X, context):
    net = classifier(mlp(3))
    expected = loss_gradient(net, X, np.zeros(60, dtype=int))
    with context():
        data = torch.as_tensor(X) * 1.0
        assert_allclose(loss_gradient(net, data, np.zeros(60, dtype=int)), expected, rtol=1e-12)
        assert FastGradientMethod(net, eps=0.1).transform(data).shape == data.shape
    assert all(parameter.requires_grad for parameter in net.module_.parameters())


@pytest.mark.parametrize("device", DEVICES)
def test_recurrent_net(device):
    """cuDNN refuses the backward pass of recurrent layers in eval mode."""

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells, self.out = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x):
            return self.out(self.cells(x)[0][:, -1])

    net = classifier(Recurrent().double(), device=device)
    X = np.random.default_rng(0).normal(size=(6, 7, 2))
    grad = class_gradient(net, X, 1, logits=False)
    step = 1e-5 * np.random.default_rng(1).normal(size=X.shape)
    difference = net.predict_proba(X + step)[:, 1] - net.predict_proba(X - step)[:, 1]
    assert_allclose((grad * step).sum(axis=(1, 2)), difference / 2, rtol=1e-6)
