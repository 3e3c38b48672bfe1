"""The adapter of Keras models, held against the bare model.

A process has one backend: see tests/gradients/test_keras.py.
"""

import functools
import pickle
import random
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
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

keras = pytest.importorskip("keras")

from skart.attacks import FastGradientMethod  # noqa: E402
from skart.estimators import KerasModelClassifier  # noqa: E402
from skart.metrics import make_robustness_scorer  # noqa: E402
from skart.oracles import Oracle, loss_gradient  # noqa: E402
from tests.estimators._keras_models import BACKEND, Subclassed, layers, mlp, smooth  # noqa: E402

SPECIES = np.array(["setosa", "versicolor", "virginica"])


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def adapter(model=mlp, **params):
    """One that learns iris in no time."""
    defaults = {"optimizer": keras.optimizers.Adam(0.03), "max_epochs": 8, "batch_size": 16, "random_state": 0}
    return KerasModelClassifier(model, **{**defaults, **params})


@pytest.fixture(scope="module")
def trained(iris):
    X, y = iris
    return adapter().fit(X, SPECIES[y])


def own(model, X):
    return np.asarray(keras.ops.convert_to_numpy(model(X, training=False)))


def as_frame(X):
    return pd.DataFrame(X, columns=["a", "b", "c", "d"])


@pytest.mark.parametrize("form", ["float64", "float32", "fortran", "frame", "list", "tensor"])
def test_any_form_of_data_gives_what_the_bare_model_gives(iris, trained, form):
    X, y = iris
    data = {
        "float64": lambda: X,
        "float32": lambda: X.astype(np.float32),
        "fortran": lambda: np.asfortranarray(X),
        "frame": lambda: as_frame(X),
        "list": X.tolist,
        "tensor": lambda: pytest.importorskip("torch").as_tensor(X),
    }[form]()
    clf = KerasModelClassifier(trained.model_, SPECIES)
    expected = own(trained.model_, X.astype(np.float32))
    assert_allclose(clf.predict_proba(data), expected, rtol=1e-6, atol=1e-7)
    assert_array_equal(clf.predict(data), SPECIES[expected.argmax(axis=1)])
    assert_allclose(clf.decision_function(data), np.log(expected), rtol=1e-5, atol=1e-5)
    assert clf.score(data, SPECIES[y]) > 0.85


def test_training(iris):
    X, y = iris
    state, numpy_state = random.getstate(), np.random.mtrand._rand.get_state()[1].tolist()
    first, again, other = (adapter(max_epochs=3, random_state=seed).fit(as_frame(X), SPECIES[y]) for seed in (5, 5, 6))
    assert random.getstate() == state
    assert np.random.mtrand._rand.get_state()[1].tolist() == numpy_state
    assert_array_equal(first.predict_proba(as_frame(X)), again.predict_proba(as_frame(X)))
    assert not np.allclose(first.predict_proba(as_frame(X)), other.predict_proba(as_frame(X)))
    assert list(first.feature_names_in_) == ["a", "b", "c", "d"]
    assert_array_equal(first.classes_, SPECIES)
    assert len(first.history_["loss"]) == 3
    assert first.history_["loss"][-1] < first.history_["loss"][0]


@pytest.mark.parametrize(
    ("n_classes", "ending", "n_outputs"),
    [
        (3, "softmax", 3),
        (3, "linear", 3),
        (3, "log_softmax", 3),
        (2, "softmax", 2),
        (2, "sigmoid", 1),
        (2, "linear", 1),
    ],
)
def test_every_kind_of_output_learns(iris, n_classes, ending, n_outputs):
    X, y = (values[iris[1] < n_classes] for values in iris)
    clf = adapter(functools.partial(mlp, ending=ending, n_outputs=n_outputs)).fit(X, SPECIES[y])
    assert clf.score(X, SPECIES[y]) > 0.85
    proba = clf.predict_proba(X)
    assert proba.shape == (len(X), n_classes)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    assert_array_equal(clf.predict(X), SPECIES[proba.argmax(axis=1)])
    # What it was trained by is the cross-entropy.
    loss = clf.model_.evaluate(X.astype(np.float32), y.astype(np.float32), verbose=0)
    assert loss == pytest.approx(log_loss(y, proba), rel=1e-3)
    decision = clf.decision_function(X)
    assert decision.shape == ((len(X),) if n_classes == 2 else (len(X), 3))
    oracle = Oracle(clf, X)
    assert_array_equal(oracle.labels(oracle.asarray(X)), clf.predict(X))


def test_compiled_optimizer_of_a_function_and_fit_params(iris):
    X, y = iris

    def compiled(input_shape, n_classes):
        model = mlp(input_shape, n_classes)
        model.compile(optimizer=keras.optimizers.SGD(0.07), loss="mse")  # the loss is not what counts
        return model

    stop = keras.callbacks.EarlyStopping("loss", min_delta=10, patience=1)
    clf = adapter(compiled, optimizer=None, fit_params={"callbacks": [stop]}).fit(X, y)
    assert len(clf.history_["loss"]) == 2
    assert type(clf.model_.optimizer).__name__ == "SGD"
    assert float(keras.ops.convert_to_numpy(clf.model_.optimizer.learning_rate)) == pytest.approx(0.07)
    with pytest.raises(ValueError, match="not compiled.*optimizer='adam'"):
        adapter(optimizer=None).fit(X, y)


def test_partial_fit(iris):
    X, y = iris
    clf = adapter()
    with pytest.raises(ValueError, match="needs all labels"):
        clf.partial_fit(X, y)
    clf.partial_fit(X[y < 2], SPECIES[y[y < 2]], classes=SPECIES)
    assert_array_equal(clf.classes_, SPECIES)
    model = clf.model_
    for _ in range(10):
        clf.partial_fit(X, SPECIES[y])
    assert clf.model_ is model
    assert clf.score(X, SPECIES[y]) > 0.85
    with pytest.raises(ValueError, match="'rose', which is not in"):
        clf.partial_fit(X, np.full(150, "rose"))
    assert not hasattr(KerasModelClassifier(model, SPECIES), "partial_fit")


def test_given_model_is_trained_as_a_copy_and_only_with_an_optimizer(iris, trained):
    X, y = iris
    before = trained.model_.get_weights()
    clf = adapter(trained.model_, max_epochs=2).fit(X, SPECIES[y])
    assert clf.model_ is not trained.model_
    for now, then, new in zip(trained.model_.get_weights(), before, clf.model_.get_weights()):
        assert_array_equal(now, then)
        assert not np.array_equal(new, then)
        assert np.abs(new - then).mean() < 0.3  # it began with the weights of the given one
    with pytest.raises(ValueError, match=r"no optimizer.*FrozenEstimator"):
        KerasModelClassifier(trained.model_, SPECIES).fit(X, SPECIES[y])
    frozen = FrozenEstimator(KerasModelClassifier(trained.model_, SPECIES)).fit(X, y)
    assert_array_equal(frozen.predict(X), trained.predict(X))


def test_fit_that_raises_leaves_the_classifier_as_it_was(iris):
    X, y = iris
    clf = adapter(max_epochs=1).fit(X, SPECIES[y])
    before = clf.predict_proba(X)
    with pytest.raises(ValueError, match="one class only"):
        clf.fit(X[:, :2], np.zeros(150))
    assert_array_equal(clf.predict_proba(X), before)


def test_images_and_flat_rows():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=60)
    X = rng.normal(size=(60, 6, 6, 1)) + 2 * y[:, None, None, None]

    def cnn(input_shape, n_classes):
        ending = [layers.Flatten(), layers.Dense(n_classes, activation="softmax")]
        return keras.Sequential([keras.Input(input_shape), layers.Conv2D(3, 3, activation="relu"), *ending])

    clf = adapter(cnn).fit(X, y)
    assert clf.score(X, y) > 0.9
    assert loss_gradient(clf, X, y).shape == X.shape
    flat = adapter(cnn, input_shape=(6, 6, 1)).fit(X.reshape(60, 36), y)
    assert flat.score(X.reshape(60, 36), y) > 0.9
    # A trained model knows its shape itself.
    both = KerasModelClassifier(clf.model_, [0, 1])
    assert_array_equal(both.predict_proba(X.reshape(60, 36)), both.predict_proba(X))
    grad = loss_gradient(both, X.reshape(60, 36), y)
    assert_allclose(grad, loss_gradient(both, X, y).reshape(60, 36), rtol=1e-5, atol=1e-8)
    with pytest.raises(ValueError, match=r"samples of shape \(6, 6, 1\), or rows of 36 features; got.*\(60, 35\)"):
        both.predict(X.reshape(60, 36)[:, :35])
    with pytest.raises(ValueError, match=r"input_shape=\(5, 5\)"):
        adapter(cnn, input_shape=(5, 5)).fit(X.reshape(60, 36), y)


def test_pickle_and_clone(iris, trained):
    X, y = iris
    again = pickle.loads(pickle.dumps(trained))
    assert_allclose(again.predict_proba(X), trained.predict_proba(X), rtol=1e-6)
    again.partial_fit(X, SPECIES[y])
    double = KerasModelClassifier(smooth(3, layers.Softmax(dtype="float64")), SPECIES)
    assert_allclose(pickle.loads(pickle.dumps(double)).predict_proba(X), double.predict_proba(X), rtol=1e-12)
    Oracle(double, X)  # compiled programs do not travel
    pickle.dumps(double)
    twin = clone(double)
    assert twin.model is not double.model
    assert_allclose(twin.predict_proba(X), double.predict_proba(X), rtol=1e-12)
    with pytest.raises(NotFittedError):
        clone(trained).predict(X)


def test_in_cross_validation_and_search():
    X, y = load_iris(return_X_y=True, as_frame=True)
    y = SPECIES[y]
    pipe = make_pipeline(StandardScaler(), adapter())
    scores = cross_val_score(pipe, X, y, cv=2, error_score="raise")
    assert scores.min() > 0.8
    scorer = make_robustness_scorer(FastGradientMethod(eps=0.5))
    robust = cross_val_score(pipe, X, y, cv=2, scoring=scorer, error_score="raise")
    assert np.all(robust < scores - 0.05)
    grid = {"kerasmodelclassifier__max_epochs": [1, 8], "kerasmodelclassifier__optimizer": ["sgd"]}
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_params_["kerasmodelclassifier__max_epochs"] == 8
    assert FastGradientMethod(search.best_estimator_, eps=0.5).fit(X, y).transform(X).shape == X.shape


def ending_in(ending, n_outputs=3):
    return mlp((4,), None, ending, n_outputs=n_outputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KerasModelClassifier(ending_in("softmax"), ["a", "b"]), "3 outputs for 2 classes"),
        (lambda: KerasModelClassifier(ending_in("linear", 1), SPECIES), "1 outputs for 3 classes"),
        (lambda: KerasModelClassifier(ending_in("softmax"), ["a", "a", "b"]), "different labels"),
        (lambda: KerasModelClassifier(ending_in("softmax"), SPECIES, output="logits"), "gives probabilities.*'proba'"),
        (
            lambda: KerasModelClassifier(ending_in("sigmoid", 1), ["a", "b"], output="logits"),
            "ends in a softmax or a s",
        ),
        (lambda: KerasModelClassifier(ending_in("linear"), SPECIES, output="proba"), "look like logits"),
        (lambda: KerasModelClassifier(ending_in("linear"), SPECIES, output="log_proba"), "look like logits"),
        (lambda: KerasModelClassifier(ending_in("sigmoid"), SPECIES), "its values are none"),
        (lambda: KerasModelClassifier(ending_in("relu"), SPECIES), "cannot be told.*Say output='logits'"),
        (lambda: KerasModelClassifier(keras.Sequential([layers.Dense(3)]), SPECIES), "is not built"),
        (lambda: KerasModelClassifier(mlp((5,), 3), SPECIES), r"takes samples of shape \(5,\)"),
        (lambda: KerasModelClassifier(two_inputs(), SPECIES), "models of one input"),
    ],
)
def test_wrong_models(iris, make, message):
    for ask in (lambda clf: clf.predict(iris[0]), lambda clf: Oracle(clf, iris[0])):
        with pytest.raises(ValueError, match=message):
            ask(make())


def two_inputs():
    inputs = [keras.Input((4,)), keras.Input((4,))]
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.Add()(inputs)))


@pytest.mark.parametrize("model", ["dense", 3, None, keras])
def test_no_model_at_all(iris, model):
    with pytest.raises(TypeError, match="takes a keras.Model; got"):
        KerasModelClassifier(model, SPECIES).predict(iris[0])
    with pytest.raises(TypeError, match="takes a keras.Model; got"):
        KerasModelClassifier(lambda input_shape, n_classes: model, optimizer="adam").fit(*iris)


def test_unfitted(iris):
    for clf in (adapter(), KerasModelClassifier(ending_in("softmax"))):
        with pytest.raises(NotFittedError):
            clf.predict(iris[0])
        assert not hasattr(clf, "classes_")
    with pytest.raises(ValueError, match="outputs for 3 classes"):
        adapter(lambda input_shape, n_classes: mlp(input_shape, 4)).fit(*iris)


def test_subclassed_model_says_what_it_gives(iris):
    X, y = iris
    clf = adapter(lambda input_shape, n_classes: Subclassed(n_classes), output="logits").fit(X, SPECIES[y])
    assert clf.score(X, SPECIES[y]) > 0.8
    again = pickle.loads(pickle.dumps(clf.model_))
    assert_allclose(own(again, X.astype(np.float32)), own(clf.model_, X.astype(np.float32)), rtol=1e-6)
    with pytest.raises(ValueError, match="cannot be told"):
        KerasModelClassifier(clf.model_, SPECIES).predict(X)


def test_two_classes_of_any_label():
    X, y = make_classification(80, 4, random_state=0)
    clf = adapter(functools.partial(mlp, ending="sigmoid", n_outputs=1)).fit(X, np.array(["no", "yes"])[y])
    turned = KerasModelClassifier(clf.model_, ["yes", "no"])
    assert_array_equal(turned.predict(X) == "yes", clf.predict(X) == "no")
    assert_array_equal(clf.predict(X) == "yes", own(clf.model_, X.astype(np.float32)).ravel() > 0.5)


def test_import_needs_no_keras():
    code = "import sys, skart.estimators, skart.gradients; assert not {'keras', 'jax', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_keras_the_error_names_the_extra(iris, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(ImportError, match=r"skart\[keras\]"):
        KerasModelClassifier(mlp, optimizer="adam").fit(*iris)


@pytest.mark.skipif(BACKEND != "torch", reason="one refusal is enough")
def test_backend_without_gradients(iris, monkeypatch):
    clf = KerasModelClassifier(ending_in("softmax"), SPECIES)
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    oracle = Oracle(clf, iris[0], check=False)
    with pytest.raises(Exception, match="numpy backend.*KERAS_BACKEND"):
        oracle.vjp(iris[0])


def test_layers_and_their_activations():
    """Dense and dropout in closed form; moving averages and the source of dropout's draws are as they were."""
    from skart.oracles import get_activations, layer_names

    X = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, activation="relu", name="one"),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.5, name="drop"),
            layers.Dense(3, name="out"),
            layers.Softmax(name="softmax"),
        ]
    )
    clf = KerasModelClassifier(model, [0, 1, 2])
    before = [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.weights]
    assert layer_names(clf) == ["one", "norm", "drop"]
    weights, bias = model.get_layer("one").get_weights()
    expected = np.maximum(X @ weights + bias, 0)
    assert_allclose(get_activations(clf, X, "one", batch_size=16), expected, atol=1e-5)
    assert_allclose(get_activations(clf, X, -1), expected / np.sqrt(1.001), rtol=1e-4, atol=1e-5)
    assert_allclose(get_activations(clf, X, "softmax"), clf.predict_proba(X), atol=1e-5)
    # After batch normalisation in training nothing is zero but what dropout drops, half of it.
    dropped = get_activations(clf, X, "drop", training=True)
    assert 0.35 < (dropped == 0).mean() < 0.65
    for weight, value in zip(model.weights, before):
        assert_array_equal(keras.ops.convert_to_numpy(weight), value)
    with pytest.raises(ValueError, match="has no layer 'nope'"):
        get_activations(clf, X, "nope")
