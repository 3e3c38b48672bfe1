"""What the tests of single rules have in common."""

import warnings

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skart._core._objectives import log_softmax
from skart.gradients._registry import numpy_backend
from skart.oracles import as_oracle
from skart.utils import check_rule

IRIS = load_iris(return_X_y=True)
CANCER = load_breast_cancer(return_X_y=True)
DIGITS = load_digits(return_X_y=True)


def standardised(data, n_features=None):
    X, y = data
    return StandardScaler().fit_transform(X[:, :n_features]), y


def name(value):
    """Test ids that tell the parameters."""
    return " ".join(repr(value).split()) if hasattr(value, "fit") or hasattr(value, "theta") else None


def check_log_probabilities(estimator, X, y):
    """The rule of a classifier whose logits are log-probabilities that `predict` follows; returns it fitted."""
    model = clone(estimator).fit(X, y)
    check_rule(model, X)
    logits = as_oracle(model, X).logits(X)
    assert_allclose(np.exp(log_softmax(logits)), model.predict_proba(X), atol=1e-6)
    assert_array_equal(model.classes_[logits.argmax(axis=1)], model.predict(X))
    single = as_oracle(model, X.astype(np.float32)).logits(X.astype(np.float32))
    assert single.dtype == np.float32
    assert_allclose(np.exp(log_softmax(single)), model.predict_proba(X), atol=5e-3)
    return model


def check_step(step, X, y, *, within_pipeline=True):
    """The rule of a transformer, alone and in front of a classifier; returns it fitted."""
    step = clone(step).fit(X, y)
    check_rule(step, X)
    bound = numpy_backend("float32").bind(step)
    output = (bound.transform or bound.forward)(X.astype(np.float32))[0]
    assert output.dtype == np.float32
    if within_pipeline:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = make_pipeline(clone(step), LogisticRegression()).fit(X, y)
        check_rule(model, X)
        assert_allclose(np.exp(log_softmax(as_oracle(model, X).logits(X))), model.predict_proba(X), atol=1e-6)
    return step


def pulled(estimator, X, cotangent=None):
    """Output and pullback in float64; the cotangent is one everywhere unless given."""
    bound = numpy_backend("float64").bind(estimator)
    output, pullback = (bound.transform or bound.forward)(X)
    return output, pullback(np.ones_like(output) if cotangent is None else cotangent)
