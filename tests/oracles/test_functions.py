"""Gradients, logits and probabilities as functions, against closed forms and central differences."""

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

import skart
from skart.exceptions import GradientUnavailableError
from skart.oracles import class_gradient, logits, loss_gradient, proba

SPECIES = np.array(["setosa", "versicolor", "virginica"])


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X, SPECIES[y]


@pytest.fixture(scope="module")
def linear(iris):
    return LogisticRegression(max_iter=500).fit(*iris)


def net(X, y):
    """A float64 net of torch's, with labels of its own."""
    torch = pytest.importorskip("torch")
    skorch = pytest.importorskip("skorch")
    from skart.estimators import SkorchClassifier

    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    bare = skorch.NeuralNetClassifier(
        module, criterion=torch.nn.CrossEntropyLoss, max_epochs=5, train_split=None, verbose=0
    )
    return SkorchClassifier(bare).fit(X, y)


MODELS = {
    "linear": lambda X, y: LogisticRegression(max_iter=500).fit(X, y),
    "pipeline": lambda X, y: make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y),
    "mlp": lambda X, y: MLPClassifier((6,), activation="tanh", max_iter=50, random_state=0).fit(X, y),
    "net": net,
    "pipeline with a net": lambda X, y: make_pipeline(StandardScaler().fit(X), net(X, y)),
}


@pytest.fixture(params=MODELS)
def model(request, iris):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few steps of training will do
        return MODELS[request.param](*iris)


def differences(function, X, step=1e-5):
    """Central differences of ``function`` by each feature: its values' shape, and the features last."""
    moves = step * np.eye(X.shape[1])
    return np.stack([(function(X + move) - function(X - move)) / (2 * step) for move in moves], axis=-1)


def test_loss_gradient_of_a_linear_model(iris, linear):
    X, y = iris
    one_hot = SPECIES == y[:, None]
    assert_allclose(loss_gradient(linear, X, y), (linear.predict_proba(X) - one_hot) @ linear.coef_, atol=1e-10)


def test_loss_gradient_of_a_binary_model(iris):
    X, y = iris[0], np.where(iris[1] == "virginica", "yes", "no")
    clf = LogisticRegression(max_iter=500).fit(X, y)
    expected = (clf.predict_proba(X)[:, 1] - (y == "yes"))[:, None] * clf.coef_
    assert_allclose(loss_gradient(clf, X, y), expected, rtol=1e-8)
    # The best other class less the label: minus or plus the margin.
    assert_allclose(
        loss_gradient(clf, X, y, loss="margin"), np.where(y == "yes", -1, 1)[:, None] * clf.coef_, atol=1e-12
    )
    with pytest.raises(ValueError, match="at least 3 classes"):
        loss_gradient(clf, X, y, loss="dlr")


def test_loss_gradient_is_that_of_scikit_learn_s_log_loss(model, iris):
    X, y = iris
    X = X[::5] + 0.01

    def loss(moved):
        p = model.predict_proba(moved)
        return np.array([log_loss([label], [row], labels=SPECIES) for label, row in zip(y[::5], p)])

    expected = differences(loss, X)
    assert_allclose(loss_gradient(model, X, y[::5]), expected, rtol=1e-5, atol=1e-7 * np.abs(expected).max())


def test_gradients_of_margin_and_of_the_ratio_of_logits(model, iris):
    X, y = iris
    rows = np.arange(len(X))
    label = np.searchsorted(SPECIES, y)

    def margin(moved):
        z = np.log(model.predict_proba(moved))
        others = np.where(np.arange(3) == label[:, None], -np.inf, z)
        return others.max(axis=1) - z[rows, label]

    def ratio(moved):
        z = np.sort(np.log(model.predict_proba(moved)), axis=1)
        return margin(moved) / (z[:, 2] - z[:, 0])

    for name, function in (("margin", margin), ("dlr", ratio)):
        expected = differences(function, X)
        assert_allclose(loss_gradient(model, X, y, loss=name), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    with pytest.raises(ValueError, match="'cross_entropy', 'margin' or 'dlr'; got 'kl'"):
        loss_gradient(model, X, y, loss="kl")


def test_class_gradients(model, iris):
    X = iris[0][::5] + 0.01
    expected = differences(model.predict_proba, X)
    scale = np.abs(expected).max()
    assert_allclose(class_gradient(model, X, logits=False), expected, rtol=1e-5, atol=1e-6 * scale)
    # Logits have a constant for each row to spare.
    raw = class_gradient(model, X)
    assert raw.shape == (30, 3, 4)
    expected = differences(lambda moved: np.log(model.predict_proba(moved)), X)
    gaps = [values - values.mean(axis=1, keepdims=True) for values in (raw, expected)]
    assert_allclose(*gaps, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_class_gradients_of_a_linear_model(iris, linear):
    X, _ = iris
    p, weights = linear.predict_proba(X), linear.coef_
    expected = p[:, :, None] * (weights - (p @ weights)[:, None, :])
    assert_allclose(class_gradient(linear, X, logits=False), expected, atol=1e-12)


def test_logits_and_gradients_of_decision_values(iris):
    X, y = iris[0], np.where(iris[1] == "virginica", "yes", "no")
    svc = SVC(gamma=0.3).fit(X, y)
    assert_allclose(logits(svc, X)[:, 1] - logits(svc, X)[:, 0], svc.decision_function(X), rtol=1e-8, atol=1e-10)
    grad = class_gradient(svc, X, "yes") - class_gradient(svc, X, "no")
    assert_allclose(grad, differences(svc.decision_function, X), rtol=1e-6, atol=1e-8)


def test_logits_and_proba(model, iris):
    X, _ = iris
    assert_allclose(proba(model, X), model.predict_proba(X), rtol=1e-12)
    scores = np.exp(logits(model, X))
    assert_allclose(scores / scores.sum(axis=1, keepdims=True), model.predict_proba(X), atol=1e-6)
    assert_array_equal(SPECIES[logits(model, X).argmax(axis=1)], model.predict(X))


@pytest.mark.parametrize("batch_size", [1, 7, 149, 150, np.int64(1000)])
def test_batches_change_nothing(model, iris, batch_size):
    X, y = iris
    for function, arguments in (
        (loss_gradient, (y,)),
        (class_gradient, ()),
        (class_gradient, (y, False)),
        (logits, ()),
        (proba, ()),
    ):
        whole, parts = function(model, X, *arguments), function(model, X, *arguments, batch_size=batch_size)
        assert_allclose(parts, whole, rtol=1e-9, atol=1e-12)


def test_forms_of_labels(iris, linear):
    X, y = iris
    expected = class_gradient(linear, X)[np.arange(150), np.searchsorted(SPECIES, y)]
    forms = [y, list(y), pd.Series(y, index=np.arange(150)[::-1]), pd.Categorical(y), y[:, None], y.astype(object)]
    for form in forms:
        assert_array_equal(class_gradient(linear, X, form), expected)
        assert_array_equal(loss_gradient(linear, X, form), loss_gradient(linear, X, y))
    for label in ("virginica", np.str_("virginica"), np.array("virginica")):
        assert_array_equal(class_gradient(linear, X, label), class_gradient(linear, X)[:, 2])
    numbers = np.searchsorted(SPECIES, y)
    clf = LogisticRegression(max_iter=500).fit(X, numbers)
    assert_array_equal(class_gradient(clf, X, 0), class_gradient(clf, X)[:, 0])
    assert_array_equal(loss_gradient(clf, X, numbers.astype(float)), loss_gradient(clf, X, numbers))
    torch = pytest.importorskip("torch")
    assert_array_equal(loss_gradient(clf, X, torch.as_tensor(numbers)), loss_gradient(clf, X, numbers))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(3)[np.arange(150) % 3], r"not one-hot; got shape \(150, 3\)"),
        (np.full(150, "tulip"), "'tulip', a class unknown to the model"),
        (np.arange(150) % 3, "0, a class unknown to the model"),
        (SPECIES, "150 samples and y has 3"),
    ],
    ids=["one-hot", "unknown", "positions", "too few"],
)
def test_labels_that_do_not_fit(iris, linear, labels, message):
    for function in (loss_gradient, class_gradient):
        with pytest.raises(ValueError, match=message):
            function(linear, iris[0], labels)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_comes_back_is_what_came(model, iris, dtype):
    X, y = iris
    X = X.astype(dtype)
    calls = [
        lambda X: loss_gradient(model, X, y),
        lambda X: class_gradient(model, X, logits=False),
        lambda X: logits(model, X),
        lambda X: proba(model, X),
    ]
    frame = pd.DataFrame(X, columns=list("abcd"))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # scikit-learn's own word on names that the model was not fitted with
        for call in calls:
            expected = call(X)
            assert isinstance(expected, np.ndarray)
            assert expected.dtype == dtype
            from_frame = call(frame)
            assert isinstance(from_frame, np.ndarray)
            assert_array_equal(from_frame, expected)
    torch = pytest.importorskip("torch")
    tensor = torch.as_tensor(X)
    for call in calls:
        answer = call(tensor)
        assert isinstance(answer, torch.Tensor)
        assert answer.dtype == tensor.dtype
        assert answer.device == tensor.device
        assert_array_equal(answer.numpy(), call(X))


def test_model_fitted_on_a_frame(iris):
    X, y = iris
    frame = pd.DataFrame(X, columns=list("abcd"))
    clf = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_array_equal(loss_gradient(clf, frame, y), loss_gradient(clf, X, y))


def test_samples_of_whole_numbers(iris, linear):
    X = np.round(iris[0]).astype(np.int64)
    grad = loss_gradient(linear, X, iris[1])
    assert grad.dtype == np.float64
    assert_array_equal(grad, loss_gradient(linear, X.astype(float), iris[1]))


def test_images(iris):
    torch = pytest.importorskip("torch")
    skorch = pytest.importorskip("skorch")
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(8, 3))
    bare = skorch.NeuralNetClassifier(module.double(), criterion=torch.nn.CrossEntropyLoss, verbose=0).initialize()
    X = np.random.default_rng(0).normal(size=(5, 1, 4, 4))
    grad = class_gradient(bare, X, logits=False)
    assert grad.shape == (5, 3, 1, 4, 4)
    expected = differences(lambda rows: bare.predict_proba(rows.reshape(X.shape)), X.reshape(5, 16))
    assert_allclose(grad.reshape(5, 3, 16), expected, rtol=1e-5, atol=1e-9)
    assert class_gradient(bare, X, 1).shape == X.shape


def test_errors(iris, linear):
    X, y = iris
    with pytest.raises(NotFittedError):
        loss_gradient(LogisticRegression(), X, y)
    with pytest.raises(GradientUnavailableError, match="DecisionTreeClassifier"):
        loss_gradient(DecisionTreeClassifier().fit(X, y), X, y)
    with pytest.raises(ValueError, match="X has 3 features, but class_gradient is expecting 4"):
        class_gradient(linear, X[:, :3])
    with pytest.raises(ValueError, match="NaN"):
        logits(linear, np.where(X > 7, np.nan, X))
    with pytest.raises(ValueError, match="batch_size"):
        logits(linear, X, batch_size=0)
    with pytest.raises(TypeError, match="batch_size"):
        proba(linear, X, batch_size=2.5)


def test_public_names():
    for function in (class_gradient, logits, loss_gradient, proba):
        assert getattr(skart, function.__name__) is function
