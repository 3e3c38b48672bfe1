"""The exact robustness of linear classifiers, in closed form."""

import numpy as np
from scipy.sparse import issparse
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skart._core._arrays import to_numpy
from skart._core._balls import NORMS, make_ball
from skart._core._linearised import smallest_step
from skart.gradients._registry import chain, is_class_at, numpy_backend
from skart.oracles._oracle import classes_of, find_labels
from skart.utils._containers import Container
from skart.utils._validation import check_clip_values, check_labels, check_mask, check_range, check_samples

__all__ = ["exact_linear_robustness"]

# The largest of the decision values `X @ coef_.T + intercept_` is the prediction; a single one is a binary margin.
_CLASSIFIERS = (
    "sklearn.discriminant_analysis.LinearDiscriminantAnalysis",
    "sklearn.linear_model.LogisticRegression",
    "sklearn.linear_model.LogisticRegressionCV",
    "sklearn.linear_model.PassiveAggressiveClassifier",
    "sklearn.linear_model.Perceptron",
    "sklearn.linear_model.RidgeClassifier",
    "sklearn.linear_model.RidgeClassifierCV",
    "sklearn.linear_model.SGDClassifier",
    "sklearn.svm.LinearSVC",
)
# Their rules are affine; scalers that clip are not, and are told by their parameter.
_TRANSFORMERS = (
    "sklearn.decomposition.PCA",
    "sklearn.decomposition.TruncatedSVD",
    "sklearn.feature_selection.SelectFdr",
    "sklearn.feature_selection.SelectFpr",
    "sklearn.feature_selection.SelectFromModel",
    "sklearn.feature_selection.SelectFwe",
    "sklearn.feature_selection.SelectKBest",
    "sklearn.feature_selection.SelectPercentile",
    "sklearn.feature_selection.VarianceThreshold",
    "sklearn.preprocessing.MaxAbsScaler",
    "sklearn.preprocessing.MinMaxScaler",
    "sklearn.preprocessing.RobustScaler",
    "sklearn.preprocessing.StandardScaler",
)
_SEARCHES = ("GridSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV", "RandomizedSearchCV")

# Numbers (samples x features) in one pass: some tens of megabytes.
_ENTRIES = 2**20


def exact_linear_robustness(estimator, X, y=None, *, norm=2, clip_values=None, mask=None):
    """Distance from each sample to the nearest point that a linear classifier does not give its label.

    The scores are affine in the sample, so that the points which prefer a given rival class to the label are a half
    space, and its nearest point has a closed form: the lag of the rival over the dual norm of the difference of their
    weights. Within a box or under a mask, features are moved at the pace of that solution until each is at its bound.
    The least over the rivals is exact: nearer points leave no rival ahead of the label.

    Parameters
    ----------
    estimator : estimator
        Fitted linear classifier of scikit-learn: ``LogisticRegression``, ``LogisticRegressionCV``, ``LinearSVC``,
        ``SGDClassifier``, ``Perceptron``, ``PassiveAggressiveClassifier``, ``RidgeClassifier``, ``RidgeClassifierCV``,
        ``LinearDiscriminantAnalysis``, or ``SVC`` and ``NuSVC`` with ``kernel="linear"`` and two classes. A
        :class:`~sklearn.frozen.FrozenEstimator` and a fitted search are looked through, and so is a
        :class:`~sklearn.pipeline.Pipeline` of scalers that do not clip, selections of features, ``PCA`` and
        ``TruncatedSVD``: distances are those in the space of ``X``.
    X : array-like, tensor or data frame of shape (n_samples, n_features)
        Clean samples.
    y : array-like of shape (n_samples,), default=None
        True labels: samples that the model gets wrong have distance zero. ``None`` takes its predictions.
    norm : {1, 2, np.inf}, default=2
        Norm that measures the perturbation.
    clip_values : (low, high), default=None
        Range of valid data, as numbers or as one number for each feature.
    mask : array-like, default=None
        Features that may change: a boolean array, positions, or column names.

    Returns
    -------
    distances : ndarray of float64, shape (n_samples,)
        Infinite where no point of the box has another label.

    Raises
    ------
    TypeError
        The model, or a step before it, is not one of those named.
    ValueError
        Its decision values are not those of its weights.

    See Also
    --------
    skart.metrics.minimal_distances : Upper bounds by attacks, for any model.

    Notes
    -----
    On the boundary itself two classes tie. The distance is that to the boundary, the infimum: to be given another
    label a point must lie beyond it, by a rounding at least. Computed in float64, whatever the dtype of ``X``.

    References
    ----------
    .. [1] "DeepFool: a simple and accurate method to fool deep neural networks", arXiv:1511.04599, section 3
       (for the 2-norm, without a box)

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skart.verification import exact_linear_robustness
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    >>> distances = exact_linear_robustness(clf, X, y, norm=np.inf)
    >>> certified_accuracy = (distances > 0.2).mean()
    >>> bool(certified_accuracy < clf.score(X, y) == (distances > 0).mean())
    True
    """
    owner = "exact_linear_robustness"
    if norm not in NORMS:
        raise ValueError(f"{owner}: norm must be 1, 2 or np.inf; got {norm!r}.")
    classes = classes_of(estimator)
    x = check_samples(X, owner=owner)
    x = to_numpy(x).astype(np.float64)
    if x.ndim != 2:
        raise ValueError(f"{owner} takes samples of shape (n_samples, n_features); got {x.shape}.")
    weights, bias = _affine(estimator, x.shape[1])
    scores = x @ weights.T + bias
    predicted = _check(estimator, X, scores, classes, owner)
    labels = predicted if y is None else check_labels(y, classes, len(x), find=find_labels, owner=owner)
    names = Container(X).columns or getattr(estimator, "feature_names_in_", None)
    free = None if mask is None else check_mask(mask, x.shape[1:], names, owner=owner)
    box = None
    if clip_values is not None:
        box = check_clip_values(clip_values, x.shape[1:])
        check_range(to_numpy(X) if Container(X).columns is None else x, *box, owner=owner)
    distances = np.zeros(len(x))
    kept = np.flatnonzero(predicted == labels)
    size = max(1, _ENTRIES // max(1, x.shape[1]))
    for start in range(0, len(kept), size):
        rows = kept[start : start + size]
        distances[rows] = _least(x[rows], scores[rows], labels[rows], weights, norm, box, free)
    return distances


def _least(x, scores, labels, weights, norm, box, free):
    """Distances to the half spaces of all rivals, the least for each sample."""
    if box is not None:  # a range that the data leave by a rounding is widened
        box = (np.minimum(box[0], x), np.maximum(box[1], x))
    ball = make_ball(x, norm=norm, eps=np.inf, clip_values=box, mask=free)
    least = np.full(len(x), np.inf)
    for rival in range(len(weights)):
        grad = weights[rival] - weights[labels]
        lead = scores[np.arange(len(x)), labels] - scores[:, rival]
        step, length = smallest_step(grad, x, np.maximum(lead, 0.0), ball)
        # Where the box holds too little, the step ends short of the boundary.
        length[np.sum(step * grad, axis=1) < (1 - 1e-9) * lead] = np.inf
        length[(lead <= 0) & (rival != labels)] = 0.0  # a tie
        least = np.minimum(least, length)
    return least


def _affine(estimator, n_features):
    """Weights (n_classes, n_features) and biases of the scores, as functions of what the first step is given."""
    steps, model = _unwrapped(estimator)
    coef = np.atleast_2d(model.coef_.toarray() if issparse(model.coef_) else model.coef_).astype(np.float64)
    bias = np.broadcast_to(np.asarray(model.intercept_, dtype=np.float64), (len(coef),))
    if len(coef) == 1:
        coef, bias = np.concatenate([np.zeros_like(coef), coef]), np.concatenate([[0.0], bias])
    if not steps:
        return coef, bias
    backend = numpy_backend(np.float64)
    transform = chain([backend.bind(step) for step in steps]).forward
    start, pullback = transform(np.zeros((len(coef), n_features)))
    return np.asarray(pullback(coef)), np.sum(start * coef, axis=1) + bias


def _unwrapped(estimator):
    """The affine steps before a linear classifier, and the classifier."""
    while True:
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif any(is_class_at(f"sklearn.model_selection.{name}", type(estimator)) for name in _SEARCHES):
            check_is_fitted(estimator)
            estimator = estimator.best_estimator_
        else:
            break
    if isinstance(estimator, Pipeline):
        *before, (_, last) = estimator.steps
        steps = []
        for name, step in before:
            if step is None or isinstance(step, str):
                continue
            step = step.estimator if isinstance(step, FrozenEstimator) else step
            if not any(is_class_at(path, type(step)) for path in _TRANSFORMERS) or getattr(step, "clip", False):
                what = f"{type(step).__name__}{' with clip=True' if getattr(step, 'clip', False) else ''}"
                raise TypeError(
                    f"exact_linear_robustness: step {name!r}, {what}, is not known to be affine; known are "
                    f"{_names(_TRANSFORMERS)}. `skart.metrics.minimal_distances` takes any model."
                )
            steps.append(step)
        more, model = _unwrapped(last)
        return steps + more, model
    linear_svm = any(is_class_at(f"sklearn.svm.{name}", type(estimator)) for name in ("SVC", "NuSVC"))
    if linear_svm and getattr(estimator, "kernel", None) == "linear" and len(estimator.classes_) == 2:
        return [], estimator
    if not any(is_class_at(path, type(estimator)) for path in _CLASSIFIERS):
        why = " (kernel='linear' and two classes are wanted)" if linear_svm else ""
        raise TypeError(
            f"exact_linear_robustness takes linear classifiers ({_names(_CLASSIFIERS)}); got "
            f"{type(estimator).__name__}{why}. `skart.metrics.minimal_distances` takes any model."
        )
    check_is_fitted(estimator)
    return [], estimator


def _names(paths):
    return ", ".join(path.rpartition(".")[2] for path in paths)


def _check(estimator, X, scores, classes, owner):
    """Positions of the model's own labels, once its decision values are seen to be those of the weights."""
    own = np.asarray(estimator.decision_function(X), dtype=np.float64)
    ours = scores[:, 1] if scores.shape[1] == 2 else scores
    predicted, known = find_labels(np.asarray(estimator.predict(X)), classes)
    # What float32 samples are worth, for a model that computes in float32.
    slack = 1e-4 * (1 + np.abs(scores).max())
    first, second = np.partition(scores, -2, axis=1)[:, :-3:-1].T
    same = (predicted == scores.argmax(axis=1)) | (first - second <= slack)
    if own.shape == ours.shape and np.all(np.abs(own - ours) <= slack) and np.all(known & same):
        return predicted
    raise ValueError(
        f"{owner}: the decision values of this {type(estimator).__name__} are not those of its weights. If its class "
        "overrides how it predicts, no closed form is known; `skart.metrics.minimal_distances` takes any model."
    )
