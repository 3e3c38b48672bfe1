"""A black box: what the function sees, what is made of its answers, and what a budget lets through."""

import pickle
import threading

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import check_is_fitted

from skart import register_rule
from skart.attacks import FastGradientMethod, ProjectedGradientDescent
from skart.defences import FeatureSqueezing
from skart.estimators import BlackBoxClassifier
from skart.exceptions import GradientUnavailableError, QueryBudgetExceeded
from skart.gradients import _registry
from skart.oracles import Oracle, loss_gradient

SPECIES = np.array(["setosa", "versicolor", "virginica"])
X, y = load_iris(return_X_y=True)
MODEL = LogisticRegression(max_iter=300).fit(X, y)


class Recorder:
    """A function that keeps what it was asked."""

    def __init__(self, answer):
        self.answer = answer
        self.seen = []

    def __call__(self, X):
        self.seen.append(X)
        return self.answer(X)

    @property
    def sizes(self):
        return [batch.shape[0] for batch in self.seen]


def uniform(X):
    return np.full((X.shape[0], 3), 1 / 3)


def test_probabilities():
    clf = BlackBoxClassifier(MODEL.predict_proba, SPECIES)
    assert_array_equal(clf.predict_proba(X), MODEL.predict_proba(X))
    assert_array_equal(clf.predict(X), SPECIES[MODEL.predict(X)])
    assert clf.score(X, SPECIES[y]) == MODEL.score(X, y)


@pytest.mark.parametrize(
    "names", [SPECIES, SPECIES[::-1], SPECIES.astype(object)], ids=["sorted", "reversed", "object"]
)
def test_labels_of_strings(names):
    clf = BlackBoxClassifier(lambda X: SPECIES[MODEL.predict(X)], names, output="labels")
    assert_array_equal(clf.classes_, names)
    assert_array_equal(clf.predict(X), SPECIES[MODEL.predict(X)])
    assert not hasattr(clf, "predict_proba")


@pytest.mark.parametrize(
    ("labels", "classes"), [([1.0, 0.0], [0, 1]), ([[True], [False]], [False, True]), ([2, -1], [-1, 2])]
)
def test_labels_are_entries_of_classes(labels, classes):
    predicted = BlackBoxClassifier(lambda X: labels, classes, output="labels").predict(X[:2])
    assert predicted.dtype == np.asarray(classes).dtype
    assert_array_equal(predicted, np.ravel(labels))


def test_answers_of_any_kind():
    torch = pytest.importorskip("torch")
    expected = MODEL.predict_proba(X[:5])
    for form in (np.ndarray.tolist, pd.DataFrame, torch.as_tensor):
        assert_array_equal(
            BlackBoxClassifier(lambda X, form=form: form(expected), [0, 1, 2]).predict_proba(X[:5]), expected
        )
    one_hot = np.eye(3, dtype=int)
    assert BlackBoxClassifier(lambda X: one_hot, [0, 1, 2]).predict_proba(X[:3]).dtype == np.float64
    single = expected.astype(np.float32)
    assert BlackBoxClassifier(lambda X: single, [0, 1, 2]).predict_proba(X[:5]).dtype == np.float32


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(None, [150]), (1000, [150]), (150, [150]), (75, [75, 75]), (64, [64, 64, 22])]
)
def test_batches(batch_size, sizes):
    function = Recorder(MODEL.predict_proba)
    clf = BlackBoxClassifier(function, [0, 1, 2], batch_size=batch_size)
    assert_array_equal(clf.predict(X), MODEL.predict(X))
    assert function.sizes == sizes
    assert_array_equal(np.concatenate(function.seen), X)
    assert clf.n_queries_ == 150


def test_the_function_gets_what_the_caller_gave():
    torch = pytest.importorskip("torch")
    frame = pd.DataFrame({"size": [1.0, 2.0, 3.0], "kind": ["a", "b", "a"]}, index=[2.5, 0.5, 1.5])
    images = np.arange(24, dtype=np.uint8).reshape(3, 2, 2, 2)
    texts = np.array(["one text", "another", "a third"])
    for samples in (frame, images, texts, torch.zeros(3, 4), X[:3].astype(np.float32)):
        function = Recorder(uniform)
        BlackBoxClassifier(function, [0, 1, 2]).predict(samples)
        assert function.seen[0] is samples
        function = Recorder(uniform)
        BlackBoxClassifier(function, [0, 1, 2], batch_size=2).predict(samples)
        assert {type(batch) for batch in function.seen} == {type(samples)}
        assert function.sizes == [2, 1]
    function = Recorder(uniform)
    BlackBoxClassifier(function, [0, 1, 2], batch_size=2).predict(frame)
    pd.testing.assert_frame_equal(pd.concat(function.seen), frame)
    function = Recorder(uniform)
    BlackBoxClassifier(function, [0, 1, 2]).predict(X[:3].tolist())
    assert_array_equal(function.seen[0], X[:3])


def test_samples_that_are_none():
    clf = BlackBoxClassifier(uniform, [0, 1, 2])
    with pytest.raises(ValueError, match=r"shape \(4,\). Reshape your data"):
        clf.predict(X[0])
    with pytest.raises(ValueError, match="0 samples"):
        clf.predict(X[:0])
    assert clf.n_queries_ == 0


def test_counts_are_exact():
    function = Recorder(MODEL.predict_proba)
    clf = BlackBoxClassifier(function, [0, 1, 2], batch_size=40)
    assert clf.n_queries_ == 0
    clf.predict(X[:7])
    clf.predict_proba(X)
    assert clf.n_queries_ == sum(function.sizes) == 157
    clf.fit(X, y)
    assert clf.n_queries_ == 157


def test_a_call_that_fails_counts_and_those_after_it_do_not():
    def breaks(X):
        if len(function.seen) == 2:
            raise ConnectionError("gone")
        return uniform(X)

    function = Recorder(breaks)
    clf = BlackBoxClassifier(function, [0, 1, 2], batch_size=10, max_queries=150)
    with pytest.raises(ConnectionError):
        clf.predict(X)
    assert clf.n_queries_ == sum(function.sizes) == 20


def test_counts_are_exact_over_threads():
    function = Recorder(MODEL.predict_proba)
    clf = BlackBoxClassifier(function, [0, 1, 2], batch_size=3, max_queries=500)

    def work():
        for _ in range(20):
            try:
                clf.predict(X[:7])
            except QueryBudgetExceeded:
                return

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clf.n_queries_ == sum(function.sizes) == 497  # 71 requests of 7


def test_budget():
    function = Recorder(MODEL.predict_proba)
    clf = BlackBoxClassifier(function, [0, 1, 2], batch_size=20, max_queries=100)
    clf.predict(X[:90])
    with pytest.raises(QueryBudgetExceeded, match="90 of max_queries=100 queries are spent, and 11 more") as caught:
        clf.predict(X[:11])
    assert caught.value.result is None
    assert sum(function.sizes) == clf.n_queries_ == 90  # refused as a whole
    clf.fit(X, y).predict(X[:10])
    with pytest.raises(QueryBudgetExceeded):
        clf.predict(X[:1])
    clf.set_params(max_queries=101).predict(X[:1])
    with pytest.raises(QueryBudgetExceeded):
        BlackBoxClassifier(function, [0, 1, 2], max_queries=0).predict(X[:1])


def test_the_error_travels():
    error = QueryBudgetExceeded("spent")
    error.result = "found"
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == "spent"
    assert again.result == "found"


@pytest.mark.parametrize("form", [np.asarray, pd.DataFrame, np.ndarray.tolist])
def test_table(form):
    clf = BlackBoxClassifier.from_table(form(X), MODEL.predict_proba(X), SPECIES)
    order = np.random.default_rng(0).permutation(150)
    assert_array_equal(clf.predict_proba(X[order]), MODEL.predict_proba(X)[order])
    assert_array_equal(clf.predict(form(X)), SPECIES[MODEL.predict(X)])
    with pytest.raises(ValueError, match="has none for 2 of 3 samples, the first of them at row 1"):
        clf.predict(np.stack([X[0], X[1] + 1e-9, X[2] - 1]))
    with pytest.raises(ValueError, match=r"samples of shape \(4,\); X has samples of shape \(3,\)"):
        clf.predict(X[:, :3])


def test_table_of_labels_images_and_categories():
    images = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)
    images[0, 0, 0] = 0
    clf = BlackBoxClassifier.from_table(images, ["b", "a", "b", "a"], ["a", "b"], output="labels", max_queries=8)
    asked = images.astype(np.float64)
    asked[0, 0, 0] = -0.0
    assert_array_equal(clf.predict(asked), ["b", "a", "b", "a"])
    frame = pd.DataFrame({"size": [1, 2], "kind": ["a", "b"]})
    assert_array_equal(
        BlackBoxClassifier.from_table(frame, [0, 1], [0, 1], output="labels").predict(frame[::-1]), [1, 0]
    )
    again = pickle.loads(pickle.dumps(clone(clf)))
    assert_array_equal(again.predict(images), ["b", "a", "b", "a"])
    assert "<table of 4 answers>" in repr(clf)


def test_a_table_is_checked_when_it_is_made():
    with pytest.raises(ValueError, match="3 samples and answers of shape"):
        BlackBoxClassifier.from_table(X[:3], [0, 1], [0, 1], output="labels")
    with pytest.raises(ValueError, match="samples 0 and 2 of the table are equal, and their answers differ"):
        BlackBoxClassifier.from_table([[1, 2], [3, 4], [1, 2]], [0, 1, 1], [0, 1], output="labels")
    with pytest.raises(ValueError, match="label 7, which is not in classes"):
        BlackBoxClassifier.from_table(X[:2], [0, 7], [0, 1], output="labels")
    answers = np.array([[0.5, 0.5], [1, 0]])
    clf = BlackBoxClassifier.from_table(X[:2], answers, [0, 1])
    answers[:] = 7
    assert_array_equal(clf.predict_proba(X[1:2]), [[1, 0]])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((3, 2)), r"shape \(3, 2\) for 4 samples.*must be \(4, 3\)"),
        (np.full((4, 2), 0.5), r"must be \(4, 3\)"),
        (np.zeros(4, dtype=int), r"output='labels'"),
        (None, r"shape \(\)"),
        (np.full((4, 3), np.nan), "NaN"),
        (np.array([[1, 0, 0]] * 3 + [[2, 2, 2]]), r"\[2\.0, 2\.0, 2\.0\] as probabilities.*softmax"),
        (np.array([[1, 0, 0]] * 3 + [[1.5, -0.5, 0]]), "must not be negative"),
        (np.full((4, 3), "a"), "must be numbers"),
    ],
    ids=["rows", "columns", "labels", "none", "nan", "sum", "negative", "strings"],
)
def test_wrong_probabilities(answer, message):
    with pytest.raises(ValueError, match=message):
        BlackBoxClassifier(lambda X: answer, [0, 1, 2]).predict_proba(X[:4])


def test_one_column_of_probabilities():
    with pytest.raises(ValueError, match="np.column_stack"):
        BlackBoxClassifier(lambda X: np.full(4, 0.3), [0, 1]).predict(X[:4])


def test_rounded_probabilities_are_fine():
    rounded = np.array([[0.333, 0.333, 0.333]])
    assert_array_equal(BlackBoxClassifier(lambda X: rounded, [0, 1, 2]).predict_proba(X[:1]), rounded)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([0, 1, 2], r"shape \(3,\) for 4 samples.*must be \(4,\)"),
        (np.full((4, 3), 1 / 3), "output='probabilities'"),
        ([0, 1, 2, 3], "label 3, which is not in classes"),
        (["a", "b", "a", "b"], "label 'a', which is not in classes"),
        ([0, 1, np.nan, 0], "label nan"),
        (None, r"shape \(\)"),
    ],
    ids=["rows", "probabilities", "unknown", "strings", "nan", "none"],
)
def test_wrong_labels(answer, message):
    with pytest.raises(ValueError, match=message):
        BlackBoxClassifier(lambda X: answer, [0, 1, 2], output="labels").predict(X[:4])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"predict_fn": "predict"}, "'predict_fn' parameter"),
        ({"classes": 3}, "'classes' parameter"),
        ({"classes": ["a", "a"]}, "different labels"),
        ({"classes": ["a"]}, "two different labels or more"),
        ({"output": "logits"}, "'output' parameter"),
        ({"batch_size": 0}, "'batch_size' parameter"),
        ({"max_queries": -1}, "'max_queries' parameter"),
    ],
)
def test_wrong_parameters(params, message):
    function = Recorder(uniform)
    clf = BlackBoxClassifier(**{"predict_fn": function, "classes": [0, 1, 2], **params})
    with pytest.raises(ValueError, match=message):
        clf.predict(X[:2])
    assert not function.seen


def test_fit_checks_labels_and_asks_nothing():
    function = Recorder(uniform)
    clf = BlackBoxClassifier(function, SPECIES)
    check_is_fitted(clf)
    assert clf.fit(X, SPECIES[y]) is clf
    with pytest.raises(ValueError, match="y holds 0, which is not in classes"):
        clf.fit(X, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        clf.fit(X, SPECIES)
    assert not function.seen


def test_clones_ask_the_same_function_and_count_from_zero():
    function = Recorder(uniform)
    function.connection = threading.Lock()  # no copy of it can be made
    clf = BlackBoxClassifier(function, [0, 1, 2], max_queries=10)
    clf.predict(X[:8])
    twin = clone(clf)
    assert twin.predict_fn is function
    assert (twin.n_queries_, clf.n_queries_) == (0, 8)
    twin.predict(X[:10])
    assert (twin.n_queries_, clf.n_queries_) == (10, 8)
    frozen = clone(FrozenEstimator(clf))
    with pytest.raises(QueryBudgetExceeded):
        frozen.predict(X[:3])


def test_pickled_copies_go_on_counting():
    clf = BlackBoxClassifier(uniform, [0, 1, 2], max_queries=10)
    clf.predict(X[:8])
    again = pickle.loads(pickle.dumps(clf))
    assert again.n_queries_ == 8
    with pytest.raises(QueryBudgetExceeded):
        again.predict(X[:3])
    again.predict(X[:2])
    assert clf.n_queries_ == 8


@pytest.mark.parametrize("output", ["labels", "probabilities"])
def test_access_of_an_oracle(output):
    function = Recorder(MODEL.predict_proba if output == "probabilities" else MODEL.predict)
    clf = BlackBoxClassifier(function, [0, 1, 2], output=output)
    oracle = Oracle(clf, X)
    assert oracle.access == {"labels": "labels", "probabilities": "scores"}[output]
    assert_array_equal(oracle.positions(X), MODEL.predict(X))
    assert clf.n_queries_ == oracle.n_forward
    if output == "probabilities":
        assert_array_equal(oracle.logits(X).argmax(axis=1), MODEL.predict(X))
    else:
        with pytest.raises(TypeError, match="answers labels only"):
            oracle.logits(X)
    with pytest.raises(GradientUnavailableError, match="BlackBoxClassifier has no gradient: .*by its answers alone"):
        oracle.vjp(X)
    with pytest.raises(GradientUnavailableError, match="by its answers alone"):
        FastGradientMethod(clf).transform(X)
    with pytest.raises(GradientUnavailableError, match="BlackBoxClassifier has no gradient"):
        loss_gradient(make_pipeline(FeatureSqueezing(clip_values=(0, 8)).fit(X), clf), X, y)


def test_an_oracle_hands_frames_on():
    frame = pd.DataFrame(X, columns=list("abcd"))
    function = Recorder(lambda frame: MODEL.predict_proba(frame[list("abcd")].to_numpy()))
    oracle = Oracle(BlackBoxClassifier(function, [0, 1, 2]), frame)
    oracle.labels(oracle.asarray(frame))
    assert all(isinstance(batch, pd.DataFrame) for batch in function.seen)


def test_transfer_attack():
    clf = BlackBoxClassifier(MODEL.predict, [0, 1, 2], output="labels")
    attack = ProjectedGradientDescent(eps=1.0).fit(X, clf.predict(X))
    assert clf.score(attack.transform(X), y) < 0.3 < 0.9 < clf.score(X, y)


def test_cross_validation_and_search():
    labels = SPECIES[y]
    clf = BlackBoxClassifier(MODEL.predict_proba, SPECIES)
    expected = [(MODEL.predict(X[k::5]) == y[k::5]).mean() for k in range(5)]
    folds = [(np.flatnonzero(np.arange(150) % 5 != k), np.arange(k, 150, 5)) for k in range(5)]
    assert_array_equal(cross_val_score(clf, X, labels, cv=folds), expected)
    assert_array_equal(cross_val_score(clf, X, labels, cv=folds, scoring="neg_log_loss") < 0, [True] * 5)
    assert clf.n_queries_ == 0
    frozen = FrozenEstimator(clf)
    cross_val_score(frozen, X, labels, cv=folds)
    assert clf.n_queries_ == 150
    pipeline = make_pipeline(FeatureSqueezing(clip_values=(0, 8)), clf)
    search = GridSearchCV(pipeline, {"featuresqueezing__bit_depth": [1, 8]}, cv=folds).fit(X, labels)
    assert search.best_params_ == {"featuresqueezing__bit_depth": 8}


class White(BlackBoxClassifier):
    """A black box whose gradient somebody knows."""


class Metered:
    """A picklable function."""

    def __call__(self, X):
        return MODEL.predict_proba(X)


@pytest.fixture
def white(monkeypatch):
    """A rule for ``White``, forgotten after the test. Passes through it cost no query; verdicts do."""
    monkeypatch.setattr(_registry, "_user_rules", dict(_registry._user_rules))

    @register_rule(White)
    def rule(model, backend):
        W, b = MODEL.coef_, MODEL.intercept_
        return lambda X: (X @ W.T + b, lambda cotangent: cotangent @ W)


# 8 queries when the oracle is made, 150 for the labels where none are given; then a verdict on each batch of 20.
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("method", ["run", "transform"])
@pytest.mark.usefixtures("white")
def test_a_budget_spent_in_an_attack_keeps_what_was_found(method, given):
    labels = y if given else MODEL.predict(X)
    params = {"eps": 0.8, "max_iter": 5, "batch_size": 20, "random_state": 0}
    full = ProjectedGradientDescent(White(Metered(), [0, 1, 2]), **params).run(X, labels)
    clf = White(Metered(), [0, 1, 2], max_queries=8 + (0 if given else 150) + 70)
    attack = ProjectedGradientDescent(clf, **params)
    with pytest.raises(QueryBudgetExceeded, match="20 more were wanted") as caught:
        getattr(attack, method)(X, labels if given else None)
    found = caught.value.result
    done = np.arange(150) < 60
    assert_array_equal(found.X_adv[done], full.X_adv[done])
    assert_array_equal(found.success, full.success & done)
    assert found.success.any()
    assert_array_equal(found.X_adv[~done], X[~done])
    assert_array_equal(found.y, labels)
    assert_array_equal(found.y_adv, np.where(done, full.y_adv, labels))
    assert_array_equal(found.distance, np.where(done, full.distance, 0))
    assert_array_equal(found.n_queries[done], full.n_queries[done] + (0 if given else 1))
    # The batch that met the limit went through the rule, and its counts are kept; those after it were never begun.
    met = np.arange(60, 80)
    assert_array_equal(found.n_queries[met], full.n_queries[met] - 1 + (0 if given else 1))
    assert_array_equal(found.n_gradients[80:], 0)
    # Nothing is left behind: with more budget, the same attack does it all.
    clf.set_params(max_queries=1000)
    assert_array_equal(attack.run(X, labels).X_adv, full.X_adv)


@pytest.mark.usefixtures("white")
def test_unfinished_samples_do_not_count_as_having_reached_a_target():
    clf = White(Metered(), [0, 1, 2], max_queries=8 + 20)
    attack = FastGradientMethod(clf, target=2, eps=0.8, batch_size=20)
    with pytest.raises(QueryBudgetExceeded) as caught:
        attack.run(X, y)
    assert not caught.value.result.success[20:].any()
    assert_array_equal(caught.value.result.y, 2)


@pytest.mark.usefixtures("white")
def test_before_the_first_batch_there_is_no_result():
    attack = FastGradientMethod(White(Metered(), [0, 1, 2], max_queries=100), eps=0.8)
    with pytest.raises(QueryBudgetExceeded) as caught:
        attack.run(X)  # the labels to leave
    assert caught.value.result is None


@pytest.mark.usefixtures("white")
def test_a_budget_spent_in_another_process():
    # Two workers, each with a copy of the classifier that counts on from 8.
    clf = White(Metered(), [0, 1, 2], max_queries=8 + 40)
    attack = FastGradientMethod(clf, eps=0.8, batch_size=25, n_jobs=2)
    with pytest.raises(QueryBudgetExceeded) as caught:
        attack.run(X, y)
    full = FastGradientMethod(White(Metered(), [0, 1, 2]), eps=0.8).run(X, y)
    assert_array_equal(caught.value.result.success, full.success & (np.arange(150) < 50))
