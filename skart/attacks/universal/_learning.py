"""What attacks share that learn one thing for all samples: the session in which they learn it."""

import copy
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import NotFittedError

from skart._core._arrays import array_namespace
from skart._core._objectives import Asker
from skart._core._random import RandomStream
from skart.attacks._base import BaseAttack, _Space
from skart.oracles._oracle import Oracle
from skart.utils._containers import Container

__all__ = ["LearntAttack", "Lesson", "box", "boxed", "weighted"]


class Lesson(NamedTuple):
    """The training data as the model sees them, and whom to ask."""

    x: object  # (n_samples, ...), in the oracle's namespace
    labels: object  # positions of the model's own predictions
    targets: object  # positions of the classes to reach, or None
    ask: Asker
    oracle: Oracle
    space: _Space
    stream: RandomStream
    X: object  # the data as they came, checked
    container: Container

    @property
    def n_samples(self):
        return self.x.shape[0]

    def array(self, values):
        """Values of the host in the oracle's namespace and on its device; numbers in its dtype."""
        values = np.asarray(values)
        dtype = self.x.dtype if values.dtype.kind == "f" else None
        return self.oracle.xp.asarray(values, dtype=dtype, device=self.oracle.device)

    def batch(self, index):
        """The samples at ``index``, the labels that they are to leave and, or None, those that they are to reach."""
        targets = None if self.targets is None else self.targets[index]
        return self.oracle.xp.take(self.x, self.array(index), axis=0), self.labels[index], targets

    def met(self, positions, index=slice(None)):
        """Which of the predictions ``positions``, those for the samples at ``index``, meet the goal."""
        if self.targets is None:
            return positions != self.labels[index]
        return positions == self.targets[index]


class LearntAttack(BaseAttack):
    """Base class of attacks that learn one thing for all samples. Subclasses implement ``_learn_from``."""

    def _learnt(self):
        """Whether the attack holds all that ``transform`` needs besides a model."""
        raise NotImplementedError

    def _learn_from(self, lesson):
        """Learn, and return what the samples of the lesson become, an array like ``lesson.x``, or None."""
        raise NotImplementedError

    def _learn(self, X, y):
        estimator, container = self.estimator_, Container(X)
        X = self._check_samples(container.numbers(X), estimator)
        oracle = Oracle(estimator, X, container=container)
        space = _Space(self, X, container, oracle)
        stream = RandomStream(self.random_state)
        with oracle:
            self._check_oracle(oracle)
            x = oracle.asarray(X)
            # Labels of the training data serve the model; what is to be changed is what it says.
            labels, targets = self._goals(x, None, oracle, stream)
            ask = Asker(oracle.vjp, x.shape[0])
            lesson = Lesson(x, labels, targets, ask, oracle, space, stream, X, container)
            x_adv = self._learn_from(lesson)
            if x_adv is None:
                return
            positions = self._predicted(x_adv, oracle)
            met = lesson.met(positions)
            self.fooling_rate_ = float(np.mean(met))
            # Up to the line that called `fit`, which scikit-learn wraps.
            self._warn_of_failures(oracle, x, x_adv, met, ask.ledger, space, stacklevel=6)

    def _target_kind(self, target, classes):
        kind = super()._target_kind(target, classes)
        if kind != "label":
            raise ValueError(
                f"{type(self).__name__}: target must be None or one class label, since all samples share what is "
                f"learnt; got {target!r}."
            )
        return kind

    def _fitted_estimator(self):
        if not self._learnt():
            raise NotFittedError(
                f"this {type(self).__name__} has learnt nothing yet: call `fit(X, y)` first, on data of your choice. "
                "A model that is fitted goes into a sklearn.frozen.FrozenEstimator, which `fit` leaves as it is."
            )
        return super()._fitted_estimator()


def box(x, space):
    """Where the box and the mask let samples go, without a radius: lower and upper bounds, or None twice."""
    space = copy.copy(space)
    space.norm, space.eps = 2, np.inf
    ball = space.ball(x)
    return ball.lower, ball.upper


def boxed(x, lower, upper):
    xp = array_namespace(x)
    return x if lower is None else xp.minimum(xp.maximum(x, lower), upper)


def weighted(loss):
    """Derivative of a summed loss by the scores, up to a positive factor that all samples share.

    Where the model is so sure that the weights of samples underflow, they keep a small one, all of them the same.
    """
    if loss.scale is None:
        return loss.direction
    xp = array_namespace(loss.scale)
    top = xp.max(loss.scale)
    weight = xp.clip(loss.scale / xp.where(top > 0, top, 1.0), 1e-6, None)
    return loss.direction * weight[:, None]
