"""Quadratic discriminant analysis: exact."""

import inspect

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

from skart.oracles import as_oracle
from tests.gradients._checks import CANCER, IRIS, check_log_probabilities, name, pulled, standardised

ESTIMATORS = [
    QuadraticDiscriminantAnalysis(),
    QuadraticDiscriminantAnalysis(reg_param=0.3),
    QuadraticDiscriminantAnalysis(store_covariance=True),
]
if "solver" in inspect.signature(QuadraticDiscriminantAnalysis).parameters:  # since scikit-learn 1.8
    ESTIMATORS += [
        QuadraticDiscriminantAnalysis(solver="eigen"),
        QuadraticDiscriminantAnalysis(solver="eigen", shrinkage=0.2),
        QuadraticDiscriminantAnalysis(solver="eigen", shrinkage="auto"),
    ]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name)
@pytest.mark.parametrize(
    "data",
    [(standardised(CANCER)[0][:, [1, 4, 5, 8, 9]], CANCER[1]), standardised(IRIS)],
    ids=["2 classes", "3 classes"],
)
def test_solvers(estimator, data):
    X, y = data
    model = check_log_probabilities(estimator, X, y)
    logits = as_oracle(model, X).logits(X)
    if len(model.classes_) > 2:
        assert_allclose(logits, model.decision_function(X), atol=1e-9)
    else:
        assert_allclose(logits[:, 1] - logits[:, 0], model.decision_function(X), atol=1e-9)


def test_priors():
    check_log_probabilities(QuadraticDiscriminantAnalysis(priors=[0.7, 0.2, 0.1]), *standardised(IRIS))


def test_against_the_definition():
    X, y = standardised(IRIS)
    model = QuadraticDiscriminantAnalysis(store_covariance=True).fit(X, y)
    for k, (mean, covariance) in enumerate(zip(model.means_, model.covariance_)):
        cotangent = np.zeros((len(X), 3))
        cotangent[:, k] = 1
        assert_allclose(pulled(model, X, cotangent)[1], (mean - X) @ np.linalg.inv(covariance), rtol=1e-8, atol=1e-8)
