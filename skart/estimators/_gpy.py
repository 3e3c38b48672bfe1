"""GPy's Gaussian process classification as a scikit-learn classifier."""

import contextlib
import copy
from functools import partial
from numbers import Integral

import numpy as np
from scipy.special import log_ndtr
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from skart._core._arrays import to_numpy
from skart._core._objectives import log_softmax
from skart.exceptions import GradientUnavailableError
from skart.gradients._gaussian_process import log_probabilities
from skart.gradients._registry import Bound, rule
from skart.utils._optional import import_optional
from skart.utils._sklearn_compat import Interval, fit_context

__all__ = ["GPyClassifier"]

_LEAST_VARIANCE = 1e-15  # as GPy has it


class GPyClassifier(ClassifierMixin, BaseEstimator):
    """Gaussian process classification by GPy, for two classes or for each class against the rest.

    Kernel, likelihood and inference are GPy's own objects. Beside probabilities the classifier tells how sure it is of
    the function behind them, and attacks go through both with exact gradients.

    Parameters
    ----------
    kernel : GPy kernel or callable, default=None
        Covariance function; each model gets a copy. A callable makes one for a number of features:
        ``GPy.kern.Matern32``, or ``functools.partial(GPy.kern.RBF, ARD=True)``. ``None`` means ``GPy.kern.RBF``.
    likelihood : GPy likelihood, default=None
        A ``GPy.likelihoods.Bernoulli`` with the link ``Probit`` or ``Heaviside``, for which GPy has probabilities in
        closed form. ``None`` means the probit link. The step function needs expectation propagation.
    inference_method : GPy inference method, default=None
        An ``EP()`` or ``Laplace()`` of ``GPy.inference.latent_function_inference``. ``None`` means ``EP()``,
        expectation propagation.
    optimize : bool, default=True
        Whether to choose the kernel's parameters by the marginal likelihood. Without, they stay as they are.
    max_iter : int, default=100
        Largest number of steps of that optimisation.
    random_state : int, RandomState instance or None, default=None
        Determines the order in which expectation propagation visits the samples. GPy draws it from NumPy's global
        generator, which is left as it was found.

    Attributes
    ----------
    models_ : list of GPy.models.GPClassification
        The model of the second class against the first, or one of each class against the rest.
    classes_ : ndarray of shape (n_classes,)
        Labels, in the order of the columns of ``predict_proba``.
    n_iter_ : int
        Number of evaluations of the marginal likelihood, the most over the models.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of str
        Names of the features seen by ``fit``, where it saw a data frame.

    See Also
    --------
    sklearn.gaussian_process.GaussianProcessClassifier : Laplace's approximation with a logistic link.
    skart.attacks.HighConfidenceLowUncertainty : The attack on confidence and variance together.

    Notes
    -----
    GPy's methods read samples in float64, and so does this class. Training time grows with the cube of the number of
    samples, and expectation propagation visits them one by one: it suits some hundreds.

    Examples
    --------
    >>> import GPy
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.preprocessing import scale
    >>> from skart.estimators import GPyClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X, y = scale(X), load_breast_cancer().target_names[y]
    >>> kernel = GPy.kern.RBF(X.shape[1], lengthscale=10.0)
    >>> clf = GPyClassifier(kernel, max_iter=5, random_state=0).fit(X[:100], y[:100])
    >>> clf.score(X[100:], y[100:]) > 0.9
    True
    >>> clf.predict_proba(X[:2]).shape, clf.predictive_variance(X[:2]).shape
    ((2, 2), (2,))
    """

    _parameter_constraints: dict = {
        # GPy may be missing, so its types are checked in `fit`.
        "kernel": "no_validation",
        "likelihood": "no_validation",
        "inference_method": "no_validation",
        "optimize": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        kernel=None,
        *,
        likelihood=None,
        inference_method=None,
        optimize=True,
        max_iter=100,
        random_state=None,
    ):
        self.kernel = kernel
        self.likelihood = likelihood
        self.inference_method = inference_method
        self.optimize = optimize
        self.max_iter = max_iter
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y):
        """Fit the model, or one model for each class.

        Parameters
        ----------
        X : array-like or data frame of shape (n_samples, n_features)
            Training data.
        y : array-like of shape (n_samples,)
            Labels of any kind.

        Returns
        -------
        self : object
        """
        GPy = import_optional("GPy", extra="gp", purpose=type(self).__name__)
        learnt = copy.copy(self)  # a fit that raises leaves this one as it was
        X, y = validate_data(learnt, X, y, dtype=np.float64)
        check_classification_targets(y)
        learnt.classes_, position = np.unique(y, return_inverse=True)
        n_classes = len(learnt.classes_)
        if n_classes < 2:
            raise ValueError(
                f"GPyClassifier needs samples of two classes or more; y holds one class, {y.tolist()[0]!r}."
            )
        self._check_likelihood(GPy)
        self._check_inference(GPy)
        positives = [1] if n_classes == 2 else range(n_classes)
        with _numpy_seeded(self.random_state):
            learnt.models_ = [self._fit_model(GPy, X, position == k) for k in positives]
        runs = [run for model in learnt.models_ for run in model.optimization_runs]
        learnt.n_iter_ = max((int(run.funct_eval) for run in runs), default=1)
        self.__dict__ = vars(learnt)
        return self

    def predict(self, X):
        """Labels of samples, the most probable ones.

        Parameters
        ----------
        X : array-like or data frame of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        position = self._log_proba(X).argmax(axis=1)
        return self.classes_[position]

    def predict_proba(self, X):
        """Probabilities of the classes; those of each class against the rest are divided by their sum.

        Parameters
        ----------
        X : array-like or data frame of shape (n_samples, n_features)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
        """
        return np.exp(log_softmax(self._log_proba(X)))

    def predictive_variance(self, X):
        """Variance of the latent function, whose sign decides.

        Parameters
        ----------
        X : array-like or data frame of shape (n_samples, n_features)

        Returns
        -------
        variance : ndarray of shape (n_samples,) or (n_samples, n_classes)
            For three classes or more, that of the function of each class against the rest.
        """
        _, variance = self._latent(X)
        return variance[:, 0] if len(self.models_) == 1 else variance

    def _latent(self, X):
        """Mean and variance of the latent functions, (n_samples, n_models) each."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        parts = [model.predict_noiseless(X) for model in self.models_]
        return tuple(np.concatenate(columns, axis=1) for columns in zip(*parts))

    def _log_proba(self, X):
        """Logarithms of probabilities, up to a constant for each sample; they do not underflow as those do."""
        mean, variance = self._latent(X)
        margin = mean / np.sqrt(variance + _noise(self.models_[0].likelihood))
        return log_ndtr(np.concatenate([-margin, margin], axis=1) if len(self.models_) == 1 else margin)

    def _fit_model(self, GPy, X, positive):
        kernel = self._make_kernel(GPy, X.shape[1])
        try:
            model = GPy.models.GPClassification(
                X,
                positive[:, None].astype(np.float64),
                kernel=kernel,
                likelihood=copy.deepcopy(self.likelihood),
                inference_method=copy.deepcopy(self.inference_method),
            )
            if self.optimize:
                model.optimize(max_iters=self.max_iter)
        except (AssertionError, np.linalg.LinAlgError) as error:
            raise ValueError(
                f"GPy's inference failed with the kernel {kernel.name!r} ({error}). Most often the kernel is not "
                "positive definite on these samples, or its values are out of scale: scale the features, choose "
                "another lengthscale, add a GPy.kern.White, or take Laplace() as inference_method."
            ) from error
        return model

    def _make_kernel(self, GPy, n_features):
        if self.kernel is None:
            return GPy.kern.RBF(n_features)
        kernel = self.kernel
        if callable(kernel) and not isinstance(kernel, GPy.kern.Kern):
            kernel = kernel(n_features)
        if not isinstance(kernel, GPy.kern.Kern):
            raise ValueError(
                f"kernel must be a kernel of GPy, such as GPy.kern.RBF({n_features}), or a callable that makes one for "
                f"a number of features, such as GPy.kern.RBF; got {self.kernel!r}."
            )
        if np.max(kernel.active_dims) >= n_features:
            raise ValueError(
                f"the kernel {kernel.name!r} reads {np.max(kernel.active_dims) + 1} features, and X has {n_features}. "
                f"Make it for them, GPy.kern.{type(kernel).__name__}({n_features}), name others by active_dims, or "
                f"give a callable such as GPy.kern.RBF."
            )
        return kernel.copy()

    def _check_likelihood(self, GPy):
        likelihood, links = self.likelihood, GPy.likelihoods.link_functions
        if likelihood is None or (
            isinstance(likelihood, GPy.likelihoods.Bernoulli)
            and isinstance(likelihood.gp_link, (links.Probit, links.Heaviside))
        ):
            return
        got = f"the class {likelihood.__name__}" if isinstance(likelihood, type) else type(likelihood).__name__
        link = f" with the link {type(likelihood.gp_link).__name__}" if hasattr(likelihood, "gp_link") else ""
        raise ValueError(
            "likelihood must be a GPy.likelihoods.Bernoulli with the link Probit (the default) or Heaviside, for which "
            f"GPy has probabilities in closed form; got {got}{link}."
        )

    def _check_inference(self, GPy):
        method, methods = self.inference_method, GPy.inference.latent_function_inference
        if method is not None and not isinstance(method, (methods.EP, methods.Laplace)):
            got = f"the class {method.__name__}" if isinstance(method, type) else repr(method)
            raise ValueError(
                "inference_method must be an EP() or a Laplace() of GPy.inference.latent_function_inference, which "
                f"GPy has for all samples and a Bernoulli likelihood; got {got}."
            )
        steps = self.likelihood is not None and not _noise(self.likelihood)
        if steps and isinstance(method, methods.Laplace):
            raise ValueError(
                "Laplace() needs a likelihood with derivatives, and that with the link Heaviside has none. Take the "
                "link Probit, or EP() as inference_method."
            )


def _noise(likelihood):
    """What the link adds to the variance of the latent function: one for the probit, none for the step function."""
    return float(type(likelihood.gp_link).__name__ == "Probit")


@contextlib.contextmanager
def _numpy_seeded(random_state):
    """NumPy's global generator in the state that ``random_state`` determines, and afterwards as it was."""
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    state = np.random.get_state()  # noqa: NPY002 - the generator that GPy draws from
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def covariance(kernel, centres):
    """Forward of a GPy kernel's values with the training points, in float64."""
    from GPy.kern.src.stationary import Stationary

    own = type(kernel)
    if (
        isinstance(kernel, Stationary)
        and own.__module__.startswith("GPy.kern.src.")
        and len(np.atleast_1d(kernel.lengthscale)) in (1, centres.shape[1])
        and np.array_equal(kernel.active_dims, np.arange(centres.shape[1]))
    ):
        return of_distances(kernel, np.asarray(centres))

    def forward(X):
        return kernel.K(X, centres), lambda cotangent: kernel.gradients_X(cotangent, X, centres)

    return forward


def of_distances(kernel, centres):
    """Forward of a function of ``r = ||(x - c) / lengthscale||``: one product of matrices there, and one back.

    GPy's own pullback goes through all triples of a sample, a training point and a feature.
    """
    scale = np.asarray(kernel.lengthscale, dtype=np.float64)
    centres = centres / scale
    squares = np.sum(centres * centres, axis=1)

    def forward(X):
        X = X / scale
        r = np.sqrt(np.clip(np.sum(X * X, axis=1)[:, None] + squares - 2 * X @ centres.T, 0, None))

        def pullback(cotangent):
            # d r / d x = (x - c) / r; a training point is at a distance of zero from itself.
            weights = cotangent * kernel.dK_dr(r) * np.where(r > 0, 1 / np.where(r > 0, r, 1), 0)
            return (np.sum(weights, axis=1)[:, None] * X - weights @ centres) / scale

        return kernel.K_of_r(r), pullback

    return forward


def latent(model):
    """Forward of mean and variance of the latent function of a GPy model; its pullback takes two cotangents."""
    kernel, centres = model.kern, model.X
    try:
        kernel.gradients_X(np.zeros((1, len(centres))), np.asarray(centres[:1]), centres)
        kernel.gradients_X_diag(np.zeros(1), np.asarray(centres[:1]))
    except NotImplementedError:
        raise GradientUnavailableError(
            f"GPy's kernel {kernel.name!r} ({type(kernel).__name__}) has no gradient by its input, or a part of it has "
            "none. Fit with one that has (RBF, Matern32, Matern52, RatQuad, Linear, MLP, their sums and products), "
            "attack by scores or decisions, or register a rule of your own with `skart.register_rule`."
        ) from None
    cross = covariance(kernel, centres)
    weights = np.asarray(model.posterior.woodbury_vector)[:, 0]
    inverse = np.asarray(model.posterior.woodbury_inv)
    inverse = inverse if inverse.ndim == 2 else inverse[:, :, 0]

    def forward(X):
        values, pull = cross(X)
        shrinkage = values @ inverse
        variance = np.asarray(kernel.Kdiag(X)) - np.sum(values * shrinkage, axis=1)

        def pullback(to_mean, to_variance):
            to_variance = np.where(variance > _LEAST_VARIANCE, to_variance, 0)
            grad = pull(np.outer(to_mean, weights) - 2 * to_variance[:, None] * shrinkage)
            return grad + kernel.gradients_X_diag(to_variance, X)

        return (values @ weights, np.maximum(variance, _LEAST_VARIANCE)), pullback

    return forward


def normal_distribution(mean, variance, *, noise, both):
    """Logarithms of the two probabilities, or of the second alone, by mean and variance of the latent function."""
    signs = np.array([-1.0, 1.0] if both else [1.0])
    spread = variance + noise
    z = (mean / np.sqrt(spread))[:, None] * signs
    values = log_ndtr(z)

    def pullback(cotangent):
        # The slope of log Phi is the ratio of density and distribution, taken in logarithms: neither underflows.
        weight = np.sum(cotangent * signs * np.exp(-z * z / 2 - values), axis=1) / np.sqrt(2 * np.pi * spread)
        return weight, -weight * mean / (2 * spread)

    return values, pullback


def at_border(forward, backend):
    """``forward`` of NumPy arrays in float64 for arrays of the backend."""

    def bordered(X):
        output, pull = forward(to_numpy(X).astype(np.float64))
        return backend.asarray(output), lambda cotangent: backend.asarray(pull(to_numpy(cotangent).astype(np.float64)))

    return bordered


@rule("skart.estimators.GPyClassifier")
def gpy_classifier(classifier, backend):
    models = classifier.models_
    latents = [latent(model) for model in models]
    link = partial(normal_distribution, noise=_noise(models[0].likelihood), both=len(models) == 1)
    return Bound(
        at_border(log_probabilities(latents, link), backend),
        uncertainty=at_border(log_probabilities(latents, link, variances=True), backend),
    )
