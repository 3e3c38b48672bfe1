"""Graphs of TensorFlow 1, in the environment of TensorFlow (`make test-tensorflow`)."""

import copy
import gc
import pickle
import sys
import warnings
import weakref

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skart.estimators import TensorFlowV1Classifier
from tests.estimators._every_attack import EVERY_ATTACK, check_attack

SPECIES = np.array(["setosa", "versicolor", "virginica"])


def test_without_tensorflow_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match=r"TensorFlowV1Classifier needs tensorflow.*skart\[tensorflow\]"):
        TensorFlowV1Classifier(None, "x:0", "z:0", SPECIES).predict(np.eye(4))


tf = pytest.importorskip("tensorflow")

from skart.attacks import FastGradientMethod, ProjectedGradientDescent  # noqa: E402
from skart.exceptions import AttackFailureWarning, GradientUnavailableError  # noqa: E402
from skart.oracles import Oracle, get_activations, layer_names, loss_gradient  # noqa: E402
from skart.utils import check_rule  # noqa: E402

tf1 = tf.compat.v1


class Graph:
    """A net in a graph and a session of its own; a smooth one, or the copy of an MLPClassifier."""

    def __init__(self, n_outputs=3, ending=tf.identity, dtype="float64", scale=1.0, perceptron=None, **kinds):
        draw = np.random.default_rng(0).normal
        weights = [scale * draw(size=shape) for shape in ((4, 8), 8, (8, n_outputs), n_outputs)]
        if perceptron is not None:
            weights = [array for pair in zip(perceptron.coefs_, perceptron.intercepts_) for array in pair]
        with tf.Graph().as_default() as self.graph:
            self.x = tf1.placeholder(dtype, [None, 4], name="x")
            w, b, v, c = (
                tf1.get_variable(name, initializer=array.astype(dtype), **kinds) for name, array in zip("wbvc", weights)
            )
            hidden = tf.nn.tanh(tf.matmul(self.x, w, name="product") + b, name="hidden")
            self.z = ending(tf.nn.bias_add(hidden @ v, c, name="scores"))
            self.session = tf1.Session()
            self.session.run(tf1.global_variables_initializer())

    def classifier(self, classes=SPECIES, **params):
        return TensorFlowV1Classifier(self.session, self.x, self.z, classes, **params)


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


class NearInteger(TensorFlowV1Classifier):
    """A classifier of any number of features: the nearer the first one to an integer, the higher its score."""

    def __repr__(self, N_CHAR_MAX=700):  # noqa: N803 - scikit-learn's own name
        return "NearInteger()"  # with no address in it

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # it learns nothing
        return tags


def near_integer():
    with tf.Graph().as_default():
        x = tf1.placeholder("float64", [None, None])
        z = -tf.abs(tf.clip_by_value(x[:, :1], -1, 4) - tf.range(-1, 5, dtype=x.dtype))
        labels = tf1.placeholder("int64", [None])
        return NearInteger(
            tf1.Session(), x, z, [-1, 0, 1, 2, 3, 4], labels_placeholder=labels, train=tf.no_op(), max_epochs=1
        )


def expected_failures(estimator):
    reason = "its graph has the classes that it was given, not those of the data at hand"
    checks = ["classifiers_classes", "classifiers_one_label", "classifiers_train", "decision_proba_consistency"]
    failures = {f"check_{name}": reason for name in checks}
    for name in ("estimators_pickle", "estimators_overwrite_params", "set_params"):
        failures[f"check_{name}"] = "it pickles or copies the session, which lives in one process"
    return failures


@pytest.fixture(scope="module")
def trainable():
    """A net in TensorFlow 1's own style: variables of its old kind, dropout, batch normalisation, an optimizer."""
    with tf.Graph().as_default() as graph:
        tf1.set_random_seed(0)
        x, labels = tf1.placeholder("float32", [None, 8, 8, 1], name="x"), tf1.placeholder("int64", [None])
        learning, keep = tf1.placeholder("bool", []), tf1.placeholder("float32", [])
        with tf1.variable_scope("net", use_resource=False):
            kernel = tf1.get_variable("kernel", [3, 3, 1, 8])
            maps = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"), name="maps")
            pooled = tf.reshape(tf.nn.max_pool2d(maps, 2, 2, "SAME"), [-1, 128], name="pooled")
            mean = tf1.get_variable("mean", [128], initializer=tf1.zeros_initializer(), trainable=False)
            batch_mean = tf.reduce_mean(pooled, axis=0)
            track = tf1.assign(mean, 0.9 * mean + 0.1 * batch_mean)
            rate = tf.where(learning, 1 - keep, 0.0)
            centred = tf.identity(pooled - tf.where(learning, batch_mean, mean), name="centred")
            thinned = tf.identity(tf.nn.dropout(centred, rate=rate, seed=1), name="thinned")
            weights, bias = tf1.get_variable("weights", [128, 10]), tf1.get_variable("bias", [10])
            logits = tf.add(thinned @ weights, bias, name="logits")
        loss = tf1.losses.sparse_softmax_cross_entropy(labels, logits)
        with tf.control_dependencies([track]):
            train = tf1.train.AdamOptimizer(0.005).minimize(loss)
        session = tf1.Session()
        initialize = tf1.global_variables_initializer()
    return TensorFlowV1Classifier(
        session,
        x,
        logits,
        range(10),
        labels_placeholder=labels,
        train=train,
        initialize=initialize,
        learning=learning,
        feed={keep: 1.0},
        feed_training={keep: 0.8},
        batch_size=32,
        random_state=0,
    ), graph


# ---- scores, gradients --------------------------------------------------------------------------------------

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
@pytest.mark.parametrize("use_resource", [True, False], ids=["resource", "ref"])
def test_logits_and_central_differences(iris, kind, use_resource):
    X = iris[0]
    n_outputs, ending, output = KINDS[kind]
    net = Graph(n_outputs, ending, use_resource=use_resource)
    clf = net.classifier(SPECIES[: max(n_outputs, 2)], output=output)
    check_rule(clf, X, rtol=1e-6)
    outputs = net.session.run(net.z, {net.x: X}).reshape(150, -1)
    logits, proba = Oracle(clf, X).logits(X), clf.predict_proba(X)
    if output == "logits" and n_outputs > 1:
        assert_allclose(logits, outputs, rtol=1e-6)
    if output == "proba":
        assert_allclose(proba if n_outputs > 1 else proba[:, 1:], outputs, rtol=1e-6)
    assert_allclose(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), proba, rtol=1e-6)
    assert_array_equal(clf.predict(X), clf.classes_[proba.argmax(axis=1)])


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_saturated_probabilities_have_their_gradients(iris, n_outputs):
    X = iris[0].astype(np.float32)
    classes = SPECIES[: max(n_outputs, 2)]
    ending = tf.sigmoid if n_outputs == 1 else tf.nn.softmax
    oracles = [
        Oracle(Graph(n_outputs, how, dtype="float32", scale=60.0).classifier(classes, output=output), X)
        for how, output in ((ending, "proba"), (tf.identity, "logits"))
    ]
    cotangent = np.ones((150, len(classes))) * [[-1, 1, 0][: len(classes)]]
    grads = [oracle.vjp(X)[1](cotangent) for oracle in oracles]
    assert_allclose(*grads, rtol=1e-5, atol=1e-5 * np.abs(grads[1]).max())


def test_same_attack_as_on_numpy_with_the_same_weights(iris):
    X, y = iris
    perceptron = MLPClassifier((8,), activation="tanh", max_iter=150, random_state=0).fit(X, y)
    clf = Graph(perceptron=perceptron).classifier([0, 1, 2])
    for norm in (2, np.inf):
        ours, theirs = (
            ProjectedGradientDescent(estimator, norm=norm, eps=0.8, max_iter=8, random_state=0).run(X, y)
            for estimator in (clf, perceptron)
        )
        assert_allclose(ours.X_adv, theirs.X_adv, rtol=1e-8, atol=1e-8)
        assert_array_equal(ours.n_gradients, theirs.n_gradients)


@pytest.mark.parametrize("cls", EVERY_ATTACK)
@pytest.mark.filterwarnings("ignore::skart.exceptions.AttackFailureWarning")
def test_every_attack(iris, cls):
    X, y = iris
    perceptron = MLPClassifier((8,), activation="tanh", max_iter=300, random_state=0).fit(X, y)
    check_attack(cls, Graph(perceptron=perceptron).classifier(SPECIES), X[::5], SPECIES[y[::5]])


def test_the_graph_grows_once_only(iris):
    X, y = iris
    net = Graph()
    clf = net.classifier()
    clf.predict(X)
    clf.predict_proba(X)
    layer_names(clf)
    size = len(net.graph.get_operations())
    attack = ProjectedGradientDescent(clf, eps=0.5, max_iter=6, random_state=0, batch_size=64)
    first = attack.run(X, SPECIES[y])
    grown = len(net.graph.get_operations())
    assert grown > size
    net.graph.finalize()  # nothing may be added from here on
    again = attack.run(X, SPECIES[y])
    assert_array_equal(again.X_adv, first.X_adv)
    oracle = Oracle(clf, X)
    logits = oracle.logits(X)
    for n_samples in (70, 33, 8, 1, 0):
        some, pull = oracle.vjp(X[:n_samples])
        assert_allclose(some, logits[:n_samples], rtol=1e-12)
        assert pull(np.ones((n_samples, 3))).shape == (n_samples, 4)
    check_rule(clone(clf), X, rtol=1e-6)
    check_rule(TensorFlowV1Classifier(net.session, "x:0", net.z.name, SPECIES), X, rtol=1e-6)
    get_activations(clf, X, "hidden", training=True)
    clf.predict(X)
    assert len(net.graph.get_operations()) == grown
    (w,) = (v for v in net.graph.get_collection("variables") if v.name == "w:0")
    net.session.run(w.initializer, {w.initializer.inputs[1]: 2 * net.session.run(w)})
    assert np.abs(oracle.logits(X) - logits).max() > 0.1  # weights are read anew


def test_a_graph_is_not_kept_alive(iris):
    net = Graph()
    check_rule(net.classifier(), iris[0], rtol=1e-6)
    graph = weakref.ref(net.graph)
    net.session.close()
    del net
    gc.collect()
    assert graph() is None


def test_a_finalized_graph_says_what_to_do(iris):
    net = Graph()
    net.graph.finalize()
    clf = net.classifier()
    assert clf.predict(iris[0]).shape == (150,)
    with pytest.raises(GradientUnavailableError, match="the graph is finalized"):
        FastGradientMethod(clf).transform(iris[0])


def test_dropout_is_the_same_in_both_passes(iris):
    # A net that draws random numbers in prediction, too: forward and backward pass must see the same ones.
    X = iris[0]
    with tf.Graph().as_default():
        x = tf1.placeholder("float64", [None, 4])
        w = tf1.get_variable("w", initializer=np.random.default_rng(0).normal(size=(4, 3)))
        mask = tf.cast(tf.random.uniform(tf.shape(x)) < 0.5, x.dtype)
        z = (x * mask) @ w
        session = tf1.Session()
        session.run(tf1.global_variables_initializer())
    oracle = Oracle(TensorFlowV1Classifier(session, x, z, SPECIES), X, check=False)
    for _ in range(3):
        logits, pull = oracle.vjp(X)
        # A linear net: its value is the product of input and gradient.
        grads = np.stack([pull(np.eye(3)[[k] * 150]) for k in range(3)], axis=1)
        assert_allclose((grads * X[:, None]).sum(axis=2), logits, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["cond", "while"])
def test_control_flow(iris, kind):
    X = iris[0]

    def make():
        with tf.Graph().as_default():
            x, flag = tf1.placeholder("float64", [None, 4]), tf1.placeholder("bool", [])
            w = tf1.get_variable("w", initializer=np.random.default_rng(0).normal(size=(4, 3)))
            if kind == "cond":
                h = tf1.cond(flag, lambda: tf.nn.dropout(x, 0.5), lambda: tf.sin(x))
            else:
                _, h = tf1.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, h + 0.1 * tf.sin(h)), [0, x])
            z = h @ w
            session = tf1.Session()
            session.run(tf1.global_variables_initializer())
        return TensorFlowV1Classifier(session, x, z, SPECIES, learning=flag)

    clf = make()  # with the control flow of TensorFlow 2
    with pytest.raises(GradientUnavailableError, match="disable_control_flow_v2"):
        FastGradientMethod(clf).transform(X)
    assert clf.predict(X).shape == (150,)  # and the session is as good as before
    tf1.disable_control_flow_v2()
    try:
        check_rule(make(), X, rtol=1e-6)
    finally:
        tf1.enable_control_flow_v2()


# ---- training -----------------------------------------------------------------------------------------------


def test_training_reaches_what_tensorflow_alone_does(trainable):
    clf, graph = trainable
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
    clf.fit(X_train, y_train)
    ours = clf.score(X_test, y_test)
    # The same by hand.
    x, labels, learning = (graph.get_tensor_by_name(f"{name}:0") for name in ("x", "Placeholder", "Placeholder_1"))
    keep = graph.get_tensor_by_name("Placeholder_2:0")
    clf.session.run(clf.initialize)
    rng = np.random.RandomState(0)
    for _ in range(20):
        for rows in np.array_split(rng.permutation(len(X_train)), 43):
            feed = {x: X_train[rows].reshape(-1, 8, 8, 1), labels: y_train[rows], learning: True, keep: 0.8}
            clf.session.run(clf.train, feed)
    logits = clf.session.run(clf.logits, {x: X_test.reshape(-1, 8, 8, 1), learning: False, keep: 1.0})
    theirs = (logits.argmax(axis=1) == y_test).mean()
    assert theirs > 0.96
    assert abs(ours - theirs) < 0.02
    assert clf.n_features_in_ == 64

    # Training on, from where it stands; and from the beginning.
    loss = lambda: -np.log(clf.predict_proba(X_train)[np.arange(len(y_train)), y_train]).mean()
    before = loss()
    clf.partial_fit(X_train, y_train, classes=range(10))
    assert loss() < before
    clf.set_params(max_epochs=1).fit(X_train, y_train)
    assert loss() > 2 * before
    clf.set_params(max_epochs=20).fit(X_train, y_train)

    # Dropout and the batch's statistics in training only; what they note is put back.
    assert_array_equal(clf.predict_proba(X_test), clf.predict_proba(X_test))
    names = layer_names(clf)
    assert {"net/maps", "net/pooled", "net/centred"} <= set(names)
    assert not {"net/logits", "net/matmul"} & set(names)
    X_test = X_test[:64]
    for training in (False, True):
        centred = get_activations(clf, X_test, "net/centred", training=training, batch_size=64)
        pooled = get_activations(clf, X_test, "net/pooled")
        mean = clf.session.run(graph.get_tensor_by_name("net/mean:0"))
        assert_allclose(centred, pooled - (pooled.mean(axis=0) if training else mean), atol=1e-5)
        thinned = get_activations(clf, X_test, "net/thinned", training=training)
        assert 0.15 < (thinned == 0).mean() < 0.25 if training else (thinned == centred).all()
    last = names[-1]
    scores = get_activations(clf, X_test, last) @ clf.session.run("net/weights:0") + clf.session.run("net/bias:0")
    assert_allclose(scores, clf.decision_function(X_test), atol=1e-4)
    assert_allclose(get_activations(clf, X_test, "net/logits"), scores, atol=1e-4)
    with pytest.raises(ValueError, match="has no layer 'net/x'"):
        get_activations(clf, X_test, "net/x")
    result = FastGradientMethod(clf, eps=0.2, clip_values=(0, 1)).run(X[:50] / 16, y[:50])
    assert result.success.mean() > 0.5


@pytest.mark.parametrize("shape", [[None], [None, 1], [None, 3]])
def test_forms_of_labels_and_cross_validation(iris, shape):
    X, y = iris
    with tf.Graph().as_default():
        tf1.set_random_seed(0)
        x, labels = tf1.placeholder("float32", [None, 4]), tf1.placeholder("float32", shape)
        z = x @ tf1.get_variable("w", [4, 3]) + tf1.get_variable("b", [3])
        rows = labels if shape[1:] == [3] else tf.one_hot(tf.cast(tf.reshape(labels, [-1]), "int32"), 3)
        loss = tf1.losses.softmax_cross_entropy(rows, z)
        train = tf1.train.AdamOptimizer(0.1).minimize(loss)
        session, initialize = tf1.Session(), tf1.global_variables_initializer()
    clf = TensorFlowV1Classifier(
        session, x, z, SPECIES, labels_placeholder=labels, train=train, initialize=initialize, batch_size=16
    )
    scores = cross_val_score(make_pipeline(StandardScaler(), clf), X, SPECIES[y], cv=3, error_score="raise")
    assert scores.min() > 0.85


def test_fit_refuses_where_nothing_trains(iris):
    X, y = iris
    clf = Graph().classifier()
    assert not hasattr(clf, "partial_fit")
    with pytest.raises(ValueError, match=r"holds a trained net.*FrozenEstimator\(clf\).*train=optimizer.minimize"):
        clf.fit(X, SPECIES[y])
    attack = FastGradientMethod(FrozenEstimator(clf), eps=0.5).fit(X, SPECIES[y])
    assert attack.run(X).success.any()
    net = Graph()
    with net.graph.as_default():
        labels, train = tf1.placeholder("int64", [None, 5]), tf.no_op()
    clf = net.classifier(labels_placeholder=labels, train=train)
    with pytest.raises(ValueError, match=r"has shape \(None, 5\); labels are fed as"):
        clf.fit(X, SPECIES[y])
    with pytest.raises(ValueError, match="'rose', which is not in"):
        clf.fit(X, np.full(150, "rose"))


# ---- life with scikit-learn ---------------------------------------------------------------------------------


def test_clone_shares_the_session_and_pickling_says_why_not(iris):
    X, y = iris
    net = Graph()
    clf = net.classifier(batch_size=7)
    copied = clone(clf)
    assert copied.session is net.session
    assert copied.batch_size == 7
    assert_array_equal(copied.predict(X), clf.predict(X))
    pipe = make_pipeline(StandardScaler(), FrozenEstimator(clf)).fit(X, y)
    check_rule(pipe, X, rtol=1e-6)
    for attempt in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(TypeError, match=r"cannot be pickled or copied.*Saver"):
            attempt(clf)
    # Batches stay in this process.
    attack = FastGradientMethod(clf, eps=0.5, batch_size=50)
    assert_array_equal(attack.set_params(n_jobs=2).transform(X), attack.set_params(n_jobs=1).transform(X))


def test_images_frames_and_precision(iris):
    X, y = iris
    weights = np.random.default_rng(0).normal(size=(4, 3))
    with tf.Graph().as_default():
        image, anything = tf1.placeholder("float32", [None, 2, 2, 1]), tf1.placeholder("float32", None)
        z = tf.reshape(image, [-1, 4]) @ weights.astype("float32")
        free = tf.reshape(anything, [-1, 4]) @ weights.astype("float32")
        session = tf1.Session()
    clf = TensorFlowV1Classifier(session, image, z, SPECIES)
    linear = LogisticRegression().fit(X, y)
    linear.coef_, linear.intercept_ = weights.T, np.zeros(3)
    grad = loss_gradient(linear, X, y)
    for estimator, shape in (
        (clf, (150, 4)),
        (clf, (150, 2, 2, 1)),
        (TensorFlowV1Classifier(session, anything, free, SPECIES), (150, 4)),
        (TensorFlowV1Classifier(session, anything, free, SPECIES, input_shape=(4, 1)), (150, 4)),
    ):
        ours = loss_gradient(estimator, X.reshape(shape), SPECIES[y])
        assert ours.shape == shape
        assert ours.dtype == np.float64
        assert_allclose(ours.reshape(150, 4), grad, rtol=1e-4, atol=1e-6)
    frame = pd.DataFrame(X, columns=list("abcd"))
    result = FastGradientMethod(clf, eps=0.5).run(frame, SPECIES[y])
    assert list(result.X_adv.columns) == list("abcd")
    assert_array_equal(clf.predict(result.X_adv), result.y_adv)
    with pytest.raises(ValueError, match=r"input_shape=\(2, 2, 1\) takes samples of that shape"):
        clf.predict(X[:, :3])
    with pytest.raises(ValueError, match=r"takes arrays of shape \(None, 2, 2, 1\); got samples.*\(150, 4\)"):
        clf.set_params(input_shape=(4,)).predict(X)


def test_changed_state_is_put_back_and_reported(iris):
    with tf.Graph().as_default():
        x = tf1.placeholder("float64", [None, 4])
        count = tf1.get_variable("count", initializer=np.float64(0), use_resource=True)
        with tf.control_dependencies([tf1.assign_add(count, 1.0)]):
            z = x[:, :3] * 2.0
        session = tf1.Session()
        session.run(tf1.global_variables_initializer())
    clf = TensorFlowV1Classifier(session, x, z, SPECIES)
    names = [*layer_names(clf), "mul"]
    for ask in (clf.predict, FastGradientMethod(clf).transform, lambda X: get_activations(clf, X, names[-1])):
        with pytest.warns(AttackFailureWarning, match=r"changed its state \(count:0\)"):
            ask(iris[0])
        assert session.run(count) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # in training it is no surprise
        get_activations(clf, iris[0], names[-1], training=True)
    assert session.run(count) == 0


# ---- what is wrong is said ----------------------------------------------------------------------------------


def test_closed_session(iris):
    net = Graph()
    clf = net.classifier()
    oracle = Oracle(clf, iris[0])
    net.session.close()
    for ask in (clf.predict, oracle.logits, lambda X: get_activations(clf, X, 0), FastGradientMethod(clf).transform):
        with pytest.raises(RuntimeError, match="TensorFlowV1Classifier: the session is closed"):
            ask(iris[0])


def test_wrong_tensors(iris):
    X = iris[0]
    net, other = Graph(), Graph()
    session = net.session
    with net.graph.as_default():
        fixed, integers = tf1.placeholder("float64", [32, 4]), tf1.placeholder("int32", [None, 4])
        unknown = tf1.placeholder_with_default(net.z, None)
        narrow, two, deep = fixed[:, :3], net.z[:, :2], tf.reshape(net.z, [-1, 1, 3])
    cases = [
        ((session, other.x, net.z), ValueError, "input_placeholder must be a tensor of the session's graph"),
        ((session, net.x, other.z), ValueError, "logits must be a tensor of the session's graph"),
        ((session, net.x, "nothing:0"), ValueError, "logits must be a tensor of the session's graph.*'nothing:0'"),
        ((session, net.x, 3), ValueError, "logits must be a tensor of the session's graph.*got 3"),
        ((session, integers, net.z), ValueError, "input_placeholder must hold floating-point numbers.*int32"),
        ((session, fixed, narrow), ValueError, "takes 32 samples at a time|takes arrays of shape"),
        ((session, net.x, unknown), ValueError, "does not tell how many outputs"),
        ((session, net.x, two), ValueError, "2 outputs for 3 classes"),
        ((session, net.x, deep), ValueError, r"outputs of shape \(None, 1, 3\)"),
        ((net.graph, net.x, net.z), TypeError, "takes a tf.compat.v1.Session"),
    ]
    for arguments, kind, message in cases:
        clf = TensorFlowV1Classifier(*arguments, SPECIES)
        for ask in (clf.predict_proba, lambda X, clf=clf: Oracle(clf, X)):
            with pytest.raises(kind, match=message):
                ask(X)
    with pytest.raises(ValueError, match="does not depend on"):
        Oracle(net.classifier().set_params(input_placeholder=fixed, logits=net.z), X)
    with pytest.raises(ValueError, match="feed must be a tensor"):
        net.classifier(feed={other.x: 1.0}).predict(X)


def test_outputs_that_are_not_what_is_said(iris):
    with pytest.raises(ValueError, match="are probabilities.*output='proba'"):
        Graph(3, tf.nn.softmax).classifier().predict(iris[0])
    with pytest.raises(ValueError, match="ends in a sigmoid.*output='proba'"):
        Oracle(Graph(1, tf.sigmoid).classifier(["a", "b"]), iris[0])


def test_cut_graph(iris):
    for cut in (tf.stop_gradient, tf.round, lambda x: tf1.py_func(np.sin, [x], x.dtype)):
        with tf.Graph().as_default():
            x = tf1.placeholder("float64", [None, 4])
            z = tf.ensure_shape(cut(x), [None, 4])[:, :3]
            clf = TensorFlowV1Classifier(tf1.Session(), x, z, SPECIES)
        assert Oracle(clf, iris[0]).logits(iris[0]).shape == (150, 3)
        with pytest.raises(GradientUnavailableError, match="does not depend on|[Nn]o gradient"):
            FastGradientMethod(clf).transform(iris[0])


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([near_integer()], expected_failed_checks=expected_failures)
def test_sklearn_checks(estimator, check):
    check(estimator)
