"""Families without a gradient, and why."""

from skart.gradients._registry import no_gradient

__all__ = []

_TREES = "its trees are step functions of the input, with a derivative of zero almost everywhere"

no_gradient(
    "sklearn.tree.DecisionTreeClassifier",
    "sklearn.tree.ExtraTreeClassifier",
    why=_TREES.replace("trees are step functions", "tree is a step function"),
)
no_gradient(
    "catboost.CatBoostClassifier",
    "lightgbm.LGBMClassifier",
    "sklearn.ensemble.ExtraTreesClassifier",
    "sklearn.ensemble.GradientBoostingClassifier",
    "sklearn.ensemble.HistGradientBoostingClassifier",
    "sklearn.ensemble.RandomForestClassifier",
    "sklearn.ensemble.RandomTreesEmbedding",
    "xgboost.XGBClassifier",
    "xgboost.XGBRFClassifier",
    why=_TREES,
)
no_gradient(
    "sklearn.ensemble.AdaBoostClassifier",
    why="its members (SAMME) vote by their labels, which are step functions of the input whatever the members are",
)
no_gradient(
    "sklearn.multioutput.ClassifierChain",
    "sklearn.multioutput.MultiOutputClassifier",
    why="it gives several labels a sample, and skart attacks one; attack its `estimators_` one by one",
)
no_gradient("sklearn.naive_bayes.CategoricalNB", why="it sees its input as categories only")
no_gradient("sklearn.dummy.DummyClassifier", why="its answer does not depend on the input")
