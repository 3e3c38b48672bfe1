import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binomtest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from skart.inspection import CertifiedAccuracyDisplay
from skart.wrappers import Certificate, RandomizedSmoothing, certified_accuracy_curve

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
pyplot = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _figures():
    yield
    pyplot.close("all")


CERTIFICATE = Certificate(
    np.array(["a", "b", "b", "a"]), np.array([0.5, 0.2, 0.9, 0.0]), np.array([False, False, False, True])
)
TRUE = ["a", "b", "a", "a"]


def test_the_curve_counts_right_certificates_of_at_least_the_radius():
    radii, accuracy = certified_accuracy_curve(TRUE, CERTIFICATE)
    assert_array_equal(radii, [0, 0.2, 0.5])
    assert_array_equal(accuracy, [0.5, 0.5, 0.25])  # the third is wrong, of the fourth nothing is said
    given, shares = certified_accuracy_curve(TRUE, CERTIFICATE, radii=[0.1, 0.3, 0.6])
    assert_array_equal(given, [0.1, 0.3, 0.6])
    assert_array_equal(shares, [0.5, 0.25, 0])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        certified_accuracy_curve(TRUE[:2], CERTIFICATE)


def test_the_display_draws_the_curve():
    display = CertifiedAccuracyDisplay.from_predictions(TRUE, CERTIFICATE, name="ours")
    # Between two radii the accuracy is that of the next one.
    assert display.line_.get_drawstyle() == "steps-pre"
    assert_array_equal(display.line_.get_xydata(), [[0, 0.5], [0.2, 0.5], [0.5, 0.25], [0.5, 0]])
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["ours"]
    assert display.ax_.get_ylabel() == "Certified accuracy"
    low = display.band_.get_paths()[0].get_extents().ymin
    assert_allclose(low, binomtest(1, 4).proportion_ci(method="wilson").low, atol=1e-9)
    assert display.plot(plot_band=False).band_ is None


def test_from_an_estimator():
    X, y = load_iris(return_X_y=True)
    clf = RandomizedSmoothing(LogisticRegression(max_iter=500), sigma=0.5, random_state=0).fit(X, y)
    _, ax = pyplot.subplots()
    display = CertifiedAccuracyDisplay.from_estimator(clf, X, y, n_samples=300, ax=ax, line_kw={"color": "k"})
    radii, accuracy = certified_accuracy_curve(y, clf.certify(X, n_samples=300))
    assert_array_equal(display.radii, radii)
    assert_array_equal(display.accuracy, accuracy)
    assert display.ax_ is ax
    assert display.line_.get_color() == "k"
    assert display.name == "RandomizedSmoothing (sigma=0.5)"
    with pytest.raises(TypeError, match="LogisticRegression does not certify"):
        CertifiedAccuracyDisplay.from_estimator(clf.estimator_, X, y)
