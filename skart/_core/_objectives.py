"""What an attack maximises: analytic losses on scores, and their composition with an oracle.

A loss maps scores of shape (n_samples, n_classes) to a value for each sample and to its derivative, given as
``scale * direction``. Searches follow the direction alone, which stays of ordinary size where the derivative itself
underflows: the cross-entropy of a model that is sure by a margin of 200 has a derivative near 1e-87, and a direction
near 1. Only who asks for the gradient proper multiplies by the scale.
"""

import copy
from typing import NamedTuple

import numpy as np

from skart._core._arrays import any_feature, array_namespace, flatten, one_hot, to_numpy

__all__ = ["LOSSES", "Asker", "Evaluation", "Ledger", "Loss", "Objective", "check_loss", "goal_met", "log_softmax"]


class Loss(NamedTuple):
    """Value of a loss that is to be maximised, and its derivative by the scores, ``scale * direction``."""

    value: object  # (n_samples,)
    direction: object  # (n_samples, n_classes)
    scale: object = None  # (n_samples,), or None for one


def log_softmax(scores):
    """Logarithm of the softmax along the classes."""
    xp = array_namespace(scores)
    shifted = scores - xp.max(scores, axis=1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))


def cross_entropy(scores, labels, targets=None, reference=None):
    """Cross-entropy of the label, or minus that of the target."""
    xp = array_namespace(scores)
    chosen = one_hot(labels if targets is None else targets, scores.shape[1])
    own = xp.sum(xp.where(chosen, scores, 0.0), axis=1)
    others = xp.where(chosen, -xp.inf, scores)
    top = xp.max(others, axis=1)
    top = xp.where(xp.isfinite(top), top, 0.0)
    weights = xp.exp(others - top[:, None])
    total = xp.sum(weights, axis=1)
    total = xp.where(total > 0, total, xp.finfo(scores.dtype).smallest_normal)
    lead = top + xp.log(total) - own  # log-odds against the chosen class
    value = xp.logaddexp(lead, xp.zeros_like(lead))
    # The derivative is softmax - one_hot = (1 - p) * (softmax over the other classes - one_hot).
    direction = weights / total[:, None] - xp.astype(chosen, scores.dtype)
    scale = xp.exp(-xp.logaddexp(-lead, xp.zeros_like(lead)))
    return Loss(value, direction, scale) if targets is None else Loss(-value, -direction, scale)


def margin(scores, labels, targets=None, reference=None):
    """Lead of the best other class over the label, or of the target over the best other class (Carlini, Wagner)."""
    xp = array_namespace(scores)
    chosen = one_hot(labels if targets is None else targets, scores.shape[1])
    others = xp.where(chosen, -xp.inf, scores)
    best = one_hot(xp.argmax(others, axis=1), scores.shape[1])
    value = xp.sum(xp.where(best, scores, 0.0), axis=1) - xp.sum(xp.where(chosen, scores, 0.0), axis=1)
    direction = xp.astype(best, scores.dtype) - xp.astype(chosen, scores.dtype)
    return Loss(value, direction) if targets is None else Loss(-value, -direction)


def difference_of_logits_ratio(scores, labels, targets=None, reference=None):
    """Margin relative to a spread of the scores, which makes it blind to their scale (Croce and Hein, 2020)."""
    xp = array_namespace(scores)
    n_classes = scores.shape[1]
    order = xp.argsort(scores, axis=1, descending=True)

    def marks(index):
        return xp.astype(one_hot(index, n_classes), scores.dtype)

    if targets is None:
        rival = marks(xp.argmax(xp.where(one_hot(labels, n_classes), -xp.inf, scores), axis=1))
        low = marks(order[:, 2])
    else:
        rival = marks(targets)
        low = 0.5 * (marks(order[:, 2]) + marks(order[:, 3]))
    lead_by, spread_by = rival - marks(labels), marks(order[:, 0]) - low
    spread = xp.sum(spread_by * scores, axis=1)
    spread = xp.where(spread > 0, spread, 1.0)
    value = xp.sum(lead_by * scores, axis=1) / spread
    direction = (lead_by - value[:, None] * spread_by) / spread[:, None]
    return Loss(value, direction)


def kl_divergence(scores, labels, targets=None, reference=None):
    """Divergence of the model's probabilities from those at the clean sample, whose scores are ``reference``.

    With a target the reference is the target's one-hot row, which makes it the cross-entropy. At the clean sample
    itself the divergence is flat: start elsewhere.
    """
    if targets is not None:
        return cross_entropy(scores, labels, targets)
    xp = array_namespace(scores)
    log_p, log_q = log_softmax(reference), log_softmax(scores)
    p = xp.exp(log_p)
    return Loss(xp.sum(p * (log_p - log_q), axis=1), xp.exp(log_q) - p)


class _Entry(NamedTuple):
    function: object
    scores: str  # which scores of the oracle it wants: "logits" or "margins"
    n_classes: tuple  # fewest classes, untargeted and targeted
    needs_reference: bool = False


LOSSES = {
    "cross_entropy": _Entry(cross_entropy, "logits", (2, 2)),
    "margin": _Entry(margin, "margins", (2, 2)),
    "dlr": _Entry(difference_of_logits_ratio, "margins", (3, 4)),
    "kl": _Entry(kl_divergence, "logits", (2, 2), needs_reference=True),
}


def check_loss(name, n_classes, targeted):
    """Raise where the loss is not defined for so few classes."""
    fewest = LOSSES[name].n_classes[targeted]
    if n_classes < fewest:
        raise ValueError(
            f"loss={name!r} needs at least {fewest} classes {'with' if targeted else 'without'} a target; "
            f"the model has {n_classes}. Use loss='margin', which is the same up to a scale, or 'cross_entropy'."
        )


class Evaluation(NamedTuple):
    """What an objective says of a point."""

    value: object  # (n_samples,), to be maximised
    grad: object  # shape of the point, a positive multiple of the gradient for each sample; None where not asked for
    adversarial: object  # (n_samples,), whether the scores meet the attack's goal


class Ledger:
    """Counts for each sample what the model was asked, and what went wrong with its gradients.

    Attributes
    ----------
    n_queries, n_gradients : ndarray of int, shape (n_samples,)
        Times that the sample went forward, and that a gradient was pulled back to it.
    zero_gradient, bad_gradient, bad_scores : ndarray of bool, shape (n_samples,)
        Every gradient was zero everywhere; a gradient, or a score, was not finite.
    """

    def __init__(self, n_samples):
        self.n_queries = np.zeros(n_samples, dtype=np.int64)
        self.n_gradients = np.zeros(n_samples, dtype=np.int64)
        self.zero_gradient = np.zeros(n_samples, dtype=bool)
        self.bad_gradient = np.zeros(n_samples, dtype=bool)
        self.bad_scores = np.zeros(n_samples, dtype=bool)
        self._rows = np.arange(n_samples)

    @classmethod
    def joined(cls, ledgers):
        """One ledger of several batches, in their order."""
        whole = cls(0)
        for name in vars(whole):
            setattr(whole, name, np.concatenate([getattr(ledger, name) for ledger in ledgers]))
        whole._rows = np.arange(len(whole.n_queries))
        return whole


class Asker:
    """Asks an oracle for the scores of the samples of one batch, and keeps the books.

    Parameters
    ----------
    ask : callable
        ``ask(x, scores=...)`` returns scores (n_samples, n_classes) and the function that pulls a cotangent of that
        shape back to the shape of ``x``. A pullback may have an attribute ``n_queries``: how often its last call
        sent each sample forward.
    n_samples : int
        Size of the batch.
    announce : callable, default=None
        ``announce(rows, passes)`` is told before each pass which samples it asks, and how often each was asked before.

    Attributes
    ----------
    ledger : Ledger
    """

    def __init__(self, ask, n_samples, announce=None):
        self._ask = ask
        self._announce = announce
        self.ledger = Ledger(n_samples)
        self._rows = self.ledger._rows

    def __getitem__(self, rows):
        """The asker for the samples that ``rows`` (boolean) marks; it writes to the same ledger."""
        part = copy.copy(self)
        part._rows = self._rows[to_numpy(rows)]
        return part

    def __call__(self, x, scores="margins"):
        """Scores at ``x`` and their pullback, one forward pass; ``pullback.last`` is for who calls it once only.

        Entries of a gradient that are not finite come back as zero.
        """
        rows = self._rows
        if self._announce is not None:
            self._announce(rows, self.ledger.n_queries[rows])
        output, pull = self._ask(x, scores=scores)
        self.ledger.n_queries[rows] += 1
        xp = array_namespace(output)
        if not bool(xp.isfinite(xp.sum(output))):
            self.ledger.bad_scores[rows] |= to_numpy(any_feature(~xp.isfinite(output)))

        def checked(pull):
            def pullback(cotangent):
                grad = self._checked(pull(cotangent))
                self.ledger.n_queries[rows] += getattr(pull, "n_queries", 0)
                return grad

            return pullback

        pullback = checked(pull)
        pullback.last = checked(getattr(pull, "last", pull))
        return output, pullback

    def _checked(self, grad):
        xp = array_namespace(grad)
        ledger, rows = self.ledger, self._rows
        # Zero so far: a search that finds a gradient from another start was not blind.
        suspect = (ledger.n_gradients[rows] == 0) | ledger.zero_gradient[rows]
        ledger.n_gradients[rows] += 1
        if suspect.any():
            ledger.zero_gradient[rows] = suspect & to_numpy(xp.max(xp.abs(flatten(grad)), axis=1) == 0)
        # One sum tells whether any entry is not finite; only then is it worth finding which.
        if not bool(xp.isfinite(xp.sum(grad))):
            finite = xp.isfinite(grad)
            ledger.bad_gradient[rows] |= to_numpy(any_feature(~finite))
            grad = xp.where(finite, grad, 0.0)
        return grad


class Objective:
    """A loss of the answers of an oracle, as a function of the samples.

    Parameters
    ----------
    ask : Asker or callable
        What answers for the samples; see :class:`Asker`.
    loss : {"cross_entropy", "margin", "dlr", "kl"}
        Key of :data:`LOSSES`.
    labels : integer array of shape (n_samples,)
        Class to leave.
    targets : integer array of shape (n_samples,) or None
        Class to reach.
    reference : array of shape (n_samples, n_classes) or None
        Scores of the clean samples, for a loss that needs them.
    """

    def __init__(self, ask, loss, labels, *, targets=None, reference=None):
        self._ask = ask if isinstance(ask, Asker) else Asker(ask, labels.shape[0])
        self._loss = LOSSES[loss]
        self.labels = labels
        self.targets = targets
        self.reference = reference

    @property
    def ledger(self):
        """What was asked so far."""
        return self._ask.ledger

    def __getitem__(self, rows):
        """The objective of the samples that ``rows`` (boolean) marks; it writes to the same ledger."""
        part = copy.copy(self)
        part._ask = self._ask[rows]
        part.labels = self.labels[rows]
        part.targets = None if self.targets is None else self.targets[rows]
        part.reference = None if self.reference is None else self.reference[rows]
        return part

    def __call__(self, x):
        """Value and gradient at ``x``: one forward and one backward pass."""
        loss, adversarial, pullback = self._forward(x)
        return Evaluation(loss.value, pullback.last(loss.direction), adversarial)

    def value(self, x):
        """Value at ``x`` without the gradient: one forward pass."""
        loss, adversarial, _ = self._forward(x)
        return Evaluation(loss.value, None, adversarial)

    def _forward(self, x):
        scores, pullback = self._ask(x, scores=self._loss.scores)
        loss = self._loss.function(scores, self.labels, self.targets, self.reference)
        return loss, goal_met(scores, self.labels, self.targets), pullback


def goal_met(scores, labels, targets=None):
    """Whether the largest score is the target's or, without targets, another one than the label's."""
    predicted = array_namespace(scores).argmax(scores, axis=1)
    return predicted != labels if targets is None else predicted == targets
