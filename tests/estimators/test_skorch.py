"""The adapter of skorch nets, held against scikit-learn's checks and against the bare net."""

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
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

torch = pytest.importorskip("torch")
pytest.importorskip("skorch")

from skorch import NeuralNetClassifier, NeuralNetRegressor  # noqa: E402

from skart.attacks import FastGradientMethod  # noqa: E402
from skart.estimators import SkorchClassifier  # noqa: E402
from skart.metrics import make_robustness_scorer  # noqa: E402
from skart.oracles import Oracle, class_gradient, loss_gradient  # noqa: E402
from tests.estimators._nets import MLP, LazyMLP, adaptable, binary_net, small_net  # noqa: E402

SPECIES = np.array(["setosa", "versicolor", "virginica"])


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.fixture(scope="module")
def trained(iris):
    """A bare net, trained the way skorch wants it."""
    X, y = iris
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return small_net().fit(X.astype(np.float32), y.astype(np.int64))


# Nets for several classes are among what tests/common checks.
@parametrize_with_checks(
    [SkorchClassifier(binary_net(lr=0.05, max_epochs=20), n_features_param="module__n_inputs", random_state=0)]
)
def test_sklearn_checks(estimator, check):
    check(estimator)


def as_frame(X):
    return pd.DataFrame(X, columns=["a", "b", "c", "d"])


@pytest.mark.parametrize(
    "form",
    [np.float64, np.float32, np.asfortranarray, as_frame, torch.as_tensor, np.ndarray.tolist],
    ids=["float64", "float32", "fortran", "frame", "tensor", "list"],
)
def test_any_form_of_data_gives_what_the_bare_net_gives(iris, trained, form):
    X, y = iris
    clf = SkorchClassifier(FrozenEstimator(trained)).fit(form(X) if form is not np.float64 else X, SPECIES[y])
    asked = form(X)
    expected = trained.predict_proba(X.astype(np.float32))
    assert_array_equal(clf.predict_proba(asked), expected)
    assert_array_equal(clf.predict(asked), SPECIES[expected.argmax(axis=1)])
    assert clf.score(asked, SPECIES[y]) > 0.9


def test_training_is_the_net_s_own(iris):
    X, y = iris
    with torch.random.fork_rng():
        torch.manual_seed(3)
        bare = small_net(max_epochs=3).fit(X.astype(np.float32), y.astype(np.int64))
        torch.manual_seed(3)
        clf = SkorchClassifier(small_net(max_epochs=3)).fit(X, SPECIES[y])
    assert_array_equal(clf.predict_proba(X), bare.predict_proba(X.astype(np.float32)))
    assert_array_equal(clf.net_.history[:, "train_loss"], bare.history[:, "train_loss"])


def test_random_state_determines_the_net_and_leaves_the_global_generator(iris):
    X, y = iris
    before = torch.random.get_rng_state()
    first, again = (SkorchClassifier(small_net(max_epochs=2), random_state=5).fit(X, y) for _ in range(2))
    other = SkorchClassifier(small_net(max_epochs=2), random_state=6).fit(X, y)
    # A prediction draws from it: torch's loaders do.
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_array_equal(first.predict_proba(X), again.predict_proba(X))
    assert not np.allclose(first.predict_proba(X), other.predict_proba(X))


def test_fit_leaves_the_given_net_alone(iris, trained):
    X, y = iris
    before = [parameter.clone() for parameter in trained.module_.parameters()]
    clf = SkorchClassifier(trained, random_state=0).fit(X, y)  # not frozen: a clone is trained
    assert clf.net is trained
    assert clf.net_ is not trained
    for parameter, old in zip(trained.module_.parameters(), before):
        assert torch.equal(parameter, old)


def test_binary_net_with_any_two_labels():
    X, y = make_classification(200, 4, random_state=0)
    labels = np.array(["no", "yes"])[y]
    clf = SkorchClassifier(binary_net(threshold=0.9), random_state=0).fit(X, labels)
    bare = clf.net_.predict_proba(X.astype(np.float32))
    assert_array_equal(clf.predict_proba(X), bare)
    assert_array_equal(clf.predict(X), np.where(bare[:, 1] > 0.9, "yes", "no"))
    assert 0.5 < clf.score(X, labels) < 1
    with pytest.raises(ValueError, match="Only binary classification.*NeuralNetClassifier"):
        SkorchClassifier(binary_net()).fit(X, np.arange(200) % 3)


def test_double_precision_module(iris):
    X, y = iris
    clf = SkorchClassifier(small_net(module__dtype=torch.float64), random_state=0).fit(X.astype(np.float32), y)
    assert clf.predict_proba(X).dtype == np.float64
    assert clf.score(X, y) > 0.9


def test_images_of_any_shape():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=40)
    X = rng.normal(size=(40, 1, 6, 6)) + 3 * y[:, None, None, None]
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(2))
    clf = SkorchClassifier(small_net(module), random_state=0).fit(X, y)
    assert clf.score(X, y) == 1
    assert loss_gradient(clf, X, y).shape == X.shape


def test_lazy_module_learns_its_inputs(iris):
    X, y = iris
    clf = SkorchClassifier(small_net(LazyMLP), random_state=0).fit(X[:, :3], y)
    assert clf.net_.module_.hidden.in_features == 3
    assert clf.score(X[:, :3], y) > 0.8


def test_number_of_outputs_must_be_that_of_the_classes(iris, trained):
    X, y = iris
    for n_outputs in (2, 5):
        clf = SkorchClassifier(small_net(module__n_outputs=n_outputs))
        with pytest.raises(ValueError, match=rf"{n_outputs} outputs for 3 classes.*n_classes_param"):
            clf.fit(X, y)
        assert not hasattr(clf, "net_")
    assert adaptable(small_net(module__n_outputs=5)).fit(X, y).predict_proba(X).shape == (150, 3)
    # All labels may be given where a fold has not seen some.
    seen = y < 2
    with pytest.raises(ValueError, match="3 outputs for 2 classes"):
        SkorchClassifier(FrozenEstimator(trained)).fit(X[seen], y[seen])
    clf = SkorchClassifier(FrozenEstimator(trained), classes=[0, 1, 2]).fit(X[seen], y[seen])
    assert_array_equal(clf.predict(X), trained.predict(X.astype(np.float32)))
    # A net that was given too few labels, without `fit`.
    short = SkorchClassifier(trained, classes=["a", "b"])
    with pytest.raises(ValueError, match="3 outputs for 2 classes"):
        short.predict_proba(X)
    with pytest.raises(ValueError, match="at least 3 outputs for 2 classes"):
        short.predict(X)


def test_classes_are_in_the_order_of_the_outputs(iris, trained):
    X, y = iris
    order = np.array(["c", "a", "b"])
    clf = SkorchClassifier(trained, classes=order)
    assert_array_equal(clf.classes_, order)
    assert_array_equal(clf.predict(X), order[trained.predict(X.astype(np.float32))])
    refitted = SkorchClassifier(small_net(), classes=order, random_state=0).fit(X, order[y])
    assert_array_equal(refitted.classes_, order)
    assert refitted.score(X, order[y]) > 0.9
    assert_array_equal(Oracle(refitted, X).labels(X), refitted.predict(X))
    with pytest.raises(ValueError, match="'z', which is not in the given classes"):
        SkorchClassifier(small_net(), classes=order).fit(X, np.array(["a", "b", "z"])[y])
    with pytest.raises(ValueError, match="different labels"):
        SkorchClassifier(small_net(), classes=["a", "a", "b"]).fit(X, np.array(["a", "b", "b"])[y])


def test_trained_net_counts_as_fitted_only_with_its_labels(iris, trained):
    X, _ = iris
    for net in (trained, FrozenEstimator(trained)):
        assert_array_equal(SkorchClassifier(net, classes=SPECIES).predict(as_frame(X)[:3]), ["setosa"] * 3)
        with pytest.raises(NotFittedError):
            SkorchClassifier(net).predict(X)
    with pytest.raises(NotFittedError):
        SkorchClassifier(small_net(), classes=SPECIES).predict(X)
    assert not hasattr(SkorchClassifier(small_net(), classes=SPECIES), "classes_")
    with pytest.raises(NotFittedError):
        clone(SkorchClassifier(trained, classes=SPECIES)).predict(X)  # a clone of a net has no weights
    frozen = clone(SkorchClassifier(FrozenEstimator(trained), classes=SPECIES))
    assert_array_equal(frozen.predict(X[:3]), ["setosa"] * 3)


def test_frozen_net_is_left_as_it_is(iris, trained):
    X, y = iris
    net = pickle.loads(pickle.dumps(trained))
    net.module_.train()
    before = {name: value.clone() for name, value in net.module_.state_dict().items()}
    clf = SkorchClassifier(FrozenEstimator(net)).fit(X, SPECIES[y])
    assert clf.net_ is net
    assert net.module_.training
    for name, value in net.module_.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(ValueError, match="frozen"):
        SkorchClassifier(FrozenEstimator(net), n_classes_param="module__n_outputs").fit(X, y)
    with pytest.raises(NotFittedError, match="not trained"):
        SkorchClassifier(FrozenEstimator(small_net())).fit(X, y)


def test_wrong_nets():
    X, y = make_classification(20, 4, random_state=0)
    with pytest.raises(TypeError, match=r"NeuralNetClassifier\(module"):
        SkorchClassifier(NeuralNetRegressor(MLP)).fit(X, y)
    module = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.LogSoftmax(dim=1))
    with pytest.raises(ValueError, match="log-probabilities.*CrossEntropyLoss"):
        SkorchClassifier(NeuralNetClassifier(module)).fit(X, y)
    with pytest.raises(ValueError, match="no probabilities.*CrossEntropyLoss"):
        SkorchClassifier(NeuralNetClassifier(MLP, module__n_outputs=2)).fit(X, y)


def test_in_cross_validation_and_search_with_string_labels(iris):
    X, y = load_iris(return_X_y=True, as_frame=True)
    labels = y.map(dict(enumerate(SPECIES)))
    clf = make_pipeline(StandardScaler(), adaptable(small_net()))
    scores = cross_val_score(clf, X, labels, cv=3, error_score="raise")
    assert scores.min() > 0.85
    robust = make_robustness_scorer(FastGradientMethod(eps=0.5))
    attacked = cross_val_score(clf, X, labels, cv=3, scoring=robust, error_score="raise")
    assert np.all(attacked < scores - 0.05)
    grid = {"skorchclassifier__net__lr": [1e-6, 0.02], "skorchclassifier__net__module__n_hidden": [8]}
    search = GridSearchCV(clf, grid, cv=2, error_score="raise").fit(X, labels)
    assert search.best_params_["skorchclassifier__net__lr"] == 0.02
    assert search.best_estimator_[-1].net_.module_.hidden.out_features == 8
    assert_array_equal(search.best_estimator_[-1].classes_, SPECIES)


def test_pickle(iris):
    X, y = iris
    clf = SkorchClassifier(small_net(max_epochs=2)).fit(X, SPECIES[y])
    again = pickle.loads(pickle.dumps(clf))
    assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert_array_equal(again.predict(X), clf.predict(X))


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_gradient_of_the_probability(iris, threshold):
    X, y = iris
    labels = np.where(y == 0, "left", "right")
    net = binary_net(module__dtype=torch.float64, threshold=threshold, max_epochs=3)
    clf = SkorchClassifier(net, random_state=0).fit(X, labels)
    step = 1e-5 * np.eye(4)
    moved = np.stack([X[:10] + step[k] for k in range(4)] + [X[:10] - step[k] for k in range(4)])
    proba = clf.predict_proba(moved.reshape(-1, 4))[:, 1].reshape(2, 4, 10)
    differences = ((proba[0] - proba[1]) / 2e-5).T
    assert_allclose(class_gradient(clf, X[:10], "right", logits=False), differences, rtol=1e-6, atol=1e-9)


def test_attack_speaks_the_caller_s_labels(iris):
    X, y = iris
    frame = as_frame(X)
    clf = SkorchClassifier(small_net(), random_state=0).fit(frame, SPECIES[y])
    result = FastGradientMethod(clf, eps=1.0).run(frame, SPECIES[y])
    assert list(result.X_adv.columns) == ["a", "b", "c", "d"]
    assert set(result.y_adv) <= set(SPECIES)
    assert_array_equal(clf.predict(result.X_adv), result.y_adv)
    assert result.success.mean() > 0.3
    tensor = FastGradientMethod(clf, eps=1.0).transform(torch.as_tensor(X), SPECIES[y])
    assert tensor.dtype == torch.float64
    assert_allclose(tensor.numpy(), result.X_adv.to_numpy())


def test_import_needs_no_torch():
    code = "import sys, skart.estimators; assert not {'torch', 'skorch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_skorch_the_error_names_the_extra(monkeypatch):
    net = small_net()
    monkeypatch.setitem(sys.modules, "skorch", None)
    with pytest.raises(ImportError, match=r"skart\[torch\]"):
        SkorchClassifier(net).fit(np.eye(4), [0, 1, 0, 1])
