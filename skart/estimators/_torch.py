"""A torch module as a scikit-learn classifier."""

import contextlib
import copy
from numbers import Integral

import numpy as np
from array_api_compat import is_torch_array
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from skart._core._arrays import to_numpy
from skart.estimators._nets import (
    FLOAT_DTYPES,
    NetClassifier,
    check_n_outputs,
    encode,
    net_samples,
    shape_samples,
)
from skart.gradients._registry import Bound, rule
from skart.gradients._torch import (
    complemented,
    evaluating,
    log_of,
    module_dtype_and_device,
    torch_forward,
    two_classes,
)
from skart.oracles._activations import activations, torch_layers
from skart.utils._optional import import_optional
from skart.utils._sklearn_compat import Interval, fit_context

__all__ = ["TorchClassifier"]


class TorchClassifier(NetClassifier):
    """A torch module, as it is, as a fitted scikit-learn classifier.

    It answers from the start, for samples in any floating-point dtype, as arrays, tensors or data frames, and in the
    caller's labels. Attacks go through it with exact gradients. The module stays on its device, and is asked in eval
    mode and left as it was found.

    Parameters
    ----------
    module : torch.nn.Module
        The net. Of a tuple that it gives the first entry counts.
    classes : array-like of shape (n_classes,)
        Labels, in the order of the module's outputs.
    output : {"logits", "log_proba", "proba"}, default="logits"
        What the module gives: logits, logarithms of probabilities (after ``LogSoftmax``), or probabilities (after
        ``Softmax``, ``Sigmoid``), each of shape (n_samples, n_classes). For two classes a single logit or probability
        is enough, that of the second class, of shape (n_samples,) or (n_samples, 1).
    input_shape : tuple of int, default=None
        Shape of a sample that the module takes, for example ``(1, 28, 28)``; flat rows of as many features are read as
        such samples. ``None`` hands samples on as they come.
    batch_size : int, default=128
        Most samples that are sent through the module together.
    optimizer : callable, default=None
        Makes a ``torch.optim.Optimizer`` of the parameters: ``torch.optim.Adam``, or
        ``functools.partial(torch.optim.SGD, lr=0.1)``. ``None``: the module is trained already, and ``fit`` refuses.
    max_epochs : int, default=20
        Number of passes over the training data in ``fit``.
    random_state : int, RandomState instance or None, default=None
        Determines the order of training samples and the draws of the module in training (dropout), and leaves torch's
        global generator as it was. ``None`` draws from that generator.

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained copy of the module, after ``fit``.
    optimizer_ : torch.optim.Optimizer
        What trained it, after ``fit``.
    classes_ : ndarray of shape (n_classes,)
        Labels, in the order of the columns of ``predict_proba``.
    n_features_in_ : int
        Number of features seen in ``fit`` (the length of the second axis, for images).
    feature_names_in_ : ndarray of str
        Names of the features, where the training data had some.

    See Also
    --------
    SkorchClassifier : Nets with all that skorch has for training: callbacks, schedules, validation, checkpoints.

    Notes
    -----
    What fits its estimators (``cross_val_score``, ``GridSearchCV``, the ``fit`` of a Pipeline or an attack) takes a
    trained module in a :class:`~sklearn.frozen.FrozenEstimator`, as it takes any trained model.

    ``fit`` trains a copy of the module, from the weights that it has, by the cross-entropy; it leaves the given one
    alone. A clone has a copy of the module with its weights: it is as fitted as the original.

    Where a module gives probabilities, and gives them by a ``Softmax`` or ``Sigmoid`` module as its last operation,
    gradients start from what goes into it, so that they do not vanish where probabilities are close to 0 and 1.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_digits
    >>> from skart.attacks import FastGradientMethod
    >>> from skart.estimators import TorchClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> _ = torch.manual_seed(0)
    >>> module = torch.nn.Sequential(
    ...     torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10)
    ... )
    >>> clf = TorchClassifier(module, range(10), input_shape=(1, 8, 8), optimizer=torch.optim.Adam, random_state=0)
    >>> clf = clf.fit(X / 16, y)
    >>> clf.score(X / 16, y) > 0.95
    True

    The same module, trained, as a classifier of other labels, under attack:

    >>> names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    >>> trained = TorchClassifier(clf.module_, names, input_shape=(1, 8, 8))
    >>> trained.predict(X[:2] / 16)
    array(['zero', 'one'], dtype='<U5')
    >>> bool(FastGradientMethod(trained, eps=0.2).run(X[:200] / 16).success.mean() > 0.8)
    True
    """

    _parameter_constraints: dict = {
        "module": "no_validation",  # torch may be missing
        **NetClassifier._parameter_constraints,
        "optimizer": [callable, None],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        module,
        classes,
        *,
        output="logits",
        input_shape=None,
        batch_size=128,
        optimizer=None,
        max_epochs=20,
        random_state=None,
    ):
        self.module = module
        self.classes = classes
        self.output = output
        self.input_shape = input_shape
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.max_epochs = max_epochs
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y):
        """Train a copy of the module, where an optimizer is given.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)
            Training data, in any floating-point dtype.
        y : array-like of shape (n_samples,)
            Labels, entries of ``classes``.

        Returns
        -------
        self : object
        """
        if self.optimizer is None:
            raise ValueError(
                f"this {type(self).__name__} holds a trained module, and has no optimizer to train it with. To have it "
                "taken as it is, wrap it: FrozenEstimator(clf). To train it, give optimizer=torch.optim.Adam (or a "
                "functools.partial of an optimizer), or use SkorchClassifier(skorch.NeuralNetClassifier(module, ...))."
            )
        learnt = copy.copy(self)  # a fit that raises leaves this one as it was
        learnt._train(X, y, self.max_epochs, fresh=True)
        self.__dict__ = vars(learnt)
        return self

    @available_if(lambda self: self.optimizer is not None)
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None):
        """Train on, for one pass over the data.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)
            Training data, in any floating-point dtype.
        y : array-like of shape (n_samples,)
            Labels, entries of ``classes``.
        classes : array-like, default=None
            All labels, as scikit-learn's classifiers want them in the first call; they must be among the classifier's
            own.

        Returns
        -------
        self : object
        """
        if classes is not None:
            encode(np.asarray(classes), self.classes_)
        self._train(X, y, 1, fresh=not hasattr(self, "module_"))
        return self

    def _train(self, X, y, n_epochs, *, fresh):
        import torch

        _check_module(self.module)
        X, y = (to_numpy(values) if is_torch_array(values) else values for values in (X, y))
        X, y = validate_data(self, X, y, dtype=FLOAT_DTYPES, allow_nd=True, reset=fresh)
        X = shape_samples(X, self.input_shape, owner=type(self).__name__)
        position = encode(y, self.classes_)
        module = copy.deepcopy(self.module) if fresh else self.module_
        dtype, device = module_dtype_and_device(module, owner=type(self).__name__, lazy=True)
        X, position = torch.tensor(X, dtype=dtype, device=device), torch.tensor(position, device=device)
        with seeded(self.random_state, device), torch.inference_mode(False), torch.enable_grad():
            with in_eval_mode(module), torch.no_grad():
                self._to_logits(module(X[:2]))  # gives lazy parameters their shapes, and raises for wrong outputs
            if fresh:
                self.module_, self.optimizer_ = module, self.optimizer(module.parameters())
            module.train()
            try:
                for _ in range(n_epochs):
                    self._run_epoch(module, X, position)
            finally:
                module.eval()

    def _run_epoch(self, module, X, position):
        import torch

        # Batches of about the same size: a last one of a single sample is too few for batch normalisation.
        n_batches = -(-len(X) // self.batch_size)
        for rows in torch.randperm(len(X)).to(X.device).tensor_split(n_batches):
            self.optimizer_.zero_grad()
            torch.nn.functional.cross_entropy(self._to_logits(module(X[rows])), position[rows]).backward()
            self.optimizer_.step()
        self.optimizer_.zero_grad()

    def _net(self):
        """The module that answers, and the dtype and device in which it computes."""
        _check_module(self.module)
        module = getattr(self, "module_", self.module)
        return module, *module_dtype_and_device(module, owner=type(self).__name__)

    def _outputs(self, X):
        import torch

        module, dtype, device = self._net()
        outputs = []
        # Not in inference mode: what a module keeps from such a call (a table of positions) would have no gradient.
        with in_eval_mode(module), torch.no_grad():
            for start in range(0, X.shape[0], self.batch_size):
                batch = X[start : start + self.batch_size]
                # Always a copy: some modules work in place.
                if is_torch_array(batch):
                    batch = batch.to(device=device, dtype=dtype, copy=True)
                else:
                    batch = torch.tensor(batch, device=device, dtype=dtype)
                outputs.append(_tensor(module(batch), module))
            outputs = torch.cat(outputs)
        if outputs.dtype not in (torch.float32, torch.float64):
            outputs = outputs.float()
        if self.output == "logits" and _is_single_sigmoid(module, outputs):
            raise ValueError(
                f"{type(self).__name__}: output='logits' says that the module gives a logit; it ends in a Sigmoid, and "
                "gives probabilities. Say output='proba'."
            )
        return to_numpy(outputs)

    def _to_logits(self, output):
        """Logits, (n_samples, n_classes), of what the module gives, in torch."""
        output = self._shaped(output)
        if self.output == "proba":
            return log_of(complemented(output) if output.ndim == 1 else output)
        return two_classes(output) if output.ndim == 1 else output

    def _early(self, before):
        """The same of what goes into a last softmax or sigmoid."""
        before = self._shaped(before)
        return two_classes(before) if before.ndim == 1 else before

    def _shaped(self, output):
        """Outputs as (n_samples, n_classes), or (n_samples,) for a single one."""
        output = _tensor(output, self.module)
        check_n_outputs(tuple(output.shape), self.output, self.classes_, owner=type(self).__name__)
        return output.reshape(-1) if output.ndim == 2 and output.shape[1] == 1 else output

    def __sklearn_is_fitted__(self):
        # What is no module at all is reported where it is used.
        return hasattr(self, "module_") or not _is_lazy(self.module)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = _is_lazy(self.module)
        tags.classifier_tags.multi_class = np.size(self.classes) > 2
        return tags


@rule("skart.estimators.TorchClassifier", gradient="almost everywhere")
def torch_classifier(model, backend):
    module, dtype, device = model._net()
    backend.require_torch(device)
    return Bound(
        torch_forward(
            module,
            model._to_logits,
            dtype,
            shape=lambda x: shape_samples(x, model.input_shape, owner=type(model).__name__),
            early=model._early if model.output == "proba" else None,
        ),
        own_input=lambda X: X,  # tensors on any device
        contexts=(lambda: evaluating(module),),
    )


@activations("skart.estimators.TorchClassifier")
def torch_classifier_layers(model):
    module, dtype, device = model._net()
    return torch_layers(module, lambda X: net_samples(model, X), dtype, device)


@contextlib.contextmanager
def in_eval_mode(module):
    """A module in eval mode, each of its parts put back into the one in which it was."""
    training = [part for part in module.modules() if part.training]
    try:
        if training:
            module.eval()
        yield
    finally:
        for part in training:
            part.training = True


@contextlib.contextmanager
def seeded(random_state, device):
    """Let torch draw by ``random_state``, and leave its global generators as they were; None changes nothing."""
    if random_state is None:
        yield
        return
    import torch

    device = torch.device(device)
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.random.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _import_torch():
    return import_optional("torch", extra="torch", purpose="TorchClassifier")


def _check_module(module):
    torch = _import_torch()
    if isinstance(module, type):
        raise TypeError(
            f"TorchClassifier takes a module that is made and holds weights; got the class {module.__name__}. Give an "
            f"instance: {module.__name__}(...)."
        )
    if not isinstance(module, torch.nn.Module):
        raise TypeError(
            f"TorchClassifier takes a torch.nn.Module; got {type(module).__name__}. A skorch net goes into "
            "SkorchClassifier, a function of samples into BlackBoxClassifier."
        )


def _is_lazy(module):
    """Whether a module has parameters of shapes not known yet; those of no module have none."""
    if isinstance(module, type) or not hasattr(module, "parameters"):
        return False
    torch = _import_torch()
    tensors = (*module.parameters(), *module.buffers())
    return any(torch.nn.parameter.is_lazy(tensor) for tensor in tensors)


def _is_single_sigmoid(module, outputs):
    import torch

    single = outputs.ndim == 1 or (outputs.ndim == 2 and outputs.shape[1] == 1)
    ends = single and isinstance(list(module.modules())[-1], torch.nn.Sigmoid)
    return ends and bool(((outputs >= 0) & (outputs <= 1)).all())


def _tensor(output, module):
    """The output that counts."""
    import torch

    output = output[0] if isinstance(output, tuple) else output
    if not isinstance(output, torch.Tensor):
        raise TypeError(
            f"{type(module).__name__} gives a {type(output).__name__}; TorchClassifier takes a tensor of one output "
            "for each class, or a tuple that begins with it. Wrap the module in one that returns the tensor."
        )
    return output
