"""The attack on ensembles of trees: a search over neighbouring leaf tuples."""

import copy
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from skart._core._balls import NORMS
from skart._core._objectives import Ledger
from skart._core._tree_grid import TreeGrid
from skart._core._tree_moves import descend_to_boundary
from skart.attacks._base import BaseAttack
from skart.oracles._tree_cells import grid_of, hopeful_demand, rounding_of
from skart.oracles._tree_ensemble import TreeEnsemble
from skart.oracles._trees import get_trees
from skart.utils._sklearn_compat import Interval, Options

__all__ = ["TreeEnsembleAttack"]


class TreeEnsembleAttack(BaseAttack):
    """Find adversarial samples near a forest's or a boosting model's decision boundary, leaf by leaf.

    The trees are read. A sample is a tuple of leaves, one of each tree, and two tuples are neighbours where moving one
    feature leads from one to the other. The search walks over neighbours until a rival class leads, then back as far
    as the lead allows; then it draws back what costs most, regains the lead elsewhere, and goes on while that is
    cheaper. One pass over the leaves gives the leads of all neighbours at once. The model is asked for labels only.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack, made of trees: what :func:`skart.oracles.get_trees` reads. Wrap a fitted one in
        :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform`` without ``fit``. ``None`` attacks a
        :class:`~sklearn.ensemble.RandomForestClassifier` surrogate, or the model that a scorer or trainer has at hand.
    norm : {1, 2, np.inf}, default=np.inf
        Norm of the perturbation that is to be small.
    max_iter : int, default=50
        Moves in each stage of the search, at most.
    target : label, {"given", "least_likely", "random", "runner_up"} or None, default=None
        Class to reach. ``None``: any but the label; all rivals are tried. ``"given"``: ``y`` holds the target of each
        sample. A label that is also a reserved word is given as a list of one element.
    clip_values : (low, high), "fit" or None, default=None
        Range of valid data, as numbers or as one number for each feature. ``"fit"`` takes the range that ``fit``
        saw in each feature, widened for a sample that lies outside.
    mask : array-like, default=None
        Features that may change: a boolean array, positions, or column names.
    batch_size : int, default=256
        Samples that are attacked together.
    n_jobs : int, default=None
        Processes over which batches are spread. It changes no result.
    random_state : int, RandomState instance or None, default=None
        Source of random targets.
    verbose : int or bool, default=0
        Show progress over batches (needs tqdm).

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier that is attacked.
    clip_values_ : tuple of arrays
        Range seen by ``fit``, with ``clip_values="fit"``.
    n_iter_ : int
        Most moves of a stage.
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of str
        Names of the features seen by ``fit``, where it saw a data frame.

    See Also
    --------
    DecisionTreeAttack : The exact minimum for a single tree.
    skart.verification.exact_tree_robustness : The exact minimum for an ensemble, by mixed-integer programming.

    Notes
    -----
    The article starts from adversarial samples of the training data and compares tuples that differ in a single leaf
    of a single tree. Here a neighbour differs by all leaves that one feature's move changes, and the search starts from
    the sample itself; where no single move gains anything, from cells drawn once and for all.

    Values are moved to the first number of the data's dtype beyond a threshold, as the library compares it. It need
    not stay there in a narrower dtype: convert samples before the attack, not after. Where the model does not confirm
    a sample, since its own sums are rounded, the search is done again with a lead beyond that. Samples for which
    nothing is found come back unchanged.

    References
    ----------
    .. [1] "An Efficient Adversarial Attack for Tree Ensembles", arXiv:2010.11598

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from skart.attacks import TreeEnsembleAttack
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> forest = RandomForestClassifier(20, random_state=0).fit(X, y)
    >>> result = TreeEnsembleAttack(forest).run(X)
    >>> bool(result.success.all())
    True
    """

    _parameter_constraints: dict = {
        **BaseAttack._parameter_constraints,
        "norm": [Options(Real, set(NORMS))],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        estimator=None,
        *,
        norm=np.inf,
        max_iter=50,
        target=None,
        clip_values=None,
        mask=None,
        batch_size=256,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.norm = norm
        self.max_iter = max_iter
        self.target = target
        self.clip_values = clip_values
        self.mask = mask
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _surrogate(self):
        return RandomForestClassifier(20, random_state=0)

    def _learn(self, X, y):
        _trees_of(self.estimator_)  # raises for a model that `transform` could not attack

    def _attack_in_turn(self, works, oracle, space, stream):
        # A copy holds the trees while all batches are attacked: an attack keeps nothing of a model.
        reader = copy.copy(self)
        trees = _trees_of(oracle.estimator)
        reader._read = _Read(trees, grid_of(trees, oracle.dtype))
        return super(TreeEnsembleAttack, reader)._attack_in_turn(works, oracle, space, stream)

    def _attack(self, x, labels, targets, *, oracle, space, draw):
        ball, ledger, x_adv = space.ball(x), Ledger(len(x)), x.copy()
        goal = labels if targets is None else targets

        def fails(points, rows):
            """Which of these the model does not give the wanted label."""
            if not len(rows):
                return np.zeros(0, dtype=bool)
            ledger.n_queries[rows] += 1
            same = oracle.positions(points) == goal[rows]
            return same if targets is None else ~same

        rows = np.arange(len(x))
        rows = rows[fails(x, rows)]
        for strict in (False, True):
            if not len(rows):
                break
            bounds = (None, None) if ball.lower is None else (ball.lower[rows], ball.upper[rows])
            goals = goal[rows]
            cells, cost = self._nearest(x[rows], goals, targets is not None, bounds, strict)
            points = self._read.grid.points(x[rows], cells, *bounds)
            found = np.isfinite(cost)
            refused = np.zeros(len(rows), dtype=bool)
            refused[found] = fails(points[found], rows[found])
            taken = found & ~refused
            x_adv[rows[taken]] = points[taken]
            rows = rows[refused]
        return self._within(ball, x_adv), ledger

    def _nearest(self, x, goal, targeted, bounds, strict):
        """Cells of the least cost, over all rivals of the label or for the target."""
        trees, grid = self._read
        n_classes = grid.n_classes
        others = (goal[:, None] + np.arange(1, n_classes)) % n_classes
        tries = [(goal, others)] if targeted else [(others[:, k], goal[:, None]) for k in range(n_classes - 1)]
        best, least = None, None
        for ahead, behind in tries:
            demand = hopeful_demand(trees, ahead[:, None], behind)
            if strict:
                demand = np.full(demand.shape, rounding_of(trees)[0])
            cells, cost = descend_to_boundary(
                grid,
                x,
                ahead,
                behind,
                norm=self.norm,
                demand=demand,
                max_iter=self.max_iter,
                lower=bounds[0],
                upper=bounds[1],
            )
            if best is None:
                best, least = cells, cost
            else:
                nearer = cost < least
                best[nearer], least[nearer] = cells[nearer], cost[nearer]
        return best, least


class _Read(NamedTuple):
    """A model as the attack wants it."""

    trees: TreeEnsemble
    grid: TreeGrid


def _trees_of(estimator):
    others = (
        "Models of any kind can be attacked by their scores (ZooAttack, SquareAttack) or their labels (HopSkipJump)."
    )
    try:
        return get_trees(estimator)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{error} {others}") from error
