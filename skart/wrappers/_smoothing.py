"""Randomized smoothing (section 5.4): classification and certification by Gaussian noise."""

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from scipy.special import betaincinv, ndtri
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_consistent_length, check_scalar

from skart._core._arrays import to_numpy
from skart._core._draws import draws_for, handing
from skart._core._random import RandomStream
from skart.gradients._composition import fixed_features
from skart.gradients._members import normalised
from skart.gradients._registry import Bound, numpy_backend, rule, united
from skart.utils._containers import Container
from skart.utils._sklearn_compat import Interval
from skart.utils._validation import check_samples
from skart.wrappers._averaging import chunks, log_mean
from skart.wrappers._base import BaseWrapper, handed_to, host

__all__ = ["Certificate", "RandomizedSmoothing", "certified_accuracy_curve"]


@dataclass(frozen=True)
class Certificate:
    """What a smoothed classifier guarantees of each sample; made by :meth:`RandomizedSmoothing.certify`.

    Attributes
    ----------
    y : ndarray of shape (n_samples,)
        The class that is certified.
    radius : ndarray of float64, shape (n_samples,)
        Euclidean distance, in the units of ``X``, within which the smoothed classifier says ``y``; 0 where it
        abstained.
    abstained : ndarray of bool, shape (n_samples,)
        Whether the votes were too close to say anything.
    """

    y: np.ndarray
    radius: np.ndarray
    abstained: np.ndarray


class RandomizedSmoothing(BaseWrapper):
    """A classifier that asks about noisy versions of a sample and goes with the majority, with a certificate.

    A classifier that is right on most noisy versions of a sample gives one that is certified robust: where the votes
    are clear, no perturbation below a certain Euclidean length changes the majority [1]_.

    Parameters
    ----------
    estimator : estimator
        Classifier to smooth. ``fit`` fits a clone on data with noise of the same kind added; a
        :class:`~sklearn.frozen.FrozenEstimator` stays as it is, and should have been trained on noisy data. A fitted
        one serves without ``fit``.
    sigma : float, default=0.25
        Standard deviation of the noise, in the units of ``X``. More noise gives larger radii and fewer samples that are
        classified rightly.
    n_samples : int, default=100
        Number of noisy versions of each sample. Fewer serve for attacks, which draw new ones in each step.
    alpha : float, default=0.001
        Probability that a certificate is wrong.
    n_selection : int, default=100
        Number of versions, besides, by which ``certify`` chooses the class that it certifies.
    batch_size : int, default=1024
        Versions that go through the estimator together. Attacks keep all versions of a batch of theirs in memory.
    random_state : int, RandomState instance or None, default=None
        Source of the noise, and of random numbers within the estimator. With an integer every call draws the same
        noise for the first sample, the second, and so on. An attack has random numbers of its own, and takes new ones
        in each of its steps.

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier.
    classes_ : ndarray of shape (n_classes,)
        Labels, in the order of the columns of ``predict_proba``.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Names of the features, where the training data had some.

    Notes
    -----
    Votes are a staircase. The logits that gradient attacks see are the logarithm of the mean probabilities over the
    versions [2]_ (the softmax of its scores, for an estimator without probabilities), whose largest may differ from
    ``predict`` on samples where the vote is close.

    Columns that hold no numbers, and codes of categories, get no noise: a certificate is about the others.

    A query is one question to this classifier, and costs ``n_samples`` passes of the estimator.

    References
    ----------
    .. [1] "Certified Adversarial Robustness via Randomized Smoothing", arXiv:1902.02918
    .. [2] "Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers", arXiv:1906.04584

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.wrappers import RandomizedSmoothing
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = RandomizedSmoothing(LogisticRegression(max_iter=500), sigma=0.3, random_state=0).fit(X, y)
    >>> clf.score(X, y) > 0.9
    True
    >>> certificate = clf.certify(X, n_samples=1000)
    >>> bool(certificate.radius[0] > 0.5)
    True
    """

    _parameter_constraints: dict = {
        **BaseWrapper._parameter_constraints,
        "sigma": [Interval(Real, 0, None, closed="neither")],
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "alpha": [Interval(Real, 0, 1, closed="neither")],
        "n_selection": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        estimator,
        *,
        sigma=0.25,
        n_samples=100,
        alpha=0.001,
        n_selection=100,
        batch_size=1024,
        random_state=None,
    ):
        self.estimator = estimator
        self.sigma = sigma
        self.n_samples = n_samples
        self.alpha = alpha
        self.n_selection = n_selection
        self.batch_size = batch_size
        self.random_state = random_state

    def predict(self, X):
        """Class that the estimator predicts for most noisy versions of a sample.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        positions = self.predict_proba(X).argmax(axis=1)
        return self.classes_[positions]

    def predict_proba(self, X):
        """Share of the noisy versions of a sample for which the estimator predicts each class.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
        """
        self._validate_params()
        X, container = self._samples(X)
        return self._votes(X, container, self.n_samples, draws_for(self.random_state, X)) / self.n_samples

    def certify(self, X, *, n_samples=None):
        """Class of each sample, and the radius within which no perturbation changes it.

        The class is the one that ``n_selection`` noisy versions favour. Of its probability under noise a lower
        confidence bound p is found from ``n_samples`` other versions (Clopper and Pearson's, at level
        ``1 - alpha``); the radius is ``sigma`` times the normal quantile of p, if p is above one half.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)
        n_samples : int, default=None
            Number of noisy versions; 1000 and more for radii of use. ``None`` takes the classifier's own.

        Returns
        -------
        certificate : Certificate
            ``y``, ``radius`` and ``abstained``, sample by sample. Each radius is too large with a probability of at
            most ``alpha``.
        """
        self._validate_params()
        n_samples = self.n_samples if n_samples is None else n_samples
        check_scalar(n_samples, "n_samples", Integral, min_val=1)
        X, container = self._samples(X)
        draws = draws_for(self.random_state, X)
        chosen = self._votes(X, container, self.n_selection, draws.child()).argmax(axis=1)
        votes = self._votes(X, container, n_samples, draws.child())[np.arange(len(chosen)), chosen]
        bound = lower_bound(votes, n_samples, self.alpha)
        abstained = ~(bound > 0.5)
        radius = np.where(abstained, 0.0, self.sigma * ndtri(np.where(abstained, 0.5, bound)))
        return Certificate(self.classes_[chosen], radius, abstained)

    def _votes(self, X, container, n_versions, draws):
        """Votes of the estimator for each class, (n_samples, n_classes)."""
        inner, n_classes = self._inner(), len(self.classes_)
        votes = np.zeros((len(X), n_classes), dtype=np.int64)
        held = self._held(inner, X, container)
        added, handed = draws.child(), draws.child()
        for rows, start, stop in chunks(len(X), n_versions, self.batch_size):
            noisy = noise(added.part(rows, start, stop), X.shape[1:], self.sigma, X.dtype, held)
            x = X[rows]
            versions = noisy.reshape(stop - start, *x.shape)
            versions += x
            with handing(handed.part(rows, start, stop)):
                labels = inner.predict(handed_to(inner, noisy, container))
            of_sample = np.tile(np.arange(rows.start, rows.stop), stop - start)
            votes += np.bincount(of_sample * n_classes + self._positions(labels), minlength=votes.size).reshape(
                votes.shape
            )
        return votes

    def _held(self, inner, X, container):
        """Features that get no noise, or None."""
        held = container.held
        if X.ndim == 2:
            held = united(held, fixed_features(inner, numpy_backend(X.dtype, container.of_frame)))
        return None if held is None else np.broadcast_to(held, X.shape[1:])

    def _fit(self, X, y):
        estimator = clone(self.estimator)
        if isinstance(estimator, FrozenEstimator):
            self.estimator_ = estimator.fit(X, y)
            return
        container = Container(X)
        numbers = host(container.numbers(X))
        numbers = to_numpy(check_samples(numbers, owner=type(self).__name__))
        rng = RandomStream(self.random_state).generator(0)
        noisy = numbers + self.sigma * rng.standard_normal(numbers.shape).astype(numbers.dtype)
        if container.is_frame:
            noisy = np.where(container.held, numbers, noisy)
            noisy = container.data_frame(noisy, container.index)
        self.estimator_ = estimator.fit(noisy, y)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.non_deterministic = True
        return tags


@rule("skart.wrappers.RandomizedSmoothing", frames=True, gradient="of its parts")
def smoothed(model, backend):
    bound = backend.bind(model._inner(), where="estimator")
    log_proba = normalised(bound.margins or bound.forward)
    held = united(bound.fixed, None if backend.container is None else backend.container.held)

    def forward(X):
        shape = tuple(X.shape[1:])
        dtype = np.float32 if str(X.dtype).endswith("float32") else np.float64
        still = None if held is None else np.broadcast_to(held, shape)
        draws = draws_for(model.random_state, X)
        added, handed = draws.child(), draws.child()

        def versions():
            for k in range(model.n_samples):
                part = added.part(slice(None), k, k + 1)
                yield X + backend.asarray(noise(part, shape, model.sigma, dtype, still)), same

        def same(cotangent):
            return cotangent

        return log_mean(log_proba, versions(), model.n_samples, model.batch_size, handed)

    return Bound(
        forward,
        probabilistic=False,
        continuous=bound.continuous,
        follows_predict=True,
        surrogate=True,
        contexts=bound.contexts,
        fixed=held if bound.fixed is None else bound.fixed,
        random=True,
        in_process=bound.in_process,
    )


def noise(draws, shape, sigma, dtype, held=None):
    """Gaussian noise for samples of ``shape``; single precision is finer than any noise needs to be."""
    values = draws.normal(shape, np.float32, scale=sigma).astype(dtype, copy=False)
    if held is not None:
        values[:, held] = 0
    return values


def lower_bound(votes, n_votes, alpha):
    """Clopper and Pearson's lower bound of a probability, at level ``1 - alpha``."""
    votes = np.asarray(votes, dtype=np.float64)
    return np.where(votes > 0, betaincinv(np.maximum(votes, 1), n_votes - np.maximum(votes, 1) + 1, alpha), 0.0)


def certified_accuracy_curve(y_true, certificate, *, radii=None):
    """Share of samples that are certified to be classified rightly, against the radius.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels.
    certificate : Certificate
        What :meth:`RandomizedSmoothing.certify` says of the samples.
    radii : array-like of shape (n_radii,), default=None
        Radii, in the units of ``X``. ``None`` takes 0 and every radius at which the curve falls.

    Returns
    -------
    radii : ndarray of shape (n_radii,)
    accuracy : ndarray of shape (n_radii,)
        Share of the samples of which the right class is certified with this radius or a larger one.

    Examples
    --------
    >>> import numpy as np
    >>> from skart.wrappers import Certificate, certified_accuracy_curve
    >>> certificate = Certificate(np.array([0, 1, 1]), np.array([0.5, 0.2, 0.0]), np.array([False, False, True]))
    >>> radii, accuracy = certified_accuracy_curve([0, 1, 1], certificate)
    >>> radii.tolist(), accuracy.round(2).tolist()
    ([0.0, 0.2, 0.5], [0.67, 0.67, 0.33])
    """
    y_true = np.asarray(to_numpy(y_true))
    check_consistent_length(y_true, certificate.y)
    right = (y_true == certificate.y) & ~certificate.abstained
    reached = np.sort(certificate.radius[right])
    radii = np.unique(np.concatenate([[0.0], reached])) if radii is None else np.asarray(radii, dtype=np.float64)
    beyond = len(reached) - np.searchsorted(reached, radii, side="left")
    return radii, beyond / len(y_true)
