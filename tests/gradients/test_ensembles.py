"""Ensembles of members that have rules: against scikit-learn's own answers and central differences."""

import warnings

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_blobs
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestCentroid
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.fixes import parse_version

from skart._core._objectives import log_softmax
from skart.exceptions import GradientUnavailableError
from skart.gradients._registry import numpy_backend
from skart.oracles import as_oracle
from skart.utils import check_rule
from tests.gradients._checks import CANCER, IRIS, check_log_probabilities, check_step, name, standardised

# Models are not trained to the end here; the mathematics of a rule does not depend on it.
pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore:.*probability.*:FutureWarning", "ignore:.*multi_class"
)
METHODS = ["sigmoid", "isotonic"]
if parse_version(sklearn.__version__) >= parse_version("1.8"):
    METHODS.append("temperature")


def perceptron():
    return MLPClassifier((6,), solver="lbfgs", max_iter=15, random_state=0)


def scaled_perceptron():
    return make_pipeline(StandardScaler(), perceptron())


def bagging(member=None, **parameters):
    member = LogisticRegression() if member is None else member
    return BaggingClassifier(member, n_estimators=3, random_state=0, **parameters)


def voting(**parameters):
    members = [("linear", LogisticRegression()), ("net", scaled_perceptron()), ("bayes", GaussianNB())]
    return VotingClassifier(members, **{"voting": "soft", **parameters})


@pytest.fixture(params=["iris", "cancer"], ids=["3 classes", "2 classes"])
def data(request):
    """Two classes as strings."""
    if request.param == "iris":
        return standardised(IRIS)
    X, y = standardised(CANCER, 5)
    return X[::2], np.array(["malignant", "benign"])[y[::2]]


def bind(model):
    return numpy_backend("float64").bind(model)


PROBABILISTIC = [
    voting(),
    voting(weights=[1, 0, 2.5]),
    bagging(),
    bagging(max_features=0.6),
    bagging(max_features=0.9, bootstrap_features=True),
    bagging(perceptron(), max_samples=0.5),
    bagging(make_pipeline(StandardScaler(), voting())),
    StackingClassifier(
        [("linear", LogisticRegression()), ("net", scaled_perceptron())], final_estimator=perceptron(), cv=2
    ),
    StackingClassifier([("linear", LogisticRegression()), ("svc", SVC())], passthrough=True, cv=2),
    StackingClassifier([("svc", SVC(decision_function_shape="ovo")), ("qda", QuadraticDiscriminantAnalysis())], cv=2),
    StackingClassifier([("bag", bagging())], stack_method="decision_function", cv=2),
    CalibratedClassifierCV(SVC(), cv=2),
    CalibratedClassifierCV(SVC(decision_function_shape="ovo"), cv=2),
    CalibratedClassifierCV(bagging(), cv=2),
    CalibratedClassifierCV(GaussianNB(), cv=2),
    *(
        CalibratedClassifierCV(SGDClassifier(loss="log_loss", random_state=0), method=method, ensemble=False, cv=2)
        for method in METHODS
        if method != "isotonic"
    ),
    OneVsRestClassifier(LogisticRegression()),
    OneVsRestClassifier(scaled_perceptron()),
]


@pytest.mark.parametrize("estimator", PROBABILISTIC, ids=name)
def test_log_probabilities(estimator, data):
    check_log_probabilities(estimator, *data)


@pytest.mark.parametrize("member", [LogisticRegression(), LinearSVC(), GaussianNB()], ids=name)
@pytest.mark.parametrize("ensemble", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_calibration(method, ensemble, member, data):
    X, y = data
    # Not the training points themselves: some are knots of the isotonic curve, where its logarithm begins.
    model = CalibratedClassifierCV(member, method=method, ensemble=ensemble, cv=2).fit(X[::2], y[::2])
    X = X[1::2]
    check_rule(model, X)
    logits = as_oracle(model, X).logits(X)
    proba = model.predict_proba(X)
    assert_allclose(np.exp(log_softmax(logits)), proba, atol=1e-6)
    clear = np.sort(proba, axis=1)[:, -1] > np.sort(proba, axis=1)[:, -2] + 1e-9
    assert clear.sum() > 20
    assert_array_equal(model.classes_[logits.argmax(axis=1)][clear], model.predict(X)[clear])


def test_isotonic_by_definition():
    from skart.gradients._calibration import interpolated

    curve = interpolated(np.array([0.0, 1.0, 3.0]), np.array([0.1, 0.1, 0.9]), numpy_backend("float64"))
    t = np.array([-1.0, 0.5, 2.0, 3.0, 4.0])
    values, pullback = curve(t)
    assert_allclose(values, np.interp(t, [0, 1, 3], [0.1, 0.1, 0.9]), rtol=1e-12)
    assert_allclose(pullback(np.ones(5))[[0, 1, 2, 4]], [0, 0, 0.4, 0], rtol=1e-12)
    constant, pullback = interpolated(np.array([2.0]), np.array([0.3]), numpy_backend("float64"))(t)
    assert_allclose(constant, 0.3)
    assert_allclose(pullback(np.ones(5)), 0)


MEMBERS = [LogisticRegression(), SVC(), LinearSVC(), scaled_perceptron(), bagging()]


@pytest.mark.parametrize("member", MEMBERS, ids=name)
def test_one_vs_rest(member, data):
    X, y = data
    model = OneVsRestClassifier(member).fit(X, y)
    check_rule(model, X)
    assert_array_equal(model.classes_[as_oracle(model, X).logits(X).argmax(axis=1)], model.predict(X))


@pytest.mark.parametrize("member", MEMBERS, ids=name)
def test_one_vs_one(member, data):
    X, y = data
    model = OneVsOneClassifier(member).fit(X, y)
    check_rule(model, X)
    oracle = as_oracle(model, X)
    logits = oracle.logits(X)
    assert_array_equal(model.classes_[logits.argmax(axis=1)], model.predict(X))
    if len(model.classes_) > 2:
        assert_allclose(logits, model.decision_function(X), atol=1e-9)
    else:
        shift = 0 if hasattr(member, "decision_function") else 0.5
        assert_allclose(logits[:, 1] + shift, model.decision_function(X), atol=1e-9)
    margins = oracle.vjp(X, scores="margins")[0]
    wins = margins.max(axis=1) > 0  # of all comparisons
    assert wins.mean() > 0.9
    assert_array_equal(model.classes_[margins.argmax(axis=1)][wins], model.predict(X)[wins])


def test_margins_of_pairs_by_brute_force():
    X, y = standardised(IRIS)
    model = OneVsOneClassifier(LogisticRegression()).fit(X, y)
    d01, d02, d12 = (member.decision_function(X) for member in model.estimators_)
    expected = np.stack([np.minimum(-d01, -d02), np.minimum(d01, -d12), np.minimum(d02, d12)], axis=1)
    assert_allclose(as_oracle(model, X).vjp(X, scores="margins")[0], expected, atol=1e-9)


@pytest.mark.filterwarnings("ignore:Label")
@pytest.mark.parametrize("member", MEMBERS, ids=name)
def test_output_code(member, data):
    X, y = data
    model = OutputCodeClassifier(member, code_size=4, random_state=0).fit(X, y)
    check_rule(model, X)
    logits = as_oracle(model, X).logits(X)
    assert_array_equal(model.classes_[logits.argmax(axis=1)], model.predict(X))


def test_output_code_with_constant_members():
    X, y = standardised(IRIS)
    for seed in range(20):
        model = OutputCodeClassifier(LinearSVC(), code_size=3, random_state=seed).fit(X, y)
        if any(type(member) is not LinearSVC for member in model.estimators_) and len(np.unique(model.code_book_)) > 1:
            break
    assert any(type(member) is not LinearSVC for member in model.estimators_)
    check_rule(model, X)
    logits = as_oracle(model, X).logits(X)
    assert_array_equal(model.classes_[logits.argmax(axis=1)], model.predict(X))


def test_features_that_are_drawn_twice():
    from skart.gradients._ensembles import drawn

    X = np.arange(8.0).reshape(2, 4)
    output, pullback = drawn([3, 0, 3, 3], 4, numpy_backend("float64"))(X)
    assert_allclose(output, X[:, [3, 0, 3, 3]])
    assert_allclose(pullback(np.array([[1.0, 2.0, 3.0, 4.0]] * 2)), [[2, 0, 0, 8]] * 2)


def test_bagged_members_that_missed_a_class():
    X, y = make_blobs([40, 40, 3], random_state=0, cluster_std=3)
    # A member that takes no sample weights is fitted on the drawn samples alone.
    member = make_pipeline(StandardScaler(), GaussianNB())
    model = BaggingClassifier(member, max_samples=20, random_state=0).fit(X, np.array(["a", "b", "c"])[y])
    assert {len(member.classes_) for member in model.estimators_} == {2, 3}
    check_rule(model, X)
    assert_allclose(np.exp(log_softmax(as_oracle(model, X).logits(X))), model.predict_proba(X), atol=1e-6)


def test_class_that_all_members_missed():
    X, y = make_blobs([40, 40, 1], random_state=0, cluster_std=3)
    model = bagging(make_pipeline(StandardScaler(), GaussianNB()), max_samples=10)
    for seed in range(20):
        model.set_params(random_state=seed).fit(X, y)
        if all(list(member.classes_) == [0, 1] for member in model.estimators_):
            break
    assert all(list(member.classes_) == [0, 1] for member in model.estimators_)
    logits, pullback = as_oracle(model, X).vjp(X)
    assert np.isfinite(logits).all()
    assert np.isfinite(pullback(np.ones_like(logits))).all()
    assert_array_equal(model.classes_[logits.argmax(axis=1)], model.predict(X))


def test_saturated_members_keep_their_gradients():
    X, y = standardised(IRIS)
    model = voting().fit(X, y)
    far = 200 * X
    with np.errstate(all="raise", under="ignore"):
        logits, pullback = as_oracle(model, far, check=False).vjp(far)
        cotangent = np.zeros_like(logits)
        cotangent[np.arange(len(far)), logits.argmin(axis=1)] = 1
        grad = pullback(cotangent)
    assert np.isfinite(logits).all()
    assert (np.abs(grad).max(axis=1) > 0).all()


def test_dropped_members(data):
    X, y = data
    with_weights = voting(weights=[1, 5, 3]).set_params(bayes="drop")
    model = check_log_probabilities(with_weights, X, y)
    assert len(model.estimators_) == 2
    stack = StackingClassifier([("gone", "drop"), ("svc", LinearSVC()), ("nb", GaussianNB())], cv=2)
    check_log_probabilities(stack, X, y)


def test_prefit_ensemble(data):
    X, y = data
    members = [LogisticRegression().fit(X, y), scaled_perceptron().fit(X, y)]
    frozen = [(str(k), FrozenEstimator(member)) for k, member in enumerate(members)]
    model = check_log_probabilities(VotingClassifier(frozen, voting="soft", weights=[1, 3]), X, y)
    expected = (members[0].predict_proba(X) + 3 * members[1].predict_proba(X)) / 4
    assert_allclose(as_oracle(model, X).proba(X), expected, atol=1e-9)
    stack = StackingClassifier(list(zip("ab", members)), cv="prefit")
    check_rule(stack.fit(X, y), X)


def test_ensembles_as_steps_inside(data):
    X, y = data
    stack = StackingClassifier([("svc", SVC()), ("net", perceptron())], passthrough=True, cv=2)
    for inner in (voting(), stack):
        check_log_probabilities(make_pipeline(clone(inner), StandardScaler(), LogisticRegression()), X, y)


def test_feature_union(data):
    parts = [("scale", StandardScaler()), ("gone", "drop"), ("as is", "passthrough"), ("unit", Normalizer())]
    union = FeatureUnion(parts, transformer_weights={"scale": 0.5, "as is": 3})
    check_step(union, *data)


def test_deep_composition(data):
    X, y = data
    union = FeatureUnion([("scale", StandardScaler()), ("unit", Normalizer())])
    calibrated = CalibratedClassifierCV(make_pipeline(StandardScaler(), SVC()), ensemble=False, cv=2)
    members = [("ovr", OneVsRestClassifier(LogisticRegression())), ("svc", calibrated), ("bag", bagging())]
    check_log_probabilities(make_pipeline(union, VotingClassifier(members, voting="soft")), X, y)


def refusal(model):
    with pytest.raises(GradientUnavailableError) as error:
        bind(model)
    return str(error.value)


def test_hard_votes_are_refused(data):
    X, y = data
    model = voting(voting="hard").fit(X, y)
    assert "voting='soft'" in refusal(model)
    assert as_oracle(model, X).access == "labels"
    assert "BaggingClassifier of LinearSVC" in refusal(bagging(LinearSVC()).fit(X, y))
    assert "AdaBoostClassifier has no gradient" in refusal(AdaBoostClassifier(LogisticRegression()).fit(X, y))
    assert "negative weights" in refusal(voting(weights=[3, -1, 1]).fit(X, y))


def test_probabilities_that_do_not_follow_from_scores(data):
    X, y = data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        svc = SVC(probability=True, random_state=0)
        model = VotingClassifier([("svc", svc), ("nb", GaussianNB())], voting="soft").fit(X, y)
    message = refusal(model)
    assert message.startswith("member 'svc'")
    assert "CalibratedClassifierCV" in message
    as_oracle(model, X)  # of scores
    huber = VotingClassifier([("sgd", SGDClassifier(loss="modified_huber"))], voting="soft").fit(X, y)
    assert "member 'sgd'" in refusal(huber)
    # It compares other distances than its probabilities tell of.
    near = make_pipeline(StandardScaler(), NearestCentroid())
    assert "member 'near'" in refusal(VotingClassifier([("near", near)], voting="soft").fit(X, y))
    stack = StackingClassifier([("near", near)], stack_method="decision_function", cv=2).fit(X, y)
    assert "not what its `predict`" in refusal(stack)
    assert "has no `predict_proba`" in refusal(VotingClassifier([("svc", LinearSVC())], voting="soft").fit(X, y))


def test_parts_without_gradient_are_named(data):
    X, y = data
    tree = ("tree", DecisionTreeClassifier(max_depth=2))
    model = VotingClassifier([("linear", LogisticRegression()), tree], voting="soft").fit(X, y)
    assert refusal(model).startswith("member 'tree': DecisionTreeClassifier has no gradient")
    assert as_oracle(model, X).access == "scores"
    numbers = np.unique(y, return_inverse=True)[1]
    stack = StackingClassifier([("svc", LinearSVC())], stack_method="predict", cv=2).fit(X, numbers)
    assert "member 'svc': StackingClassifier hands its labels" in refusal(stack)
    final = StackingClassifier([("svc", LinearSVC())], final_estimator=DecisionTreeClassifier(), cv=2).fit(X, y)
    assert refusal(final).startswith("final_estimator_: DecisionTree")
    assert refusal(CalibratedClassifierCV(DecisionTreeClassifier(), cv=2).fit(X, y)).startswith("estimator: Dec")
    assert "of a regressor (Ridge)" in refusal(OneVsRestClassifier(Ridge()).fit(X, y))


def test_several_labels_are_refused():
    X, y = standardised(IRIS)
    several = np.stack([y > 0, y > 1], axis=1).astype(int)
    for estimator in (MultiOutputClassifier(LogisticRegression()), ClassifierChain(LogisticRegression())):
        assert "several labels a sample" in refusal(estimator.fit(X, several))
    assert "several labels a sample" in refusal(OneVsRestClassifier(LogisticRegression()).fit(X, several))
    stack = StackingClassifier([("net", perceptron())], final_estimator=perceptron(), cv=2).fit(X, several)
    assert "several labels a sample" in refusal(stack)
    with pytest.raises(TypeError, match="several outputs"):
        as_oracle(MultiOutputClassifier(LogisticRegression()).fit(X, several), X)


def test_one_attack_of_linear_model_perceptron_and_net():
    torch = pytest.importorskip("torch")
    skorch = pytest.importorskip("skorch")
    from skart.attacks import ProjectedGradientDescent
    from skart.estimators import SkorchClassifier

    X, y = standardised(IRIS)
    y = np.array(["setosa", "versicolor", "virginica"])[y]
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    net = skorch.NeuralNetClassifier(
        module, criterion=torch.nn.CrossEntropyLoss, lr=0.2, max_epochs=20, batch_size=16, verbose=0
    )
    members = [
        ("linear", LogisticRegression()),
        ("net", scaled_perceptron()),
        ("torch", SkorchClassifier(net, random_state=0)),
    ]
    model = VotingClassifier(members, voting="soft").fit(X, y)
    check_rule(model, X)
    oracle = as_oracle(model, X)
    assert isinstance(oracle.logits(oracle.asarray(X)), torch.Tensor)
    assert model.score(X, y) > 0.9
    X_adv = ProjectedGradientDescent(FrozenEstimator(model), eps=1.0, max_iter=10).fit(X, y).transform(X, y)
    assert isinstance(X_adv, np.ndarray)
    assert np.abs(X_adv - X).max() <= 1 + 1e-9
    assert model.score(X_adv, y) < 0.5
    for part in (CalibratedClassifierCV(model, cv=2), StackingClassifier(members, cv=2)):
        check_rule(part.fit(X, y), X)
