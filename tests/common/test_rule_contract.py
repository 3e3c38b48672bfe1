"""Contract 2, on every rule in the registry: it agrees with central differences, and with the estimator's own output.

The tests of the rules themselves go through their parameters; this one makes sure that no rule joins without a test.
"""

import importlib

import pytest
from sklearn.datasets import load_iris
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, minmax_scale

from skart.gradients._registry import _rules
from skart.utils import check_rule
from tests.common._discovery import INSTANCES, instances, public_estimators

public_estimators()  # imports the packages, whose own rules join the registry
RULES = sorted(path for path, entry in _rules.items() if entry.rule is not None)
CLF = LogisticRegression()

# Instances of classes that need arguments, beside those of skart's own estimators.
TABLE = {
    **INSTANCES,
    "BaggingClassifier": lambda cls: [cls(CLF)],
    "ColumnTransformer": lambda cls: [cls([("scaled", StandardScaler(), [0, 2])], remainder="passthrough")],
    "FeatureUnion": lambda cls: [cls([("scaled", StandardScaler()), ("same", "passthrough")])],
    "FrozenEstimator": lambda cls: [cls(CLF)],
    "GridSearchCV": lambda cls: [cls(CLF, {"C": [1.0]})],
    "HalvingGridSearchCV": lambda cls: [cls(CLF, {"C": [1.0]})],
    "HalvingRandomSearchCV": lambda cls: [cls(CLF, {"C": [0.5, 1.0]})],
    "GaussianRandomProjection": lambda cls: [cls(3)],
    "KerasClassifier": lambda cls: [],  # Keras' wrappers, too: on each backend
    "KBinsDiscretizer": lambda cls: [cls(encode="onehot-dense")],
    "NeuralNetBinaryClassifier": lambda cls: [],  # bare nets have tests of their own, for each convention of outputs
    "NeuralNetClassifier": lambda cls: [],
    "Nystroem": lambda cls: [cls(n_components=10)],
    "OneVsOneClassifier": lambda cls: [cls(CLF)],
    "OneVsRestClassifier": lambda cls: [cls(CLF)],
    "OutputCodeClassifier": lambda cls: [cls(CLF)],
    "Pipeline": lambda cls: [make_pipeline(StandardScaler(), CLF)],
    "RFE": lambda cls: [cls(CLF)],
    "RFECV": lambda cls: [cls(CLF)],
    "RandomizedSearchCV": lambda cls: [cls(CLF, {"C": [0.5, 1.0]}, n_iter=1)],
    "SKLearnClassifier": lambda cls: [],
    "SelectFromModel": lambda cls: [cls(CLF)],
    "SequentialFeatureSelector": lambda cls: [cls(CLF)],
    "SparseRandomProjection": lambda cls: [cls(3)],
    "StackingClassifier": lambda cls: [cls([("one", CLF), ("two", LogisticRegression(C=0.1))])],
    "VotingClassifier": lambda cls: [cls([("one", CLF), ("two", LogisticRegression(C=0.1))], voting="soft")],
}


@pytest.mark.parametrize("path", RULES)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.filterwarnings("ignore")
def test_every_rule(path, n_classes):
    module, _, name = path.rpartition(".")
    pytest.importorskip(module.partition(".")[0])
    cls = getattr(importlib.import_module(module), name, None)
    if cls is None:
        pytest.skip(f"this release has no {name}")
    X, y = load_iris(return_X_y=True)
    X = minmax_scale(X, (0.05, 0.95))[y < n_classes]
    y = y[y < n_classes]
    CLF.fit(X, y)
    for estimator in instances(cls, TABLE):
        if "random_state" in estimator.get_params():
            estimator.set_params(random_state=0)
        # A net trains in float32.
        check_rule(estimator.fit(X, y), X, rtol=1e-2 if name == "SkorchClassifier" else 1e-6)
