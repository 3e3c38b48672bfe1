"""The template of attacks: what all of them share, from the caller's data to the checked result.

A subclass of :class:`BaseAttack` implements ``_attack``: from arrays in the oracle's namespace to arrays. One that
asks for gradients derives from :class:`GradientAttack` and implements ``_search``; one that maximises a loss in a ball
derives from :class:`AscentAttack` and implements ``_perturb``. One that asks for labels or scores alone derives from
:class:`BlackBoxAttack`. One that learns from training data implements
``_learn``.
"""

import contextlib
import copy
import warnings
from abc import ABC, abstractmethod
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from array_api_compat import is_torch_array
from joblib import effective_n_jobs
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data

from skart._core._arrays import scatter, to_numpy
from skart._core._balls import NORMS, make_ball, norm_of
from skart._core._judge import Judge
from skart._core._objectives import LOSSES, Asker, Ledger, Objective, check_loss
from skart._core._random import RandomStream
from skart.attacks._result import AttackResult
from skart.exceptions import AttackFailureWarning, GradientUnavailableError, QueryBudgetExceeded
from skart.gradients._registry import bind, register_rule, user_rules
from skart.oracles._oracle import N_CHECKED, Oracle, classes_of, find_labels
from skart.utils._containers import Container
from skart.utils._optional import import_optional
from skart.utils._sklearn_compat import HasMethods, Interval, Options, StrOptions, fit_context
from skart.utils._validation import (
    check_clip_values,
    check_eps,
    check_mask,
    check_range,
    check_samples,
    eps_of_columns,
)

__all__ = ["AscentAttack", "BaseAttack", "BlackBoxAttack", "GradientAttack", "bind_attack"]

RESERVED_TARGETS = ("given", "least_likely", "random", "runner_up")


class _Outcome(NamedTuple):
    """What one batch came to, as NumPy arrays but for ``x_adv``."""

    x_adv: object
    positions: np.ndarray  # what the model says of x_adv
    ledger: Ledger
    stopped: QueryBudgetExceeded | None = None  # what kept this batch from being finished
    judged: np.ndarray | None = None  # of a batch that was stopped: whether the model has said so of x_adv
    trace: tuple | None = None  # queries and distances, each (n_records, n_batch)
    share: np.ndarray | None = None  # of a random model: how often x_adv met the goal


class _Work(NamedTuple):
    """What one batch needs."""

    place: int  # among the batches
    x: object
    labels: np.ndarray
    targets: np.ndarray | None


class BaseAttack(OneToOneFeatureMixin, TransformerMixin, BaseEstimator, ABC):
    """Base class of attacks. Subclasses implement :meth:`_attack`."""

    # Times that a model which declares itself random is asked for the verdict, each time with fresh draws.
    n_evaluations = 10

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit", "predict"]), None],
        "target": "no_validation",  # a label can be anything
        "clip_values": ["array-like", StrOptions({"fit"}), None],
        "mask": ["array-like", None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None):
        """Fit a clone of ``estimator``, and learn what the attack itself learns.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)
            Training data.
        y : array-like of shape (n_samples,), default=None
            Labels. A :class:`~sklearn.frozen.FrozenEstimator` needs none.

        Returns
        -------
        self : object
        """
        learnt = copy.copy(self)  # a fit that raises leaves the attack as it was
        checked = learnt._check_fit_data(X, y)
        template = self._surrogate() if self.estimator is None else self.estimator
        learnt.estimator_ = clone(template).fit(X, y)
        _check_classifier(learnt.estimator_)
        if isinstance(self.clip_values, str):
            learnt.clip_values_ = (checked.min(axis=0), checked.max(axis=0))
        if hasattr(self, "max_iter"):
            learnt.n_iter_ = self.max_iter
        learnt._learn(X, y)
        self.__dict__ = vars(learnt)
        return self

    def transform(self, X, y=None):
        """Adversarial samples for ``X``.

        Parameters
        ----------
        X : array-like, tensor or data frame of shape (n_samples, ...)
            Clean samples.
        y : array-like of shape (n_samples,), default=None
            Labels to leave, entries of the model's ``classes_``. ``None`` takes the model's own predictions, which
            also avoids label leaking. With ``target="given"``, the target of each sample.

        Returns
        -------
        X_adv : array, tensor or data frame of the kind, dtype and shape of ``X``

        Raises
        ------
        QueryBudgetExceeded
            The model's budget of queries ran out. ``result`` of the error holds what was found until then.

        Warns
        -----
        AttackFailureWarning
            The attack failed for a reason that says nothing good about the model.
        """
        return self._run(X, y, measure=False).X_adv

    def run(self, X, y=None):
        """Attack ``X`` and report on each sample.

        Parameters
        ----------
        X, y
            As for ``transform``.

        Returns
        -------
        result : AttackResult
            ``X_adv``, ``y``, ``y_adv``, ``success``, ``distance``, ``n_queries`` and ``n_gradients``.

        Raises
        ------
        QueryBudgetExceeded
            As for ``transform``.

        Warns
        -----
        AttackFailureWarning
            As for ``transform``.
        """
        return self._run(X, y, measure=True)

    @abstractmethod
    def _attack(self, x, labels, targets, *, oracle, space, draw):
        """Adversarial samples for one batch.

        Parameters
        ----------
        x : array of shape (n_batch, ...)
            Clean samples in the oracle's namespace.
        labels, targets : ndarray of int, shape (n_batch,)
            Positions of the labels to leave and, or None, of those to reach.
        oracle : Oracle
        space : _Space
            Where the samples may go.
        draw : callable
            ``draw(k)`` gives the batch's ``k``-th random generator.

        Returns
        -------
        x_adv : array of shape (n_batch, ...)
        ledger : Ledger
        trace : tuple of two ndarrays of shape (n_records, n_batch), optional
            Queries and distances on the way.
        """

    def _run(self, X, y, measure):
        self._validate_params()
        estimator = self._fitted_estimator()
        container = Container(X)
        X = self._check_samples(container.numbers(X), estimator)
        stream = RandomStream(self.random_state)
        oracle = Oracle(estimator, X, container=container)
        space = _Space(self, X, container, oracle)
        n_samples = X.shape[0]
        with oracle:
            self._check_oracle(oracle)
            asked = np.zeros(n_samples, dtype=np.int64)
            asked[:N_CHECKED] += oracle.n_forward // min(n_samples, N_CHECKED)  # when the oracle was made
            x = oracle.asarray(X)
            before = oracle.n_forward
            labels, targets = self._goals(x, y, oracle, stream)
            asked += (oracle.n_forward - before) // n_samples
            space.asked = asked
            works = [
                _Work(
                    index,
                    x[start : start + self.batch_size],
                    labels[start : start + self.batch_size],
                    None if targets is None else targets[start : start + self.batch_size],
                )
                for index, start in enumerate(range(0, n_samples, self.batch_size))
            ]
            outcomes = self._spread(works, oracle, space, stream, estimator, container)
            # A copy even of a single batch: an attack may hand back the clean samples, which are the caller's memory.
            x_adv = oracle.xp.concat([outcome.x_adv for outcome in outcomes], axis=0)
            positions = np.concatenate([outcome.positions for outcome in outcomes])
            ledger = Ledger.joined([outcome.ledger for outcome in outcomes])
            ledger.n_queries += asked
            goal = labels if targets is None else targets
            success = positions != goal if targets is None else positions == goal
            if any(outcome.share is not None for outcome in outcomes):
                success = np.concatenate([np.zeros(len(o.positions)) if o.share is None else o.share for o in outcomes])
            stopped = next((outcome.stopped for outcome in outcomes if outcome.stopped), None)
            if stopped:
                success = success * np.concatenate(
                    [np.ones(len(o.positions), dtype=bool) if o.judged is None else o.judged for o in outcomes]
                )
            else:
                # The line that called us: scikit-learn wraps `transform`, but not `run`.
                mostly = success >= 0.5  # of the draws, for a random model
                self._warn_of_failures(oracle, x, x_adv, mostly, ledger, space, stacklevel=5 if measure else 6)
        distance = _distance(x, x_adv, getattr(self, "norm", 2)) if measure or stopped else None
        result = AttackResult(
            X_adv=container.wrap(x_adv, x),
            y=oracle.classes_[goal],
            y_adv=oracle.classes_[positions],
            success=success,
            distance=distance,
            n_queries=ledger.n_queries,
            n_gradients=ledger.n_gradients,
            trace=_joined_traces([outcome.trace for outcome in outcomes]),
        )
        if stopped:
            stopped.result = result
            raise stopped
        return result

    def _spread(self, works, oracle, space, stream, estimator, container):
        """Attack all batches: one after another, or over processes where the model can travel."""
        n_workers = min(effective_n_jobs(self.n_jobs), len(works))
        if n_workers > 1 and not oracle.runs_in_process:
            # One task a worker, not a batch: the model is sent once to each.
            shares = [works[k::n_workers] for k in range(n_workers)]
            done = Parallel(n_jobs=n_workers)(
                delayed(_attack_elsewhere)(self, estimator, container, space, stream, share, user_rules())
                for share in shares
            )
            outcomes = [outcome for share in done for outcome in share]
            order = np.argsort([work.place for share in shares for work in share])
            oracle.n_forward += sum(int(outcome.ledger.n_queries.sum()) for outcome in outcomes)
            oracle.n_pulled += sum(int(outcome.ledger.n_gradients.sum()) for outcome in outcomes)
            return [outcomes[k] for k in order]
        if self.verbose:
            tqdm = import_optional("tqdm.auto", extra="progress", purpose="verbose=True").tqdm
            works = tqdm(works, desc=type(self).__name__, unit="batch")
        return self._attack_in_turn(works, oracle, space, stream)

    def _attack_in_turn(self, works, oracle, space, stream):
        """Attack one batch after another, until a budget of queries is spent."""
        outcomes, stopped = [], None
        for work in works:
            outcomes.append(_unfinished(work, stopped) if stopped else self._attack_batch(work, oracle, space, stream))
            stopped = outcomes[-1].stopped
        return outcomes

    def _attack_batch(self, work, oracle, space, stream):
        n_forward, n_pulled = oracle.n_forward, oracle.n_pulled
        first, share = work.place * self.batch_size, None
        oracle.draw_from(stream, first)
        try:
            x_adv, ledger, *trace = self._attack(
                work.x,
                work.labels,
                work.targets,
                oracle=oracle,
                space=space,
                draw=_Draw(stream, work.place, first),
            )
            if oracle.random:
                share = self._verdict(x_adv, work, oracle, stream, first)
                ledger.n_queries += self.n_evaluations
            oracle.draw_from(None)
            positions = oracle.positions(x_adv)
        except QueryBudgetExceeded as error:
            if error._outcome is not None:  # an attack that keeps books has kept what it found
                outcome, error._outcome = error._outcome, None
                return outcome
            outcome = _unfinished(work, error)
            # Who of the batch was asked how often is lost with it: its mean.
            outcome.ledger.n_queries += (oracle.n_forward - n_forward) // len(work.labels)
            outcome.ledger.n_gradients += (oracle.n_pulled - n_pulled) // len(work.labels)
            return outcome
        ledger.n_queries += 1
        return _Outcome(x_adv, positions, ledger, trace=trace[0] if trace else None, share=share)

    def _verdict(self, x_adv, work, oracle, stream, first):
        """How often a random model falls for each sample, over fresh draws."""
        oracle.draw_from(stream, first, verdict=True)
        said = np.stack([oracle.positions(x_adv) for _ in range(self.n_evaluations)])
        return np.mean(said != work.labels if work.targets is None else said == work.targets, axis=0)

    def _within(self, ball, x_adv):
        """``x_adv``, which must lie in the ball."""
        inside = to_numpy(ball.contains(x_adv))
        if not inside.all():
            raise RuntimeError(
                f"{type(self).__name__} left the ball, the box or the mask for {np.count_nonzero(~inside)} samples. "
                "This is a bug in skart; please report it with the parameters of the attack."
            )
        return x_adv

    def _fitted_estimator(self):
        if hasattr(self, "estimator_"):
            return self.estimator_
        name = type(self).__name__
        if self.estimator is None:
            raise NotFittedError(
                f"this {name} has no estimator to attack: call `fit(X, y)` for a surrogate, or give a fitted "
                "classifier as `estimator`."
            )
        try:
            check_is_fitted(self.estimator)
        except NotFittedError:
            raise NotFittedError(
                f"this {name} is not fitted, and neither is its estimator "
                f"{type(self.estimator).__name__}: call `fit(X, y)`, or give a fitted estimator."
            ) from None
        return self.estimator

    def _check_fit_data(self, X, y):
        """Validate training data, and set ``n_features_in_`` and ``feature_names_in_``."""
        needs_labels = self.__sklearn_tags__().target_tags.required
        with_labels = {"y": y} if needs_labels else {}
        checked = validate_data(
            self,
            Container(X).numbers(_host(X)),
            **with_labels,
            allow_nd=True,
            dtype=(np.float64, np.float32),
            reset=True,
        )
        return checked[0] if needs_labels and isinstance(checked, tuple) else checked

    def _check_samples(self, X, estimator):
        if hasattr(self, "n_features_in_") and not is_torch_array(X):
            return validate_data(self, X, allow_nd=True, dtype=(np.float64, np.float32), reset=False)
        seen = getattr(self, "n_features_in_", getattr(estimator, "n_features_in_", None))
        return check_samples(X, owner=type(self).__name__, n_features=seen)

    def _radius(self):
        """Radius of the ball as the user gave it; None where only the box and the mask bound the attack."""

    def _check_oracle(self, oracle):
        """Raise where the oracle cannot answer what the attack asks."""

    def _surrogate(self):
        """The model that ``fit`` fits where there is no estimator, for samples that transfer."""
        return LogisticRegression(max_iter=1000)

    def _learn(self, X, y):
        """Learn from the training data what the attack applies later; ``estimator_`` is fitted.

        Called on a copy, which takes the attack's place if nothing is raised.
        """

    def _goals(self, x, y, oracle, stream):
        """Positions of the labels to leave and, with a target, of those to reach."""
        name, n_samples, classes = type(self).__name__, x.shape[0], oracle.classes_
        given = None
        if y is not None:
            given = oracle.find(y, n_samples, owner=name)
        target = getattr(self, "target", None)
        if target is None:
            return (self._predicted(x, oracle) if given is None else given), None
        kind = self._target_kind(target, classes)
        if kind == "given":
            if given is None:
                raise ValueError(f"{name}: target='given' needs y, the target of each sample.")
            return self._predicted(x, oracle), given
        labels = self._predicted(x, oracle) if given is None else given
        if kind == "label":
            position, known = find_labels(np.reshape(target, 1), classes)
            if not known[0]:
                raise ValueError(
                    f"{name}: target={target!r} is no class of the model; classes are {classes}. Reserved words are "
                    f"{', '.join(map(repr, RESERVED_TARGETS))}."
                )
            return labels, np.full(n_samples, position[0])
        if kind == "random":
            shift = stream.generator(0).integers(1, len(classes), size=n_samples)
            return labels, (labels + shift) % len(classes)
        logits = np.concatenate(
            [to_numpy(oracle.logits(x[k : k + self.batch_size])) for k in range(0, n_samples, self.batch_size)]
        )
        rows = np.arange(n_samples)
        logits[rows, labels] = np.inf if kind == "least_likely" else -np.inf
        return labels, logits.argmin(axis=1) if kind == "least_likely" else logits.argmax(axis=1)

    def _target_kind(self, target, classes):
        if not isinstance(target, str) or target not in RESERVED_TARGETS:
            if np.size(target) != 1:
                raise ValueError(
                    f"{type(self).__name__}: target must be None, one class label, or one of "
                    f"{', '.join(map(repr, RESERVED_TARGETS))}; got {target!r}. For a target of each sample use "
                    "target='given' and pass them as y."
                )
            return "label"
        if target in list(classes):
            raise ValueError(
                f"{type(self).__name__}: target={target!r} is a reserved word and also a class of the model. For the "
                f"class, give a list of one element, target=[{target!r}]."
            )
        return target

    def _predicted(self, x, oracle):
        return np.concatenate(
            [oracle.positions(x[k : k + self.batch_size]) for k in range(0, x.shape[0], self.batch_size)]
        )

    def _warn_of_failures(self, oracle, x, x_adv, success, ledger, space, stacklevel):
        """Say what went wrong and what to do; every line of it would otherwise read as robustness."""
        name, n_samples = type(self).__name__, len(success)

        def warn(flags, what, remedy):
            share = f"{np.count_nonzero(flags)} of {n_samples} samples" if flags is not None else ""
            message = f"{name}: {what.format(share)} {remedy}"
            warnings.warn(message, AttackFailureWarning, stacklevel=stacklevel)

        if oracle.varies and not oracle.random:
            warn(
                None,
                "the model gave two answers to the same question, so gradients and successes are those of single "
                "draws.",
                "Fix its randomness, or average over it (an expectation over transformations) before you attack.",
            )
        if ledger.bad_scores.any():
            warn(
                ledger.bad_scores,
                "the model's scores were NaN or infinite for {}, which attacks cannot follow.",
                "Look for overflow, for log(0), or for data far from what the model was trained on.",
            )
        if ledger.bad_gradient.any():
            warn(
                ledger.bad_gradient,
                "the gradient was NaN or infinite for {}; such entries were taken as zero.",
                "Look for a division by zero, a square root at 0 or an overflow in the model.",
            )
        if space.frozen:
            return
        flat = ledger.zero_gradient & ~success
        if flat.any():
            rows = np.flatnonzero(flat)
            proba = None
            if hasattr(oracle.estimator, "predict_proba"):
                with contextlib.suppress(QueryBudgetExceeded):  # the attack is done; a diagnosis must not cost it
                    proba = to_numpy(oracle.proba(x[oracle.xp.asarray(rows, device=oracle.device)]))
                    ledger.n_queries[rows] += 1
            if proba is not None and np.mean(proba.max(axis=1) >= 1 - 1e-7) > 0.5:
                warn(
                    flat,
                    "the model's probabilities are saturated, and the gradient underflows to zero for {}: the attack "
                    "was blind there.",
                    "Attack a version that gives logits (the net without its last softmax), divide the logits by a "
                    "temperature, or attack by decisions.",
                )
            else:
                warn(
                    flat,
                    "the gradient is zero at the start for {}: the attack was blind there.",
                    "A step that rounds, quantises or thresholds has a zero gradient: register a pullback for it "
                    "(`skart.register_rule`; straight-through is the usual choice), start at random points, or attack "
                    "by decisions.",
                )
        still = ~success & ~flat & to_numpy(norm_of(x_adv - x, np.inf) == 0)
        if still.any():
            warn(
                still,
                "{} came back unchanged and count as failures.",
                "The attack found nothing better than the clean sample: this is no evidence of robustness. Check eps "
                "against the scale of the data, the mask and clip_values, and the model's gradient.",
            )

    def __sklearn_is_fitted__(self):
        try:
            self._fitted_estimator()
        except NotFittedError:
            return False
        return True

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = not isinstance(self.estimator, FrozenEstimator)
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class GradientAttack(BaseAttack):
    """Base class of attacks that ask for gradients. Subclasses implement ``_search``."""

    @abstractmethod
    def _search(self, x, *, ask, labels, targets, ball, draw):
        """Adversarial samples for one batch.

        Parameters
        ----------
        x : array of shape (n_batch, ...)
            Clean samples.
        ask : Asker
            What answers scores and their pullback.
        labels, targets : integer arrays of shape (n_batch,)
            Positions of the labels to leave and, or None, of those to reach.
        ball : Ball
            Where the samples may go; without a radius it is the box and the mask alone.
        draw : callable
            ``draw(k)`` gives the batch's ``k``-th random generator.

        Returns
        -------
        x_adv : array of shape (n_batch, ...)
        """

    def _check_oracle(self, oracle):
        if oracle.access != "gradients":
            raise GradientUnavailableError(f"{type(self).__name__} needs gradients. {oracle._no_gradient}")

    def _attack(self, x, labels, targets, *, oracle, space, draw):
        ball = space.ball(x)
        ask = Asker(oracle.vjp, x.shape[0], oracle.announce)

        def positions(values):
            return None if values is None else oracle.xp.asarray(values, device=oracle.device)

        found = self._search(x, ask=ask, labels=positions(labels), targets=positions(targets), ball=ball, draw=draw)
        return self._within(ball, ball.enforce(found)), ask.ledger


class AscentAttack(GradientAttack):
    """Base class of attacks that maximise a loss in a ball. Subclasses implement ``_perturb``."""

    _parameter_constraints: dict = {
        **GradientAttack._parameter_constraints,
        "norm": [Options(Real, set(NORMS))],
        "eps": [Interval(Real, 0, None, closed="left"), "array-like"],
        "loss": [StrOptions(set(LOSSES))],
    }

    @abstractmethod
    def _perturb(self, x, *, objective, ball, draw):
        """Adversarial samples for ``x``, as an array."""

    def _radius(self):
        return self.eps

    def _check_oracle(self, oracle):
        super()._check_oracle(oracle)
        check_loss(self.loss, len(oracle.classes_), self.target is not None)

    def _search(self, x, *, ask, labels, targets, ball, draw):
        needs_reference = LOSSES[self.loss].needs_reference and targets is None
        reference = ask(x, scores=LOSSES[self.loss].scores)[0] if needs_reference else None
        objective = Objective(ask, self.loss, labels, targets=targets, reference=reference)
        return self._perturb(x, objective=objective, ball=ball, draw=draw)


class BlackBoxAttack(BaseAttack):
    """Base class of attacks that ask for labels or scores alone. Subclasses implement ``_search``.

    Samples that are adversarial as they come cost one query and are left out of the search.
    """

    _needs_scores = False

    _parameter_constraints: dict = {
        **BaseAttack._parameter_constraints,
        "norm": [Options(Real, set(NORMS))],
        # The model's label, its scores, the comparison of the two, and the verdict at the end take half of ten.
        "max_queries": [Interval(Integral, 10, None, closed="left"), None],
        "trace": ["boolean"],
    }

    @abstractmethod
    def _search(self, x, *, judge, ball, draw):
        """Find adversarial samples near those of one batch.

        Parameters
        ----------
        x : array of shape (n_batch, ...)
            Clean samples, of which the model says what the attack is to leave.
        judge : Judge
            What answers, counts and keeps the best.
        ball : Ball
            Where the samples may go; without a radius it is the box and the mask alone.
        draw : callable
            ``draw(k)`` gives the batch's ``k``-th random generator.

        Returns
        -------
        x_last : array of shape (n_batch, ...) or None
            What to return for samples without an adversarial candidate; None for the clean ones.
        """

    def _check_oracle(self, oracle):
        if self._needs_scores and oracle.access == "labels":
            raise TypeError(
                f"{type(self).__name__} needs scores, and {type(oracle.estimator).__name__} answers labels only. "
                "Attack by decisions, for example with HopSkipJump."
            )

    def _attack(self, x, labels, targets, *, oracle, space, draw):
        ball = space.ball(x)
        judge = Judge(
            x,
            labels,
            targets,
            ask_labels=oracle.positions,
            ask_scores=oracle.logits,
            norm=space.norm,
            batch_size=self.batch_size,
            # The verdict on what is returned is a query as well.
            max_queries=None if getattr(self, "max_queries", None) is None else self.max_queries - 1,
            spent=space.asked[draw.first : draw.first + x.shape[0]],
            trace=getattr(self, "trace", False),
            confidence=getattr(self, "confidence", 0.0),
            confirm=self._needs_scores and getattr(oracle._bound, "margins", None) is not None,
        )
        try:
            searching = judge.searching()
            last = None
            if searching.any():
                rows = oracle.xp.asarray(searching, device=oracle.device)
                last = self._search(x[rows], judge=judge[searching], ball=ball[rows], draw=draw)
        except QueryBudgetExceeded as error:
            found = np.isfinite(judge.distance)
            error._outcome = _Outcome(judge.best, judge.positions, judge.ledger, error, found, judge.trace)
            raise
        x_adv = judge.best
        if last is not None:
            failed = ~np.isfinite(judge.distance)
            rows = oracle.xp.asarray(failed, device=oracle.device)
            within = oracle.xp.asarray(failed[searching], device=oracle.device)
            x_adv = scatter(x_adv, rows, last[within])
        return self._within(ball, ball.enforce(x_adv)), judge.ledger, judge.trace


class _Space:
    """Where samples may go: the attack's eps, clip_values and mask, resolved for the data at hand.

    ``asked`` tells how often each sample was sent forward before the batches are attacked.
    """

    def __init__(self, attack, X, container, oracle):
        name, shape = type(attack).__name__, tuple(X.shape[1:])
        names = container.columns
        if names is None:
            names = getattr(attack, "feature_names_in_", getattr(oracle.estimator, "feature_names_in_", None))
        held = oracle.held(shape[0]) if len(shape) == 1 else None
        self.norm = getattr(attack, "norm", 2)
        radius = attack._radius()
        self.eps = np.inf if radius is None else check_eps(eps_of_columns(radius, shape, names), shape)
        self.mask = self.low = self.high = None
        if attack.mask is not None:
            self.mask = check_mask(attack.mask, shape, names, owner=name)
        if held is not None:
            self.mask = _numbers_only(self.mask, held, names, name)
        self.widen = isinstance(attack.clip_values, str)  # the range of a sample to hold it
        if attack.clip_values is not None:
            self.low, self.high = self._range(attack, X, shape, name, held)
        self.frozen = not np.any(self.eps)
        if not self.frozen and np.all(np.isfinite(self.eps)):
            self._check_resolution(X, name)

    def _range(self, attack, X, shape, name, held):
        if not isinstance(attack.clip_values, str):
            low, high = check_clip_values(attack.clip_values, shape, ignored=held)
            checked = (X, low, high) if held is None else (X[:, ~held], low[~held], high[~held])
            self.widen = not check_range(*checked, owner=name)
            return low, high
        if not hasattr(attack, "clip_values_"):
            raise NotFittedError(
                f"{name}: clip_values='fit' takes the range of the data seen in `fit`, and this attack was not fitted. "
                "Call `fit(X, y)`, or give the range as (low, high)."
            )
        low, high = attack.clip_values_
        if low.shape != shape:
            raise ValueError(f"{name}: `fit` saw samples of shape {low.shape}; X has samples of shape {shape}.")
        return low, high

    def _check_resolution(self, X, name):
        """An eps that no feature of some sample can resolve would return the sample unchanged."""
        values = np.abs(to_numpy(X))
        if np.max(self.eps) >= np.spacing(values.max()):
            return
        room = np.broadcast_to(self.eps, values.shape) >= np.spacing(values)
        if self.mask is not None:
            room = room & self.mask
        stuck = ~room.reshape(len(values), -1).any(axis=1)
        if stuck.any():
            raise ValueError(
                f"{name}: eps={np.max(self.eps):.3g} is below the spacing of {values.dtype} numbers at the size of the "
                f"data ({values[stuck].max():.3g}), so {np.count_nonzero(stuck)} samples cannot change. Scale the "
                "data, raise eps, or use float64."
            )

    def ball(self, x):
        """The ball around one batch."""
        clip_values = None
        if self.low is not None:
            low, high = self.low, self.high
            if self.widen:
                values = to_numpy(x)
                low, high = np.minimum(low, values), np.maximum(high, values)
            clip_values = (low, high)
        return make_ball(x, norm=self.norm, eps=self.eps, clip_values=clip_values, mask=self.mask)


def bind_attack(attack, estimator):
    """A copy of ``attack`` aimed at the estimator at hand, unless it has an estimator of its own.

    What the attack has learnt stays with the copy; nothing is learnt from the data at hand.
    """
    if not isinstance(attack, BaseAttack):
        raise TypeError(f"attack must be one of skart's attacks, an instance; got {attack!r}.")
    if attack.estimator is not None:
        return attack
    bound = copy.copy(attack)
    bound.estimator = bound.estimator_ = FrozenEstimator(estimator)
    # What the surrogate's training data looked like binds nobody here.
    for name in ("n_features_in_", "feature_names_in_"):
        vars(bound).pop(name, None)
    return bound


class _Draw(NamedTuple):
    """Random numbers for one batch."""

    stream: RandomStream
    place: int  # of the batch among the batches
    first: int  # place of its first sample among all

    def __call__(self, k):
        """The batch's ``k``-th generator."""
        return self.stream.generator(1, self.place, k)

    def of_samples(self, n_samples, n_numbers):
        """Uniform numbers, (n_samples, n_numbers), the same for a sample however the samples are put in batches."""
        generator = self.stream.generator(2)
        generator.bit_generator.advance(self.first * n_numbers)  # each number takes one step
        return generator.random((n_samples, n_numbers))


def _attack_elsewhere(attack, estimator, container, space, stream, works, rules):
    """A worker's share of the batches."""
    for cls, rule in rules.items():
        register_rule(cls, rule)
    with Oracle(estimator, works[0].x, check=False, container=container) as oracle:
        return attack._attack_in_turn(works, oracle, space, stream)


def _unfinished(work, error):
    """A batch that came back as it went in, since ``error`` kept it from being finished."""
    n_samples = len(work.labels)
    return _Outcome(work.x, work.labels, Ledger(n_samples), error, judged=np.zeros(n_samples, dtype=bool))


def _numbers_only(mask, held, names, owner):
    """Features that may change: those of ``mask`` (all without one), none of which may be held fixed."""
    if mask is not None and (mask & held).any():
        first = int(np.flatnonzero(mask & held)[0])
        called = f"feature {first}" if names is None else f"column {names[first]!r}"
        raise ValueError(
            f"{owner}: mask names {called}, whose values stand for categories. Attacks change numbers and hold such "
            "columns fixed: leave it out of the mask."
        )
    if held.all():
        raise ValueError(
            f"{owner}: all {len(held)} features stand for categories, which attacks hold fixed, so that nothing is "
            "left to change."
        )
    return ~held if mask is None else mask


def _joined_traces(traces):
    """Traces of batches side by side; those that ended earlier stay at their last record."""
    if any(trace is None for trace in traces):
        return None
    length = max(len(queries) for queries, _ in traces)

    def extended(values):
        return np.concatenate([values, np.repeat(values[-1:], length - len(values), axis=0)])

    return tuple(np.concatenate([extended(trace[part]) for trace in traces], axis=1) for part in (0, 1))


def _check_classifier(estimator):
    """Raise for what is no classifier."""
    try:
        classes_of(estimator)
    except TypeError:
        with contextlib.suppress(GradientUnavailableError):
            if bind(estimator, np.float64)[0].index_labels:  # a bare net, which knows its classes by position
                return
        raise


def _host(X):
    return to_numpy(X) if hasattr(X, "detach") else X


def _distance(x, x_adv, norm):
    return norm_of(to_numpy(x_adv).astype(np.float64) - to_numpy(x).astype(np.float64), norm)
