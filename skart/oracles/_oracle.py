"""The oracle: what an attacker may ask of a fitted classifier.

The literature names attackers by what they may ask: labels, scores, or gradients. Everything in skart that looks at a
model looks at it through an :class:`Oracle`, which answers all three where the model's family allows it.
"""

import contextlib
import warnings

import numpy as np
from array_api_compat import is_torch_array
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from skart._core._arrays import to_numpy
from skart._core._draws import Chance, Question, asking
from skart._core._objectives import log_softmax
from skart.exceptions import GradientUnavailableError
from skart.gradients._composition import fixed_features
from skart.gradients._registry import bind, numpy_backend, united
from skart.utils._containers import Container, frame, is_numeric
from skart.utils._sklearn_compat import ovr_from_ovo
from skart.utils._validation import check_labels

__all__ = ["Oracle", "as_oracle"]

# Rows on which the rule is compared with the model, and the model with itself.
N_CHECKED = 8


def as_oracle(estimator, X, *, check=True):
    """View a fitted classifier as an oracle for samples like ``X``.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier: any scikit-learn-compatible one answers labels, and scores if it has
        ``predict_proba`` or ``decision_function``; those for which a rule is registered answer gradients.
    X : array of shape (n_samples, ...), torch tensor or data frame
        Samples in the form in which they will be asked: floating-point dtype and columns are taken from them, and
        the gradient rule is compared with the estimator's own output on the first eight.
    check : bool, default=True
        Whether to make that comparison.

    Returns
    -------
    Oracle

    Raises
    ------
    sklearn.exceptions.NotFittedError
        The estimator is not fitted.
    TypeError
        The estimator is not a classifier.
    ValueError
        The rule disagrees with the estimator's own output.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.oracles import as_oracle
    >>> X, y = load_iris(return_X_y=True)
    >>> oracle = as_oracle(LogisticRegression(max_iter=200).fit(X, y), X)
    >>> logits, pullback = oracle.vjp(X[:2])
    >>> pullback(logits).shape
    (2, 4)
    """
    return Oracle(estimator, X, check=check)


class Oracle:
    """An attacker's view of a fitted classifier, at the moment it is made; see :func:`as_oracle`.

    An oracle is also a context manager. Inside ``with oracle:`` nets stay in eval mode and are put back at the end;
    outside, each call does so by itself.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier.
    X : array of shape (n_samples, ...), torch tensor or data frame
        Samples in the form in which they will be asked.
    check : bool, default=True
        Whether to compare the gradient rule with the estimator's own output.
    container : Container, default=None
        The caller's columns, where ``X`` has lost them already.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, in the order of the columns of scores.
    access : {"gradients", "scores", "labels"}
        The most that may be asked.
    xp, dtype, device
        Array namespace, dtype and device of arrays that go in and come out.
    n_forward, n_pulled : int
        Samples sent forward through the model, and samples to which a cotangent was pulled back.
    varies : bool
        Whether the model gave two answers to the same question when it was made.
    random : bool
        Whether the model, or a part of it, declares itself random (scikit-learn's tag ``non_deterministic``).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from skart.oracles import Oracle
    >>> X, y = load_iris(return_X_y=True)
    >>> oracle = Oracle(DecisionTreeClassifier().fit(X, y), X)
    >>> oracle.access
    'scores'
    """

    def __init__(self, estimator, X, *, check=True, container=None):
        try:
            estimator.predict  # noqa: B018
        except AttributeError as error:
            # A search without refit says why it does not predict.
            why = f" {error.__cause__}." if error.__cause__ else ""
            raise TypeError(
                f"{estimator!r} is not a classifier: it has no `predict`.{why} Give a fitted scikit-learn-compatible "
                "classifier (an instance, not a class)."
            ) from None
        check_is_fitted(estimator)
        self.estimator = estimator
        self.n_forward = self.n_pulled = 0
        self.varies = False
        self.random = is_random(estimator)
        self._chance = None  # what the model's random steps draw from, if not from their own random states
        self._stack = None
        self._cast = None  # dtype that the estimator's own methods want, where it is not that of the data
        self._container = Container(X) if container is None else container
        self._bound = self._no_gradient = None
        dtype = _float_dtype(X)
        try:
            self._bound, self._backend = bind(estimator, dtype, container=self._container.of_frame)
        except GradientUnavailableError as error:
            self._no_gradient, self._backend = error, numpy_backend(dtype)
        self.xp, self.dtype, self.device = self._backend.xp, self._backend.dtype, self._backend.device
        if check:
            first = self.asarray(X[:N_CHECKED])
            try:
                self._check(first)
            except (TypeError, ValueError) as error:
                if not self._container.coded:
                    raise
                raise ValueError(
                    f"{type(estimator).__name__} was asked with data whose columns {self._container.coded} hold no "
                    f"numbers, and said: {error} If it is the model that does not take them, fit it in a Pipeline "
                    "with a ColumnTransformer that encodes them."
                ) from error
        self.classes_ = self._find_classes(X)

    @property
    def access(self):
        """The most that may be asked: "gradients", "scores" or "labels"."""
        if self._bound is not None:
            return "gradients"
        has_scores = hasattr(self.estimator, "predict_proba") or hasattr(self.estimator, "decision_function")
        return "scores" if has_scores else "labels"

    @property
    def knows_uncertainty(self):
        """Whether ``vjp`` answers ``scores="uncertainty"``."""
        return self._bound is not None and self._bound.uncertainty is not None

    @property
    def runs_in_process(self):
        """Whether the model must stay in this process (a net), so that batches are not sent to others."""
        return self._backend.is_torch or (self._bound is not None and self._bound.in_process)

    def __enter__(self):
        if self._stack is not None:
            raise RuntimeError("this oracle is in use already; make another one.")
        with contextlib.ExitStack() as stack:
            for context in self._bound.contexts if self._bound is not None else ():
                stack.enter_context(context())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        stack, self._stack = self._stack, None
        return stack.__exit__(*error)

    def _session(self):
        return self if self._stack is None else contextlib.nullcontext()

    def draw_from(self, stream, first=0, *, verdict=False):
        """Let the model's random steps draw from a stream, other numbers in each pass, and for each sample its own.

        Parameters
        ----------
        stream : RandomStream or None
            With None they draw from their own random states.
        first : int, default=0
            Place among all samples of the first one that is asked about from now on.
        verdict : bool, default=False
            Draw what the attack itself never draws, for a verdict on its result.
        """
        draws = self.random or (self._bound is not None and self._bound.random)
        self._chance = Chance(stream, first, verdict) if draws and stream is not None else None

    def announce(self, rows, passes):
        """Say which samples the next pass asks, counted from ``first``, and how often each was asked before."""
        if self._chance is not None:
            self._chance.announce(rows, passes)

    def _question(self, n_samples):
        """What goes with the next question to the parts of the model."""
        question = Question.present()
        if self._chance is None and question is not None:
            return question  # of an oracle around this one
        return Question(None if self._chance is None else self._chance.draws(n_samples))

    def asarray(self, X):
        """``X`` in the oracle's namespace, dtype and on its device; data frames lose their columns."""
        X = self._container.numbers(X)
        if hasattr(X, "to_numpy") and not is_torch_array(X):
            X = X.to_numpy()
        return self._backend.asarray(X)

    def held(self, n_features):
        """Features that no attack may change, (n_features,) boolean: columns without numbers, codes of categories.

        They are known where they go through steps that have a rule; None if there are none.
        """
        if self._bound is not None:
            fixed = self._bound.fixed
        else:
            fixed = fixed_features(self.estimator, self._backend.on(self._container.of_frame))
        flags = united(self._container.held, fixed)
        if flags is None or not np.any(flags):
            return None
        return np.broadcast_to(flags, (n_features,))

    def find(self, y, n_samples, *, owner):
        """Positions in ``classes_`` of the labels ``y`` of ``n_samples`` samples, checked; ``owner`` is for errors."""
        hint = ""
        if self._bound is not None and self._bound.index_labels:
            hint = (
                " A bare skorch net knows its classes by position only; skart.estimators.SkorchClassifier around it "
                "takes labels of any kind."
            )
        return check_labels(y, self.classes_, n_samples, find=find_labels, owner=owner, hint=hint)

    def labels(self, X):
        """The estimator's own predictions: (n_samples,), entries of ``classes_``."""
        with self._session():
            labels = np.asarray(to_numpy(self._own("predict", X)))
        # CatBoost answers a column where there are three classes or more.
        return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels

    def positions(self, X):
        """The estimator's own predictions as positions in ``classes_``: (n_samples,)."""
        labels = self.labels(X)
        position, known = find_labels(labels, self.classes_)
        if not known.all():
            raise ValueError(
                f"`predict` returned {labels[~known].tolist()[0]!r}, which is not in classes_ {self.classes_}."
            )
        return position

    def proba(self, X):
        """The estimator's own probabilities, (n_samples, n_classes); softmax of the logits where it has none."""
        with self._session():
            if hasattr(self.estimator, "predict_proba"):
                return self._backend.asarray(to_numpy(self._own("predict_proba", X)))
            return self.xp.exp(log_softmax(self.logits(X)))

    def logits(self, X):
        """Smooth scores, (n_samples, n_classes).

        Log-probabilities up to a constant for each row where ``predict_proba`` is smooth and ``predict`` follows it,
        decision values otherwise.
        """
        return self.vjp(X)[0] if self._bound is not None else self.own_scores(X)

    def own_scores(self, X):
        """Logarithms of the estimator's own probabilities, (n_samples, n_classes); where it has none, its decision."""
        with self._session():
            if hasattr(self.estimator, "predict_proba"):
                proba = self.proba(X)
                return self.xp.log(self.xp.clip(proba, float(self.xp.finfo(proba.dtype).smallest_normal), None))
            if hasattr(self.estimator, "decision_function"):
                return self._backend.asarray(_two_columns(to_numpy(self._own("decision_function", X))))
        raise TypeError(f"{type(self.estimator).__name__} answers labels only: it has no scores.")

    def activations(self, X, layer, *, training=False):
        """What a layer of the estimator gives, (n_samples, ...); see :func:`~skart.oracles.get_activations`."""
        from skart.oracles._activations import get_activations

        # A bare net's own methods may want a data set; its layers take tensors.
        bare = self._bound is not None and self._bound.own_input is not None
        n_samples = X.shape[0]
        own = X if bare else self._own_input(X)
        with self._session():
            values = get_activations(self.estimator, own, layer, batch_size=n_samples, training=training)
        self.n_forward += n_samples
        return self.xp.asarray(values, device=self.device)

    def vjp(self, X, scores="logits"):
        """Scores at ``X`` and the function that pulls cotangents back to ``X``: one forward pass.

        Parameters
        ----------
        X : array of shape (n_samples, ...)
            In the oracle's namespace and dtype.
        scores : {"logits", "margins", "uncertainty"}, default="logits"
            ``"margins"`` are smooth scores whose largest is the prediction, where the public ones are a staircase
            (a multi-class SVC's votes); the same as the logits elsewhere. ``"uncertainty"`` puts beside the logits the
            variances of the functions that they are computed of, for models that have those (Gaussian processes).

        Returns
        -------
        scores : array of shape (n_samples, n_classes)
            With ``"uncertainty"``, (n_samples, n_classes + n_functions).
        pullback : callable
            Maps a cotangent of the scores' shape to one of the shape of ``X``; it may be called more than once. Its
            attribute ``n_queries`` says how often the last call sent each sample forward (an estimate from scores).

        Raises
        ------
        GradientUnavailableError
            The model, or a part of it, has no gradient.
        """
        if self._bound is None:
            raise GradientUnavailableError(str(self._no_gradient))
        forward = self._bound.margins if scores == "margins" and self._bound.margins else self._bound.forward
        if scores == "uncertainty":
            forward = self._bound.uncertainty
        n_samples = X.shape[0]
        with self._session(), asking(self._question(n_samples)) as question:
            output, pull = forward(X)
        self.n_forward += n_samples

        pullback = _Counted(self, pull, question, n_samples)
        if hasattr(pull, "last"):
            pullback.last = _Counted(self, pull.last, question, n_samples)
        return output, pullback

    def _own(self, method, X):
        """Call the estimator's own method on an array of this oracle."""
        function = getattr(self.estimator, method)
        with asking(self._question(X.shape[0])):
            try:
                answer = function(self._own_input(X))
            except (RuntimeError, TypeError, ValueError):
                answer = self._own_cast(function, X)
                if answer is None:
                    raise
        self.n_forward += X.shape[0]
        if method == "predict_proba" and X.shape[0] == 1 and np.ndim(answer) == 1:
            answer = np.reshape(to_numpy(answer), (1, -1))  # scikeras gives those of a single sample as one flat row
        return answer

    def _own_cast(self, function, X):
        """Ask once more in the other precision, or return None: a bare net in a Pipeline takes that of its module."""
        if not self._backend.is_torch or self._bound.own_input is not None or self._cast is not None:
            return None
        self._cast = np.float32 if to_numpy(X).dtype == np.float64 else np.float64
        try:
            return function(self._own_input(X))
        except (RuntimeError, TypeError, ValueError):
            self._cast = None
            return None

    def _own_input(self, X):
        """An array of this oracle in the form that the estimator's own methods take."""
        if self._bound is not None and self._bound.own_input is not None:
            return self._bound.own_input(X)
        X = to_numpy(X)
        if self._cast is not None:
            X = X.astype(self._cast)
        names = getattr(self.estimator, "feature_names_in_", None)
        if X.ndim == 2 and self._container.coded:
            return self._container.data_frame(X)
        if (
            X.ndim == 2
            and self._container.is_frame
            and (names is not None or not hasattr(self.estimator, "n_features_in_"))
        ):
            X = self._container.data_frame(X)
        elif X.ndim == 2 and names is not None and len(names) == X.shape[1]:
            # Fitted on a frame, asked with an array: the caller knows, and need not be told at every pass.
            X = frame(X, list(names))
        return X

    def _own_scores(self, X):
        """The most telling answer that the estimator gives of itself, and the method that gave it."""
        methods = ["predict_proba", "decision_function", "predict"]
        if self._bound is not None and self._bound.follows_predict:
            methods = ["predict"]
        refusal = None
        for method in methods:
            if hasattr(self.estimator, method):
                try:
                    return method, np.asarray(to_numpy(self._own(method, X)))
                except (NotImplementedError, ValueError) as error:
                    # Some models have a method that always raises; labels will do then. The first error tells most
                    # where every method raises.
                    refusal = refusal or error
        raise refusal

    def _check(self, X):
        """Ask the first rows twice, and compare the rule with the answer.

        The rule's pass is the second one where it says the same. Only where it does not is the estimator asked again,
        to tell a model that varies from a rule that is wrong.
        """
        with self._session():
            method, first = self._own_scores(X)
            if self._bound is None:
                self.varies = not _same(first, self._own_scores(X)[1])
                return
            try:
                logits = to_numpy(self.logits(X))
            except GradientUnavailableError as error:  # a rule may find out only when it is used
                self._bound, self._no_gradient = None, error
                self._check(X)
                return
            if logits.ndim != 2 or logits.shape[1] < 2:
                raise ValueError(
                    f"the gradient rule of {type(self.estimator).__name__} gives scores of shape {logits.shape}; "
                    "it must give (n_samples, n_classes)."
                )
            self._n_outputs = logits.shape[1]
            if self._bound.public is not None:
                logits = self._bound.public(logits)
            answers = [(method, first)]
            if method == "predict_proba" and hasattr(self.estimator, "decision_function"):
                with contextlib.suppress(NotImplementedError, ValueError):  # some have one that always raises
                    answers.append(("decision_function", np.asarray(to_numpy(self._own("decision_function", X)))))
            classes = np.arange(logits.shape[1]) if self._bound.index_labels else classes_of(self.estimator)
            errors = [_disagreement(logits, *answer, classes) for answer in answers]
            single = self._cast is not None or logits.dtype == np.float32 or self._backend.is_torch
            tolerance = 5e-3 if single else 1e-6
            # Closer than two answers of one model need be.
            if method != "predict" and min(error.max() for error in errors) <= min(tolerance, 1e-5):
                return
            self.varies = not _same(first, self._own_scores(X)[1])
            if self.varies:
                return
            exact = self._bound.continuous and not self._bound.surrogate
            worst = np.min([error.max() if exact else np.median(error) for error in errors])
            if not worst <= tolerance:
                raise ValueError(
                    f"the gradient rule of {type(self.estimator).__name__} does not compute what the model's own "
                    f"{method} says (relative difference {worst:.2g} on the first {X.shape[0]} samples). Attacks "
                    "through it would tell nothing of the model. If the model's class has a rule of your own, test it "
                    "with `skart.utils.check_rule`; else please report it."
                )

    def _find_classes(self, X):
        if self._bound is not None and self._bound.index_labels:
            if not hasattr(self, "_n_outputs"):
                self._n_outputs = self.logits(self.asarray(X[:1])).shape[1]
            return np.arange(self._n_outputs)
        return classes_of(self.estimator)


class _Counted:
    """A pullback that counts what it costs; ``n_queries`` is that of its last call, for each sample.

    No function with an attribute: one that refers to itself would keep what it holds until the garbage is collected.
    """

    def __init__(self, oracle, pull, question, n_samples):
        self._oracle, self._pull, self._question, self._n_samples = oracle, pull, question, n_samples
        self.n_queries = 0

    def __call__(self, cotangent):
        self._oracle.n_pulled += self._n_samples
        try:
            with asking(self._question):
                return self._pull(cotangent)
        finally:
            made = self._question.take()
            self._oracle.n_forward += made
            self.n_queries = made // max(self._n_samples, 1)


def classes_of(estimator):
    """Labels of a fitted classifier, in the order of the columns of its scores."""
    name = type(estimator).__name__
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        raise TypeError(
            f"{name} has no `classes_`: it is not a fitted classifier. Attacks change what a classifier says; give one "
            "that predicts labels."
        )
    if isinstance(classes, list) or np.ndim(classes) != 1:
        raise TypeError(f"{name} has several outputs; skart attacks one label a sample.")
    classes = np.asarray(classes)
    if len(classes) < 2:
        raise ValueError(f"{name} knows one class only, {classes.tolist()[0]!r}; nothing to leave.")
    return classes


def is_random(estimator):
    """Whether an estimator or a part of it carries scikit-learn's tag ``non_deterministic``."""
    if isinstance(estimator, (list, tuple)):
        return any(map(is_random, estimator))
    if isinstance(estimator, type) or not hasattr(estimator, "get_params"):
        return False
    with contextlib.suppress(Exception):  # what has no tags, or none before `fit`, declares nothing
        if get_tags(estimator).non_deterministic:
            return True
    with contextlib.suppress(Exception):
        return any(map(is_random, estimator.get_params(deep=False).values()))
    return False


def find_labels(labels, classes):
    """Positions of ``labels`` in ``classes``, and which labels were found."""
    labels = np.asarray(labels)
    order = np.argsort(classes)
    nowhere = np.zeros(labels.shape, dtype=np.int64), np.zeros(labels.shape, dtype=bool)
    # Strings are no numbers. Some versions of NumPy raise where both are sorted together, others make strings of all.
    kinds = {labels.dtype.kind, classes.dtype.kind}
    if kinds & set("SUT") and kinds & set("biufc"):
        return nowhere
    try:
        found = np.searchsorted(classes, labels, sorter=order)
    except TypeError:  # in arrays of objects
        return nowhere
    position = order[np.minimum(found, len(classes) - 1)]
    return position, np.asarray(classes[position] == labels, dtype=bool)


def _float_dtype(X):
    """float32 for samples in float32, float64 for all else."""
    if hasattr(X, "dtypes"):
        kinds = {str(dtype).lower() for dtype in X.dtypes if is_numeric(dtype)}
        return np.dtype(np.float32 if kinds == {"float32"} else np.float64)
    return np.dtype(np.float32 if str(X.dtype).endswith("float32") else np.float64)


def _two_columns(decision):
    """A binary margin d as the scores (0, d)."""
    if decision.ndim == 2 and decision.shape[1] > 1:
        return decision
    decision = decision.reshape(-1)
    return np.stack([np.zeros_like(decision), decision], axis=1)


def _same(first, second):
    if first.dtype.kind not in "fc":
        return np.array_equal(first, second)
    scale = np.abs(first).max() if np.isfinite(first).all() else 1.0
    return np.allclose(first, second, rtol=1e-4, atol=1e-4 * max(scale, 1e-12), equal_nan=True)


def _disagreement(logits, method, answer, classes):
    """Relative difference of the rule's logits and the estimator's answer, row by row; smallest over readings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        if method == "predict":
            predicted, _ = find_labels(answer, classes)
            lead = logits.max(axis=1) - logits[np.arange(len(logits)), predicted]
            # A tie may go either way.
            return (lead > 1e-6 * (1 + np.abs(logits).max(axis=1))).astype(float)
        if method == "predict_proba":
            readings = [(np.exp(log_softmax(logits)), answer)]
        else:
            decision = _two_columns(answer)
            readings = [(logits, decision)]
            if decision.shape[1] == 2:
                readings = [(logits - logits[:, :1], decision)]
            elif decision.shape[1] == logits.shape[1] * (logits.shape[1] - 1) // 2:
                readings.append((logits, ovr_from_ovo(decision, logits.shape[1])))
        errors = []
        for ours, theirs in readings:
            if ours.shape != theirs.shape:
                errors.append(np.full(len(logits), np.inf))
                continue
            scale = 1.0 if method == "predict_proba" else 1.0 + np.abs(theirs).max(axis=1)
            error = np.abs(ours - theirs).max(axis=1) / scale
            errors.append(np.where(np.isnan(error), np.inf, error))
    return min(errors, key=np.median)
