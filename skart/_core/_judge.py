"""What a black-box search asks of a model, and the best that it was told: `Asker` without gradients."""

import copy

import numpy as np

from skart._core._arrays import array_namespace, scatter, to_numpy
from skart._core._balls import norm_of
from skart._core._objectives import Ledger

__all__ = ["Judge"]


class Judge:
    """Asks a model about candidates for the samples of one batch, counts, and keeps the nearest adversarial ones.

    Candidates are judged as they are, so they should be what could be returned: inside the ball, the box and the mask.

    Parameters
    ----------
    x : array of shape (n_samples, ...)
        Clean samples.
    labels, targets : ndarray of int, shape (n_samples,)
        Positions of the labels to leave and, or None, of those to reach.
    ask_labels : callable
        ``ask_labels(x)`` gives the model's predictions as positions, an integer ndarray.
    ask_scores : callable or None
        ``ask_scores(x)`` gives its smooth scores, (n_samples, n_classes), in the namespace of ``x``.
    norm : {1, 2, np.inf}
        Norm in which candidates are compared.
    batch_size : int, default=1024
        Candidates that are sent through the model at once.
    max_queries : int or None, default=None
        Queries that may be spent on each sample; :attr:`left` tells what remains. Searches keep to it themselves.
    spent : ndarray of int, shape (n_samples,), default=0
        Queries of each sample that were made before, which the ledger does not hold; they count here.
    trace : bool, default=False
        Whether to record the distance found against the queries made.
    confidence : float, default=0.0
        Lead of the scores from which on a candidate counts as adversarial by its scores.
    confirm : bool, default=False
        Ask for the labels, too, of what is adversarial by its scores before it is kept: one more query for the
        nearest of the candidates of each sample, where it has one left.

    Attributes
    ----------
    ledger : Ledger
    """

    def __init__(
        self,
        x,
        labels,
        targets,
        *,
        ask_labels,
        ask_scores=None,
        norm=2,
        batch_size=1024,
        max_queries=None,
        spent=0,
        trace=False,
        confidence=0.0,
        confirm=False,
    ):
        n_samples = x.shape[0]
        self.labels, self.targets = labels, targets
        self.ledger = Ledger(n_samples)
        self._x, self._norm = x, norm
        self._ask_labels, self._ask_scores = ask_labels, ask_scores
        self._batch_size, self._max_queries = batch_size, max_queries
        self._spent = np.broadcast_to(spent, n_samples)
        self._confidence, self._confirm = confidence, confirm
        self._scale = None
        self._said = None
        self._rows = np.arange(n_samples)
        self._kept = _Kept(x, np.full(n_samples, np.inf), np.array(labels), [] if trace else None)

    def __getitem__(self, rows):
        """The judge of the samples that ``rows`` (boolean) marks; it counts and keeps in the same books."""
        rows = to_numpy(rows)
        part = copy.copy(self)
        part._rows = self._rows[rows]
        part.labels = self.labels[rows]
        part.targets = None if self.targets is None else self.targets[rows]
        return part

    def measured_in(self, scale):
        """A judge with the same books, for whom the distance is the norm of the perturbation divided by ``scale``.

        ``scale`` has the shape of one sample and is positive. The trace is in its units as well.
        """
        part = copy.copy(self)
        part._scale = scale[None, ...]
        return part

    @property
    def left(self):
        """Queries that may still be spent on each sample: ndarray of int, shape (n_samples,)."""
        if self._max_queries is None:
            return np.full(len(self._rows), np.iinfo(np.int64).max)
        return self._max_queries - (self.ledger.n_queries + self._spent)[self._rows]

    @property
    def others(self):
        """Clean samples of the whole batch, and what the model said of them if :meth:`searching` has asked it."""
        return self._x, self._said

    @property
    def best(self):
        """The nearest adversarial candidate of each sample so far; the clean sample where there is none."""
        xp = array_namespace(self._x)
        return xp.take(self._kept.x, xp.asarray(self._rows, device=getattr(self._x, "device", None)), axis=0)

    @property
    def distance(self):
        """Distance of :attr:`best` from the clean sample, infinite where there is none: ndarray, (n_samples,)."""
        return self._kept.distance[self._rows]

    @property
    def positions(self):
        """What the model said of :attr:`best`: ndarray of int, shape (n_samples,)."""
        return self._kept.positions[self._rows]

    @property
    def trace(self):
        """Queries made and distance found after each call, two ndarrays of shape (n_calls, n_samples); or None."""
        if self._kept.trace is None:
            return None
        queries, distances = zip(*self._kept.trace)
        return np.stack(queries)[:, self._rows], np.stack(distances)[:, self._rows]

    def searching(self):
        """Which of the clean samples are not adversarial as they are, one query each: ndarray of bool."""
        self._said = self._answers(self._x, np.arange(len(self._rows)), keep=True)
        return ~self._met(self._said, np.arange(len(self._rows)))

    def adversarial(self, candidates, of=None, *, keep=True):
        """Whether the model's own predictions for ``candidates`` meet the goal, one query each.

        Parameters
        ----------
        candidates : array of shape (n_candidates, ...)
        of : ndarray of int, shape (n_candidates,), default=None
            Which of the samples each candidate is for; ``None``: one for each, in their order.
        keep : bool, default=True
            Whether candidates may become the best: not worth the norms for probes that no result will be taken from.

        Returns
        -------
        adversarial : ndarray of bool, shape (n_candidates,)
        """
        of = np.arange(len(self._rows)) if of is None else of
        return self._met(self._answers(candidates, of, keep), of)

    def scores(self, candidates, of=None, *, keep=True):
        """The model's scores of ``candidates``, (n_candidates, n_classes), one query each; see :meth:`adversarial`."""
        xp = array_namespace(candidates)
        of = np.arange(len(self._rows)) if of is None else of
        parts = []
        for part, whose in self._batches(candidates, of):
            answer = self._ask_scores(part)
            rows = self._rows[whose]
            np.add.at(self.ledger.n_queries, rows, 1)
            values = to_numpy(answer)
            if not np.isfinite(values.sum()):
                self.ledger.bad_scores[rows[~np.isfinite(values).all(axis=1)]] = True
            if keep:
                # A net answers in float32, and a batch of another size rounds otherwise.
                rounding = 2e-6 * np.abs(values.max(axis=1)) + 1e-30
                met = self.lead(values, whose) - rounding >= self._confidence
                self._keep(part, whose, values.argmax(axis=1), met, confirm=self._confirm)
            parts.append(answer)
        self._record()
        return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)

    def lead(self, scores, of=None):
        """By how much ``scores``, an ndarray, meet the goal: their margin, an ndarray of shape (n_candidates,)."""
        of = slice(None) if of is None else of
        chosen = (self.labels if self.targets is None else self.targets)[of]
        rows, others = np.arange(len(scores)), scores.copy()
        own = scores[rows, chosen]
        others[rows, chosen] = -np.inf
        lead = others.max(axis=1) - own
        return lead if self.targets is None else -lead

    def _answers(self, candidates, of, keep):
        positions = []
        for part, whose in self._batches(candidates, of):
            answer = np.asarray(self._ask_labels(part))
            np.add.at(self.ledger.n_queries, self._rows[whose], 1)
            if keep:
                self._keep(part, whose, answer, self._met(answer, whose))
            positions.append(answer)
        self._record()
        return np.concatenate(positions) if positions else np.empty(0, dtype=np.int64)

    def _batches(self, candidates, of):
        n_candidates = candidates.shape[0]
        for start in range(0, n_candidates, self._batch_size):
            stop = min(start + self._batch_size, n_candidates)
            whole = stop - start == n_candidates
            yield (candidates if whole else candidates[start:stop, ...]), of[start:stop]

    def _met(self, positions, of):
        return positions != self.labels[of] if self.targets is None else positions == self.targets[of]

    def _keep(self, candidates, of, positions, met, confirm=False):
        xp = array_namespace(candidates)
        if not met.any():
            return

        def where(mask):
            return xp.asarray(mask, device=getattr(candidates, "device", None))

        candidates, of, positions = candidates[where(met)], of[met], positions[met]
        rows = self._rows[of]
        delta = candidates - xp.take(self._x, where(rows), axis=0)
        delta = delta if self._scale is None else delta / self._scale
        distance = to_numpy(norm_of(delta, self._norm)).astype(np.float64)
        kept = self._kept
        # The nearest of the candidates of each sample, by sorting: first those of one sample, then the nearest.
        # What differs by rounding alone is equal, and the first is taken: in every namespace the same.
        order = np.lexsort((_rounded(distance), rows))
        first = order[np.r_[True, rows[order][1:] != rows[order][:-1]]]
        first = first[_rounded(distance[first]) < _rounded(kept.distance[rows[first]])]
        if confirm:
            first = first[self.left[of[first]] > 0]
        if confirm and len(first):
            positions[first] = self._ask_labels(xp.take(candidates, where(first), axis=0))
            self.ledger.n_queries[rows[first]] += 1
            first = first[self._met(positions, of)[first]]
        if len(first):
            place = np.zeros(len(kept.distance), dtype=bool)
            place[rows[first]] = True  # `first` is in the order of the rows
            kept.x = scatter(xp.asarray(kept.x, copy=True), where(place), xp.take(candidates, where(first), axis=0))
            kept.distance[rows[first]] = distance[first]
            kept.positions[rows[first]] = positions[first]

    def _record(self):
        if self._kept.trace is not None:
            self._kept.trace.append((self.ledger.n_queries + self._spent, self._kept.distance.copy()))


def _rounded(distance):
    """Distances to 30 binary digits."""
    mantissa, exponent = np.frexp(distance)
    return np.ldexp(np.round(np.ldexp(mantissa, 30)), exponent - 30)


class _Kept:
    """The best candidates of a batch, which a judge and its parts share."""

    def __init__(self, x, distance, positions, trace):
        self.x, self.distance, self.positions, self.trace = x, distance, positions, trace
