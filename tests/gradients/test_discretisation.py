"""Steps that make numbers discrete: gradients pass straight."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, KBinsDiscretizer

from skart.gradients._registry import numpy_backend
from skart.oracles import as_oracle
from skart.utils import check_rule
from tests.gradients._checks import IRIS, check_step, name, pulled, standardised

X, y = standardised(IRIS)
X = X + 1e-6 * np.random.default_rng(0).normal(size=X.shape)  # off the edges


@pytest.mark.parametrize(
    "step",
    [
        Binarizer(threshold=0.3),
        KBinsDiscretizer(4, encode="ordinal", strategy="uniform"),
        KBinsDiscretizer(4, encode="onehot-dense", strategy="uniform"),
        KBinsDiscretizer([3, 5, 2, 4], encode="ordinal", strategy="quantile"),
        KBinsDiscretizer([3, 5, 2, 4], encode="onehot-dense", strategy="kmeans"),
    ],
    ids=name,
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_outputs(step):
    step = check_step(step, X, y)
    assert not numpy_backend("float64").bind(step).continuous
    assert_allclose(pulled(step, X)[0], step.transform(X))


def test_sparse_codes_in_a_pipeline():
    model = make_pipeline(KBinsDiscretizer([3, 5, 2, 4], strategy="uniform"), LogisticRegression()).fit(X, y)
    check_rule(model, X)
    assert_allclose(as_oracle(model, X).proba(X), model.predict_proba(X))


def test_binarizer_passes_the_identity():
    cotangent = np.random.default_rng(0).normal(size=X.shape)
    assert_allclose(pulled(Binarizer().fit(X), X, cotangent)[1], cotangent)


def test_binarizer_at_its_threshold():
    data = np.array([[0.2, 0.3, 0.4]])
    step = Binarizer(threshold=0.3).fit(data)
    assert_allclose(pulled(step, data)[0], step.transform(data))


def test_bins_pass_the_line_through_their_centres():
    step = KBinsDiscretizer(3, encode="ordinal", strategy="uniform").fit([[0.0], [1.0]])
    step.bin_edges_[0] = np.array([0.0, 1.0, 3.0, 4.0])  # centres 0.5, 2, 3.5
    inputs = np.array([[-5.0], [0.2], [0.7], [1.9], [2.1], [3.9], [9.0]])
    output, grad = pulled(step, inputs)
    assert_allclose(output[:, 0], [0, 0, 0, 1, 1, 2, 2])
    assert_allclose(grad, 1 / 1.5)
    # A code of 0 and 1 moves from the one bin to the other.
    step.encode = "onehot-dense"
    cotangent = np.tile([1.0, 10.0, 100.0], (7, 1))
    assert_allclose(pulled(step, inputs, cotangent)[1][:, 0], np.array([9, 9, 9, 9, 90, 90, 90]) / 1.5)


def test_codes_agree():
    # The number of a bin is the product of its code with 0, 1, 2, ...
    n_bins = [3, 5, 2, 4]
    ordinal = KBinsDiscretizer(n_bins, encode="ordinal", strategy="uniform").fit(X)
    coded = KBinsDiscretizer(n_bins, encode="onehot", strategy="uniform").fit(X)
    cotangent = np.random.default_rng(0).normal(size=X.shape)
    numbers = np.concatenate([cotangent[:, [j]] * np.arange(n) for j, n in enumerate(n_bins)], axis=1)
    assert_allclose(pulled(ordinal, X, cotangent)[1], pulled(coded, X, numbers)[1])


@pytest.mark.parametrize("encode", ["ordinal", "onehot-dense"])
@pytest.mark.filterwarnings("ignore:Feature:UserWarning")
def test_a_constant_feature_has_no_gradient(encode):
    data = np.column_stack([np.ones(9), np.arange(9.0)])
    step = KBinsDiscretizer(3, encode=encode, strategy="uniform").fit(data)
    cotangent = np.arange(1.0, 3.0) if encode == "ordinal" else np.arange(1.0, 5.0)
    output, grad = pulled(step, data, np.tile(cotangent, (9, 1)))
    assert_allclose(output, step.transform(data))
    assert_allclose(grad[:, 0], 0)
    assert (grad[:, 1] > 0).all()
    only = KBinsDiscretizer(2, encode=encode, strategy="uniform").fit(data[:, :1])
    output, grad = pulled(only, data[:, :1])
    assert_allclose(output, only.transform(data[:, :1]))
    assert_allclose(grad, 0)


def test_edges_of_other_precision():
    # 0.7 lies above the nearest number in float32, and a sample of that value below the edge.
    step = KBinsDiscretizer(2, encode="ordinal", strategy="uniform").fit([[0.0], [1.4]])
    edge = step.bin_edges_[0][1]
    near = np.array([[np.float32(edge)], [np.nextafter(np.float32(edge), np.float32(0))]], dtype=np.float32)
    near = np.concatenate([near, np.nextafter(near[:1], np.float32(1))])
    output, _ = numpy_backend("float32").bind(step).forward(near)
    assert_allclose(output, step.transform(near))
