"""What attacks share: fitting, composition, and one clear error for each mistake."""

import pickle
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from skart.attacks import BasicIterativeMethod, FastGradientMethod, ProjectedGradientDescent
from skart.defences import FeatureSqueezing
from skart.exceptions import GradientUnavailableError
from tests.common._models import trained_net

ATTACK = FastGradientMethod


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X, y, LogisticRegression(max_iter=1000).fit(X, y)


# ---- fit ----------------------------------------------------------------------------------------------------


def test_fit_attacks_a_clone(iris):
    X, y, _ = iris
    clf = SVC()
    attack = ATTACK(clf).fit(X, y)
    assert attack.estimator_ is not clf
    assert not hasattr(clf, "classes_")
    assert attack.n_features_in_ == 4


def test_a_frozen_estimator_is_attacked_itself(iris):
    X, y, clf = iris
    coef = clf.coef_.copy()
    attack = ATTACK(FrozenEstimator(clf), eps=0.4).fit(X)  # needs no labels
    assert attack.estimator_.estimator is clf
    assert_array_equal(clf.coef_, coef)
    assert_array_equal(attack.transform(X), ATTACK(clf, eps=0.4).transform(X))


def test_without_estimator_a_surrogate_is_fitted(iris):
    X, y, clf = iris
    X_adv = ATTACK(eps=0.8).fit(X, y).transform(X, y)
    assert clf.score(X_adv, y) < 0.5  # its samples transfer


def test_what_is_fitted_goes_before_what_was_given(iris):
    X, y, clf = iris
    attack = ATTACK(clf).fit(X[:100], y[:100])
    assert len(attack.estimator_.classes_) == 2
    assert len(clf.classes_) == 3


def test_fit_transform_is_fit_and_transform(iris):
    X, y, _ = iris
    attack = ATTACK(LogisticRegression(max_iter=1000), eps=0.5)
    assert_array_equal(attack.fit_transform(X, y), clone(attack).fit(X, y).transform(X))


@pytest.mark.parametrize(
    ("estimator", "X", "y", "error"),
    [
        (None, [[0.0, 1.0], [np.nan, 2.0]], [0, 1], "NaN"),
        (None, [[0.0, 1.0], [3.0, 2.0]], [0, 0], "class"),
        (LinearRegression(), [[0.0, 1.0], [3.0, 2.0]], [0.5, 1.0], "not a fitted classifier"),
        (LogisticRegression(C=-1.0), [[0.0, 1.0], [3.0, 2.0]], [0, 1], "C"),
    ],
)
def test_a_fit_that_raises_changes_nothing(estimator, X, y, error, iris):
    attack = ATTACK(clip_values="fit").fit(*iris[:2])
    attack.estimator = estimator
    before = dict(vars(attack))
    with pytest.raises((TypeError, ValueError), match=error):
        attack.fit(X, y)
    assert vars(attack) == before


def test_n_iter_is_that_of_the_parameters(iris):
    X, y, _ = iris
    assert ProjectedGradientDescent(max_iter=7).fit(X, y).n_iter_ == 7
    assert not hasattr(FastGradientMethod().fit(X, y), "n_iter_")


# ---- composition --------------------------------------------------------------------------------------------


def test_attacks_a_pipeline_with_a_defence(iris):
    X, y, _ = iris
    X = (X - X.min(axis=0)) / (X.max(axis=0) - X.min(axis=0)) * 0.999
    model = make_pipeline(FeatureSqueezing(bit_depth=4), StandardScaler(), SVC()).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # rounding is flat, and the attack looks through it
        result = BasicIterativeMethod(model, eps=0.3, clip_values=(0, 1)).run(X, y)
    assert model.score(X, y) > 0.9
    assert result.success.mean() > 0.9
    assert_array_equal(result.success, model.predict(result.X_adv) != y)


def test_attacks_a_search(iris):
    X, y, clf = iris
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": [1.0, 1e-3]}).fit(X, y)
    attack = BasicIterativeMethod(search, eps=0.5)
    assert_array_equal(attack.transform(X), BasicIterativeMethod(search.best_estimator_, eps=0.5).transform(X))
    fitted = attack.fit(X, y)  # searches again
    assert fitted.estimator_ is not search
    assert fitted.estimator_.best_params_ == search.best_params_


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_stands_in_a_pipeline_and_is_searched_over(n_jobs, iris):
    X, y, clf = iris
    model = Pipeline([("attack", ATTACK(FrozenEstimator(clf))), ("clf", LogisticRegression(max_iter=1000))])
    search = GridSearchCV(model, {"attack__eps": [0.0, 2.0]}, n_jobs=n_jobs).fit(X, y)
    assert search.best_params_ == {"attack__eps": 0.0}
    assert_array_equal(model.fit(X, y)[:-1].transform(X), ATTACK(clf).transform(X))


def test_set_params_reach_the_estimator():
    attack = ATTACK(make_pipeline(StandardScaler(), SVC())).set_params(estimator__svc__C=3.0, eps=0.1)
    assert attack.get_params()["estimator__svc__C"] == 3.0


def test_images_keep_their_shape():
    rng = np.random.default_rng(0)
    X, y = rng.random((40, 1, 4, 4), dtype=np.float32), np.arange(40) % 3
    net = trained_net(X.reshape(40, 16), y)
    net.module_ = torch.nn.Sequential(torch.nn.Flatten(), net.module_)
    X_adv = ATTACK(net, eps=0.2, clip_values=(0, 1)).transform(X, y)
    flat = ATTACK(net, eps=0.2, clip_values=(0, 1)).transform(X.reshape(40, 16), y)
    assert X_adv.shape == X.shape
    assert_array_equal(X_adv.reshape(40, 16), flat)
    tensors = ATTACK(net, eps=0.2, clip_values=(0, 1)).transform(torch.from_numpy(X), y)
    assert_array_equal(tensors.numpy(), X_adv)


# ---- parameters ---------------------------------------------------------------------------------------------


def test_mask_by_flags_positions_and_names(iris):
    X, y, _ = iris
    frame = pd.DataFrame(X, columns=list("abcd"))
    clf = LogisticRegression(max_iter=1000).fit(frame, y)
    expected = ATTACK(clf, mask=[False, True, False, True]).transform(frame).to_numpy()
    assert_array_equal(np.any(expected != X, axis=0), [False, True, False, True])
    for mask in ([1, 3], np.array([3, 1]), [1, -1], ["b", "d"], pd.Index(["d", "b"])):
        assert_array_equal(ATTACK(clf, mask=mask).transform(frame).to_numpy(), expected)
    # Names are known from the model, too.
    assert_array_equal(ATTACK(clf, mask=["b", "d"]).transform(X), expected)


def test_clip_values_of_fit_are_widened_for_a_sample(iris):
    X, y, _ = iris
    inner = X[(X[:, 0] > 5) & (X[:, 0] < 7)]
    attack = ATTACK(clip_values="fit", eps=10.0).fit(inner, y[(X[:, 0] > 5) & (X[:, 0] < 7)])
    X_adv = attack.transform(X)
    low, high = inner.min(axis=0), inner.max(axis=0)
    assert_array_equal(attack.clip_values_, (low, high))
    assert np.any(X < low)
    assert np.any(X > high)
    assert np.all(X_adv >= np.minimum(X, low))
    assert np.all(X_adv <= np.maximum(X, high))
    # Wide enough to reach the corners of each sample's own box.
    assert_array_equal(np.any(X_adv == np.maximum(X, high), axis=1) | np.any(X_adv == np.minimum(X, low), axis=1), True)


def test_a_range_that_scaling_overshot_by_a_rounding_is_kept(iris):
    X, y, _ = iris
    X = np.clip(X / 8, 0, 1)
    X[0, 0] = np.nextafter(1.0, 2.0)  # as MinMaxScaler leaves it
    clf = LogisticRegression(C=100.0, max_iter=1000).fit(X, y)
    assert_array_equal(ATTACK(clf, eps=0.0, clip_values=(0, 1)).transform(X), X)
    assert ATTACK(clf, eps=0.2, clip_values=(0, 1)).transform(X).max() == X[0, 0]


def test_batches_change_nothing_but_draws(iris):
    X, y, clf = iris
    whole = BasicIterativeMethod(clf, batch_size=150).run(X, y)
    parts = BasicIterativeMethod(clf, batch_size=7).run(X, y)
    np.testing.assert_allclose(parts.X_adv, whole.X_adv, rtol=0, atol=1e-9)
    assert_array_equal(parts.n_gradients, whole.n_gradients)


def test_random_state_none_draws_afresh(iris):
    X, y, clf = iris
    attack = ProjectedGradientDescent(clf, norm=2, max_iter=1)
    assert np.any(attack.transform(X) != attack.transform(X))


def test_progress_needs_tqdm(iris, monkeypatch, capsys):
    X, y, clf = iris
    pytest.importorskip("tqdm")
    quiet = ATTACK(clf, batch_size=50).transform(X)
    assert_array_equal(ATTACK(clf, batch_size=50, verbose=1).transform(X), quiet)
    assert "FastGradientMethod: 100%" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert_array_equal(ATTACK(clf, batch_size=50).transform(X), quiet)
    with pytest.raises(ImportError, match=r"verbose=True needs tqdm.*pip install 'skart\[progress\]'"):
        ATTACK(clf, verbose=True).transform(X)


# ---- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (DecisionTreeClassifier(max_depth=2), ["DecisionTreeClassifier has no gradient", "step function"]),
        (
            make_pipeline(StandardScaler(), RandomForestClassifier(5)),
            ["step 'randomforestclassifier'", "step functions"],
        ),
        (
            GridSearchCV(make_pipeline(DecisionTreeClassifier()), {}),
            ["best_estimator_", "step 'decisiontreeclassifier'"],
        ),
        (KNeighborsClassifier(), ["KNeighborsClassifier has no gradient"]),
    ],
    ids=str,
)
def test_a_model_without_gradient(model, words, iris):
    X, y, _ = iris
    with pytest.raises(GradientUnavailableError) as error:
        ATTACK(model.fit(X, y)).transform(X)
    for word in ["FastGradientMethod needs gradients", "What applies instead", *words]:
        assert word in str(error.value)


def test_a_subclass_that_decides_otherwise(iris):
    X, y, _ = iris

    class Twisted(LogisticRegression):
        def decision_function(self, X):
            return -super().decision_function(X)

    with pytest.raises(GradientUnavailableError, match="Twisted overrides `decision_function` of LogisticRegression"):
        ATTACK(Twisted(max_iter=1000).fit(X, y)).transform(X)


def test_not_fitted(iris):
    X, _, _ = iris
    with pytest.raises(NotFittedError, match="has no estimator to attack"):
        ATTACK().transform(X)
    with pytest.raises(NotFittedError, match="is not fitted, and neither is its estimator SVC"):
        ATTACK(SVC()).transform(X)
    with pytest.raises(NotFittedError, match="clip_values='fit' takes the range of the data seen in `fit`"):
        ATTACK(iris[2], clip_values="fit").transform(X)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda X: np.where(X == X.max(), np.nan, X), ValueError, "NaN"),
        (lambda X: np.where(X == X.max(), np.inf, X), ValueError, "infinity"),
        (lambda X: csr_array(X), TypeError, "toarray"),
        (lambda X: X[:, :3], ValueError, "X has 3 features, but .* is expecting 4"),
        (lambda X: X[0], ValueError, "1D array"),
        (lambda X: X[:0], ValueError, "0 sample"),
        (lambda X: np.full(X.shape, "red"), ValueError, "could not convert string to float|dtype='numeric'"),
        (lambda X: torch.from_numpy(X)[:, :3], ValueError, "X has 3 features, but FastGradientMethod is expecting 4"),
        (lambda X: torch.from_numpy(X) * torch.nan, ValueError, "NaN"),
        (lambda X: torch.from_numpy(X)[0], ValueError, "got a tensor of shape"),
    ],
)
def test_samples_that_do_not_fit(spoil, error, message, fitted, iris):
    X, y, clf = iris
    attack = ATTACK(clf).fit(X, y) if fitted else ATTACK(clf)
    before = pickle.dumps(attack)
    with pytest.raises(error, match=message):
        attack.transform(spoil(X))
    assert pickle.dumps(attack) == before


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"eps": [0.1, 0.2]}, r"eps has shape \(2,\) where a sample has shape \(4,\)"),
        ({"eps": -0.1}, "eps"),
        ({"eps": [0.1, 0.1, 0.1, -0.1]}, "eps must be finite and not negative"),
        ({"eps": [0.1, 0.1, 0.1, np.inf]}, "eps must be finite and not negative"),
        ({"eps": np.inf}, "eps"),
        ({"eps": "0.3"}, "eps"),
        ({"eps": 1e-17}, "below the spacing of float64 numbers"),
        ({"norm": 3}, "norm"),
        ({"loss": "hinge"}, "loss"),
        ({"clip_values": (0, 1)}, r"X spans \[0.1, 7.9\], outside clip_values=\(0, 1\)"),
        ({"clip_values": (10, 0)}, "low <= high"),
        ({"clip_values": (0, 1, 2)}, r"a pair \(low, high\)"),
        ({"clip_values": (0, np.nan)}, "low <= high"),
        ({"clip_values": "range"}, "a str among {'fit'}"),
        ({"clip_values": (np.zeros(3), 10)}, r"array of shape \(3,\) where a sample has shape \(4,\)"),
        ({"mask": [True, False]}, r"mask has shape \(2,\) where a sample has shape \(4,\)"),
        ({"mask": [0, 4]}, "mask names feature 4 of 4"),
        ({"mask": [0, -5]}, "mask names feature -5 of 4"),
        ({"mask": ["sepal"]}, "column names, but neither X nor the fitted model has any"),
        ({"mask": np.zeros(4, dtype=bool)}, "lets no feature change"),
        ({"mask": []}, "mask must be a boolean array"),
        ({"mask": [0.5]}, "mask must be a boolean array"),
        ({"target": 7}, r"target=7 is no class of the model; classes are \[0 1 2\]"),
        ({"target": "setosa"}, "target='setosa' is no class.*Reserved words are 'given'"),
        ({"target": [0, 1]}, "use target='given' and pass them as y"),
        ({"target": "given"}, "target='given' needs y"),
        ({"batch_size": 0}, "batch_size"),
        ({"random_state": "now"}, "random_state"),
    ],
    ids=str,
)
def test_parameters_that_do_not_fit(params, message, iris):
    X, _, clf = iris
    with pytest.raises(ValueError, match=message):
        ATTACK(clf, **params).transform(X)


def test_columns_that_the_mask_names_must_be_there(iris):
    X, y, _ = iris
    frame = pd.DataFrame(X, columns=list("abcd"))
    clf = LogisticRegression(max_iter=1000).fit(frame, y)
    with pytest.raises(ValueError, match=r"names 'e', which is no column of X; columns are \['a', 'b', 'c', 'd'\]"):
        ATTACK(clf, mask=["a", "e"]).transform(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        ATTACK(clf).fit(frame, y).transform(frame[list("bacd")])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (lambda y: np.eye(3)[y], r"shape \(n_samples,\).*not one-hot; got shape \(150, 3\)"),
        (lambda y: y[:-1], "X has 150 samples and y has 149"),
        (lambda y: y + 1, "y holds 3, a class unknown to the model"),
        (lambda y: np.array(["a", "b", "c"])[y], "a class unknown to the model"),
        (lambda y: np.where(y == 0, np.nan, y), "y holds .*nan.*, a class unknown"),
    ],
)
def test_labels_that_do_not_fit(y, message, iris):
    X, labels, clf = iris
    with pytest.raises(ValueError, match=message):
        ATTACK(clf).transform(X, y(labels))


def test_loss_that_needs_more_classes(iris):
    X, y, clf = iris
    binary = LogisticRegression(max_iter=1000).fit(X[:100], y[:100])
    with pytest.raises(ValueError, match="'dlr' needs at least 3 classes without a target; the model has 2"):
        ATTACK(binary, loss="dlr").transform(X)
    with pytest.raises(ValueError, match="'dlr' needs at least 4 classes with a target; the model has 3"):
        ATTACK(clf, loss="dlr", target=0).transform(X)


def test_what_is_no_classifier(iris):
    X, y, _ = iris
    with pytest.raises(TypeError, match="LinearRegression has no `classes_`: it is not a fitted classifier"):
        ATTACK(LinearRegression().fit(X, y)).transform(X)
    with pytest.raises(ValueError, match="implementing 'fit' and 'predict'"):
        ATTACK(StandardScaler().fit(X)).transform(X)
    with pytest.raises(TypeError, match="several outputs"):
        ATTACK(KNeighborsClassifier().fit(X, np.stack([y, y], axis=1))).transform(X)
    with pytest.raises(TypeError, match="is a class, not an instance"):
        ATTACK(SVC).transform(X)


def test_result_prints_where_nothing_succeeded(iris):
    X, _, clf = iris
    assert "success 0.0%, median distance of successes none" in repr(ATTACK(clf, eps=0.0).run(X))


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("fitted", [False, True])
def test_columns_that_are_no_numbers_are_named(library, fitted):
    frames = pytest.importorskip(library)
    X, y = load_iris(return_X_y=True)
    attack = ProjectedGradientDescent(LogisticRegression(max_iter=500).fit(X, y), max_iter=2)
    if fitted:
        attack.fit(X, y)
    columns = {"a": ["x", "y"], "b": [1, 2], "c": [0.5, 1.0], "d": [True, False]}
    with pytest.raises(ValueError, match=r"LogisticRegression was asked with data whose columns \['a'\] hold no num"):
        attack.transform(frames.DataFrame(columns))


def test_fitting_around_a_bare_net_that_is_trained():
    torch = pytest.importorskip("torch")
    skorch = pytest.importorskip("skorch")
    X, y = load_iris(return_X_y=True)
    X = X.astype(np.float32)
    net = skorch.NeuralNetClassifier(torch.nn.Linear(4, 3), criterion=torch.nn.CrossEntropyLoss, verbose=0).initialize()
    attack = ProjectedGradientDescent(FrozenEstimator(net), max_iter=2, random_state=0).fit(X, y)
    assert_array_equal(attack.run(X).y_adv, net.predict(attack.transform(X)))
    with pytest.raises(TypeError, match="not a fitted classifier"):
        ProjectedGradientDescent(FrozenEstimator(LinearRegression().fit(X, y))).fit(X, y)
