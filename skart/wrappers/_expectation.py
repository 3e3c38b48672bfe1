"""Expectation over transformations (section 5.2)."""

import copy
from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator

from skart._core._arrays import to_numpy
from skart._core._draws import draws_for, handing
from skart._core._random import RandomStream
from skart.exceptions import GradientUnavailableError
from skart.gradients._members import log_probabilities
from skart.gradients._registry import Bound, rule
from skart.utils._sklearn_compat import HasMethods, Interval
from skart.wrappers._averaging import log_mean
from skart.wrappers._base import BaseWrapper

__all__ = ["ExpectationOverTransformations"]


class ExpectationOverTransformations(BaseWrapper):
    """A classifier whose answers are averages over random transformations of its input.

    Probabilities are the mean of those that ``estimator`` gives for ``n_samples`` versions of a sample, each of which
    ``transformer`` makes with other random numbers, and gradients are those of that mean [1]_. An attack on it finds
    samples that survive the transformation: a random defence in front of the model, or what happens to an image on its
    way through a camera.

    Parameters
    ----------
    estimator : estimator
        Classifier. ``fit`` fits a clone; a :class:`~sklearn.frozen.FrozenEstimator` stays as it is. A fitted one
        serves without ``fit``, if the transformer is fitted, too.
    transformer : transformer
        What makes versions of the samples: :class:`RandomAffine`, a random defence, or any other transformer that
        draws from its ``random_state`` (or afresh in each call). A Pipeline of several is one, too. Gradients need a
        rule for it (:func:`skart.register_rule`).
    n_samples : int, default=16
        Number of versions of each sample.
    batch_size : int, default=1024
        Versions that go through the estimator together, or more if there are more samples: attacks keep all versions
        of a batch of theirs in memory at once.
    random_state : int, RandomState instance or None, default=None
        Source of random numbers within transformer and estimator, whatever ``random_state`` these have themselves.
        With an integer every call draws the same ones for the first sample, the second, and so on. An attack has
        random numbers of its own, and takes new ones in each of its steps.

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier.
    transformer_ : transformer
        The fitted transformer.
    classes_ : ndarray of shape (n_classes,)
        Labels, in the order of the columns of ``predict_proba``.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Names of the features, where the training data had some.

    Notes
    -----
    The logits that attacks see are the logarithm of the mean probabilities. An estimator without ``predict_proba``
    counts with one vote for each version, and has no gradient here.

    A query is one question to this classifier, and costs ``n_samples`` passes of the estimator.

    References
    ----------
    .. [1] "Synthesizing Robust Adversarial Examples", arXiv:1707.07397

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.attacks import ProjectedGradientDescent
    >>> from skart.wrappers import ExpectationOverTransformations, RandomAffine
    >>> X, y = load_digits(return_X_y=True)
    >>> turned = RandomAffine(rotation=20, image_shape=(8, 8))
    >>> clf = ExpectationOverTransformations(LogisticRegression(max_iter=500), turned, n_samples=8, random_state=0)
    >>> clf = clf.fit(X[:500] / 16, y[:500])
    >>> attack = ProjectedGradientDescent(clf, eps=0.2, max_iter=10, random_state=0)
    >>> X_adv = attack.transform(X[500:520] / 16, y[500:520])
    >>> bool(clf.score(X_adv, y[500:520]) < 0.3 < 0.7 < clf.score(X[500:520] / 16, y[500:520]))
    True
    """

    _parameter_constraints: dict = {
        **BaseWrapper._parameter_constraints,
        "transformer": [HasMethods(["fit", "transform"])],
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, estimator, transformer, *, n_samples=16, batch_size=1024, random_state=None):
        self.estimator = estimator
        self.transformer = transformer
        self.n_samples = n_samples
        self.batch_size = batch_size
        self.random_state = random_state

    @property
    def n_features_in_(self):
        """Number of features that the transformer takes."""
        return self._of_transformer("n_features_in_")

    @property
    def feature_names_in_(self):
        """Names of the features that the transformer takes."""
        return self._of_transformer("feature_names_in_")

    def predict(self, X):
        """Labels of the highest mean probability.

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
        """Mean over the versions of the probabilities that the estimator gives.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
        """
        self._validate_params()
        self._inner()  # raises before anything is drawn
        total = 0
        X = X if hasattr(X, "shape") else np.asarray(X)
        draws = draws_for(self.random_state, X)
        of_steps, handed = draws.child(), draws.child()
        for k, transformer in enumerate(self._transformers()):
            with handing(of_steps.part(slice(None), k, k + 1)):
                version = transformer.transform(X)
            with handing(handed.part(slice(None), k, k + 1)):
                total = total + self._probabilities(version)
        return total / self.n_samples

    def _probabilities(self, version):
        inner = self._inner()
        if hasattr(inner, "predict_proba"):
            return np.asarray(to_numpy(inner.predict_proba(version)))
        return np.eye(len(self.classes_))[self._positions(inner.predict(version))]

    def _transformers(self):
        """The transformer again and again, each time with other random numbers."""
        transformer = copy.deepcopy(self._transformer())
        steps = list(_random_steps(transformer))
        # Read, not advanced; with None it is fresh in each call, and NumPy's global generator is left alone.
        rng = RandomStream(self.random_state).generator(0)
        for _ in range(self.n_samples):
            _seed(steps, rng)
            yield transformer

    def _transformer(self):
        self._inner()
        return self.transformer_ if hasattr(self, "transformer_") else self.transformer

    def _fit(self, X, y):
        self.transformer_ = clone(self.transformer)
        if self.random_state is not None and not isinstance(self.transformer_, FrozenEstimator):
            _seed(_random_steps(self.transformer_, frozen=False), RandomStream(self.random_state).generator(1))
        # As a Pipeline does: training data are transformed in the way that the transformer has for such.
        if hasattr(self.transformer_, "fit_transform"):
            versions = self.transformer_.fit_transform(X, y)
        else:  # a frozen one
            versions = self.transformer_.fit(X, y).transform(X)
        self.estimator_ = clone(self.estimator).fit(versions, y)

    def _parts(self):
        return [self.estimator, self.transformer]

    def _of_transformer(self, name):
        self._of_inner("classes_")
        return getattr(self._transformer(), name)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.non_deterministic = True
        return tags


def _random_steps(part, frozen=True):
    """Estimators within one that have a ``random_state``: fitted clones, too, and unless told otherwise frozen ones."""
    if isinstance(part, (list, tuple)):
        for item in part:
            yield from _random_steps(item, frozen)
    elif isinstance(part, BaseEstimator) and (frozen or not isinstance(part, FrozenEstimator)):
        if hasattr(part, "random_state"):
            yield part
        for value in list(vars(part).values()):
            yield from _random_steps(value, frozen)


def _seed(steps, rng):
    for step in steps:
        step.random_state = int(rng.integers(2**31 - 1))


def _draws(step, backend):
    try:
        return backend.on(None).bind(step).random
    except GradientUnavailableError:
        return False


@rule("skart.wrappers.ExpectationOverTransformations", frames=True, gradient="of its parts")
def expectation(model, backend):
    inner, transformer = model._inner(), model._transformer()
    what = f"transformer {type(transformer).__name__}"
    first = backend.bind(transformer, where=what)
    if hasattr(transformer, "predict") and first.transform is None:
        raise GradientUnavailableError(f"{what} predicts, and its gradient rule describes its scores only.")
    bound = backend.on(None).bind(inner, where="estimator")
    log_proba = log_probabilities("estimator", inner, bound)

    # Steps that draw from what is handed to them are bound once; others anew with each random state.
    once = all(_draws(step, backend) for step in _random_steps(transformer))

    def versions(X, draws):
        for k, seeded in enumerate([transformer] * model.n_samples if once else model._transformers()):
            part = first if once else backend.bind(seeded)
            with handing(draws.part(slice(None), k, k + 1)):
                version = (part.transform or part.forward)(X)
            yield version

    def forward(X):
        draws = draws_for(model.random_state, X)
        of_steps, handed = draws.child(), draws.child()
        return log_mean(log_proba, versions(X, of_steps), model.n_samples, model.batch_size, handed)

    return Bound(
        forward,
        continuous=first.continuous and bound.continuous,
        contexts=(*first.contexts, *bound.contexts),
        fixed=first.fixed,
        in_process=first.in_process or bound.in_process,
        random=True,
    )
