"""Rules for torch modules, alone and inside skorch nets.

The one thing to get right is what a module's output means. skorch decides by the criterion: with
``CrossEntropyLoss`` the module gives logits, with ``NLLLoss`` (its default) probabilities, of which skorch takes the
logarithm in the loss, with ``BCEWithLogitsLoss`` the one logit of two classes, with ``BCELoss`` their one probability.
A ``predict_nonlinearity`` of the user's own makes the probabilities whatever the criterion is.

Probabilities are a poor thing to attack: in float32 the gradient of their logarithm ends where one logit leads by 87,
or by 17 for a single output. Where a module's output is what its own ``Softmax`` or ``Sigmoid`` gave, the rule reads
what went in.
"""

import contextlib
import warnings

import numpy as np
from sklearn.exceptions import NotFittedError

from skart._core._arrays import array_namespace, to_numpy
from skart.exceptions import AttackFailureWarning, GradientUnavailableError
from skart.gradients._registry import Bound, rule

__all__ = [
    "complemented",
    "dtype_and_device",
    "evaluating",
    "is_binary",
    "kept_as_found",
    "log_of",
    "module_dtype_and_device",
    "own_input",
    "skorch_head",
    "torch_forward",
    "two_classes",
]


@rule("skorch.NeuralNetClassifier", "skorch.NeuralNetBinaryClassifier", gradient="almost everywhere")
def skorch_net(net, backend):
    dtype, device = dtype_and_device(net)
    backend.require_torch(device)
    shift = _threshold_shift(net)
    return Bound(
        torch_forward(net.module_, skorch_head(net), dtype, early=_skorch_early(net)),
        public=(lambda logits: _shifted(logits, shift)) if shift else None,
        own_input=lambda X: own_input(net, X, dtype),
        index_labels=True,
        contexts=(lambda: evaluating(net.module_, net.criterion_),),
    )


def torch_forward(module, head, dtype, *, shape=None, early=None):
    """Forward of a module that computes in ``dtype``.

    Parameters
    ----------
    module : torch module
    head : callable
        Turns its output into logits, (n_samples, n_classes).
    dtype : torch dtype
    shape : callable, default=None
        Turns samples into the shape that the module takes.
    early : callable, default=None
        Turns what goes into a softmax or sigmoid that the module ends in, if it does, into logits.
    """
    import torch

    parts = [] if early is None else _last_activations(module)

    def forward(X):
        with torch.inference_mode(False), torch.enable_grad():
            # A new leaf that shares memory with X: the caller's tensor keeps its flags and gets no gradient.
            leaf = (X.clone() if X.is_inference() else X.detach()).requires_grad_(True)
            # The module gets a copy, so that one which works in place (`x -= mean`) spoils nobody's data.
            x = leaf.to(dtype, copy=True)
            with _watched(parts) as went_into:
                output = module(x if shape is None else shape(x))
            output = output[0] if isinstance(output, tuple) else output
            before = went_into(output)
            logits = head(output) if before is None else early(before)

        def pull(cotangent, keep):
            grad = None
            if logits.requires_grad:
                with torch.inference_mode(False):
                    cotangent = cotangent.to(logits.dtype, copy=cotangent.is_inference())
                    (grad,) = torch.autograd.grad(logits, leaf, cotangent, retain_graph=keep, allow_unused=True)
            if grad is None:
                raise GradientUnavailableError(
                    f"{type(module).__name__}: the output does not depend on the input through differentiable "
                    "operations (a `detach`, `no_grad`, `argmax`, or a detour over NumPy cuts the graph). Give that "
                    "operation a `torch.autograd.Function` with the backward pass to use, or attack by scores."
                )
            return grad

        def pullback(cotangent):
            return pull(cotangent, keep=True)

        # Gives up the graph on the way, which halves the memory and saves the time to fetch that anew.
        pullback.last = lambda cotangent: pull(cotangent, keep=False)
        return logits.detach().to(X.dtype), pullback

    return forward


def _last_activations(module):
    """Parts of a module that are a softmax or a sigmoid, and nothing else: it may end in one of them."""
    import torch

    parts = list(module.modules())
    # A compiled module may not see what is hooked on to its parts.
    if any(hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None for part in parts):
        return []
    kinds, hooks = (torch.nn.Softmax, torch.nn.Sigmoid), ("_forward_hooks", "_forward_pre_hooks")
    return [
        part
        for part in parts
        if type(part) in kinds and "forward" not in vars(part) and not any(getattr(part, name) for name in hooks)
    ]


@contextlib.contextmanager
def _watched(parts):
    """Watch activations at work.

    Yields a function of the module's output: what went into the activation that gave this very tensor, or None. That
    nobody has written to either of the two since is part of the question.
    """
    import torch

    calls = []

    def note(part, args, output):
        x, *more = args
        if more or x.ndim > 2 or x.shape != output.shape:
            return
        single = x.ndim == 1 or x.shape[1] == 1
        softmax = type(part) is torch.nn.Softmax and part.dim in (1, -1, None)
        if (single and type(part) is torch.nn.Sigmoid) or (not single and softmax):
            calls.append((x, x._version, output, output._version))

    def went_into(output):
        for before, version, after, version_after in calls:
            if after is output and after._version == version_after and before._version == version:
                return before
        return None

    with contextlib.ExitStack() as stack:
        for part in parts:
            stack.callback(part.register_forward_hook(note).remove)
        yield went_into


def skorch_head(net):
    """Map from what the module of a skorch net returns to logits, (n_samples, n_classes).

    A threshold other than one half shifts them, so that their argmax is what ``predict`` says.
    """
    import torch

    criterion = _criterion(net)
    nonlinearity = net.predict_nonlinearity
    automatic = _is_automatic(net)
    if automatic and isinstance(criterion, torch.nn.CrossEntropyLoss):
        to_logits = _several_outputs(net)
    elif automatic and isinstance(criterion, torch.nn.BCEWithLogitsLoss):
        to_logits = lambda output: two_classes(_single_output(output, net))  # noqa: E731
    elif automatic and isinstance(criterion, torch.nn.BCELoss):
        to_logits = _log_proba(net, lambda output: complemented(_single_output(output, net)))
    else:
        # The net's own decision for what is left: the output as it is, or as the user's function turns it.
        to_logits = _log_proba(net, nonlinearity if callable(nonlinearity) else lambda output: output)
    return _thresholded(to_logits, net)


def _skorch_early(net):
    """The same for what goes into a softmax or sigmoid at the module's end; None where the end is no probability."""
    import torch

    criterion = _criterion(net)
    automatic = _is_automatic(net)
    if callable(net.predict_nonlinearity):
        return None
    if automatic and isinstance(criterion, (torch.nn.CrossEntropyLoss, torch.nn.BCEWithLogitsLoss)):
        return None  # what the module gives is read as logits, whatever it is
    if automatic and isinstance(criterion, torch.nn.BCELoss):
        return _thresholded(lambda logit: two_classes(_single_output(logit, net)), net)
    return _thresholded(_several_outputs(net), net)


def _is_automatic(net):
    return isinstance(net.predict_nonlinearity, str) and net.predict_nonlinearity == "auto"


def _thresholded(to_logits, net):
    shift = _threshold_shift(net)
    return (lambda output: _shifted(to_logits(output), -shift)) if shift else to_logits


def _criterion(net):
    return getattr(net.criterion_, "_orig_mod", net.criterion_)  # a compiled criterion holds the original


def _several_outputs(net):
    def check(output):
        if output.ndim != 2 or output.shape[1] < 2:
            raise ValueError(
                f"{type(net).__name__} with {type(_criterion(net)).__name__} takes one output for each class; the "
                f"module gives an output of shape {tuple(output.shape)}, not (n_samples, n_classes). A module with a "
                "single output for two classes goes into a skorch.NeuralNetBinaryClassifier."
            )
        return output

    return check


def _log_proba(net, to_proba):
    """Logarithm of probabilities, which are checked to be some when they are first seen."""
    several, seen = _several_outputs(net), False

    def log_proba(output):
        nonlocal seen
        proba = several(to_proba(output))
        if not seen:
            _check_proba(proba.detach(), net)
            seen = True
        return log_of(proba)

    return log_proba


def log_of(proba):
    """Logarithm of probabilities; those of zero are read as the smallest number."""
    import torch

    return torch.log(proba.clamp_min(torch.finfo(proba.dtype).tiny))


def _check_proba(proba, net):
    """Raise where a net's probabilities are none: the commonest mistake with nets, and a silent one."""
    import torch

    tolerance = max(1e-3, torch.finfo(proba.dtype).eps ** 0.5)

    def sums_to_one(values):
        return bool((abs(values.sum(dim=1) - 1) <= tolerance).all())

    if not bool(proba.isfinite().all()) or (bool((proba >= -tolerance).all()) and sums_to_one(proba)):
        return
    criterion = type(_criterion(net)).__name__
    if sums_to_one(proba.exp()):
        raise ValueError(
            f"the module of this {type(net).__name__} gives log-probabilities, where skorch reads the output as "
            f"probabilities with {criterion} (it takes the logarithm itself). Use "
            "criterion=torch.nn.CrossEntropyLoss, which log-probabilities suit as they are, or end the module with "
            "Softmax in place of LogSoftmax."
        )
    raise ValueError(
        f"`predict_proba` of this {type(net).__name__} gives values that are no probabilities (the first row sums to "
        f"{float(proba[0].sum()):.3g}, the smallest value is {float(proba.min()):.3g}): with {criterion} and "
        f"predict_nonlinearity={net.predict_nonlinearity!r} skorch takes the module's output as it is. If it gives "
        "logits, use criterion=torch.nn.CrossEntropyLoss (BCEWithLogitsLoss for a single output), or "
        "predict_nonlinearity=torch.nn.Softmax(dim=1)."
    )


def _single_output(output, net):
    """The one output for two classes, (n_samples,)."""
    if output.ndim > 1 and (output.ndim > 2 or output.shape[1] != 1 or not is_binary(net)):
        raise ValueError(
            f"{type(net).__name__} with {type(_criterion(net)).__name__} takes one output for two classes, of shape "
            f"(n_samples,){' or (n_samples, 1)' if is_binary(net) else ''}; the module gives {tuple(output.shape)}. "
            "Use CrossEntropyLoss for several outputs, and skorch.NeuralNetBinaryClassifier for a single one."
        )
    return output.reshape(-1)


def two_classes(margin):
    """Logits of two classes, (n_samples, 2), from the one of the second."""
    import torch

    return torch.stack([torch.zeros_like(margin), margin], dim=1)


def complemented(proba):
    """Probabilities of two classes, (n_samples, 2), from that of the second."""
    import torch

    return torch.stack([1 - proba, proba], dim=1)


def _shifted(logits, shift):
    """Logits of two classes with ``shift`` more in favour of the second, as the rows (0, d)."""
    xp = array_namespace(logits)
    margin = logits[:, 1] - logits[:, 0] + shift
    return xp.stack([xp.zeros_like(margin), margin], axis=1)


def is_binary(net):
    """Whether a skorch net takes a single output for two classes, and decides by its threshold."""
    from skorch import NeuralNetBinaryClassifier

    return isinstance(net, NeuralNetBinaryClassifier)


def _threshold_shift(net):
    """Log-odds at which ``predict`` changes its mind; zero for a threshold of one half."""
    if not is_binary(net):
        return 0.0
    if not 0 < net.threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1; with {net.threshold!r} the net predicts one class only.")
    return float(np.log(net.threshold / (1 - net.threshold)))


def own_input(net, X, dtype):
    """Samples in the form in which the net's own methods take them fastest."""
    import torch
    from skorch.dataset import Dataset

    if not isinstance(X, torch.Tensor):
        X = torch.from_numpy(np.require(to_numpy(X), requirements=["C", "W"]))
    X = X.detach().to(dtype)
    loader = set(net.get_params_for("iterator_valid")) - {"batch_size"}
    if net.dataset is Dataset and net.iterator_valid is torch.utils.data.DataLoader and not loader:
        return rows_dataset(X)
    # The user's own loading: workers, pinned memory, a dataset that transforms. Give it what it is made for.
    return to_numpy(X)


def rows_dataset(X):
    """A tensor as a torch dataset that hands out whole batches, since a walk over single rows costs more than a net."""
    import torch

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return len(X)

        def __getitem__(self, index):
            return X[index], 0

        def __getitems__(self, indices):
            return [(row, 0) for row in X[torch.as_tensor(indices, device=X.device)].unbind(0)]

    return Rows()


@contextlib.contextmanager
def evaluating(*modules):
    """Keep modules in eval mode, their parameters out of the graph, and leave them as they were found.

    Warns
    -----
    AttackFailureWarning
        A module changed its buffers all the same. They are put back, but its answers depended on what it was asked
        before.
    """
    with kept_as_found(*modules) as changed:
        yield
    if changed:
        warnings.warn(
            f"{type(modules[0]).__name__} changed its buffers ({', '.join(changed)}) while it was asked in eval mode: "
            "its answers depend on what it was asked before. Make its forward pass free of side effects in eval mode.",
            AttackFailureWarning,
            stacklevel=3,
        )


@contextlib.contextmanager
def kept_as_found(*modules, training=False):
    """Modules in eval mode, or in training mode, their parameters out of the graph; then as they were found.

    Yields a list, to which the names of buffers that have changed are added when they are put back.
    """
    import torch

    # A criterion may be any callable.
    modules = [module for module in modules if isinstance(module, torch.nn.Module)]
    parts = [part for module in modules for part in module.modules()]
    modes = [(part, part.training) for part in parts]
    wanted = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    buffers = [
        (part, name, buffer, buffer._version, buffer.detach().clone())
        for part in parts
        for name, buffer in part.named_buffers(recurse=False)
    ]
    changed = []
    try:
        for module in modules:
            module.train(training)
        for parameter in wanted:
            parameter.requires_grad_(False)
        with _differentiable_rnn(parts):
            yield changed
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for part, mode in modes:
            part.training = mode
        changed += _restore(buffers)


def _restore(buffers):
    """Put buffers back; returns the names of those that had changed."""
    import torch

    changed = set()
    for part, name, buffer, version, value in buffers:
        if getattr(part, name, None) is not buffer:
            setattr(part, name, buffer)
            changed.add(name)
        if _differs(buffer, value, version):
            with torch.no_grad():
                buffer.copy_(value)
            changed.add(name)
    return sorted(changed)


def _differs(buffer, value, version):
    """Whether a buffer holds something else than ``value``, which it held at ``version``."""
    import torch

    if buffer.layout is not torch.strided:
        return buffer._version != version
    # The version does not tell: batch normalisation writes to its statistics without a new one.
    if torch.equal(buffer, value):
        return False
    return not bool(((buffer == value) | ((buffer != buffer) & (value != value))).all())  # NaN is NaN


def _differentiable_rnn(parts):
    """Recurrent layers of cuDNN have no backward pass in eval mode; torch's own kernels have."""
    import torch

    for part in parts:
        if isinstance(part, torch.nn.RNNBase) and any(weight.is_cuda for weight in part.parameters()):
            return torch.backends.cudnn.flags(enabled=False)
    return contextlib.nullcontext()


def dtype_and_device(net, *, lazy=False):
    """Floating-point dtype and device in which the module of a skorch net computes.

    ``lazy`` lets parameters be of unknown shape.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        The net is not initialized, or has lazy parameters that have seen no data.
    """
    if not getattr(net, "initialized_", False):
        raise NotFittedError(f"this {type(net).__name__} is not initialized; call `fit` or `initialize` first.")
    return module_dtype_and_device(net.module_, owner=type(net).__name__, lazy=lazy, device=net.device)


def module_dtype_and_device(module, *, owner, lazy=False, device=None):
    """The same of a module; ``owner`` is for errors, ``device`` for modules without parameters."""
    import torch

    tensors = (*module.parameters(), *module.buffers())
    if not lazy and any(torch.nn.parameter.is_lazy(tensor) for tensor in tensors):
        raise NotFittedError(
            f"this {owner} has lazy parameters, whose shapes are not known before data comes; call `fit` first."
        )
    for tensor in tensors:
        if tensor.is_floating_point():
            return tensor.dtype, tensor.device
    return torch.get_default_dtype(), torch.device(device or "cpu")
