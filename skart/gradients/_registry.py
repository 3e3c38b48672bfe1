"""The registry of gradient rules, and the form that a bound rule has.

A rule takes a fitted estimator and a backend, converts the parameters once, and returns ``forward``; ``forward(X)``
returns the output and a pullback that maps a cotangent of the output's shape to one of the shape of ``X``. Rules are
keyed by public import path, so no optional package is imported before somebody brings an object of it.
"""

import contextlib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import array_api_compat
import numpy as np
from scipy.sparse import issparse

from skart.exceptions import GradientUnavailableError

__all__ = [
    "Backend",
    "Bound",
    "TakesNoTextError",
    "bind",
    "chain",
    "elementwise",
    "no_gradient",
    "register_rule",
    "rule",
    "united",
    "user_rules",
]

# What a subclass may override so that the rule of its parent no longer tells what the model computes.
_PREDICTION_METHODS = frozenset(
    "predict predict_proba predict_log_proba decision_function transform infer forward_iter evaluation_step".split()
)

_WHAT_APPLIES = (
    "What applies instead: attack a differentiable surrogate and let its samples transfer (`estimator=None` fits "
    "one), or register a rule of your own with `skart.register_rule`."
)


@dataclass(frozen=True)
class Bound:
    """A rule bound to a fitted estimator and a backend.

    Attributes
    ----------
    forward : callable
        ``forward(X) -> (output, pullback)``. A classifier's output are its logits, (n_samples, n_classes). A pullback
        may have an attribute ``last``: the same function for who calls it once only, free to give up what it keeps.
    margins : callable or None
        A second ``forward`` for a classifier whose public scores are a staircase: smooth scores of the same shape
        whose largest is the predicted class. ``None`` where the logits serve.
    transform : callable or None
        The ``forward`` of a classifier's own ``transform``, for those that are steps inside a Pipeline too.
    decision : callable or None
        The ``forward`` of a classifier's ``decision_function``, for ensembles that follow it, where the logits are
        not its values; a binary margin d is the row (0, d) here too.
    uncertainty : callable or None
        The ``forward`` of a classifier's log-probabilities and, in further columns, of the variances of the latent
        functions that they are computed of: (n_samples, n_classes + n_functions).
    probabilistic : bool
        Whether the softmax of a classifier's logits is its ``predict_proba``, if it has one.
    continuous : bool
        Whether the output is a continuous function of ``X`` (rounding is not).
    own_input : callable or None
        Turns an array of the backend into what the estimator's own methods take.
    index_labels : bool
        The estimator's ``predict`` returns positions among its outputs, whatever its ``classes_`` say.
    follows_predict : bool
        The logits are what ``predict`` compares, while the estimator's public scores are something else.
    public : callable or None
        Turns logits into those of the estimator's ``predict_proba``, where a decision threshold has shifted them.
    contexts : tuple of callables
        Each makes a context manager that puts the model into the state in which it is to be asked, and back.
    fixed : ndarray of bool of shape (n_features,), True or None
        Features of the input that attacks must leave as they are, since they are codes of categories; True for all.
    sources : callable or None
        ``sources(flags)`` tells which features of the input the flagged outputs of a transformer depend on; both may
        be True, for all. ``None`` stands for all.
    surrogate : bool
        A classifier's logits stand in for what ``predict`` compares (votes, say), and may differ from it on samples
        near a border.
    random : bool
        The rule draws random numbers by :func:`skart._core._draws.draws_for`, and so those that an oracle hands over.
    in_process : bool
        The model must be asked in this process: batches are not spread over others. What computes with
        torch always is.
    """

    forward: Callable
    margins: Callable | None = None
    transform: Callable | None = None
    decision: Callable | None = None
    uncertainty: Callable | None = None
    probabilistic: bool = True
    continuous: bool = True
    own_input: Callable | None = None
    index_labels: bool = False
    follows_predict: bool = False
    public: Callable | None = None
    contexts: tuple = ()
    fixed: Any = None
    sources: Callable | None = None
    surrogate: bool = False
    random: bool = False
    in_process: bool = False


class NeedsTorch(Exception):  # noqa: N818 - a signal between a rule and `bind`, never seen outside
    """A rule asks to be bound to torch on ``device``."""

    def __init__(self, device):
        super().__init__(device)
        self.device = device


class TakesNoTextError(GradientUnavailableError):
    """A part of the model is handed a column that holds no numbers, and its rule knows nothing of such."""


@dataclass(frozen=True)
class Backend:
    """Namespace, dtype and device in which the rules of one oracle compute.

    Attributes
    ----------
    xp : module
        Array API namespace (NumPy or torch, through array-api-compat).
    dtype : dtype of ``xp``
    device : device of ``xp``
    container : Container or None
        The data frame that the part of the model which is bound is asked with, where it is a frame.
    """

    xp: Any
    dtype: Any
    device: Any
    container: Any = None

    @property
    def is_torch(self):
        """Whether arrays are torch tensors."""
        return array_api_compat.is_torch_namespace(self.xp)

    def asarray(self, values, dtype=None):
        """``values`` (anything that NumPy reads, or a torch tensor) as an array of this backend.

        Floating-point and integer values take the backend's dtype unless ``dtype`` names another one.
        """
        if issparse(values):  # parameters of a model that was fitted on sparse data
            values = values.toarray()
        if array_api_compat.is_torch_array(values):
            values = values.detach()
            if not self.is_torch:
                values = values.cpu().numpy()
        elif not isinstance(values, np.ndarray):
            values = np.asarray(values)
        if isinstance(values, np.ndarray) and self.is_torch:
            # torch shares memory with NumPy where it can; it complains about arrays that it may not write to.
            values = np.require(values, requirements=["W", "C"])
        return self.xp.asarray(values, dtype=self.dtype if dtype is None else dtype, device=self.device)

    def require_torch(self, device):
        """Make sure that the rule computes with torch on ``device``; ends the binding and starts it over if not."""
        if not self.is_torch:
            raise NeedsTorch(device)
        if self.device != device:
            raise ValueError(
                f"the nets of one model are on different devices, {self.device} and {device}; move them to one."
            )

    def on(self, container):
        """The backend for a part of the model that is asked with another frame, or (None) with none."""
        return replace(self, container=container)

    def bind(self, estimator, where=None):
        """Bind the rule of a part of the model; ``where`` names the part in errors ("step 'clf'")."""
        try:
            return _bind(estimator, self)
        except GradientUnavailableError as error:
            if where is None:
                raise
            raise type(error)(f"{where}: {error}") from None


def numpy_backend(dtype, container=None):
    """Backend of NumPy arrays of ``dtype``."""
    return Backend(array_api_compat.array_namespace(np.empty(0)), np.dtype(dtype), "cpu", container)


def torch_backend(dtype, device, container=None):
    """Backend of torch tensors; ``dtype`` is NumPy's name for it."""
    import torch

    xp = array_api_compat.array_namespace(torch.empty(0))
    return Backend(xp, getattr(torch, np.dtype(dtype).name), device, container)


def bind(estimator, dtype, container=None):
    """Bind ``estimator``'s rule; returns ``(bound, backend)``. ``container`` is that of the samples, if a frame.

    NumPy computes, unless some part of the model is a net: then the whole of it runs in torch, on the net's device.

    Raises
    ------
    GradientUnavailableError
        No rule fits the estimator or one of its parts.
    """
    backend = numpy_backend(dtype, container)
    try:
        return _bind(estimator, backend), backend
    except NeedsTorch as need:
        backend = torch_backend(dtype, need.device, container)
        return _bind(estimator, backend), backend


def _bind(estimator, backend):
    entry = _find(estimator)
    if not entry.frames and backend.container is not None:
        coded = backend.container.coded
        if coded:
            raise TakesNoTextError(
                f"{type(estimator).__name__} takes the column {coded[0]!r}, which holds no numbers. Encode it before, "
                "in a ColumnTransformer."
            )
        backend = backend.on(None)
    bound = entry.rule(estimator, backend)
    return bound if isinstance(bound, Bound) else Bound(bound)


def united(flags, others):
    """Features that are in either of two sets; each is boolean, True for all features, or None for none."""
    if flags is None or others is True:
        return others
    return flags if others is None or flags is True else flags | others


def chain(bounds, own_input=None):
    """The composition of bound rules, first to last. What classifies is the last one.

    Parameters
    ----------
    bounds : list of Bound
        The parts, in the order in which samples pass through them.
    own_input : callable, default=None
        Turns an array of the backend into what the methods of the whole take.

    Returns
    -------
    bound : Bound

    Examples
    --------
    A rule for a meta-estimator that puts two fitted parts one after the other:

    >>> from skart.gradients import chain
    >>> def rule(model, backend):
    ...     return chain([backend.bind(model.scaler_), backend.bind(model.classifier_)])
    """
    *body, head = bounds

    def compose(last):
        if last is None:
            return None
        forwards = [bound.forward for bound in body] + [last]

        def forward(X):
            pullbacks = []
            for step in forwards:
                X, pullback = step(X)
                pullbacks.append(pullback)

            def pullback(cotangent):
                for pull in reversed(pullbacks):
                    cotangent = pull(cotangent)
                return cotangent

            return X, pullback

        return forward

    if not body:
        return head
    return replace(
        head,
        forward=compose(head.forward),
        margins=compose(head.margins),
        transform=compose(head.transform),
        decision=compose(head.decision),
        uncertainty=compose(head.uncertainty),
        continuous=all(bound.continuous for bound in bounds),
        own_input=own_input,
        contexts=tuple(context for bound in bounds for context in bound.contexts),
        fixed=_fixed_by(bounds),
        sources=None if any(bound.sources is None for bound in bounds) else _traced(bounds),
        random=any(bound.random for bound in bounds),
        in_process=any(bound.in_process for bound in bounds),
    )


def _fixed_by(bounds):
    """Features of the first part's input that any part wants fixed."""
    fixed = None
    for bound in reversed(bounds):
        if fixed is not None:
            fixed = True if bound.sources is None else bound.sources(fixed)
        fixed = united(bound.fixed, fixed)
    return fixed


def _traced(bounds):
    def sources(flags):
        for bound in reversed(bounds):
            flags = bound.sources(flags)
        return flags

    return sources


def elementwise(forward, **fields):
    """``forward`` as the bound rule of a transformer each of whose outputs depends on the feature in its place."""
    return Bound(forward, sources=lambda flags: flags, **fields)


class _Entry(NamedTuple):
    rule: Callable | None
    why: str | None = None  # for a family without gradient
    frames: bool = False  # whether the rule knows what to do with the container of a frame
    gradient: str | None = None  # how good it is; see `rule`


_rules: dict[str, _Entry] = {}  # by public import path
_user_rules: dict[Any, Callable] = {}  # what users registered, as they gave it: class, import path or function


def rule(*paths, frames=False, gradient="exact"):
    """Register the decorated function as the rule of the classes at these public import paths.

    Names that the installed release of a package does not have register nothing. A rule with ``frames`` knows what to
    do with columns that hold no numbers; the others never see a backend with a container. ``gradient`` is for the
    table of what is supported: "exact", "almost everywhere" (there are kinks), "straight-through" (what is flat is
    gone through as if it were the identity), "none, held fixed" or "of its parts".
    """

    def decorate(function):
        for path in paths:
            _rules[path] = _Entry(function, frames=frames, gradient=gradient)
        return function

    return decorate


def no_gradient(*paths, why):
    """Say of the classes at these paths why they have no gradient."""
    for path in paths:
        _rules[path] = _Entry(None, why)


def register_rule(estimator_class, rule=None):
    """Make a model family differentiable for skart.

    Parameters
    ----------
    estimator_class : type, str or function
        Class of the estimator or transformer, or its import path (``"package.module.Class"``). A path does not
        import its package. A function stands for the :class:`~sklearn.preprocessing.FunctionTransformer` steps that
        hold it.
    rule : callable, default=None
        ``rule(estimator, backend)`` takes the fitted estimator and a backend (``backend.xp``, ``backend.asarray``,
        ``backend.bind`` for parts that are estimators) and returns ``forward``. ``forward(X)`` returns
        ``(output, pullback)``: what the estimator computes of ``X``, and the function that maps a cotangent of the
        output's shape to one of the shape of ``X``. The output of a classifier are logits of shape
        (n_samples, n_classes); those of a binary margin d are (0, d). Without a rule, returns a decorator.

    Returns
    -------
    rule : callable
        The rule itself, or the decorator.

    Notes
    -----
    Register in a module that is imported wherever the model is used: a worker process of another library (a
    ``GridSearchCV`` with ``n_jobs``) knows only what its imports registered. skart's own workers are told.

    See Also
    --------
    skart.utils.check_rule : Compare a rule with central differences and with the estimator's own output.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.base import BaseEstimator, TransformerMixin
    >>> from skart import register_rule
    >>> from skart.utils import check_rule
    >>> class Cube(TransformerMixin, BaseEstimator):
    ...     def fit(self, X, y=None):
    ...         self.n_features_in_ = X.shape[1]
    ...         return self
    ...
    ...     def transform(self, X):
    ...         return X**3
    >>> @register_rule(Cube)
    ... def cubed(cube, backend):
    ...     return lambda X: (X**3, lambda cotangent: 3 * X**2 * cotangent)
    >>> X = np.random.default_rng(0).normal(size=(5, 3))
    >>> check_rule(Cube().fit(X), X)
    """
    if rule is None:
        return lambda function: register_rule(estimator_class, function)
    if not callable(rule):
        raise TypeError(f"rule must be a function of (estimator, backend); got {rule!r}.")
    if isinstance(estimator_class, str):
        if "." not in estimator_class:
            raise ValueError(f"give the import path 'package.module.Class'; got {estimator_class!r}.")
        _rules[estimator_class] = _Entry(rule)
    elif not callable(estimator_class):
        raise TypeError(f"estimator_class must be a class, its import path, or a function; got {estimator_class!r}.")
    _user_rules[estimator_class] = rule
    return rule


def user_rules():
    """What users registered, for a worker process to register again."""
    return dict(_user_rules)


def _lookup(cls):
    if cls in _user_rules:
        return _Entry(_user_rules[cls])
    return next((entry for path, entry in _rules.items() if is_class_at(path, cls)), None)


def is_class_at(path, cls):
    """Whether ``cls`` is what stands at a public import path; brings in no package that is not there yet."""
    module, _, name = path.rpartition(".")
    if name == cls.__name__ and path.partition(".")[0] in sys.modules:
        with contextlib.suppress(ImportError):
            return getattr(importlib.import_module(module), name, None) is cls
    return False


def _find(estimator):
    """The rule of the nearest class in the MRO that has one."""
    cls = type(estimator)
    overridden = _PREDICTION_METHODS.intersection(vars(estimator)) if hasattr(estimator, "__dict__") else set()
    for ancestor in cls.__mro__:
        entry = _lookup(ancestor)
        if entry is None:
            overridden = overridden | _PREDICTION_METHODS.intersection(vars(ancestor))
            continue
        if overridden:
            names = ", ".join(f"`{name}`" for name in sorted(overridden))
            raise GradientUnavailableError(
                f"{cls.__name__} overrides {names} of {ancestor.__name__}, whose gradient rule may no longer hold. "
                f"Register a rule with `skart.register_rule({cls.__name__}, rule)` (and test it with "
                "`skart.utils.check_rule`)."
            )
        if entry.rule is None:
            raise GradientUnavailableError(f"{cls.__name__} has no gradient: {entry.why}. {_WHAT_APPLIES}")
        return entry
    raise GradientUnavailableError(f"no gradient rule is known for {cls.__name__}. {_WHAT_APPLIES}")
