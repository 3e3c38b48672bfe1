"""Robustness as a scorer: ``(estimator, X, y) -> float``, greater is better."""

import numpy as np
from sklearn.metrics import get_scorer

from skart._core._arrays import to_numpy
from skart.attacks._base import BaseAttack, bind_attack
from skart.metrics._robustness import check_labels_serve, loss_sensitivity, minimal_distances, robust_accuracy_score

__all__ = ["make_robustness_scorer", "neg_loss_sensitivity"]


class _RobustnessScorer:
    """A picklable scorer; made by :func:`make_robustness_scorer`."""

    def __init__(self, attack, metric, max_distance):
        self.attack = attack
        self.metric = metric
        self.max_distance = max_distance

    def __call__(self, estimator, X, y):
        if self.metric == "accuracy":
            return robust_accuracy_score(estimator, X, y, attack=self.attack)
        if self.metric == "median_distance":
            distances = minimal_distances(estimator, X, y, attack=self.attack)
            return float(np.median(np.minimum(distances, self.max_distance)))
        X_adv = bind_attack(self.attack, estimator).transform(X, to_numpy(y))
        return clean_scorer(self.metric)(estimator, X_adv, y)

    def __repr__(self):
        return f"make_robustness_scorer({self.attack!r}, metric={self.metric!r}, max_distance={self.max_distance!r})"


def make_robustness_scorer(attack, metric="accuracy", *, max_distance=np.inf):
    """Make a scorer that attacks the model it is to score.

    Parameters
    ----------
    attack : attack
        One of skart's attacks. With ``attack.estimator=None`` the model being scored is attacked, through the whole of
        its Pipeline; an attack with an estimator of its own stays aimed there, and its samples transfer. An attack
        that learns (``clip_values="fit"``) must be fitted beforehand: nothing is learnt from the data being scored.
    metric : {"accuracy", "median_distance"}, name of a scikit-learn scorer, or callable, default="accuracy"
        ``"accuracy"``: share of samples that are classified correctly as they are and under attack.
        ``"median_distance"``: the median of the distances at which the attack succeeds, failures counted as infinite
        and misclassified samples as zero; the form of empirical robustness by which models can be ranked. Any other
        scorer, ``"balanced_accuracy"`` say, is applied to the adversarial samples.
    max_distance : float, default=np.inf
        Ceiling of the distances for ``"median_distance"``, which keeps averages over folds finite.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y) -> float``, greater is better; it can be pickled.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from skart.attacks import FastGradientMethod
    >>> from skart.metrics import make_robustness_scorer
    >>> X, y = load_iris(return_X_y=True)
    >>> scorer = make_robustness_scorer(FastGradientMethod(eps=0.5))
    >>> cross_val_score(LogisticRegression(max_iter=200), X, y, scoring=scorer).shape
    (5,)
    """
    if not isinstance(attack, BaseAttack):
        raise TypeError(f"attack must be one of skart's attacks, an instance; got {attack!r}.")
    check_labels_serve(attack)
    if isinstance(metric, str):
        if metric not in ("accuracy", "median_distance"):
            get_scorer(metric)  # raises for an unknown name, and lists the known ones
    elif not callable(metric):
        raise TypeError(f"metric must be a scorer's name or a callable (estimator, X, y) -> float; got {metric!r}.")
    if not max_distance > 0:
        raise ValueError(f"max_distance must be positive; got {max_distance!r}.")
    return _RobustnessScorer(attack, metric, max_distance)


def clean_scorer(metric):
    """The scorer itself, whether given or named."""
    return get_scorer(metric) if isinstance(metric, str) else metric


def neg_loss_sensitivity(estimator, X, y):
    """Minus the loss sensitivity: a scorer, greater is better.

    Parameters
    ----------
    estimator : estimator
        Fitted classifier for which a gradient rule is registered.
    X : array-like, tensor or data frame of shape (n_samples, ...)
        Samples.
    y : array-like of shape (n_samples,)
        Labels.

    Returns
    -------
    score : float

    See Also
    --------
    loss_sensitivity : The value itself, and per sample.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from skart.metrics import neg_loss_sensitivity
    >>> X, y = load_iris(return_X_y=True)
    >>> bool((cross_val_score(LogisticRegression(max_iter=200), X, y, scoring=neg_loss_sensitivity) < 0).all())
    True
    """
    return -loss_sensitivity(estimator, X, y)
