"""Gluon blocks of MXNet, in an environment of their own (`make test-mxnet`)."""

import copy
import pickle
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skart.estimators import MXNetClassifier
from tests.estimators._every_attack import EVERY_ATTACK, check_attack

SPECIES = np.array(["setosa", "versicolor", "virginica"])
# MXNet itself says so, at every other call.
pytestmark = pytest.mark.filterwarnings("ignore:Please import `csr_matrix`:DeprecationWarning")


def test_without_mxnet_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mxnet", None)
    with pytest.raises(ImportError, match=r"MXNetClassifier needs mxnet.*skart\[mxnet\]"):
        MXNetClassifier(len, SPECIES).predict(np.eye(4))


mx = pytest.importorskip("mxnet")

from skart.attacks import FastGradientMethod, ProjectedGradientDescent  # noqa: E402
from skart.exceptions import AttackFailureWarning, GradientUnavailableError  # noqa: E402
from skart.oracles import Oracle, get_activations, layer_names, loss_gradient  # noqa: E402
from skart.utils import check_rule  # noqa: E402

nn = mx.gluon.nn


class MLP(nn.HybridSequential):
    """A smooth block, or the copy of an MLPClassifier."""

    def __init__(self, n_outputs=3, ending=None, dtype="float64", scale=1.0, perceptron=None):
        super().__init__()
        draw = np.random.default_rng(0).normal
        weights = [scale * draw(size=shape) for shape in ((4, 8), 8, (8, n_outputs), n_outputs)]
        if perceptron is not None:
            weights = [array for pair in zip(perceptron.coefs_, perceptron.intercepts_) for array in pair]
        w, b, v, c = weights
        self.add(nn.Dense(w.shape[1], activation="tanh", in_units=4), nn.Dense(v.shape[1], in_units=8))
        self.initialize()
        self.cast(dtype)
        for part, (kernel, bias) in zip(self, ((w, b), (v, c))):
            part.weight.set_data(mx.nd.array(kernel.T, dtype=dtype))
            part.bias.set_data(mx.nd.array(bias, dtype=dtype))
        if ending is not None:
            self.add(nn.HybridLambda(ending))


class Digits(mx.gluon.HybridBlock):
    """A net with batch normalisation and dropout, whose shapes are not known before data comes."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.maps = nn.Conv2D(8, 3, activation="relu")
            self.normalised = nn.BatchNorm()
            self.thinned = nn.Dropout(0.2)
            self.scores = nn.Dense(10)

    def hybrid_forward(self, F, x):  # noqa: N803
        return self.scores(self.thinned(self.normalised(self.maps(x))))


def digits_block(hybrid=False):
    mx.random.seed(0)
    block = Digits()
    block.initialize(mx.init.Xavier())
    if hybrid:
        block.hybridize()
    return block


def softmax(F, z):
    return F.softmax(z)


def log_softmax(F, z):
    return F.log_softmax(z)


def sigmoid(F, z):
    return F.sigmoid(z)


def flat(F, z):
    return F.reshape(z, shape=(-1,))


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split(X / 16, y, random_state=0)


def expected_failures(estimator):
    reason = "its block has an output for each of the classes that it was given, not for those of the data at hand"
    return {
        f"check_{name}": reason for name in ("classifiers_classes", "classifiers_train", "decision_proba_consistency")
    }


class Linear(MXNetClassifier):
    """One with a short name, for the names of tests."""

    def __repr__(self, N_CHAR_MAX=700):  # noqa: N803 - scikit-learn's own name
        return "Linear()"


def any_size():
    block = nn.Dense(6, dtype="float64")
    block.initialize(mx.init.Zero())
    return Linear(block, [-1, 0, 1, 2, 3, 4], optimizer=partial(mx.optimizer.Adam, learning_rate=0.1))


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([any_size()], expected_failed_checks=expected_failures)
def test_sklearn_checks(estimator, check):
    check(estimator)


# ---- scores, gradients --------------------------------------------------------------------------------------

KINDS = {
    "logits": (3, None, "logits"),
    "probabilities": (3, softmax, "proba"),
    "log-probabilities": (3, log_softmax, "log_proba"),
    "two logits": (2, None, "logits"),
    "a logit": (1, None, "logits"),
    "a flat logit": (1, flat, "logits"),
    "a probability": (1, sigmoid, "proba"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hybrid", [False, True])
def test_logits_and_central_differences(iris, kind, hybrid):
    X = iris[0]
    n_outputs, ending, output = KINDS[kind]
    block = MLP(n_outputs, ending)
    if hybrid:
        block.hybridize()
    clf = MXNetClassifier(block, SPECIES[: max(n_outputs, 2)], output=output)
    check_rule(clf, X, rtol=1e-6)
    outputs = block(mx.nd.array(X, dtype="float64")).asnumpy().reshape(150, -1)
    logits, proba = Oracle(clf, X).logits(X), clf.predict_proba(X)
    if output == "logits" and n_outputs > 1:
        assert_allclose(logits, outputs, rtol=1e-6)
    if output == "proba":
        assert_allclose(proba if n_outputs > 1 else proba[:, 1:], outputs, rtol=1e-6)
    assert_allclose(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), proba, rtol=1e-6)
    assert_array_equal(clf.predict(X), clf.classes_[proba.argmax(axis=1)])


def test_several_pullbacks_of_one_pass_and_no_other_gradient(iris):
    X = iris[0]
    block = MLP()
    weight = block[0].weight
    weight.grad()[:] = 7.0
    oracle = Oracle(MXNetClassifier(block, SPECIES), X)
    logits, pull = oracle.vjp(X)
    hidden = np.tanh(X @ weight.data().asnumpy().T + block[0].bias.data().asnumpy())
    for k in (0, 2, 0):
        jacobian = ((1 - hidden**2) * block[1].weight.data().asnumpy()[k]) @ weight.data().asnumpy()
        assert_allclose(pull(np.eye(3)[[k] * 150]), jacobian, rtol=1e-10)
    oracle.vjp(X[:5])  # another pass changes nothing
    assert_allclose(
        pull(np.eye(3)[[0] * 150])[3],
        (((1 - hidden[3] ** 2) * block[1].weight.data().asnumpy()[0]) @ weight.data().asnumpy()),
        rtol=1e-10,
    )
    assert (weight.grad().asnumpy() == 7).all()
    assert not mx.autograd.is_recording()
    assert not mx.autograd.is_training()
    for n_samples in (70, 1):
        some, pull = oracle.vjp(X[:n_samples])
        assert_allclose(some, logits[:n_samples], rtol=1e-12)
        assert pull(np.ones((n_samples, 3))).shape == (n_samples, 4)


def test_same_attack_as_on_numpy_with_the_same_weights(iris):
    X, y = iris
    perceptron = MLPClassifier((8,), activation="tanh", max_iter=150, random_state=0).fit(X, y)
    clf = MXNetClassifier(MLP(perceptron=perceptron), [0, 1, 2])
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
    check_attack(cls, MXNetClassifier(MLP(perceptron=perceptron), SPECIES), X[::5], SPECIES[y[::5]])


def test_arrays_of_mxnet_s_numpy(iris):
    mx.npx.set_np()
    try:
        block = nn.HybridSequential()
        block.add(nn.Dense(8, activation="tanh", in_units=4), nn.Dense(3, in_units=8))
        block.initialize(mx.init.Normal(0.5))
        block.cast("float64")
        clf = MXNetClassifier(block, SPECIES, optimizer="adam", max_epochs=2)
        check_rule(clf, iris[0], rtol=1e-6)
        check_rule(clf.fit(iris[0], SPECIES[iris[1]]), iris[0], rtol=1e-6)
    finally:
        mx.npx.reset_np()


# ---- training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hybrid", [False, True])
def test_training_reaches_what_mxnet_alone_does(digits, hybrid):
    X_train, X_test, y_train, y_test = digits
    given = digits_block(hybrid)
    clf = MXNetClassifier(
        given,
        range(10),
        input_shape=(1, 8, 8),
        optimizer=mx.optimizer.Adam(learning_rate=0.005),
        batch_size=32,
        max_epochs=8,
        random_state=0,
    ).fit(X_train, y_train)
    ours = clf.score(X_test, y_test)
    # The same by hand.
    block = digits_block()
    trainer = mx.gluon.Trainer(block.collect_params(), "adam", {"learning_rate": 0.005})
    loss, rng = mx.gluon.loss.SoftmaxCrossEntropyLoss(), np.random.RandomState(0)
    for _ in range(8):
        for rows in np.array_split(rng.permutation(len(X_train)), 43):
            with mx.autograd.record():
                value = loss(block(mx.nd.array(X_train[rows].reshape(-1, 1, 8, 8))), mx.nd.array(y_train[rows]))
            value.backward()
            trainer.step(len(rows))
    scores = block(mx.nd.array(X_test.reshape(-1, 1, 8, 8))).asnumpy()
    theirs = (scores.argmax(axis=1) == y_test).mean()
    assert theirs > 0.96
    assert abs(ours - theirs) < 0.02
    with pytest.raises(mx.gluon.parameter.DeferredInitializationError):
        given.scores.weight.data()  # a copy was trained

    assert_array_equal(clf.predict_proba(X_test), clf.predict_proba(X_test))  # with no dropout
    log_loss = lambda: -np.log(clf.predict_proba(X_train)[np.arange(len(y_train)), y_train]).mean()
    before = log_loss()
    clf.partial_fit(X_train, y_train, classes=range(10))
    assert log_loss() < before
    clf.set_params(max_epochs=1).fit(X_train, y_train)  # from the beginning
    assert log_loss() > 2 * before
    result = FastGradientMethod(clf, eps=0.2, clip_values=(0, 1)).run(X_test[:50], y_test[:50])
    assert result.success.mean() > 0.5

    # What pickles, trains on, too.
    again = pickle.loads(pickle.dumps(clf))
    assert_array_equal(again.predict_proba(X_test), clf.predict_proba(X_test))
    loss_before = log_loss()
    clf = again.partial_fit(X_train, y_train)
    assert log_loss() < loss_before


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.filterwarnings("error::skart.exceptions.AttackFailureWarning")
def test_activations(digits, hybrid):
    X_train, X_test, y_train, _ = digits
    block = digits_block(hybrid)
    clf = MXNetClassifier(block, range(10), input_shape=(1, 8, 8), optimizer="adam", max_epochs=1).fit(X_train, y_train)
    assert layer_names(clf) == ["maps.act", "maps", "normalised", "thinned"]
    X, inner = X_test[:64], clf.block_
    images = mx.nd.array(X.reshape(-1, 1, 8, 8))
    maps = get_activations(clf, X, "maps")
    assert_allclose(maps, inner.maps(images).asnumpy(), rtol=1e-6)
    mean, variance = (p.data().asnumpy() for p in (inner.normalised.running_mean, inner.normalised.running_var))
    gamma, beta = (p.data().asnumpy()[:, None, None] for p in (inner.normalised.gamma, inner.normalised.beta))
    for training in (False, True):
        if training:
            centre, spread = maps.mean(axis=(0, 2, 3)), maps.var(axis=(0, 2, 3))
        else:
            centre, spread = mean, variance
        expected = gamma * (maps - centre[:, None, None]) / np.sqrt(spread + 1e-5)[:, None, None] + beta
        assert_allclose(get_activations(clf, X, "normalised", training=training), expected, atol=1e-4)
    thinned = get_activations(clf, X, "thinned")
    assert (get_activations(clf, X, "thinned", training=True) == 0).mean() > (thinned == 0).mean() + 0.1
    assert_array_equal(inner.normalised.running_mean.data().asnumpy(), mean)
    scores = thinned.reshape(64, -1) @ inner.scores.weight.data().asnumpy().T + inner.scores.bias.data().asnumpy()
    assert_allclose(clf.decision_function(X), scores, rtol=1e-4, atol=1e-4)
    assert_allclose(get_activations(clf, X, "scores"), scores, rtol=1e-4, atol=1e-4)
    assert inner._active is hybrid
    assert not inner.maps._forward_hooks
    with pytest.raises(ValueError, match="has no layer 'pool'"):
        get_activations(clf, X, "pool")


@pytest.mark.parametrize(
    ("optimizer", "reached"),
    [
        ("adam", 0.6),  # with its own learning rate, which is slow
        (mx.optimizer.SGD(learning_rate=0.5), 0.9),
        (partial(mx.optimizer.Adam, learning_rate=0.1), 0.9),
    ],
)
def test_forms_of_optimizers(iris, optimizer, reached):
    X, y = iris
    clf = MXNetClassifier(MLP(dtype="float32"), SPECIES, optimizer=optimizer, batch_size=16, max_epochs=40)
    scores = cross_val_score(make_pipeline(StandardScaler(), clf), X, SPECIES[y], cv=3, error_score="raise")
    assert scores.min() > reached


def test_fit_refuses_what_it_cannot_train(iris):
    X, y = iris
    clf = MXNetClassifier(MLP(), SPECIES)
    assert not hasattr(clf, "partial_fit")
    with pytest.raises(ValueError, match=r"holds a trained block.*FrozenEstimator\(clf\).*optimizer='adam'"):
        clf.fit(X, SPECIES[y])
    assert FastGradientMethod(FrozenEstimator(clf), eps=0.5).fit(X, SPECIES[y]).run(X).success.any()
    clf.set_params(optimizer=3)
    with pytest.raises(TypeError, match="optimizer must be a name.*got 3"):
        clf.fit(X, SPECIES[y])
    clf.set_params(optimizer="adam")
    with pytest.raises(ValueError, match="'rose', which is not in"):
        clf.fit(X, np.full(150, "rose"))
    assert not hasattr(clf, "block_")


# ---- life with scikit-learn ---------------------------------------------------------------------------------


@pytest.mark.parametrize("hybrid", [False, True])
def test_clone_copy_and_pickle(iris, hybrid):
    X, y = iris
    block = MLP()
    if hybrid:
        block.hybridize()
    clf = MXNetClassifier(block, SPECIES, batch_size=7)
    proba = clf.predict_proba(X)
    for other in (clone(clf), copy.deepcopy(clf), pickle.loads(pickle.dumps(clf))):
        assert other.block is not block
        assert other.batch_size == 7
        assert_array_equal(other.predict_proba(X), proba)
        other.block[0].weight.set_data(mx.nd.zeros((8, 4), dtype="float64"))
        assert_array_equal(clf.predict_proba(X), proba)
        assert all(part._active is hybrid for part in (block, other.block))
    attack = FastGradientMethod(clf, eps=0.5, batch_size=50)
    assert_array_equal(attack.set_params(n_jobs=2).transform(X), attack.set_params(n_jobs=1).transform(X))


def test_pipeline_vote_images_frames_and_precision(iris):
    X, y = iris
    float32 = MXNetClassifier(MLP(dtype="float32"), SPECIES)
    block = nn.HybridSequential()
    block.add(nn.Flatten(), MLP(dtype="float32"))
    image = MXNetClassifier(block, SPECIES, input_shape=(1, 2, 2))
    grad = loss_gradient(MXNetClassifier(MLP(), SPECIES), X, SPECIES[y])
    for clf, shape in ((float32, (150, 4)), (image, (150, 4)), (image, (150, 1, 2, 2))):
        ours = loss_gradient(clf, X.reshape(shape), SPECIES[y])
        assert ours.shape == shape
        assert ours.dtype == np.float64
        assert_allclose(ours.reshape(150, 4), grad, rtol=1e-3, atol=1e-4)
    frame = pd.DataFrame(X, columns=list("abcd"))
    result = FastGradientMethod(image, eps=0.5).run(frame, SPECIES[y])
    assert list(result.X_adv.columns) == list("abcd")
    assert_array_equal(image.predict(result.X_adv), result.y_adv)
    with pytest.raises(ValueError, match=r"input_shape=\(1, 2, 2\) takes samples"):
        image.predict(X[:, :3])
    linear = LogisticRegression().fit(X, y)
    net = MXNetClassifier(MLP(), [0, 1, 2])
    members = [("mxnet", FrozenEstimator(net)), ("numpy", FrozenEstimator(linear))]
    check_rule(make_pipeline(StandardScaler(), VotingClassifier(members, voting="soft")).fit(X, y), X, rtol=1e-6)


class Counting(mx.gluon.Block):
    def __init__(self):
        super().__init__()
        self.net = MLP()
        self.count = self.params.get("count", shape=(1,), grad_req="null", init="zeros", allow_deferred_init=False)
        self.count.initialize()

    def forward(self, x):
        self.count.set_data(self.count.data() + 1)
        return self.net(x)


def test_changed_state_is_put_back_and_reported(iris):
    block = Counting()
    clf = MXNetClassifier(block, SPECIES)
    for ask in (clf.predict, FastGradientMethod(clf).transform):
        with pytest.warns(AttackFailureWarning, match="changed its state"):
            ask(iris[0])
        assert block.count.data().asnumpy() == 0


# ---- what is wrong is said ----------------------------------------------------------------------------------


def test_blocks_that_are_not_ready(iris):
    fresh, deferred = nn.Dense(3, in_units=4), nn.Dense(3)
    deferred.initialize()
    for block, message in ((fresh, r"not initialized.*block.initialize\(\)"), (deferred, "shapes are not known")):
        clf = MXNetClassifier(block, SPECIES)
        for ask in (clf.predict, FastGradientMethod(clf).transform, lambda X, clf=clf: get_activations(clf, X, 0)):
            with pytest.raises(NotFittedError, match=message):
                ask(iris[0])
    with pytest.raises(NotFittedError, match="not initialized"):
        MXNetClassifier(fresh, SPECIES, optimizer="adam").fit(iris[0], SPECIES[iris[1]])


def test_what_is_no_block(iris):
    for thing, message in (
        (MLP, "takes a block that is made and holds weights; got the class MLP"),
        (len, "takes an mxnet.gluon.Block; got builtin_function_or_method"),
    ):
        clf = MXNetClassifier(thing, SPECIES, optimizer="adam")
        for ask in (clf.predict, lambda X, clf=clf: Oracle(clf, X), lambda X, clf=clf: clf.fit(X, SPECIES[iris[1]])):
            with pytest.raises(TypeError, match=message):
                ask(iris[0])


def test_wrong_outputs(iris):
    for block, output, message in (
        (MLP(2), "logits", "2 outputs for 3 classes"),
        (MLP(1), "logits", "1 outputs for 3 classes"),
        (MLP(3, softmax), "logits", "are probabilities.*output='proba'"),
        (MLP(3), "proba", "look like logits"),
        (MLP(3), "log_proba", "look like logits"),
        (MLP(3, lambda F, z: F.expand_dims(z, axis=1)), "logits", "outputs of shape"),
    ):
        clf = MXNetClassifier(block, SPECIES, output=output)
        for ask in (clf.predict_proba, lambda X, clf=clf: Oracle(clf, X)):
            with pytest.raises(ValueError, match=message):
                ask(iris[0])


class Detour(mx.gluon.Block):
    def forward(self, x):
        return mx.nd.array(np.sin(x.asnumpy()))[:, :3]


def test_cut_graph(iris):
    clf = MXNetClassifier(Detour(), SPECIES)
    assert Oracle(clf, iris[0]).logits(iris[0]).shape == (150, 3)
    with pytest.raises(GradientUnavailableError, match="Detour: the output does not depend on the input"):
        FastGradientMethod(clf).transform(iris[0])
