"""Rules for torch modules inside skorch nets.

The one thing to get right is what a module's output means. skorch decides by the criterion: with
``CrossEntropyLoss`` the module gives logits, with ``NLLLoss`` (its default) probabilities, of which skorch takes the
logarithm in the loss, with ``BCEWithLogitsLoss`` the one logit of two classes.
"""

import contextlib
import warnings

import numpy as np
from sklearn.exceptions import NotFittedError

from skart._core._arrays import to_numpy
from skart.exceptions import AttackFailureWarning, GradientUnavailableError
from skart.gradients._registry import Bound, rule

__all__ = []


@rule("skorch.NeuralNetClassifier", "skorch.NeuralNetBinaryClassifier")
def skorch_net(net, backend):
    if not getattr(net, "initialized_", False):
        raise NotFittedError(f"this {type(net).__name__} is not initialized; call `fit` or `initialize` first.")
    module = net.module_
    dtype, device = _dtype_and_device(module, net)
    backend.require_torch(device)
    shift = _threshold_shift(net)
    return Bound(
        torch_forward(module, skorch_head(net), dtype),
        public=(lambda logits: logits + np.array([0.0, shift], dtype=logits.dtype)) if shift else None,
        own_input=lambda X: rows_dataset(X, dtype),
        index_labels=True,
        contexts=(lambda: evaluating(module),),
    )


def torch_forward(module, head, dtype):
    """Forward of a module that computes in ``dtype``; ``head`` turns its output into logits."""
    import torch

    def forward(X):
        # A new leaf that shares memory with X: the caller's tensor keeps its flags and gets no gradient.
        x = X.detach().to(dtype).requires_grad_(True)
        with torch.enable_grad():
            output = module(x)
            logits = head(output[0] if isinstance(output, tuple) else output)

        def pullback(cotangent):
            grad = None
            if logits.requires_grad:
                (grad,) = torch.autograd.grad(
                    logits, x, cotangent.to(logits.dtype), retain_graph=True, allow_unused=True
                )
            if grad is None:
                raise GradientUnavailableError(
                    f"{type(module).__name__}: the output does not depend on the input through differentiable "
                    "operations (a `detach`, `no_grad`, `argmax`, or a detour over NumPy cuts the graph). Give that "
                    "operation a `torch.autograd.Function` with the backward pass to use, or attack by scores."
                )
            return grad.to(X.dtype)

        return logits.detach().to(X.dtype), pullback

    return forward


def skorch_head(net):
    """Map from what the module of a skorch net returns to logits, (n_samples, n_classes)."""
    import torch

    criterion = getattr(net.criterion_, "_orig_mod", net.criterion_)  # a compiled criterion holds the original
    nonlinearity = net.predict_nonlinearity
    if nonlinearity == "auto":
        if isinstance(criterion, torch.nn.CrossEntropyLoss):
            return lambda output: output
        if isinstance(criterion, torch.nn.BCEWithLogitsLoss):
            return lambda output: _two_classes(_single_output(output, net) - _threshold_shift(net))
        if isinstance(criterion, torch.nn.BCELoss):

            def log_odds(output):
                p = _single_output(output, net)
                tiny = torch.finfo(p.dtype).tiny
                odds = torch.log(p.clamp_min(tiny)) - torch.log((1 - p).clamp_min(tiny))
                return _two_classes(odds - _threshold_shift(net))

            return log_odds
    to_proba = nonlinearity if callable(nonlinearity) else (lambda output: output)

    def log_proba(output):
        proba = to_proba(output)
        return torch.log(proba.clamp_min(torch.finfo(proba.dtype).tiny))

    return log_proba


def _threshold_shift(net):
    """Log-odds at which ``predict`` changes its mind; zero for a threshold of one half."""
    threshold = getattr(net, "threshold", 0.5)
    return float(np.log(threshold / (1 - threshold)))


def _single_output(output, net):
    output = output.reshape(output.shape[0], -1)
    if output.shape[1] != 1:
        raise ValueError(
            f"{type(net).__name__} with {type(net.criterion_).__name__} takes one output for two classes; the module "
            f"gives {output.shape[1]}. Use CrossEntropyLoss for several classes."
        )
    return output


def _two_classes(margin):
    import torch

    return torch.cat([torch.zeros_like(margin), margin], dim=1)


def rows_dataset(X, dtype):
    """``X`` as a torch dataset that hands out whole batches: the loader's walk over single rows costs more than a net."""
    import torch

    class Rows(torch.utils.data.Dataset):
        def __init__(self, X):
            self.X = X

        def __len__(self):
            return len(self.X)

        def __getitem__(self, index):
            return self.X[index], 0

        def __getitems__(self, indices):
            return [(row, 0) for row in self.X[torch.as_tensor(indices, device=self.X.device)].unbind(0)]

    if not isinstance(X, torch.Tensor):
        X = torch.from_numpy(np.require(to_numpy(X), requirements=["W"]))
    return Rows(X.detach().to(dtype))


@contextlib.contextmanager
def evaluating(module):
    """Keep ``module`` in eval mode, its parameters out of the graph, and leave it as it was found.

    Raises no error where the module changes its buffers all the same, but says so: such a model answers differently
    after it was asked.
    """
    modes = [(part, part.training) for part in module.modules()]
    frozen = [parameter for parameter in module.parameters() if parameter.requires_grad]
    buffers = [(name, buffer, buffer._version) for name, buffer in module.named_buffers()]
    try:
        module.eval()
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
        for part, training in modes:
            part.training = training
    changed = [name for name, buffer, version in buffers if buffer._version != version]
    if changed:
        warnings.warn(
            f"{type(module).__name__} changed its buffers ({', '.join(changed)}) while it was asked in eval mode: its "
            "answers depend on what it was asked before. Make its forward pass free of side effects in eval mode.",
            AttackFailureWarning,
            stacklevel=2,
        )


def _dtype_and_device(module, net):
    import torch

    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype, tensor.device
    return torch.float32, torch.device(net.device or "cpu")
