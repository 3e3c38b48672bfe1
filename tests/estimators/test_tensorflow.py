"""TensorFlow 2 models and functions, in an environment of their own (`make test-tensorflow`)."""

import pickle
import sys

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skart.estimators import TensorFlowClassifier

SPECIES = np.array(["setosa", "versicolor", "virginica"])


def test_without_tensorflow_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match=r"TensorFlowClassifier needs tensorflow.*skart\[tensorflow\]"):
        TensorFlowClassifier(len, SPECIES).predict(np.eye(4))


tf = pytest.importorskip("tensorflow")

from skart.attacks import FastGradientMethod, ProjectedGradientDescent  # noqa: E402
from skart.exceptions import AttackFailureWarning, GradientUnavailableError  # noqa: E402
from skart.metrics import make_robustness_scorer  # noqa: E402
from skart.oracles import Oracle, loss_gradient  # noqa: E402
from skart.utils import check_rule  # noqa: E402


class MLP(tf.Module):
    """A smooth module, or the copy of an MLPClassifier."""

    def __init__(self, n_outputs=3, ending=tf.identity, dtype=tf.float64, scale=1.0, perceptron=None):
        super().__init__()
        self.ending, self.passes, self.traces = ending, None, 0
        draw = np.random.default_rng(0).normal
        weights = [scale * draw(size=shape) for shape in ((4, 8), 8, (8, n_outputs), n_outputs)]
        if perceptron is not None:
            weights = [array for pair in zip(perceptron.coefs_, perceptron.intercepts_) for array in pair]
        self.parts = [tf.Variable(array, dtype=dtype) for array in weights]

    def __call__(self, x, training=None):
        self.traces += 1
        assert training is False
        w, b, v, c = self.parts
        return self.ending(tf.tanh(x @ w + b) @ v + c)


class NearInteger:
    """A function of six classes, from -1 to 4: the nearer to the first feature, the higher its score."""

    def __call__(self, x):
        return -tf.abs(tf.clip_by_value(x[:, :1], -1, 4) - tf.range(-1, 5, dtype=x.dtype))

    def __repr__(self):
        return "NearInteger()"


def expected_failures(estimator):
    reason = "its function has the classes that it was given, not those of the data at hand"
    checks = ["classifiers_classes", "classifiers_one_label", "classifiers_train", "decision_proba_consistency"]
    return {f"check_{name}": reason for name in checks}


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [TensorFlowClassifier(NearInteger(), [-1, 0, 1, 2, 3, 4], dtype="float64")],
    expected_failed_checks=expected_failures,
)
def test_sklearn_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


KINDS = {
    "logits": (3, tf.identity, "logits"),
    "probabilities": (3, tf.nn.softmax, "proba"),
    "log-probabilities": (3, tf.nn.log_softmax, "log_proba"),
    "two logits": (2, tf.identity, "logits"),
    "a logit": (1, tf.identity, "logits"),
    "a flat logit": (1, lambda z: tf.reshape(z, [-1]), "logits"),
    "a probability": (1, tf.sigmoid, "proba"),
    "a probability of its own making": (1, lambda z: 1 / (1 + tf.exp(-z)), "proba"),
    "probabilities of their own making": (3, lambda z: tf.exp(z) / tf.reduce_sum(tf.exp(z), 1, True), "proba"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrap", [lambda m: m, tf.function], ids=["module", "function"])
def test_logits_and_central_differences(iris, kind, wrap):
    X = iris[0]
    n_outputs, ending, output = KINDS[kind]
    module = MLP(n_outputs, ending)
    model = module if wrap is not tf.function else tf.function(lambda x: module(x, training=False))
    clf = TensorFlowClassifier(model, SPECIES[: max(n_outputs, 2)], output=output, dtype="float64")
    check_rule(clf, X, rtol=1e-6)
    outputs = module(tf.constant(X), training=False).numpy().reshape(150, -1)
    logits = Oracle(clf, X).logits(X)
    if output == "logits" and n_outputs > 1:
        assert_allclose(logits, outputs, rtol=1e-6)
    proba = clf.predict_proba(X)
    if output == "proba":
        assert_allclose(proba if n_outputs > 1 else proba[:, 1:], outputs, rtol=1e-6)
    assert_allclose(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), proba, rtol=1e-6)
    assert_array_equal(clf.predict(X), clf.classes_[proba.argmax(axis=1)])


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_saturated_probabilities_have_their_gradients(iris, n_outputs):
    X = iris[0].astype(np.float32)
    y = SPECIES[: max(n_outputs, 2)][iris[1] % max(n_outputs, 2)]
    ending = tf.sigmoid if n_outputs == 1 else tf.nn.softmax
    scores, proba = (MLP(n_outputs, how, dtype=tf.float32, scale=60.0) for how in (tf.identity, ending))
    ours, theirs = (
        Oracle(TensorFlowClassifier(model, np.unique(y), output=output), X)
        for model, output in ((proba, "proba"), (scores, "logits"))
    )
    assert_allclose(ours.logits(X), theirs.logits(X), rtol=1e-5)
    cotangent = np.ones((150, len(np.unique(y)))) * [[-1, 1, 0][: len(np.unique(y))]]
    grads = [oracle.vjp(X)[1](cotangent) for oracle in (ours, theirs)]
    assert_allclose(*grads, rtol=1e-5, atol=1e-5 * np.abs(grads[1]).max())


def test_same_attack_as_on_numpy_with_the_same_weights(iris):
    X, y = iris
    perceptron = MLPClassifier((8,), activation="tanh", max_iter=150, random_state=0).fit(X, y)
    clf = TensorFlowClassifier(MLP(perceptron=perceptron), [0, 1, 2])
    attacks = [
        ProjectedGradientDescent(estimator, norm=norm, eps=0.8, max_iter=8, random_state=0).run(X, y)
        for norm in (2, np.inf)
        for estimator in (clf, perceptron)
    ]
    for ours, theirs in (attacks[:2], attacks[2:]):
        assert_allclose(ours.X_adv, theirs.X_adv, rtol=1e-8, atol=1e-8)
        assert_array_equal(ours.n_gradients, theirs.n_gradients)


def test_nothing_is_traced_again(iris):
    X, y = iris
    module = MLP()
    clf = TensorFlowClassifier(module, SPECIES)
    attack = ProjectedGradientDescent(clf, eps=0.5, max_iter=6, random_state=0, batch_size=64)
    attack.run(X, SPECIES[y])
    traces = module.traces
    attack.run(X, SPECIES[y])
    oracle = Oracle(clf, X)
    logits = oracle.logits(X)
    for n_samples in (70, 33, 8, 1, 0):
        some, pull = oracle.vjp(X[:n_samples])
        assert_allclose(some, logits[:n_samples], rtol=1e-12)
        assert pull(np.ones((n_samples, 3))).shape == (n_samples, 4)
    assert module.traces == traces
    module.parts[0].assign(2 * module.parts[0])  # and yet weights are read anew
    doubled = oracle.logits(X)
    assert np.abs(doubled - logits).max() > 0.1
    clf.set_params(model=MLP(scale=2.0))
    assert np.abs(Oracle(clf, X).logits(X) - doubled).max() > 0.1


def test_python_s_control_flow_and_loops(iris):
    X = iris[0]
    weights = tf.Variable(np.random.default_rng(0).normal(size=(4, 3)))

    @tf.function
    def model(x):
        for _ in tf.range(3):
            if tf.reduce_sum(x) > 1e9:
                x = -x
            x = x + 0.1 * tf.sin(x)
        return x @ weights

    check_rule(TensorFlowClassifier(model, SPECIES, dtype="float64"), X, rtol=1e-6)
    check_rule(TensorFlowClassifier(model.python_function, SPECIES, dtype="float64"), X, rtol=1e-6)


def test_images_frames_labels_and_precision(iris):
    X, y = iris
    module = MLP(dtype=tf.float32)
    image = TensorFlowClassifier(
        lambda x: module(tf.reshape(x, [-1, 4]), training=False), SPECIES, input_shape=(2, 2, 1)
    )
    flat = TensorFlowClassifier(module, SPECIES)
    assert_allclose(image.predict_proba(X), flat.predict_proba(X.reshape(150, 4)), rtol=1e-6)
    grad = loss_gradient(image, X, SPECIES[y])
    assert grad.shape == X.shape
    assert grad.dtype == np.float64
    assert_allclose(
        loss_gradient(image, X.reshape(150, 2, 2, 1), SPECIES[y]).reshape(150, 4), grad, rtol=1e-5, atol=1e-7
    )
    assert_allclose(loss_gradient(TensorFlowClassifier(MLP(), SPECIES), X, SPECIES[y]), grad, rtol=1e-3, atol=1e-4)
    frame = pd.DataFrame(X, columns=list("abcd"))
    result = FastGradientMethod(flat, eps=0.5).run(frame, SPECIES[y])
    assert list(result.X_adv.columns) == list("abcd")
    assert_array_equal(flat.predict(result.X_adv), result.y_adv)
    with pytest.raises(ValueError, match=r"input_shape=\(2, 2, 1\) takes samples"):
        image.predict(X[:, :3])


def test_pipeline_scorer_clone_and_pickle(iris):
    X, y = load_iris(return_X_y=True)
    perceptron = MLPClassifier((8,), activation="tanh", max_iter=300, random_state=0).fit(iris[0], y)
    clf = TensorFlowClassifier(MLP(perceptron=perceptron), SPECIES)
    pipe = make_pipeline(StandardScaler(), clf)
    scorer = make_robustness_scorer(FastGradientMethod(eps=0.5))
    scores = cross_val_score(pipe, X, SPECIES[y], cv=3, scoring=scorer, error_score="raise")
    assert 0.2 < scores.mean() < pipe.fit(X, SPECIES[y]).score(X, SPECIES[y]) - 0.1
    assert clone(clf).model is clf.model
    check_rule(pipe, X, rtol=1e-6)
    with pytest.raises(ValueError, match="'rose', which is not in"):
        clf.fit(X, np.full(150, "rose"))
    module_free = TensorFlowClassifier(tf.identity, [0, 1, 2, 3], dtype="float64")
    check_rule(pickle.loads(pickle.dumps(module_free)), X)


def test_beside_a_model_of_numpy(iris):
    from sklearn.ensemble import VotingClassifier

    X, y = iris
    linear = LogisticRegression().fit(X, y)
    members = [("tf", FrozenEstimator(TensorFlowClassifier(MLP(), [0, 1, 2]))), ("np", FrozenEstimator(linear))]
    check_rule(VotingClassifier(members, voting="soft").fit(X, y), X, rtol=1e-6)


class Counting(MLP):
    @property
    def non_trainable_variables(self):
        return (self.count,)

    def __init__(self):
        super().__init__()
        self.count = tf.Variable(0, trainable=False)

    def __call__(self, x, training=None):
        self.count.assign_add(1)
        return super().__call__(x, training=training)


def test_changed_state_is_put_back_and_reported(iris):
    module = Counting()
    with pytest.warns(AttackFailureWarning, match="changed its state"):
        TensorFlowClassifier(module, SPECIES).predict(iris[0])
    assert module.count.numpy() == 0


@pytest.mark.parametrize(
    ("model", "output", "message"),
    [
        (MLP(2), "logits", "2 outputs for 3 classes"),
        (MLP(1), "logits", "1 outputs for 3 classes"),
        (MLP(3, tf.nn.softmax), "logits", "are probabilities.*output='proba'"),
        (MLP(3), "proba", "look like logits"),
        (MLP(3), "log_proba", "look like logits"),
        (lambda x: {"scores": x}, "logits", "gives a dict"),
        (lambda x: x[:, None, :3], "logits", "outputs of shape"),
    ],
)
def test_wrong_models(iris, model, output, message):
    for ask in (lambda clf: clf.predict_proba(iris[0]), lambda clf: Oracle(clf, iris[0])):
        with pytest.raises((TypeError, ValueError), match=message):
            ask(TensorFlowClassifier(model, SPECIES, output=output))


def test_sigmoid_taken_for_a_logit(iris):
    with pytest.raises(ValueError, match="ends in a sigmoid.*output='proba'"):
        Oracle(TensorFlowClassifier(MLP(1, tf.sigmoid), ["a", "b"]), iris[0])
    with pytest.raises(ValueError, match="model.*callable"):
        TensorFlowClassifier(3, SPECIES).predict(iris[0])


def test_cut_graph(iris):
    module = MLP()
    for cut in (tf.stop_gradient, tf.argsort, lambda x: tf.numpy_function(np.sin, [x], x.dtype)):
        clf = TensorFlowClassifier(
            lambda x, cut=cut: module(tf.cast(tf.ensure_shape(cut(x), [None, 4]), x.dtype), training=False), SPECIES
        )
        clf.set_params(dtype="float64")
        oracle = Oracle(clf, iris[0])
        assert oracle.logits(iris[0]).shape == (150, 3)
        with pytest.raises(GradientUnavailableError, match="does not depend on the input|[Nn]o gradient"):
            FastGradientMethod(clf).transform(iris[0])
