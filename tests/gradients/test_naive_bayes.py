"""Naive Bayes: exact, but for the threshold of BernoulliNB, which gradients pass straight."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.naive_bayes import BernoulliNB, CategoricalNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.preprocessing import minmax_scale

from skart.exceptions import GradientUnavailableError
from skart.gradients._naive_bayes import diagonal_quadratics, diagonal_quadratics_by_class
from skart.gradients._registry import numpy_backend
from skart.oracles import as_oracle
from tests.gradients._checks import CANCER, DIGITS, IRIS, check_log_probabilities, name, pulled, standardised

# No sample of the data may fall on a threshold.
UNIT = {"cancer": 0.99 * minmax_scale(CANCER[0]), "digits": 0.99 * DIGITS[0] / 16}
CASES = [("cancer", CANCER[1]), ("digits", DIGITS[1])]


@pytest.mark.parametrize("estimator", [GaussianNB(), GaussianNB(priors=[0.2, 0.5, 0.3])], ids=name)
def test_gaussian(estimator):
    check_log_probabilities(estimator, *standardised(IRIS))


def test_gaussian_of_two_classes():
    check_log_probabilities(GaussianNB(var_smoothing=1e-2), *standardised(CANCER, 8))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gaussian_of_constant_features(dtype):
    # Blank pixels have a variance of 1e-9 of the largest: expanded squares would lose all their digits.
    X, y = DIGITS
    X = (X / 16).astype(dtype)
    model = GaussianNB().fit(X, y)
    forward = numpy_backend(dtype).bind(model).forward
    assert forward.__qualname__.startswith(diagonal_quadratics_by_class.__name__ + ".")
    assert_allclose(
        forward(X)[0], model.predict_joint_log_proba(X), rtol=1e-6, atol=1e-9 if dtype == np.float64 else 1e-3
    )


def test_both_forms_of_the_gaussian_agree():
    rng = np.random.default_rng(0)
    means, precisions, offset = rng.normal(size=(3, 4)), rng.uniform(1, 2, size=(3, 4)), rng.normal(size=3)
    X, cotangent = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
    (a, pull_a), (b, pull_b) = (
        form(means, precisions, offset)(X) for form in (diagonal_quadratics, diagonal_quadratics_by_class)
    )
    assert_allclose(a, b, rtol=1e-12)
    assert_allclose(pull_a(cotangent), pull_b(cotangent), rtol=1e-12)


@pytest.mark.parametrize(
    "estimator",
    [
        MultinomialNB(),
        MultinomialNB(fit_prior=False, alpha=0.1),
        ComplementNB(),
        ComplementNB(norm=True),
        BernoulliNB(binarize=None),
        BernoulliNB(binarize=0.3),
    ],
    ids=name,
)
@pytest.mark.parametrize(("data", "y"), CASES, ids=["2 classes", "10 classes"])
def test_counts(estimator, data, y):
    check_log_probabilities(estimator, UNIT[data], y)


def test_bernoulli_passes_its_threshold_straight():
    X, y = UNIT["digits"], DIGITS[1]
    hard, soft = BernoulliNB(binarize=0.3).fit(X, y), BernoulliNB(binarize=None).fit((X > 0.3).astype(float), y)
    cotangent = np.random.default_rng(0).normal(size=(len(X), 10))
    # As if the features had been handed to it as they are.
    assert_allclose(pulled(hard, X, cotangent)[1], pulled(soft, X, cotangent)[1])
    assert not numpy_backend("float64").bind(hard).continuous
    assert numpy_backend("float64").bind(soft).continuous


def test_categories_are_refused():
    X, y = np.round(3 * UNIT["cancer"][:, :4]), CANCER[1]
    oracle = as_oracle(CategoricalNB().fit(X, y), X)
    assert oracle.access == "scores"
    with pytest.raises(GradientUnavailableError, match="CategoricalNB has no gradient: it sees its input as categ"):
        oracle.vjp(X)
