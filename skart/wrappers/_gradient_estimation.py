"""Gradients estimated from scores alone (section 5.3)."""

from numbers import Integral, Real

import numpy as np
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if

from skart._core._arrays import array_namespace, to_numpy
from skart._core._draws import count_queries, draws_for, handing
from skart.exceptions import GradientUnavailableError
from skart.gradients._composition import fixed_features
from skart.gradients._registry import Bound, bind, rule, united
from skart.oracles._oracle import Oracle
from skart.utils._containers import Container
from skart.utils._sklearn_compat import Interval
from skart.utils._validation import check_eps
from skart.wrappers._averaging import chunks
from skart.wrappers._base import BaseWrapper

__all__ = ["QueryEfficientGradientEstimation"]


def _inner_has(method):
    def check(self):
        getattr(self.estimator_ if hasattr(self, "estimator_") else self.estimator, method)
        return True

    return check


class QueryEfficientGradientEstimation(BaseWrapper):
    """A classifier whose gradients are estimated from its scores, so that every white-box attack runs on it.

    Answers are those of ``estimator``, which may be anything that has scores: boosted trees, a function
    (:class:`~skart.estimators.BlackBoxClassifier`), a remote service. A gradient is the average slope of the scores
    along random directions, each of which is asked in both senses (natural evolution strategies with antithetic pairs
    [1]_). It is the gradient of the scores smoothed over ``sigma``: where they are a staircase, ``sigma`` should be
    about as wide as its steps.

    Parameters
    ----------
    estimator : estimator
        Classifier with ``predict_proba`` or ``decision_function``. ``fit`` fits a clone; a
        :class:`~sklearn.frozen.FrozenEstimator` stays as it is. A fitted one serves without ``fit``.
    n_samples : int, default=50
        Number of directions. A gradient costs two queries for each, however many classes it is asked about; the
        estimate's cosine with the true gradient of d features is about ``sqrt(n_samples / (n_samples + d))``.
    sigma : float or array-like of shape (n_features,), default=0.1
        Standard deviation of the directions, in the units of ``X``, or of each feature.
    batch_size : int, default=1024
        Queries that are made together.
    random_state : int, RandomState instance or None, default=None
        Source of the directions. With an integer every question about as many samples takes the same ones. An attack
        has random numbers of its own, and takes new directions in each of its steps.

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier.
    classes_ : ndarray of shape (n_classes,)
        Labels, in the order of the columns of scores.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Names of the features, where the training data had some.

    Notes
    -----
    A question costs one query; its first pullback makes the others, and further ones share them. Attacks count them
    all in ``n_queries``. Columns that hold no numbers, and codes of categories, are held fixed.

    References
    ----------
    .. [1] "Black-box Adversarial Attacks with Limited Queries and Information", arXiv:1804.08598

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from skart.attacks import ProjectedGradientDescent
    >>> from skart.wrappers import QueryEfficientGradientEstimation
    >>> X, y = load_iris(return_X_y=True)
    >>> forest = RandomForestClassifier(random_state=0).fit(X, y)
    >>> clf = QueryEfficientGradientEstimation(forest, n_samples=20, sigma=0.3)
    >>> result = ProjectedGradientDescent(clf, eps=0.8, max_iter=5, random_state=0).run(X, y)
    >>> bool(forest.score(X, y) > 0.9 > 0.5 > forest.score(result.X_adv, y))
    True
    """

    _parameter_constraints: dict = {
        **BaseWrapper._parameter_constraints,
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "sigma": [Interval(Real, 0, None, closed="neither"), "array-like"],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, estimator, *, n_samples=50, sigma=0.1, batch_size=1024, random_state=None):
        self.estimator = estimator
        self.n_samples = n_samples
        self.sigma = sigma
        self.batch_size = batch_size
        self.random_state = random_state

    def predict(self, X):
        """Labels, as the estimator predicts them.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        return self._inner().predict(X)

    @available_if(_inner_has("predict_proba"))
    def predict_proba(self, X):
        """Probabilities of the classes, as the estimator gives them.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
        """
        return self._inner().predict_proba(X)

    @available_if(_inner_has("decision_function"))
    def decision_function(self, X):
        """Decision values, as the estimator gives them.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)

        Returns
        -------
        decision : ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        return self._inner().decision_function(X)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = get_tags(self.estimator).input_tags.sparse
        return tags


@rule("skart.wrappers.QueryEfficientGradientEstimation", frames=True, gradient="estimated")
def estimated(model, backend):
    model._validate_params()
    inner = model._inner()
    container = Container(np.empty((0, 0))) if backend.container is None else backend.container
    single = str(backend.dtype).endswith("float32")
    like = np.empty((1, 1), dtype=np.float32 if single else np.float64)
    contexts, in_process, fixed = (), False, fixed_features(inner, backend)
    try:
        bound, own = bind(inner, like.dtype, backend.container)
    except GradientUnavailableError:
        pass
    else:
        # Its gradients are not asked, but what else it says of the model is true.
        if bound.index_labels:
            raise GradientUnavailableError(
                f"{type(inner).__name__} is a bare skorch net; wrap it in skart.estimators.SkorchClassifier."
            )
        if own.is_torch:
            backend.require_torch(own.device)
        contexts, in_process, fixed = bound.contexts, bound.in_process, bound.fixed
    oracle = Oracle(inner, like, check=False, container=container)
    if not hasattr(inner, "predict_proba") and not hasattr(inner, "decision_function"):
        raise GradientUnavailableError(
            f"{type(inner).__name__} answers labels only: there are no scores to estimate a gradient from. Attack by "
            "decisions, for example with HopSkipJump."
        )
    held = united(container.held, fixed)

    def forward(X):
        xp = array_namespace(X)
        shape = tuple(X.shape[1:])
        sigma = np.broadcast_to(check_eps(model.sigma, shape, name="sigma", positive=True), shape)
        if held is not None:
            sigma = np.where(held, 0.0, sigma)
        # For sigma = 0 the slope is zero as well.
        weight = np.where(sigma > 0, 1 / np.where(sigma > 0, sigma, 1.0), 0.0) / (2 * model.n_samples)
        sigma, weight = (backend.asarray(values) for values in (sigma, weight))
        draws = draws_for(model.random_state, X)
        key, handed = draws.child(), draws.child()
        rises = []

        def ask(x):
            return backend.asarray(to_numpy(oracle.own_scores(x)))

        def directions(rows, start, stop):
            numbers = key.part(rows, start, stop).normal(shape, np.float32)
            return backend.asarray(numbers)

        def query():
            """What the scores rise along each direction, piece by piece."""
            for rows, start, stop in chunks(X.shape[0], model.n_samples, max(1, model.batch_size // 2)):
                x = X[rows]
                centre = xp.concat([x] * (stop - start), axis=0)
                step = directions(rows, start, stop) * sigma
                both = xp.concat([centre + step, centre - step], axis=0)
                with handing(handed.part(rows, 2 * start, 2 * stop)):
                    scores = ask(both)
                count_queries(both.shape[0])
                rises.append(scores[: centre.shape[0]] - scores[centre.shape[0] :])

        def pullback(cotangent):
            if not rises:
                try:
                    query()
                except BaseException:
                    rises.clear()
                    raise
            grad = xp.zeros_like(X)
            pieces = chunks(X.shape[0], model.n_samples, max(1, model.batch_size // 2))
            for (rows, start, stop), rise in zip(pieces, rises, strict=True):
                n_rows = len(range(*rows.indices(X.shape[0])))
                slope = xp.sum(xp.reshape(rise, (stop - start, n_rows, -1)) * cotangent[rows][None, ...], axis=2)
                along = xp.reshape(directions(rows, start, stop), (stop - start, n_rows, *shape))
                slope = xp.reshape(slope, (stop - start, n_rows) + (1,) * len(shape))
                grad[rows] += xp.sum(slope * along, axis=0) * weight
            return grad

        return ask(X), pullback

    return Bound(forward, continuous=False, contexts=contexts, fixed=fixed, random=True, in_process=in_process)
