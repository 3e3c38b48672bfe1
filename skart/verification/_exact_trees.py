"""The exact robustness of tree ensembles, by mixed-integer programming."""

import time
from dataclasses import dataclass
from numbers import Real

import numpy as np
from joblib import effective_n_jobs
from sklearn.utils.parallel import Parallel, delayed

from skart._core._arrays import to_numpy
from skart._core._balls import NORMS, make_ball, norm_of
from skart._core._tree_moves import descend_to_boundary
from skart.oracles._oracle import find_labels
from skart.oracles._tree_cells import grid_of, hopeful_demand, rounding_of
from skart.oracles._tree_readers._assemble import quietly
from skart.oracles._trees import get_trees
from skart.utils._containers import Container
from skart.utils._validation import check_clip_values, check_labels, check_mask, check_range, check_samples
from skart.verification._tree_program import nearest_cells

__all__ = ["ExactTreeRobustness", "exact_tree_robustness"]

# Leaf tuples that the program may propose and the model refuse (its sums are rounded, or tie), for one sample.
_MAX_REFUSALS = 30


@dataclass(frozen=True, repr=False)
class ExactTreeRobustness:
    """Distances to the nearest sample of another label; returned by :func:`exact_tree_robustness`.

    Attributes
    ----------
    lower : ndarray of float64, shape (n_samples,)
        No sample nearer than this has another label. Infinite where no sample of the box has.
    upper : ndarray of float64, shape (n_samples,)
        Distance of ``X_adv``; infinite where none was found.
    exact : ndarray of bool, shape (n_samples,)
        Whether the two are the same. Where they are not, time ran out, or ties of the scores kept the two apart.
    X_adv : ndarray of shape (n_samples, n_features)
        Samples to which the model gives another label, in the dtype in which its library compares; the sample itself
        where none was found.
    """

    lower: np.ndarray
    upper: np.ndarray
    exact: np.ndarray
    X_adv: np.ndarray

    def __repr__(self):
        found = np.isfinite(self.upper)
        median = f"{np.median(self.upper[found]):.4g}" if found.any() else "none"
        return (
            f"ExactTreeRobustness({len(self.upper)} samples, exact for {self.exact.mean():.1%}, median distance "
            f"{median})"
        )


def exact_tree_robustness(
    estimator, X, y=None, *, norm=np.inf, clip_values=None, mask=None, time_limit=60.0, max_iter=50, n_jobs=None
):
    """Distance from each sample to the nearest one that an ensemble of trees does not give its label.

    A mixed-integer program [1]_ finds the nearest leaves in which a rival class leads, and proves that no nearer ones
    do. A local search comes first, and what is farther than the sample that it finds is left out of the program: most
    thresholds, leaves and trees. Where the time limit ends the proof, what is proven until then and what is found
    until then are an interval.

    Parameters
    ----------
    estimator : estimator
        Fitted classifier that :func:`skart.oracles.get_trees` reads.
    X : array-like, tensor or data frame of shape (n_samples, n_features)
        Clean samples, rounded to the dtype in which the library compares.
    y : array-like of shape (n_samples,), default=None
        True labels: samples that the model gets wrong have distance zero. ``None`` takes its predictions.
    norm : {1, 2, np.inf}, default=np.inf
        Norm that measures the perturbation.
    clip_values : (low, high), default=None
        Range of valid data, as numbers or as one number for each feature.
    mask : array-like, default=None
        Features that may change: a boolean array, positions, or column names.
    time_limit : float, default=60.0
        Seconds that the programs of one sample may take, one for each rival class.
    max_iter : int, default=50
        Moves in each stage of the local search. With 0 the program starts from nothing.
    n_jobs : int, default=None
        Processes over which samples are spread.

    Returns
    -------
    result : ExactTreeRobustness
        ``lower``, ``upper``, ``exact`` and ``X_adv``, per sample.

    Raises
    ------
    TypeError, ValueError
        As :func:`skart.oracles.get_trees` raises them for what it does not read.

    See Also
    --------
    skart.attacks.TreeEnsembleAttack : The local search by itself.
    skart.attacks.DecisionTreeAttack : The exact minimum for a single tree.

    Notes
    -----
    Labels are the model's own: each sample that the program finds is put to ``predict``, and if it is refused, since
    the library's sums are rounded or tie, its leaves are excluded and the search goes on. So ``upper`` is confirmed by
    the model, and ``lower`` covers what rounding could turn. The solver, HiGHS in :func:`scipy.optimize.milp`, proves
    optima to one part in a million of the distance at which the local search ended; ``exact`` means to that precision.

    References
    ----------
    .. [1] "Evasion and Hardening of Tree Ensemble Classifiers", arXiv:1509.07892, section 4

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.ensemble import GradientBoostingClassifier
    >>> from sklearn.preprocessing import minmax_scale
    >>> from skart.verification import exact_tree_robustness
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X = minmax_scale(X)
    >>> model = GradientBoostingClassifier(n_estimators=10, random_state=0).fit(X, y)
    >>> result = exact_tree_robustness(model, X[:20], y[:20])
    >>> bool(result.exact.all())
    True
    >>> bool((model.predict(result.X_adv) != y[:20]).all())
    True
    """
    owner = "exact_tree_robustness"
    if norm not in NORMS:
        raise ValueError(f"{owner}: norm must be 1, 2 or np.inf; got {norm!r}.")
    if not isinstance(time_limit, Real) or not time_limit > 0:
        raise ValueError(f"{owner}: time_limit must be a positive number of seconds; got {time_limit!r}.")
    trees = get_trees(estimator)
    given = to_numpy(check_samples(X, owner=owner, n_features=trees.n_features))
    if given.ndim != 2:
        raise ValueError(f"{owner} takes samples of shape (n_samples, n_features); got {given.shape}.")
    x = np.ascontiguousarray(given, dtype=trees.dtype)
    names = Container(X).columns or getattr(estimator, "feature_names_in_", None)
    free = None if mask is None else check_mask(mask, x.shape[1:], names, owner=owner)
    box = None
    if clip_values is not None:
        low, high = check_clip_values(clip_values, x.shape[1:])
        check_range(given, low, high, owner=owner)
        box = np.minimum(low, x), np.maximum(high, x)  # a rounding beyond it, at most
    ball = make_ball(x, norm=norm, eps=np.inf, clip_values=box, mask=free)
    bounds = (None, None) if box is None and free is None else (ball.lower, ball.upper)
    problem = _Problem(estimator, trees, norm, time_limit)
    predicted = problem.positions(x)
    labels = predicted if y is None else check_labels(y, trees.classes_, len(x), find=find_labels, owner=owner)
    x_adv, lower, upper = x.copy(), np.zeros(len(x)), np.zeros(len(x))
    rows = np.flatnonzero(predicted == labels)
    if len(rows):
        limits = [None if bound is None else np.broadcast_to(bound, x.shape)[rows] for bound in bounds]
        starts = problem.starts(x[rows], labels[rows], limits, max_iter)
        n_workers = min(effective_n_jobs(n_jobs), len(rows))
        shares = np.array_split(np.arange(len(rows)), n_workers)
        done = Parallel(n_jobs=n_workers)(
            delayed(problem.solve)(
                x[rows[share]],
                labels[rows[share]],
                [None if bound is None else bound[share] for bound in limits],
                [start[share] for start in starts],
            )
            for share in shares
        )
        x_adv[rows], lower[rows], upper[rows] = (np.concatenate(part) for part in zip(*done))
    return ExactTreeRobustness(lower=lower, upper=upper, exact=lower == upper, X_adv=x_adv)


class _Problem:
    """What is the same for all samples."""

    def __init__(self, estimator, trees, norm, time_limit):
        self.estimator, self.classes, self.norm, self.time_limit = estimator, trees.classes_, norm, time_limit
        self.trees, self.grid = trees, grid_of(trees, trees.dtype)
        self.rounding, self.usual = rounding_of(trees)
        self.first_wins = trees.outputs == "probabilities"

    def positions(self, x):
        """Positions of the model's own labels."""
        return find_labels(np.reshape(quietly(self.estimator.predict, x), -1), self.classes)[0]

    def rivals(self, labels):
        """Each other class in turn, for all samples."""
        n_classes = len(self.classes)
        return [(labels + shift) % n_classes for shift in range(1, n_classes)]

    def demand(self, ahead, behind):
        """The least lead for which the model may prefer the one class; of a tie of probabilities the first one wins."""
        return self.rounding if self.first_wins and ahead > behind else -self.rounding

    def starts(self, x, labels, bounds, max_iter):
        """Cells that the local search finds for each rival, (n_samples, n_rivals, n_used), and their costs."""
        cells, costs = [], []
        for rival in self.rivals(labels):
            found, cost = descend_to_boundary(
                self.grid,
                x,
                rival,
                labels[:, None],
                norm=self.norm,
                demand=hopeful_demand(self.trees, rival, labels)[:, None],
                max_iter=max_iter,
                lower=bounds[0],
                upper=bounds[1],
            )
            refused = self.positions(self.grid.points(x, found, *bounds)) == labels
            cells.append(found)
            costs.append(np.where(refused, np.inf, cost))
        return np.stack(cells, axis=1), np.stack(costs, axis=1)

    def solve(self, x, labels, bounds, starts):
        """Nearest samples, and the two ends of each interval."""
        x_adv, lower, upper = x.copy(), np.empty(len(x)), np.empty(len(x))
        own = self.grid.cells(x)
        for n in range(len(x)):  # a program each
            part = slice(n, n + 1)
            limits = [None if bound is None else bound[part] for bound in bounds]
            costs = self.grid.costs(x[part], self.norm, *limits)[0]
            cells, proven, total = self._solve_one(x[part], own[n], costs, labels[n], limits, [s[n] for s in starts])
            upper[n] = np.inf
            if cells is not None:
                x_adv[n] = self.grid.points(x[part], cells[None], *limits)[0]
                delta = x_adv[part].astype(np.float64) - x[part]
                upper[n] = norm_of(delta, self.norm)[0]
            proven = np.sqrt(proven) if self.norm == 2 else proven
            total = np.sqrt(total) if self.norm == 2 else total
            # The solver's precision is one part in a million.
            lower[n] = upper[n] if proven >= total * (1 - 2e-6) else min(proven, upper[n])
        return x_adv, lower, upper

    def _solve_one(self, x, own, costs, label, limits, starts):
        """The best cells, what is proven, and what the best cells cost."""
        best, total, proven = None, np.inf, np.inf
        order = np.argsort(starts[1], kind="stable")
        if np.isfinite(starts[1][order[0]]):
            best, total = starts[0][order[0]], starts[1][order[0]]
        until = time.monotonic() + self.time_limit
        rivals = self.rivals(np.array([label]))

        def ask(ahead, demand, excluded):
            """What the program says, and what its cells cost if the model gives them another label."""
            answer = nearest_cells(
                self.grid,
                own,
                costs,
                ahead,
                int(label),
                norm=self.norm,
                demand=demand,
                limit=total,
                excluded=excluded,
                time_limit=max(until - time.monotonic(), 0.0),
            )
            if answer.cells is None or self.positions(self.grid.points(x, answer.cells[None], *limits))[0] == label:
                return answer, np.inf
            part = costs[answer.cells]
            return answer, float(part.max() if self.norm == np.inf else part.sum())

        for k in order:
            ahead, excluded, bound = int(rivals[k][0]), [], 0.0
            while time.monotonic() < until:
                refused = len(excluded) >= _MAX_REFUSALS
                # What is refused so often is in doubt; the lead is then to be beyond it, which proves nothing.
                answer, cost = ask(ahead, self.usual if refused else self.demand(ahead, label), excluded)
                bound = bound if refused else max(bound, answer.bound)
                before = total
                if cost < total:
                    best, total = answer.cells, cost
                    if cost < 0.5 * before and not refused:
                        bound = 0.0  # so much nearer that the solver's precision must be finer
                        continue
                if refused or answer.cells is None or np.isfinite(cost):
                    break
                excluded.append(answer.boxes)
            proven = min(proven, bound)
        return best, min(proven, total), total
