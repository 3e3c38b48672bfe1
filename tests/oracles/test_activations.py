"""Activations: held against the layers themselves, called one by one."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from skart.estimators import SkorchClassifier, TorchClassifier  # noqa: E402
from skart.oracles import Oracle, get_activations, layer_names  # noqa: E402
from skart.oracles import _activations as registry  # noqa: E402

X, Y = load_iris(return_X_y=True)


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def dense_net(dtype=torch.float64):
    module = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)))
    return module.to(dtype)


class ImageNet(nn.Module):
    """Convolutions in a container, normalisation, dropout, and layers defined in another order than called."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.features = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(inplace=True))
        self.dense, self.out, self.softmax = nn.Linear(8, 5), nn.Linear(5, 3), nn.Softmax(dim=1)

    def forward(self, x):
        hidden = self.dropout(torch.tanh(self.dense(self.features(x).flatten(1))))
        return self.softmax(self.out(hidden))


def image_net():
    module = seeded(ImageNet)
    with torch.no_grad():
        seeded(lambda: module(torch.randn(50, 1, 3, 3)))  # statistics of its own
    return module


def images():
    return np.random.default_rng(0).normal(size=(20, 1, 3, 3)).astype(np.float32)


def test_names_and_places_of_a_sequential():
    module = dense_net()
    clf = TorchClassifier(module, ["a", "b", "c"])
    assert layer_names(clf) == ["0", "1", "2", "3"]
    x = torch.as_tensor(X)
    with torch.no_grad():
        for place, part in enumerate(module):
            x = part(x)
            for layer in (str(place), place) if place < 4 else ("4",):
                values = get_activations(clf, X, layer)
                assert isinstance(values, np.ndarray)
                assert values.dtype == np.float64
                assert_allclose(values, x.numpy(), rtol=1e-12)
    assert_array_equal(get_activations(clf, X, -1), get_activations(clf, X, "3"))
    assert_array_equal(get_activations(clf, X, np.int64(1)), get_activations(clf, X, "1"))


def test_containers_and_outputs():
    clf = TorchClassifier(image_net(), ["a", "b", "c"], output="proba")
    inner = ["features.0", "features.1", "features.2", "features"]
    assert layer_names(clf) == ["dropout", *inner, "dense"]
    data, module = images(), clf.module
    module.eval()
    with torch.no_grad():
        conv = module.features[0](torch.tensor(data))
        normed = module.features[1](conv)
        dense = module.dense(torch.relu(normed).flatten(1))
        logits = module.out(torch.tanh(dense))
    # What is overwritten in place by the next layer is read before.
    for layer, expected in {
        "features.0": conv,
        "features.1": normed,
        "features.2": torch.relu(normed),
        "features": torch.relu(normed),
        "dense": dense,
        "dropout": torch.tanh(dense),
        "out": logits,
        "softmax": torch.softmax(logits, dim=1),
    }.items():
        values = get_activations(clf, data, layer)
        assert values.dtype == np.float32
        assert_allclose(values, expected.numpy(), rtol=1e-5, atol=1e-6, err_msg=layer)


@pytest.mark.parametrize("batch_size", [1, 6, 20, 100])
def test_batches(batch_size):
    clf = TorchClassifier(image_net(), ["a", "b", "c"], output="proba")
    sizes = []
    clf.module.register_forward_hook(lambda part, args, out: sizes.append(len(out)))
    values = get_activations(clf, images(), "features", batch_size=batch_size)
    assert sum(sizes) == 20
    assert max(sizes) == min(batch_size, 20)
    assert_allclose(values, get_activations(clf, images(), "features"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "form",
    [np.float64, np.float32, torch.as_tensor, lambda X: pd.DataFrame(X, columns=list("abcd")), np.ndarray.tolist],
    ids=["float64", "float32", "tensor", "frame", "list"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_form_of_data(form, dtype):
    module = dense_net(dtype)
    with torch.no_grad():
        expected = module[:2](torch.tensor(X, dtype=dtype)).float().numpy()
    values = get_activations(TorchClassifier(module, ["a", "b", "c"]), form(X), "1", batch_size=150)
    assert values.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


def state(module):
    return (
        [(name, part.training) for name, part in module.named_modules()],
        [(name, p.requires_grad, p.tolist(), p.grad is None) for name, p in module.named_parameters()],
        [(name, id(b), b.tolist()) for name, b in module.named_buffers()],
        [len(part._forward_hooks) for part in module.modules()],
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", [False, True])
def test_module_and_data_are_left_as_they_were_found(training, mode):
    module = image_net().train(mode)
    module.features[1].train(not mode)
    module.out.requires_grad_(False)
    before, data, original = state(module), images(), images()
    clf = TorchClassifier(module, ["a", "b", "c"], output="proba")
    get_activations(clf, data, "features", training=training)
    assert state(module) == before
    with pytest.raises(RuntimeError):
        get_activations(clf, data[..., :2], "features", training=training)  # too narrow for the dense layer
    assert state(module) == before
    oracle = Oracle(clf, data)
    with oracle:
        oracle.activations(oracle.asarray(data), "features", training=training)
    assert state(module) == before
    assert_array_equal(data, original)


def test_training_keeps_dropout_on_and_normalises_by_the_batch():
    clf = TorchClassifier(image_net().eval(), ["a", "b", "c"], output="proba")
    still = get_activations(clf, images(), "dropout")
    assert_array_equal(still, get_activations(clf, images(), "dropout"))
    assert np.all(still != 0)
    torch.manual_seed(0)
    first, second = (get_activations(clf, images(), "dropout", training=True) for _ in range(2))
    assert 0.3 < np.mean(first == 0) < 0.7
    assert np.mean((first == 0) != (second == 0)) > 0.3
    normed = get_activations(clf, images(), "features.1", training=True)
    assert_allclose(normed.mean(axis=(0, 2, 3)), 0, atol=1e-6)
    assert_allclose(normed.std(axis=(0, 2, 3)), 1, atol=1e-2)
    by_batch = get_activations(clf, images(), "features.1", training=True, batch_size=5)
    assert not np.allclose(by_batch, normed)
    assert abs(get_activations(clf, images(), "features.1").mean(axis=(0, 2, 3))).max() > 1e-3


def test_flat_rows_of_images():
    clf = TorchClassifier(image_net(), ["a", "b", "c"], output="proba", input_shape=(1, 3, 3))
    assert_array_equal(
        get_activations(clf, images().reshape(20, 9), "features"), get_activations(clf, images(), "features")
    )


def test_skorch_nets_are_read_as_their_modules():
    skorch = pytest.importorskip("skorch")
    module = dense_net(torch.float32)
    net = skorch.NeuralNetClassifier(module, criterion=nn.CrossEntropyLoss, verbose=0).initialize()
    expected = get_activations(TorchClassifier(module, ["a", "b", "c"]), X, "1")
    assert expected.dtype == np.float32
    adapter = SkorchClassifier(FrozenEstimator(net), classes=["a", "b", "c"])
    fitted = SkorchClassifier(FrozenEstimator(net)).fit(X, Y)
    for clf in (net, FrozenEstimator(net), adapter, fitted, FrozenEstimator(adapter)):
        assert layer_names(clf) == ["0", "1", "2", "3"]
        for data in (X, pd.DataFrame(X), torch.as_tensor(X)):
            assert_allclose(get_activations(clf, data, "1"), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(NotFittedError):
        layer_names(SkorchClassifier(net))


@pytest.mark.slow
def test_compiled_net():
    skorch = pytest.importorskip("skorch")
    net = skorch.NeuralNetClassifier(
        dense_net(), criterion=nn.CrossEntropyLoss, verbose=0, compile=True, compile__backend="eager"
    ).initialize()
    assert layer_names(net) == ["0", "1", "2", "3"]
    assert_allclose(
        get_activations(net, X, "2"), get_activations(TorchClassifier(dense_net(), [0, 1, 2]), X, "2"), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("tanh", np.tanh),
        ("relu", lambda z: np.maximum(z, 0)),
        ("logistic", lambda z: 1 / (1 + np.exp(-z))),
        ("identity", lambda z: z),
    ],
)
def test_multi_layer_perceptron(activation, function):
    clf = MLPClassifier((7, 4), activation=activation, max_iter=5, random_state=0)
    with pytest.warns(Warning, match="converge"):
        clf.fit(pd.DataFrame(X, columns=list("abcd")), Y)
    first = function(X @ clf.coefs_[0] + clf.intercepts_[0])
    second = function(first @ clf.coefs_[1] + clf.intercepts_[1])
    assert layer_names(clf) == ["hidden_1", "hidden_2"]
    original = X.copy()
    for data in (X, pd.DataFrame(X, columns=list("abcd")), torch.as_tensor(X), X.tolist()):
        assert_allclose(get_activations(clf, data, "hidden_1", batch_size=40), first, rtol=1e-10)
        assert_allclose(get_activations(clf, data, -1), second, rtol=1e-10)
    assert_array_equal(X, original)
    # The output layer on top of the last hidden one is the model's own prediction.
    z = second @ clf.coefs_[2] + clf.intercepts_[2]
    assert_array_equal(z.argmax(axis=1), clf.predict_proba(pd.DataFrame(X, columns=list("abcd"))).argmax(axis=1))
    with pytest.raises(ValueError, match="X has 3 features, but MLPClassifier is expecting 4"):
        get_activations(clf, X[:, :3], 0)
    assert layer_names(MLPClassifier((), max_iter=1000, random_state=0).fit(X[:, :1], Y > 1)) == []


def trained_pipeline():
    net = TorchClassifier(seeded(lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))), ["a", "b", "c"])
    preparation = Pipeline([("pca", PCA(3)), ("same", "passthrough"), ("again", StandardScaler())])
    clf = FrozenEstimator(net)
    return Pipeline([("scaler", StandardScaler()), ("prep", preparation), ("none", None), ("clf", clf)])


def test_pipeline_steps_are_layers():
    pipe = trained_pipeline().fit(X, Y)
    names = ["scaler", "prep/pca", "prep/again", "prep", "clf/0", "clf/1"]
    assert layer_names(pipe) == names
    scaled = pipe["scaler"].transform(X)
    reduced = pipe["prep"]["pca"].transform(scaled)
    prepared = pipe["prep"].transform(scaled)
    module = pipe["clf"].estimator.module
    with torch.no_grad():
        first = module[0](torch.tensor(prepared, dtype=torch.float32)).numpy()
    for layer, expected in zip(names, [scaled, reduced, prepared, prepared, first, np.tanh(first)]):
        assert_allclose(get_activations(pipe, X, layer, batch_size=64), expected, rtol=1e-6, err_msg=layer)
        assert_allclose(get_activations(pipe, X, names.index(layer)), expected, rtol=1e-6, err_msg=layer)
    assert_array_equal(pipe.classes_[get_activations(pipe, X, "clf/2").argmax(axis=1)], pipe.predict(X))
    with pytest.raises(ValueError, match="no layer 'clf'.*'prep/pca'.*'clf/1'.*output is given by 'clf/2'"):
        get_activations(pipe, X, "clf")


def test_pipeline_on_a_data_frame_with_columns_of_its_own():
    frame = pd.DataFrame(X, columns=list("abcd"), index=np.linspace(0, 1, 150))
    frame["kind"] = np.array(["u", "v", "w"])[Y]
    columns = ColumnTransformer([("kind", OneHotEncoder(), ["kind"]), ("rest", StandardScaler(), list("abcd"))])
    pipe = Pipeline([("columns", columns), ("pca", PCA(2)), ("clf", LogisticRegression())]).fit(frame, Y)
    assert layer_names(pipe) == ["columns", "pca"]
    expected = columns.fit_transform(frame)
    assert_allclose(get_activations(pipe, frame, "columns", batch_size=17), expected)
    assert_allclose(get_activations(pipe, frame, 1), pipe[:-1].transform(frame))
    pipe.set_output(transform="pandas")
    columns.sparse_threshold = 0
    columns.named_transformers_["kind"].sparse_output = False
    assert_allclose(get_activations(pipe, frame, "pca"), pipe[:-1].transform(frame).to_numpy())


def test_sparse_steps_come_out_dense():
    texts = np.array(["one fish", "two fish", "red fish", "blue fish"])
    pipe = Pipeline([("words", CountVectorizer()), ("clf", LogisticRegression())]).fit(texts, [0, 0, 1, 1])
    values = get_activations(pipe, texts, "words", batch_size=3)
    assert isinstance(values, np.ndarray)
    assert_array_equal(values, pipe["words"].transform(texts).toarray())


def test_pipeline_of_transformers_only():
    pipe = Pipeline([("scaler", StandardScaler()), ("pca", PCA(2))]).fit(X)
    assert layer_names(pipe) == ["scaler", "pca"]
    assert_allclose(get_activations(pipe, X, "pca"), pipe.transform(X))


def test_steps_that_drop_samples_are_passed_over():
    class Halved(BaseEstimator):
        def fit(self, X, y=None):
            return self

        def fit_resample(self, X, y):
            return X[::2], y[::2]

    pipe = Pipeline([("scaler", StandardScaler()), ("clf", LogisticRegression())]).fit(X, Y)
    pipe.steps.insert(1, ("half", Halved()))  # as imblearn's Pipeline has them
    assert layer_names(pipe) == ["scaler"]


def test_searches_and_frozen_estimators_are_what_they_hold():
    clf = Pipeline([("scaler", StandardScaler()), ("mlp", MLPClassifier((4,), max_iter=3, random_state=0))])
    with pytest.warns(Warning, match="converge"):
        search = GridSearchCV(clf, {"mlp__alpha": [1e-3, 1e-2]}, cv=2).fit(X, Y)
    best = search.best_estimator_
    for model in (search, FrozenEstimator(search), FrozenEstimator(best)):
        assert layer_names(model) == ["scaler", "mlp/hidden_1"]
        assert_array_equal(get_activations(model, X, -1), get_activations(best, X, "mlp/hidden_1"))
    with pytest.raises(TypeError, match="GridSearchCV has no layers"):
        layer_names(GridSearchCV(clf, {"mlp__alpha": [1e-3]}))


class Shared(nn.Module):
    """One layer called twice, one that gives a tuple, one that is not called, one that knows no samples."""

    def __init__(self):
        super().__init__()
        self.twice, self.cells, self.unused = nn.Linear(4, 4), nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 4)
        self.mixed, self.out = nn.Identity(), nn.Linear(4, 3)

    def forward(self, x):
        x = self.twice(self.twice(x))
        self.mixed(x.sum(dim=0))
        return self.out(self.cells(x[:, None])[0][:, -1])


def test_odd_layers():
    module = seeded(Shared)
    clf = TorchClassifier(module, ["a", "b", "c"])
    x = torch.tensor(X, dtype=torch.float32)
    with torch.no_grad():
        twice = module.twice(module.twice(x))
        cells = module.cells(twice[:, None])[0]
    assert_allclose(get_activations(clf, X, "twice"), twice.numpy(), rtol=1e-5)
    assert_allclose(get_activations(clf, X, "cells"), cells.numpy(), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="'unused' of Shared is not called"):
        get_activations(clf, X, "unused")
    with pytest.raises(ValueError, match=r"'mixed' gives an array of shape \(4,\) for 150 samples"):
        get_activations(clf, X, "mixed")
    assert layer_names(TorchClassifier(nn.Linear(4, 3), ["a", "b", "c"])) == []


@pytest.mark.parametrize("layer", ["5", "conv1", 4, -5, 1.0, None, True, ["0"]])
def test_a_layer_that_does_not_exist(layer):
    clf = TorchClassifier(dense_net(), ["a", "b", "c"])
    message = r"TorchClassifier has no layer .* 4 hidden layers, from 0 to 3: '0', '1', '2', '3'\. Its output .*'4'"
    with pytest.raises(ValueError, match=message):
        get_activations(clf, X, layer)


def test_wrong_use():
    svm = LogisticRegression().fit(X, Y)
    for ask in (layer_names, lambda clf: get_activations(clf, X, 0)):
        with pytest.raises(TypeError, match="LogisticRegression has no layers.*MLPClassifier.*Pipelines"):
            ask(svm)
    with pytest.raises(NotFittedError):
        layer_names(MLPClassifier())
    clf = TorchClassifier(dense_net(), ["a", "b", "c"])
    with pytest.raises(ValueError, match="batch_size"):
        get_activations(clf, X, 0, batch_size=0)
    with pytest.raises(ValueError, match="0 samples"):
        get_activations(clf, X[:0], 0)


class Sums(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return self.classes_[(X.sum(axis=1) > 0).astype(int)]


class MoreSums(Sums):
    pass


def test_a_family_joins_by_one_function(monkeypatch):
    monkeypatch.setattr(registry, "_families", dict(registry._families))
    monkeypatch.setattr("sklearn.base.Sums", Sums, raising=False)  # a public path

    @registry.activations("sklearn.base.Sums")
    def sums(model):
        return registry.Layers(["sum"], lambda X, name, training: np.sum(X, axis=1) + training)

    pipe = Pipeline([("scaler", StandardScaler()), ("clf", MoreSums())]).fit(X, Y > 1)
    assert layer_names(pipe) == ["scaler", "clf/sum"]
    scaled = pipe[:1].transform(X)
    assert_allclose(get_activations(pipe, X, -1, batch_size=20), scaled.sum(axis=1))
    assert_allclose(get_activations(pipe, X, -1, training=True), scaled.sum(axis=1) + 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TorchClassifier(dense_net(), ["a", "b", "c"]),
        lambda: (
            pytest.importorskip("skorch")
            .NeuralNetClassifier(dense_net(), criterion=nn.CrossEntropyLoss, verbose=0)
            .initialize()
        ),
        lambda: trained_pipeline().fit(pd.DataFrame(X, columns=list("abcd")), Y),
    ],
    ids=["torch", "skorch", "pipeline"],
)
def test_oracle_answers_activations(make):
    clf = make()
    data = pd.DataFrame(X, columns=list("abcd")) if isinstance(clf, Pipeline) else X
    oracle = Oracle(clf, data)
    asked = oracle.n_forward
    values = oracle.activations(oracle.asarray(data), 1)
    assert oracle.n_forward == asked + 150
    assert values.device == oracle.device
    assert_allclose(values.numpy(), get_activations(clf, data, 1), rtol=1e-6)
