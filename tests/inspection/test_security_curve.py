import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binomtest
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from skart.attacks import FastGradientMethod, ProjectedGradientDescent
from skart.inspection import SecurityCurveDisplay
from skart.metrics import robust_accuracy_score

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

EPS = [0.0, 0.2, 0.4, 0.8]


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return LogisticRegression(max_iter=500).fit(X, y), X, y


@pytest.fixture(autouse=True)
def _figures():
    yield
    matplotlib.pyplot.close("all")


def test_a_point_is_the_robust_accuracy(iris):
    clf, X, y = iris
    display = SecurityCurveDisplay.from_estimator(clf, X, y, attack=FastGradientMethod(), param_range=EPS)
    expected = [robust_accuracy_score(clf, X, y, attack=FastGradientMethod(eps=eps)) for eps in EPS]
    assert_array_equal(display.scores, expected)
    assert_array_equal(display.param_range, EPS)
    assert display.scores[0] == clf.score(X, y) == display.clean_score
    assert display.param_name == "eps"
    assert_array_equal(display.line_.get_xydata(), np.column_stack([EPS, expected]))
    assert display.ax_.get_xlabel() == "eps"
    assert display.ax_.get_ylabel() == "Robust accuracy"
    assert display.figure_ is display.ax_.figure
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["LogisticRegression"]


def test_an_iterative_attack_of_no_radius_gives_the_clean_accuracy(iris):
    clf, X, y = iris
    attack = ProjectedGradientDescent(eps_step=0.1, max_iter=3, random_state=0)
    display = SecurityCurveDisplay.from_estimator(clf, X, y, attack=attack, param_range=[0])
    assert_array_equal(display.scores, [clf.score(X, y)])


def test_band_and_levels(iris):
    clf, X, y = iris
    ours = {"attack": FastGradientMethod(), "param_range": EPS}
    plain = SecurityCurveDisplay.from_estimator(clf, X, y, **ours, plot_band=False)
    assert plain.band_ is plain.clean_level_ is plain.chance_level_ is None
    full = SecurityCurveDisplay.from_estimator(clf, X, y, **ours, plot_clean_level=True, plot_chance_level=True)
    assert_allclose(full.chance_level_.get_ydata(), 1 / 3)
    assert_allclose(full.clean_level_.get_ydata(), clf.score(X, y))
    band = full.band_.get_paths()[0].vertices
    for eps, score in zip(EPS, full.scores):
        interval = binomtest(round(score * len(y)), len(y)).proportion_ci(0.95, method="wilson")
        ends = band[np.isclose(band[:, 0], eps), 1]
        assert_allclose([ends.min(), ends.max()], [interval.low, interval.high], atol=1e-12)


def test_several_models_in_one_figure(iris):
    clf, X, y = iris
    weak = LogisticRegression(C=1e-3).fit(X, y)
    _, ax = matplotlib.pyplot.subplots()
    for name, model in {"plain": clf, "regularised": weak}.items():
        display = SecurityCurveDisplay.from_estimator(
            model, X, y, attack=FastGradientMethod(), param_range=EPS, ax=ax, name=name, line_kw={"linestyle": "--"}
        )
        assert display.ax_ is ax
        assert display.line_.get_linestyle() == "--"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["plain", "regularised"]
    assert len({line.get_color() for line in ax.get_lines()}) == 2
    assert matplotlib.pyplot.get_fignums() == [ax.figure.number]


def test_the_attack_stays_and_keeps_what_it_learnt(iris):
    clf, X, y = iris
    attack = FastGradientMethod(eps=0.3, clip_values="fit").fit(X, y)
    before = dict(vars(attack))
    display = SecurityCurveDisplay.from_estimator(clf, X, y, attack=attack, param_range=[0.1, 50.0])
    assert vars(attack).keys() == before.keys()
    assert all(vars(attack)[name] is value for name, value in before.items())
    boxed = FastGradientMethod(clf, eps=50.0, clip_values=(X.min(axis=0), X.max(axis=0))).transform(X, y)
    assert display.scores[1] == ((clf.predict(boxed) == y) & (clf.predict(X) == y)).mean()
    with pytest.raises(NotFittedError, match="clip_values='fit'"):
        SecurityCurveDisplay.from_estimator(
            clf, X, y, attack=FastGradientMethod(clip_values="fit"), param_range=[0.1, 0.2]
        )


def test_an_attack_with_its_own_estimator_transfers(iris):
    clf, X, y = iris
    surrogate = LogisticRegression(C=1e-3).fit(X, y)
    attack = FastGradientMethod(surrogate)
    display = SecurityCurveDisplay.from_estimator(clf, X, y, attack=attack, param_range=EPS)
    X_adv = FastGradientMethod(surrogate, eps=0.4).transform(X, y)
    assert display.scores[2] == ((clf.predict(X) == y) & (clf.predict(X_adv) == y)).mean()
    assert attack.estimator is surrogate


def test_a_generator_gives_the_same_draws_at_every_value_and_is_not_advanced(iris):
    clf, X, y = iris
    generator = np.random.RandomState(0)
    before = generator.get_state()[1].copy()
    attack = ProjectedGradientDescent(max_iter=1, random_state=generator)
    scores = SecurityCurveDisplay.from_estimator(clf, X, y, attack=attack, param_range=[0.5, 0.5, 0.5]).scores
    assert len(set(scores)) == 1
    assert_array_equal(generator.get_state()[1], before)


def test_other_parameters(iris):
    clf, X, y = iris
    attack = ProjectedGradientDescent(eps=0.5, eps_step=0.1, random_start=False)
    steps = SecurityCurveDisplay.from_estimator(clf, X, y, attack=attack, param_name="max_iter", param_range=[1, 2, 5])
    assert_array_equal(steps.line_.get_xdata(), [1, 2, 5])
    assert steps.scores[0] > steps.scores[-1]
    losses = SecurityCurveDisplay.from_estimator(
        clf, X, y, attack=attack, param_name="loss", param_range=["cross_entropy", "margin"]
    )
    assert [label.get_text() for label in losses.ax_.get_xticklabels()] == ["cross_entropy", "margin"]
    norms = SecurityCurveDisplay.from_estimator(clf, X, y, attack=attack, param_name="norm", param_range=[1, 2, np.inf])
    assert [label.get_text() for label in norms.ax_.get_xticklabels()] == ["1.0", "2.0", "inf"]


def test_other_metrics(iris):
    clf, X, y = iris
    display = SecurityCurveDisplay.from_estimator(
        clf, X, y, attack=FastGradientMethod(), param_range=[0.4], metric="balanced_accuracy", plot_clean_level=True
    )
    X_adv = FastGradientMethod(clf, eps=0.4).transform(X, y)
    assert display.scores[0] == balanced_accuracy_score(y, clf.predict(X_adv))
    assert display.clean_score == balanced_accuracy_score(y, clf.predict(X))
    assert display.ax_.get_ylabel() == "Balanced accuracy under attack"
    assert display.band_ is None
    with pytest.raises(ValueError, match="no chance level"):
        display.plot(plot_chance_level=True)


def test_a_curve_that_rises_is_shown_as_it_is():
    scores = [0.9, 0.2, 0.7]
    display = SecurityCurveDisplay(param_name="eps", param_range=[0.3, 0.1, 0.2], scores=scores).plot()
    assert_array_equal(display.line_.get_xydata(), np.column_stack([[0.3, 0.1, 0.2], scores]))
    assert display.band_ is None
    assert display.ax_.get_legend() is None
    again = display.plot(display.ax_, name="model")
    assert again is display
    assert len(display.ax_.get_lines()) == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"param_name": "epsilon"}, "'epsilon' is no parameter of FastGradientMethod.*eps, eps_max"),
        ({"param_name": "estimator"}, "'estimator' is no parameter"),
        ({"param_range": []}, "at least one value"),
        ({"param_range": 0.1}, "at least one value"),
        ({"param_range": [[0.1, 0.2]]}, "at least one value"),
        ({"param_range": [0.1, -0.1]}, "eps"),
        ({"metric": "accuraci"}, "accuraci"),
    ],
)
def test_bad_arguments(iris, changed, message):
    clf, X, y = iris
    with pytest.raises(ValueError, match=message):
        SecurityCurveDisplay.from_estimator(
            clf, X, y, **{"attack": FastGradientMethod(), "param_range": [0.1], **changed}
        )
    assert matplotlib.pyplot.get_fignums() == []


def test_a_wrong_last_value_wastes_no_time(iris, monkeypatch):
    clf, X, y = iris
    monkeypatch.setattr(FastGradientMethod, "transform", lambda *args: pytest.fail("the first value was attacked"))
    with pytest.raises(ValueError, match="'eps'"):
        SecurityCurveDisplay.from_estimator(clf, X, y, attack=FastGradientMethod(), param_range=[0.1, -0.1])


def test_what_is_no_attack_or_not_fitted(iris):
    clf, X, y = iris
    with pytest.raises(TypeError, match="an instance"):
        SecurityCurveDisplay.from_estimator(clf, X, y, attack=FastGradientMethod, param_range=[0.1])
    with pytest.raises(NotFittedError):
        SecurityCurveDisplay.from_estimator(LogisticRegression(), X, y, attack=FastGradientMethod(), param_range=[0.1])


def test_without_matplotlib_the_error_names_the_extra(iris, monkeypatch):
    clf, X, y = iris
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"from_estimator needs matplotlib.*skart\[plot\]"):
        SecurityCurveDisplay.from_estimator(clf, X, y, attack=FastGradientMethod(), param_range=[0.1])
    with pytest.raises(ImportError, match=r"plot needs matplotlib.*skart\[plot\]"):
        SecurityCurveDisplay(param_name="eps", param_range=[0], scores=[1]).plot()
