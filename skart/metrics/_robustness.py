"""How a model holds up: robust accuracy, empirical robustness, loss sensitivity (section 10)."""

import warnings

import numpy as np
from sklearn.utils.validation import check_consistent_length, column_or_1d

from skart._core._arrays import to_numpy
from skart._core._balls import norm_of
from skart.attacks._base import bind_attack
from skart.oracles._functions import loss_gradient
from skart.utils._containers import Container

__all__ = ["empirical_robustness", "loss_sensitivity", "minimal_distances", "robust_accuracy_score"]


def robust_accuracy_score(estimator, X, y, *, attack, per_sample=False):
    """Share of samples that the model still classifies correctly under attack.

    A sample counts if the model is right about it as it is and after the attack.

    Parameters
    ----------
    estimator : estimator
        Fitted classifier.
    X : array-like, tensor or data frame of shape (n_samples, ...)
        Clean samples.
    y : array-like of shape (n_samples,)
        True labels.
    attack : attack
        One of skart's attacks. With ``attack.estimator=None`` a copy is aimed at ``estimator``; one with an estimator
        of its own stays aimed there, and its samples transfer.
    per_sample : bool, default=False
        Return whether each sample was withstood.

    Returns
    -------
    score : float, or ndarray of bool of shape (n_samples,)

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.attacks import FastGradientMethod
    >>> from skart.metrics import robust_accuracy_score
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=200).fit(X, y)
    >>> bool(robust_accuracy_score(clf, X, y, attack=FastGradientMethod(eps=0.5)) < clf.score(X, y))
    True
    """
    check_consistent_length(X, y)
    check_labels_serve(attack)
    y = column_or_1d(to_numpy(y))
    clean = _predict(estimator, X) == y
    X_adv = bind_attack(attack, estimator).transform(X, y)
    withstood = clean & (_predict(estimator, X_adv) == y)
    return withstood if per_sample else float(withstood.mean())


def minimal_distances(estimator, X, y=None, *, attack):
    """Distance at which the attack succeeds on each sample; infinite where it fails, zero where no attack is needed.

    Parameters
    ----------
    estimator : estimator
        Fitted classifier.
    X : array-like, tensor or data frame of shape (n_samples, ...)
        Clean samples.
    y : array-like of shape (n_samples,), default=None
        True labels: samples that the model gets wrong have distance zero. ``None`` takes its predictions. With
        ``target="given"``, the target of each sample.
    attack : attack
        Preferably one that looks for small perturbations, for example
        ``FastGradientMethod(minimal=True)``; another gives upper bounds. With ``attack.estimator=None`` a copy is
        aimed at ``estimator``; the samples of one with an estimator of its own succeed if they deceive ``estimator``.

    Returns
    -------
    distances : ndarray of float64, shape (n_samples,)

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.attacks import FastGradientMethod
    >>> from skart.metrics import minimal_distances
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=200).fit(X, y)
    >>> attack = FastGradientMethod(minimal=True, eps_max=3.0)
    >>> minimal_distances(clf, X, y, attack=attack).shape
    (150,)
    """
    untargeted = getattr(attack, "target", None) is None
    clean = _predict(estimator, X) if untargeted else None
    y = clean if y is None else column_or_1d(to_numpy(y))
    result, success = _run(attack, estimator, X, y)
    distances = np.where(success, result.distance, np.inf)
    if untargeted:
        distances[clean != y] = 0.0
    return distances


def empirical_robustness(estimator, X, *, attack, per_sample=False):
    """Average relative perturbation that the attack needs, over the samples on which it succeeds.

    This is the formula of [1]_, section 10.1: the mean of ``||x_adv - x|| / ||x||`` in the attack's norm, where the
    model's prediction is the label to leave; columns of a frame that are not numeric do not count. It leaves out
    failures, so a model on which the attack hardly succeeds can look bad; to compare models use
    :func:`~skart.metrics.minimal_distances` or the scorer ``make_robustness_scorer(attack, metric="median_distance")``.

    Parameters
    ----------
    estimator : estimator
        Fitted classifier.
    X : array-like, tensor or data frame of shape (n_samples, ...)
        Clean samples.
    attack : attack
        One of skart's attacks, untargeted; the paper takes one that looks for small perturbations. With
        ``attack.estimator=None`` a copy is aimed at ``estimator``; the samples of one with an estimator of its own
        succeed if they deceive ``estimator``.
    per_sample : bool, default=False
        Return the relative perturbation of each sample, NaN where the attack failed.

    Returns
    -------
    robustness : float, or ndarray of float64 of shape (n_samples,)
        NaN, with a warning, where the attack succeeds on no sample.

    References
    ----------
    .. [1] "Adversarial Robustness Toolbox v1.0.0", arXiv:1807.01069

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.attacks import FastGradientMethod
    >>> from skart.metrics import empirical_robustness
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=200).fit(X, y)
    >>> attack = FastGradientMethod(norm=2, minimal=True, eps_max=5.0)
    >>> bool(0 < empirical_robustness(clf, X, attack=attack) < 1)
    True
    """
    if getattr(attack, "target", None) is not None:
        raise ValueError("empirical_robustness is defined for untargeted attacks; give one with target=None.")
    result, success = _run(attack, estimator, X, _predict(estimator, X))
    container = Container(X)
    host = container.numbers(X).to_numpy()[:, ~container.held] if container.is_frame else to_numpy(X)
    size = norm_of(np.asarray(host, dtype=np.float64), getattr(attack, "norm", 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(success, result.distance / size, np.nan)
    if per_sample:
        return relative
    if not success.any():
        warnings.warn(
            f"{type(attack).__name__} succeeded on none of {len(relative)} samples, so the empirical robustness is "
            "not defined. Raise eps or the number of steps, or take `minimal_distances`, where failures are infinite.",
            RuntimeWarning,
            stacklevel=2,
        )
        return float("nan")
    return float(np.nanmean(relative))


def loss_sensitivity(estimator, X, y, *, per_sample=False, batch_size=256):
    """Average Euclidean norm of the gradient of the loss by the samples.

    A local estimate of the model's Lipschitz constant, [1]_, section 10.2: the smaller, the smoother. It needs no
    attack, and it depends on the scale of the logits: compare models of one family.

    Parameters
    ----------
    estimator : estimator
        Fitted classifier for which a gradient rule is registered.
    X : array-like, tensor or data frame of shape (n_samples, ...)
        Samples.
    y : array-like of shape (n_samples,)
        Labels.
    per_sample : bool, default=False
        Return the norm for each sample.
    batch_size : int, default=256
        Samples that are sent through the model together.

    Returns
    -------
    sensitivity : float, or ndarray of float64 of shape (n_samples,)

    References
    ----------
    .. [1] "Adversarial Robustness Toolbox v1.0.0", arXiv:1807.01069

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.metrics import loss_sensitivity
    >>> X, y = load_iris(return_X_y=True)
    >>> weak = LogisticRegression(C=100.0, max_iter=1000).fit(X, y)
    >>> smooth = LogisticRegression(C=0.1, max_iter=1000).fit(X, y)
    >>> bool(loss_sensitivity(weak, X, y) > loss_sensitivity(smooth, X, y))
    True
    """
    grad = to_numpy(loss_gradient(estimator, X, y, batch_size=batch_size)).astype(np.float64)
    values = norm_of(grad, 2)
    return values if per_sample else float(values.mean())


def check_labels_serve(attack):
    """Raise for an attack that reads ``y`` as targets, where ``y`` are the true labels."""
    if isinstance(getattr(attack, "target", None), str) and attack.target == "given":
        raise ValueError(
            "a score has the true labels as y, and an attack with target='given' would take them for targets; use a "
            "class label, 'least_likely', 'runner_up', 'random' or None."
        )


def _predict(estimator, X):
    return np.asarray(to_numpy(estimator.predict(X)))


def _run(attack, estimator, X, y):
    """The attack's result, and whether each of its samples deceives ``estimator``."""
    aimed = bind_attack(attack, estimator)
    result = aimed.run(X, y)
    if attack.estimator is None:
        return result, result.success
    # The attack judged its samples by the model that it is aimed at; here it is another one that counts.
    hit = _predict(estimator, result.X_adv) == result.y
    return result, ~hit if getattr(aimed, "target", None) is None else hit
