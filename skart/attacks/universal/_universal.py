"""Universal adversarial perturbations (section 6.9, Algorithm 5)."""

import inspect
from numbers import Integral, Real

import numpy as np
from sklearn.base import clone

from skart._core._arrays import array_namespace, device, to_numpy
from skart._core._balls import NORMS, make_ball, norm_of
from skart._core._objectives import LOSSES, Ledger, check_loss
from skart._core._random import RandomStream
from skart.attacks._base import BaseAttack, _Draw, _Space
from skart.attacks.universal._learning import LearntAttack, box, boxed, weighted
from skart.exceptions import GradientUnavailableError
from skart.utils._sklearn_compat import HasMethods, Interval, Options, StrOptions

__all__ = ["UniversalPerturbation"]


class UniversalPerturbation(LearntAttack):
    """Learn one perturbation that changes what the model says of most samples.

    ``fit`` learns ``perturbation_`` and ``transform`` adds it to samples it has never seen. Training goes through the
    data in random batches, ``max_iter`` times at most, until all but a share of ``delta`` is deceived [1]_. There are
    two ways to learn from a batch:

    - ``attacker=None`` follows the gradient of the loss of the whole batch by the perturbation, one forward-backward
      pass a batch [2]_. Steps shrink from a radius to nothing. It is the faster and, on nets, the stronger one.
    - With an ``attacker`` it is Algorithm 5 of [3]_ on whole batches: those samples of a batch that the perturbation
      does not deceive yet are attacked from where it takes them, and it moves in the direction that those attacks
      share. Attacks by scores or decisions serve models without gradients.

    After each pass over the data the model judges the perturbation, and the best one is kept.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack. Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`. ``None`` attacks a
        :class:`~sklearn.linear_model.LogisticRegression` surrogate; what was learnt on it can be applied to the model
        that a scorer or trainer has at hand.
    attacker : attack, default=None
        One of skart's attacks, a recipe: its ``estimator`` is None, and its box, mask, target and random state are
        those of this attack.
    norm : {1, 2, np.inf}, default=np.inf
        Norm that measures the perturbation.
    eps : float or array-like of shape (n_features,), default=0.3
        Radius of the ball in the units of ``X``; an array gives one radius for each feature.
    delta : float, default=0.2
        Share of the samples that may resist: training ends once ``1 - delta`` are deceived. 0 makes all of the passes,
        unless every sample is deceived.
    max_iter : int, default=20
        Most passes over the training data.
    loss : {"cross_entropy", "margin", "dlr"}, default="cross_entropy"
        Loss to maximise, without an ``attacker``.
    target : label or None, default=None
        Class to reach. ``None``: any but the one that the model gives. A label that is also a reserved word of
        other attacks ("random" ...) is given as a list of one element.
    clip_values : (low, high), "fit" or None, default=None
        Range of valid data, as numbers or as one number for each feature. ``"fit"`` takes the range that ``fit``
        saw in each feature, widened for a sample that lies outside.
    mask : array-like, default=None
        Features that may change: a boolean array, positions, or column names.
    batch_size : int, default=64
        Samples of a batch, in ``fit`` and in ``transform``.
    n_jobs : int, default=None
        Processes over which ``transform`` spreads batches. It changes no result, and has no effect for nets.
    random_state : int, RandomState instance or None, default=None
        Source of the order of the batches, and of what the attacker draws.
    verbose : int or bool, default=0
        Show the progress of ``transform`` over batches (needs tqdm).

    Attributes
    ----------
    perturbation_ : ndarray of the shape of a sample
        What is added to every sample, before the box holds it back.
    fooling_rate_ : float
        Share of the training samples that it deceives; with a target, of those that are taken for the target.
    n_iter_ : int
        Number of passes over the training data.
    estimator_ : estimator
        The fitted classifier that is attacked.
    clip_values_ : tuple of arrays
        Range seen by ``fit``, with ``clip_values="fit"``.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of str
        Names of the features seen by ``fit``, where it saw a data frame.

    References
    ----------
    .. [1] "Universal adversarial perturbations", arXiv:1610.08401
    .. [2] "Universal Adversarial Training", arXiv:1811.11304
    .. [3] "Adversarial Robustness Toolbox v1.0.0", arXiv:1807.01069

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.attacks import UniversalPerturbation
    >>> X, y = load_iris(return_X_y=True)
    >>> attack = UniversalPerturbation(LogisticRegression(max_iter=200), eps=1.5, random_state=0).fit(X[::2], y[::2])
    >>> attack.perturbation_.shape
    (4,)
    >>> result = attack.run(X[1::2])
    >>> bool(result.success.mean() > 0.6)
    True
    """

    _parameter_constraints: dict = {
        **LearntAttack._parameter_constraints,
        "attacker": [HasMethods(["fit", "transform", "run"]), None],
        "norm": [Options(Real, set(NORMS))],
        "eps": [Interval(Real, 0, None, closed="left"), "array-like"],
        "delta": [Interval(Real, 0, 1, closed="both")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "loss": [StrOptions({name for name, loss in LOSSES.items() if not loss.needs_reference})],
    }

    def __init__(
        self,
        estimator=None,
        *,
        attacker=None,
        norm=np.inf,
        eps=0.3,
        delta=0.2,
        max_iter=20,
        loss="cross_entropy",
        target=None,
        clip_values=None,
        mask=None,
        batch_size=64,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.attacker = attacker
        self.norm = norm
        self.eps = eps
        self.delta = delta
        self.max_iter = max_iter
        self.loss = loss
        self.target = target
        self.clip_values = clip_values
        self.mask = mask
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _learnt(self):
        return hasattr(self, "perturbation_")

    def _radius(self):
        return self.eps

    def _learn_from(self, lesson):
        n_samples, space = lesson.n_samples, lesson.space
        ball = make_ball(lesson.oracle.xp.zeros_like(lesson.x[:1]), norm=self.norm, eps=space.eps, mask=space.mask)
        improve = (_by_gradients if self.attacker is None else _by_attacks)(self, lesson, ball)
        v = best = ball.centre
        best_rate, n_passes = np.mean(lesson.met(lesson.labels)), 0
        n_batches = -(-n_samples // self.batch_size)
        while best_rate < 1 - self.delta and n_passes < self.max_iter and not space.frozen:
            order = lesson.stream.generator(3, n_passes).permutation(n_samples)
            for k in range(n_batches):
                v = improve(v, order[k::n_batches], n_passes * n_batches + k, self.max_iter * n_batches)
            rate = np.mean(lesson.met(self._judged(v, lesson)))
            if rate >= best_rate:  # of equal ones the later, which has the higher loss
                best, best_rate = v, rate
            n_passes += 1
        self.perturbation_ = to_numpy(ball.enforce(best))[0, ...].copy()
        self.n_iter_ = n_passes
        return lesson.oracle.xp.concat([self._added(part, space) for part in self._batches(lesson.x)], axis=0)

    def _batches(self, x):
        return (x[k : k + self.batch_size] for k in range(0, x.shape[0], self.batch_size))

    def _judged(self, v, lesson):
        """What the model says of the training samples with ``v`` added."""
        return np.concatenate(
            [lesson.oracle.positions(boxed(x + v, *box(x, lesson.space))) for x in self._batches(lesson.x)]
        )

    def _added(self, x, space):
        """Samples with the perturbation, within ball, box and mask to the last bit."""
        xp = array_namespace(x)
        ball = space.ball(x)
        v = xp.asarray(self.perturbation_, dtype=x.dtype, device=device(x))
        return ball.enforce(ball.project(x + v[None, ...]))

    def _attack(self, x, labels, targets, *, oracle, space, draw):
        if self.perturbation_.shape != tuple(x.shape[1:]):
            raise ValueError(
                f"{type(self).__name__}: the perturbation has shape {self.perturbation_.shape}, as the samples in "
                f"`fit` had; X has samples of shape {tuple(x.shape[1:])}."
            )
        return self._added(x, space), Ledger(x.shape[0])


def _by_gradients(attack, lesson, ball):
    """Steps along the gradient of the summed loss of a batch by the perturbation."""
    oracle = lesson.oracle
    if oracle.access != "gradients":
        raise GradientUnavailableError(
            f"{type(attack).__name__} needs gradients where no `attacker` is given. {oracle._no_gradient}"
        )
    check_loss(attack.loss, len(oracle.classes_), attack.target is not None)
    loss = LOSSES[attack.loss]

    def improve(v, index, step, n_steps):
        x, labels, targets = lesson.batch(index)
        xp = array_namespace(x)
        lower, upper = box(x, lesson.space)
        moved = x + v
        scores, pullback = lesson.ask[index](boxed(moved, lower, upper), scores=loss.scores)
        labels = lesson.array(labels)
        found = loss.function(scores, labels, None if targets is None else lesson.array(targets))
        grad = pullback.last(weighted(found))
        if lower is not None:
            # What the box cuts off has no effect on its sample; only a way back counts.
            lost = ((moved <= lower) & (grad < 0)) | ((moved >= upper) & (grad > 0))
            grad = xp.where(lost, 0.0, grad)
        total = xp.sum(grad, axis=0, keepdims=True)
        return ball.project(v + ball.steepest(total, v, (1 - step / n_steps) * lesson.space.eps))

    return improve


def _by_attacks(attack, lesson, ball):
    """Algorithm 5: towards where attacks on the samples that are not deceived yet agree to go."""
    recipe, space = _recipe(attack, lesson)
    oracle = lesson.oracle
    stream = RandomStream(int(lesson.stream.generator(4).integers(2**31)))
    ledger = lesson.ask.ledger

    def improve(v, index, step, n_steps):
        x, labels, targets = lesson.batch(index)
        xp = array_namespace(x)
        here = boxed(x + v, *box(x, lesson.space))
        resists = ~lesson.met(oracle.positions(here), index)
        if not resists.any():
            return v
        index, labels = index[resists], labels[resists]
        targets = None if targets is None else targets[resists]
        here = here[lesson.array(resists)]
        there, asked = recipe._attack(
            here, labels, targets, oracle=oracle, space=space, draw=_Draw(stream, step, step * attack.batch_size)
        )
        _enter(ledger, index, asked)
        deceived = lesson.met(oracle.positions(there), index)
        if not deceived.any():
            return v
        deceived = lesson.array(deceived)
        ways = (there - here)[deceived]
        together = xp.sum(ways, axis=0, keepdims=True)
        # As far as one of them goes on its own, in the direction that they share. In the Euclidean norm whatever the
        # ball's: in the maximum norm, what few features share would hold back all of the others.
        length, own = norm_of(together, 2), xp.mean(norm_of(ways, 2))
        return ball.project(v + together * (own / xp.where(length > 0, length, 1.0)))

    return improve


def _recipe(attack, lesson):
    """The attacker with the box, the mask and the target of the attack that learns from it, and where it may go."""
    attacker, name = attack.attacker, type(attack).__name__
    if not isinstance(attacker, BaseAttack) or isinstance(attacker, LearntAttack):
        raise TypeError(
            f"{name}: attacker must be one of skart's attacks that perturb samples one by one, an instance; got "
            f"{attacker!r}."
        )
    if attacker.estimator is not None:
        raise ValueError(
            f"{name}: attacker is a recipe, and its estimator must be None; got {attacker.estimator!r}. To learn on "
            "another model, give that one as `estimator`."
        )
    takes = inspect.signature(type(attacker)).parameters
    if attack.target is not None and "target" not in takes:
        raise ValueError(f"{name}: {type(attacker).__name__} cannot be aimed; choose another attacker, or no target.")
    shared = {name: getattr(attack, name) for name in ("target", "clip_values", "mask") if name in takes}
    recipe = clone(attacker).set_params(**shared)
    if hasattr(attack, "clip_values_"):
        recipe.clip_values_ = attack.clip_values_
    recipe._validate_params()
    recipe._check_oracle(lesson.oracle)
    return recipe, _Space(recipe, lesson.X, lesson.container, lesson.oracle)


def _enter(ledger, index, asked):
    """Enter what one attack on the samples at ``index`` asked into the books of them all."""
    ledger.zero_gradient[index] = asked.zero_gradient & (ledger.zero_gradient[index] | (ledger.n_gradients[index] == 0))
    ledger.bad_gradient[index] |= asked.bad_gradient
    ledger.bad_scores[index] |= asked.bad_scores
    ledger.n_queries[index] += asked.n_queries
    ledger.n_gradients[index] += asked.n_gradients
