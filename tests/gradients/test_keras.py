"""Rules of Keras models.

A process has one backend: torch here, JAX in a process of its own, TensorFlow in an environment of its own
(`make test-tensorflow`).
"""

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris
from sklearn.ensemble import VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

keras = pytest.importorskip("keras")

from skart.attacks import FastGradientMethod, ProjectedGradientDescent  # noqa: E402
from skart.estimators import KerasModelClassifier  # noqa: E402
from skart.exceptions import AttackFailureWarning, GradientUnavailableError  # noqa: E402
from skart.gradients._programs import kept, padded_size  # noqa: E402
from skart.metrics import make_robustness_scorer  # noqa: E402
from skart.oracles import Oracle, loss_gradient  # noqa: E402
from skart.utils import check_rule  # noqa: E402
from tests.estimators._keras_models import BACKEND, Counting, Subclassed, copy_of, layers, mlp, smooth  # noqa: E402

SPECIES = np.array(["setosa", "versicolor", "virginica"])
# What tests of wrappers would show once more costs much where each model is compiled.
on_torch = pytest.mark.skipif(BACKEND != "torch", reason="the same rule on every backend")
compiled = pytest.mark.skipif(BACKEND == "torch", reason="torch does not compile")


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.fixture(scope="module")
def perceptron(iris):
    return MLPClassifier((12, 8), activation="relu", max_iter=150, random_state=0).fit(*iris)


def ask(oracle, X):
    """Logits and pullback in NumPy."""
    logits, pull = oracle.vjp(oracle.asarray(X))
    return np.asarray(logits), lambda cotangent: np.asarray(pull(oracle.asarray(cotangent)))


def softmax(scores):
    exp = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def own(model, X):
    """What the framework itself gives."""
    return np.asarray(keras.ops.convert_to_numpy(model(X, training=False)))


ENDINGS = {
    "softmax activation": (3, lambda: layers.Activation("softmax", dtype="float64")),
    "softmax layer": (3, lambda: layers.Softmax(dtype="float64")),
    "softmax in a model": (3, lambda: keras.Sequential([layers.Activation("softmax", dtype="float64")])),
    "two outputs": (2, lambda: layers.Softmax(dtype="float64")),
    "log-softmax": (3, lambda: layers.Activation("log_softmax", dtype="float64")),
    "logits": (3, lambda: layers.Activation("linear", dtype="float64")),
    "one probability": (1, lambda: layers.Activation("sigmoid", dtype="float64")),
    "one logit": (1, lambda: layers.Activation("linear", dtype="float64")),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_logits_and_central_differences(iris, ending):
    X = iris[0]
    n_outputs, make = ENDINGS[ending]
    model = smooth(n_outputs, make())
    clf = KerasModelClassifier(model, SPECIES[: max(n_outputs, 2)])
    check_rule(clf, X, rtol=1e-6)
    outputs = own(model, X)
    if ending == "one logit":
        expected = softmax(np.hstack([np.zeros_like(outputs), outputs]))
    elif ending == "one probability":
        expected = np.hstack([1 - outputs, outputs])
    else:
        expected = {"logits": softmax, "log-softmax": np.exp}.get(ending, lambda p: p)(outputs)
    logits, _ = ask(Oracle(clf, X), X)
    assert_allclose(softmax(logits), expected, rtol=1e-6)
    assert_allclose(clf.predict_proba(X), expected, rtol=1e-6)
    if ending == "logits":
        assert_allclose(logits, outputs, rtol=1e-6)


def test_functional_model_with_the_softmax_of_a_function(iris):
    """What is no layer cannot be told; taken for probabilities, it is exact where it is not saturated."""
    model = smooth(3)
    whole = keras.Model(model.inputs, keras.ops.softmax(model.outputs[0]))
    with pytest.raises(ValueError, match="cannot be told.*Say output="):
        KerasModelClassifier(whole, SPECIES).predict(iris[0])
    plain = KerasModelClassifier(model, SPECIES, output="logits")
    clf = KerasModelClassifier(whole, SPECIES, output="proba")
    y = SPECIES[iris[1]]
    assert_allclose(loss_gradient(clf, iris[0], y), loss_gradient(plain, iris[0], y), rtol=1e-5, atol=1e-7)


def test_single_probability_of_a_function(iris):
    X, y = iris[0], np.where(iris[1] == 0, "a", "b")
    model = smooth(1)
    whole = keras.Model(model.inputs, keras.ops.sigmoid(model.outputs[0]))
    plain, clf = (KerasModelClassifier(m, ["a", "b"], output=o) for m, o in ((model, "logits"), (whole, "proba")))
    assert_allclose(ask(Oracle(clf, X), X)[0], ask(Oracle(plain, X), X)[0], rtol=1e-4, atol=1e-6)
    assert_allclose(loss_gradient(clf, X, y), loss_gradient(plain, X, y), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("kind", ["dense", "activation", "layer"])
def test_saturated_models_have_their_gradients(n_outputs, kind):
    weights = 1e4 * np.random.default_rng(0).normal(size=(4, n_outputs)).astype(np.float32)
    function = "sigmoid" if n_outputs == 1 else "softmax"
    if kind == "layer" and n_outputs == 1:
        pytest.skip("there is no layer for it")
    ending = {
        "dense": [layers.Dense(n_outputs, use_bias=False, activation=function)],
        "activation": [layers.Dense(n_outputs, use_bias=False), layers.Activation(function)],
        "layer": [layers.Dense(n_outputs, use_bias=False), layers.Softmax()],
    }[kind]
    model = keras.Sequential([keras.Input((4,)), *ending])
    model.set_weights([weights])
    X = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
    logits, pull = ask(Oracle(KerasModelClassifier(model, SPECIES[: max(n_outputs, 2)]), X), X)
    assert own(model, X).max() == 1  # to the last bit: nothing is left to differentiate
    columns = np.hstack([np.zeros_like(weights), weights]) if n_outputs == 1 else weights
    assert_allclose(logits, X @ columns, rtol=1e-4, atol=1)
    cotangent = np.random.default_rng(2).normal(size=logits.shape).astype(np.float32)
    assert_allclose(pull(cotangent), cotangent @ columns.T, rtol=1e-4, atol=1)
    assert own(model, X).max() == 1  # the activation is back
    assert model.layers[-1].get_config().get("activation", function) == function


@pytest.mark.parametrize("norm", [2, np.inf])
def test_same_attack_as_on_numpy_with_the_same_weights(iris, perceptron, norm):
    X, y = iris
    clf = KerasModelClassifier(copy_of(perceptron, dtype="float64"), [0, 1, 2])
    assert_allclose(clf.predict_proba(X), perceptron.predict_proba(X), atol=1e-6)
    ours, theirs = (
        ProjectedGradientDescent(estimator, norm=norm, eps=0.8, max_iter=8, random_state=0).run(X, y)
        for estimator in (clf, perceptron)
    )
    same = np.abs(ours.X_adv - theirs.X_adv).max(axis=1) < 1e-3
    assert same.mean() > 0.97  # a rounding may cross a kink of the net
    assert_array_equal(ours.success[same], theirs.success[same])
    assert ours.success.mean() > 0.2


def test_float32_model_against_a_float64_copy(iris, perceptron):
    X, y = iris
    clf = KerasModelClassifier(copy_of(perceptron), [0, 1, 2])
    theirs = loss_gradient(perceptron, X, y)
    scale = np.abs(theirs).max(axis=1, keepdims=True)
    error = np.abs(loss_gradient(clf, X, y) - theirs) / np.maximum(scale, 1e-3 * scale.max())
    assert np.median(error.max(axis=1)) < 1e-5
    assert loss_gradient(clf, X.astype(np.float32), y).dtype == np.float32


def test_pipeline_and_ensemble(iris, perceptron):
    X, y = load_iris(return_X_y=True)
    scaler = StandardScaler().fit(X)
    pipe = make_pipeline(scaler, KerasModelClassifier(smooth(3, layers.Softmax(dtype="float64")), [0, 1, 2]))
    check_rule(pipe, X, rtol=1e-6)
    members = [("net", FrozenEstimator(pipe)), ("other", FrozenEstimator(make_pipeline(scaler, perceptron)))]
    check_rule(VotingClassifier(members, voting="soft").fit(X, y), X, rtol=1e-5)


def test_beside_a_torch_module(iris):
    torch = pytest.importorskip("torch")
    from skart.estimators import TorchClassifier

    X, y = iris
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = torch.nn.Linear(4, 3).double()
    members = [TorchClassifier(module, [0, 1, 2]), KerasModelClassifier(smooth(3), [0, 1, 2], output="logits")]
    both = VotingClassifier([(str(k), FrozenEstimator(clf)) for k, clf in enumerate(members)], voting="soft").fit(X, y)
    check_rule(both, X, rtol=1e-5)
    result = FastGradientMethod(both, eps=0.5).run(X, y)
    assert isinstance(result.X_adv, np.ndarray)
    assert result.success.any()


@compiled
def test_nothing_is_compiled_again(iris):
    X, y = iris
    clf = KerasModelClassifier(copy_of(MLPClassifier((6,), max_iter=5, random_state=0).fit(X, y)), [0, 1, 2])
    attack = ProjectedGradientDescent(clf, eps=0.4, max_iter=6, random_state=0, batch_size=64)
    attack.run(X, y)
    net = clf._net()
    programs = [net.program(name, X) for name in ("logits", "outputs")]
    first = [program.n_traces for program in programs]
    attack.run(X, y)
    oracle = Oracle(clf, X)
    for n_samples in range(40, 0, -1):  # an active set shrinks
        logits, pull = ask(oracle, X[:n_samples])
        assert logits.shape == (n_samples, 3)
        assert_allclose(pull(np.ones((n_samples, 3))), pull(np.ones((n_samples, 3))))
        clf.predict(X[:n_samples])
    assert [net.program(name, X) for name in ("logits", "outputs")] == programs
    again = [program.n_traces for program in programs]
    # JAX compiles for 8, 16, 32 and 64 samples, TensorFlow once.
    assert max(again) <= (5 if BACKEND == "jax" else 1)
    assert min(first) >= 1
    if BACKEND == "jax":
        assert programs[0]._backward._cache_size() <= 5


def test_batches_do_not_matter_and_may_be_empty(iris):
    X = iris[0]
    clf = KerasModelClassifier(smooth(3), SPECIES, output="logits")
    oracle = Oracle(clf, X)
    logits, pull = ask(oracle, X)
    grad = pull(logits)
    for rows in (slice(0, 3), slice(5, 70), slice(0, 0)):
        some, pull = ask(oracle, X[rows])
        assert_allclose(some, logits[rows], rtol=1e-9)
        assert_allclose(pull(logits[rows]), grad[rows], rtol=1e-9)


def test_pullback_keeps_what_it_saw(iris):
    """The arrays that go in belong to the caller, who may change them."""
    X = iris[0].copy()
    oracle = Oracle(KerasModelClassifier(smooth(3), SPECIES, output="logits"), X)
    x = oracle.asarray(X.copy())
    logits, pull = oracle.vjp(x)
    cotangent = oracle.asarray(np.ones(logits.shape))
    expected = np.array(pull(cotangent))
    if BACKEND != "torch":
        x += 1.0
        logits += 1.0
        cotangent += 1.0
        cotangent -= 1.0
    assert_allclose(np.asarray(pull(cotangent)), expected, rtol=1e-12)


def test_weights_and_layers_are_read_anew(iris):
    X = iris[0]
    model = smooth(3, layers.Activation("softmax", dtype="float64"))
    clf = KerasModelClassifier(model, SPECIES)
    first, _ = ask(Oracle(clf, X), X)
    model.set_weights([2 * array for array in model.get_weights()])
    second, _ = ask(Oracle(clf, X), X)
    assert np.abs(first - second).max() > 0.1
    assert_allclose(softmax(second), own(model, X), rtol=1e-6)
    model.layers[1].activation = keras.activations.relu
    third, _ = ask(Oracle(clf, X), X)
    assert np.abs(second - third).max() > 0.1
    assert_allclose(softmax(third), own(model, X), rtol=1e-6)


def test_state_is_left_as_it_was(iris):
    X, y = iris
    model = keras.Sequential(
        [keras.Input((4,)), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(3, activation="softmax")]
    )
    model(X.astype(np.float32), training=True)
    before = model.get_weights()
    clf = KerasModelClassifier(model, [0, 1, 2])
    oracle = Oracle(clf, X)
    with oracle:
        assert_array_equal(ask(oracle, X)[0], ask(oracle, X)[0])  # no dropout
        clf.predict(X)
        if BACKEND == "torch":  # weights are out of the graph, which costs
            assert not any(v.value.requires_grad for v in model.trainable_variables)
    FastGradientMethod(clf, eps=0.1).transform(X, y)
    for now, then in zip(model.get_weights(), before):
        assert_array_equal(now, then)
    assert [v.trainable for v in model.variables].count(True) == 4
    if BACKEND == "torch":
        assert all(v.value.requires_grad and v.value.grad is None for v in model.trainable_variables)


@pytest.mark.skipif(BACKEND == "jax", reason="a pass on JAX changes no state")
def test_changed_state_is_put_back_and_reported(iris):
    counting = Counting()
    model = keras.Sequential([keras.Input((4,)), counting, layers.Dense(3)])
    clf = KerasModelClassifier(model, SPECIES)
    before = float(keras.ops.convert_to_numpy(counting.passes.value))
    with pytest.warns(AttackFailureWarning, match="changed its state.*passes"):
        clf.predict(iris[0])
    assert float(keras.ops.convert_to_numpy(counting.passes.value)) == before
    if BACKEND == "torch":
        with pytest.warns(AttackFailureWarning, match="changed its state"):
            oracle = Oracle(clf, iris[0])
        counting.fail = True
        with pytest.raises(ArithmeticError), oracle:
            ask(oracle, iris[0])
        assert float(keras.ops.convert_to_numpy(counting.passes.value)) == before
        assert all(v.value.requires_grad for v in model.trainable_variables)


def test_error_in_a_pass_leaves_the_activation(iris):
    counting = Counting()
    model = keras.Sequential([keras.Input((4,)), counting, layers.Dense(3, activation="softmax")])
    clf = KerasModelClassifier(model, SPECIES)
    counting.fail = True
    with pytest.raises(ArithmeticError):
        clf._net().logits(keras.ops.convert_to_tensor(iris[0].astype(np.float32)))
    assert model.layers[-1].activation is keras.activations.softmax


class Cut(layers.Layer):
    def call(self, x):
        return keras.ops.stop_gradient(x)


def test_cut_graph(iris):
    model = keras.Sequential([keras.Input((4,)), Cut(), layers.Dense(3, activation="softmax")])
    clf = KerasModelClassifier(model, SPECIES)
    if BACKEND == "jax":  # which pulls zeros back
        with pytest.warns(AttackFailureWarning, match="zero"):
            FastGradientMethod(clf).transform(iris[0])
        return
    with pytest.raises(GradientUnavailableError, match="does not depend on the input"):
        FastGradientMethod(clf).transform(iris[0])


def test_models_without_gradient_by_their_input():
    model = keras.Sequential(
        [keras.Input((4,), dtype="int32"), layers.Embedding(10, 3), layers.Flatten(), layers.Dense(2)]
    )
    X = np.random.default_rng(0).integers(10, size=(6, 4)).astype(float)
    clf = KerasModelClassifier(model, [0, 1])
    oracle = Oracle(clf, X)
    assert oracle.access == "scores"
    with pytest.raises(GradientUnavailableError, match="int32.*embedding"):
        oracle.vjp(X)


def test_padded_sizes():
    sizes = set()
    assert [padded_size(n, sizes) for n in (8, 100, 99, 60, 50, 33, 7, 1, 0)] == [8, 100, 100, 100, 64, 64, 8, 8, 8]
    assert padded_size(101, sizes) == 128  # not 101, then 102, ...
    assert padded_size(300, sizes) == 300
    sizes = set()
    for n in range(1, 1000):
        assert n <= padded_size(n, sizes) <= max(2 * n, 8)
    assert len(sizes) <= 9


def test_programs_live_as_long_as_their_owner():
    class Owner:
        pass

    owner, net, made = Owner(), object(), []
    make = lambda: made.append(1) or object()
    first = kept(owner, net, "a", make)
    assert kept(owner, net, "a", make) is first
    assert kept(owner, net, "b", make) is not first
    assert kept(owner, object(), "a", make) is not first
    assert kept(Owner(), net, "a", make) is not first
    assert kept(owner, net, "a", make, structure=1) is not first
    assert len(made) == 5


# What others wrap around Keras.


def scikeras_net(ending="softmax", n_outputs=3, loss="sparse_categorical_crossentropy"):
    wrappers = pytest.importorskip("scikeras.wrappers")
    return wrappers.KerasClassifier(
        lambda: mlp((4,), None, ending, n_outputs=n_outputs),
        loss=loss,
        optimizer="adam",
        optimizer__learning_rate=0.03,
        epochs=8,
        batch_size=16,
        verbose=0,
        random_state=0,
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("params", "n_classes"),
    [
        ({}, 3),
        pytest.param({"loss": "categorical_crossentropy"}, 3, marks=on_torch),
        pytest.param({"n_outputs": 2}, 2, marks=on_torch),
        ({"ending": "sigmoid", "n_outputs": 1, "loss": "binary_crossentropy"}, 2),
    ],
    ids=["softmax", "one-hot", "two outputs", "sigmoid"],
)
def test_scikeras(iris, params, n_classes):
    X, y = (values[iris[1] < n_classes] for values in iris)
    net = scikeras_net(**params).fit(X.astype(np.float32), SPECIES[y])
    check_rule(net, X, rtol=2e-2)
    oracle = Oracle(net, X)
    assert_array_equal(oracle.labels(oracle.asarray(X)), net.predict(X.astype(np.float32)))
    # In float64, which the net itself refuses; far enough for classes that lie well apart.
    result = FastGradientMethod(net, eps=2.5).run(X, SPECIES[y])
    assert result.success.mean() > 0.05
    assert_array_equal(net.predict(result.X_adv.astype(np.float32)), result.y_adv)


@on_torch
@pytest.mark.filterwarnings("ignore")
def test_scikeras_in_a_pipeline_and_cross_validation(iris):
    X, y = load_iris(return_X_y=True, as_frame=True)
    pipe = make_pipeline(StandardScaler(), scikeras_net())
    shuffled = np.random.default_rng(0).permutation(150)  # its tags are no classifier's: folds are not stratified
    X, y = X.iloc[shuffled], SPECIES[y.to_numpy()[shuffled]]
    scorer = make_robustness_scorer(FastGradientMethod(eps=0.3))
    assert 0.3 < cross_val_score(pipe, X, y, cv=2, scoring=scorer, error_score="raise").mean() < 0.97
    pipe.fit(X, y)
    before = pipe[-1].model_.count_params()
    assert FastGradientMethod(pipe, eps=0.5).run(X, y).X_adv.shape == X.shape
    pipe[-1].partial_fit(pipe[:-1].transform(X), y)
    assert pipe[-1].model_.count_params() == before
    check_rule(pipe, X, rtol=2e-2)  # the weights of now


@on_torch
@pytest.mark.filterwarnings("ignore")
def test_scikeras_with_outputs_that_it_misreads(iris):
    X, y = iris
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net = scikeras_net("linear", loss=loss).fit(X, y)
    with pytest.raises(ValueError, match="gives logits.*softmax.*KerasModelClassifier"):
        Oracle(net, X)
    check_rule(KerasModelClassifier(net.model_, net.classes_), X, rtol=2e-2)
    several = scikeras_net("sigmoid", loss="binary_crossentropy").fit(X, np.eye(3, dtype=int)[y])
    with pytest.raises(GradientUnavailableError, match="one label a sample"):
        several and FastGradientMethod(several).transform(X)


def keras_net(ending="softmax"):
    def make(X, y):
        model = mlp(X.shape[1:], None, ending, n_outputs=y.shape[1])
        loss = keras.losses.CategoricalCrossentropy(from_logits=ending == "linear")
        model.compile(optimizer=keras.optimizers.Adam(0.03), loss=loss)
        return model

    keras.utils.set_random_seed(0)  # scikeras, with a random_state, makes TensorFlow refuse to do without
    return keras.wrappers.SKLearnClassifier(make, fit_kwargs={"epochs": 8, "batch_size": 16, "verbose": 0})


@pytest.mark.parametrize(
    ("n_classes", "ending"), [(3, "softmax"), pytest.param(2, "softmax", marks=on_torch), (2, "linear")]
)
def test_keras_own_wrapper(iris, ending, n_classes):
    X, y = load_iris(return_X_y=True, as_frame=True)
    X, y = X[y < n_classes], SPECIES[y[y < n_classes].to_numpy()]
    net = keras_net(ending)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", open(os.devnull, "w"))  # its predictions print
        net.fit(X, y)
        check_rule(net, X, rtol=2e-2)
        result = FastGradientMethod(net, eps=0.8).run(X, y)
        assert_array_equal(np.ravel(net.predict(result.X_adv)), result.y_adv)
        assert result.success.mean() > 0.05
        pipe = make_pipeline(StandardScaler(), net).fit(X, y)
        scorer = make_robustness_scorer(FastGradientMethod(eps=0.1))
        assert 0.5 < scorer(pipe, X, y) <= 1


def test_what_was_read_off_is_compared(iris):
    """A last layer that stands in the middle, too, is not left out unseen."""
    dense = layers.Dense(4, activation="softmax")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, dense(dense(inputs)))
    model.compile(optimizer="adam", loss="categorical_crossentropy")
    y = np.arange(150) % 4
    keras.utils.set_random_seed(0)
    net = keras.wrappers.SKLearnClassifier(model, fit_kwargs={"epochs": 1, "verbose": 0}).fit(iris[0], y)
    net.model_.set_weights([3 * array for array in net.model_.get_weights()])
    with pytest.raises(ValueError, match="used twice"):
        Oracle(net, iris[0])


def test_subclassed_model(iris):
    X, y = iris
    model = Subclassed(3, "softmax")
    model.build((None, 4))
    clf = KerasModelClassifier(model, [0, 1, 2], output="proba")
    check_rule(clf, X, rtol=2e-2)
    assert FastGradientMethod(clf, eps=1.0).transform(X.astype(np.float32)).dtype == np.float32


@pytest.mark.skipif(BACKEND != "torch", reason="only one process starts the others")
def test_on_jax():
    pytest.importorskip("jax")
    files = ["tests/gradients/test_keras.py", "tests/estimators/test_keras.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *files]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
