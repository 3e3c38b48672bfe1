"""The attack on a single decision tree (section 6.17), and the exact minimum."""

import copy
from dataclasses import replace
from numbers import Real
from typing import NamedTuple

import numpy as np
from sklearn.tree import DecisionTreeClassifier

from skart._core._balls import NORMS
from skart._core._leaves import BoxTable, climb_order, widened
from skart._core._objectives import Ledger
from skart.attacks._base import BaseAttack
from skart.oracles._tree_ensemble import TreeEnsemble
from skart.oracles._trees import get_trees
from skart.utils._sklearn_compat import Interval, Options, StrOptions

__all__ = ["DecisionTreeAttack"]


class DecisionTreeAttack(BaseAttack):
    """Move samples across the thresholds of a decision tree, into the nearest leaf of another class.

    The tree itself is read, and all of its leaves are compared as the boxes that they are: with ``method="exact"``
    there is no adversarial sample nearer than the one returned, in the chosen norm and within ``clip_values`` and
    ``mask``. ``method="path"`` is the article's search [1]_, which asks which leaf is near in the tree: it climbs from
    the sample's own leaf until the other side of a split holds a leaf that will do. The model is asked for nothing but
    labels: those to leave, and those of what is returned.

    Parameters
    ----------
    estimator : estimator, default=None
        Classifier to attack, made of one decision tree: scikit-learn's ``DecisionTreeClassifier`` and
        ``ExtraTreeClassifier``, or a boosting model of XGBoost, LightGBM, CatBoost or scikit-learn with a single tree.
        Wrap a fitted one in :class:`~sklearn.frozen.FrozenEstimator`, or call ``transform`` without ``fit``. ``None``
        attacks a :class:`~sklearn.tree.DecisionTreeClassifier` surrogate, or the model that a scorer or trainer has at
        hand.
    method : {"exact", "path"}, default="exact"
        How the leaf is chosen.
    norm : {1, 2, np.inf}, default=2
        Norm of the perturbation that is to be small. ``method="path"`` looks at no distance; ``run`` reports it in
        this norm.
    offset : float, default=0.0
        How far beyond a threshold a feature goes, in the units of ``X``, as far as the leaf reaches. With 0 it goes
        to the next number of the data's dtype that the model takes to the other side.
    target : label, {"given", "least_likely", "random", "runner_up"} or None, default=None
        Class to reach. ``None``: any but the label. ``"given"``: ``y`` holds the target of each sample. A label
        that is also a reserved word is given as a list of one element.
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
    n_features_in_ : int
        Number of features seen by ``fit``.
    feature_names_in_ : ndarray of str
        Names of the features seen by ``fit``, where it saw a data frame.

    See Also
    --------
    skart.oracles.get_trees : What is read of a tree.

    Notes
    -----
    Libraries round samples to a dtype of their own before they compare, and put what equals a threshold on one side or
    the other. Both are followed to the last bit, so that a returned value is the first beyond the threshold that the
    model itself sends to the other side, and that lies there unrounded as well. It need not stay there in a narrower
    dtype: convert samples before the attack, not after.

    Reading a tree compares what was read with the model at points on its thresholds, once in a call; and where the two
    highest margins of a leaf of a boosting model are a tie, the model is asked for the leaf's label. No sample is sent
    for that, and ``n_queries`` leaves it out.

    In the article any leaf in the subtree across the split will do; here it is the one of the fewest splits, since the
    conditions on its way are what the sample is changed for. Changes start from the clean sample, and stay within the
    leaf however large ``offset`` is. Samples that are adversarial as they are, and those for which no leaf within
    ``clip_values`` and ``mask`` will do, come back unchanged.

    References
    ----------
    .. [1] "Transferability in Machine Learning: from Phenomena to Black-Box Attacks using Adversarial Samples",
       arXiv:1605.07277, Algorithm 2

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from skart.attacks import DecisionTreeAttack
    >>> X, y = load_iris(return_X_y=True)
    >>> tree = DecisionTreeClassifier(random_state=0).fit(X, y)
    >>> nearest = DecisionTreeAttack(tree).run(X)
    >>> bool(nearest.success.all())
    True
    >>> along_the_tree = DecisionTreeAttack(tree, method="path").run(X)
    >>> bool((nearest.distance <= along_the_tree.distance).all())
    True
    """

    _parameter_constraints: dict = {
        **BaseAttack._parameter_constraints,
        "method": [StrOptions({"exact", "path"})],
        "norm": [Options(Real, set(NORMS))],
        "offset": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        estimator=None,
        *,
        method="exact",
        norm=2,
        offset=0.0,
        target=None,
        clip_values=None,
        mask=None,
        batch_size=256,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.method = method
        self.norm = norm
        self.offset = offset
        self.target = target
        self.clip_values = clip_values
        self.mask = mask
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _surrogate(self):
        return DecisionTreeClassifier(random_state=0)

    def _learn(self, X, y):
        _single_tree(self.estimator_)  # raises for a model that `transform` could not attack

    def _attack_in_turn(self, works, oracle, space, stream):
        # A copy holds the tree while all batches are attacked: an attack keeps nothing of a model.
        reader = copy.copy(self)
        reader._tree = _read(oracle)
        return super(DecisionTreeAttack, reader)._attack_in_turn(works, oracle, space, stream)

    def _attack(self, x, labels, targets, *, oracle, space, draw):
        tree, ball = self._tree, space.ball(x)
        home = tree.trees.apply(x)[:, 0]

        def wanted(classes, rows):
            return classes != labels[rows] if targets is None else classes == targets[rows]

        x_adv = x.copy()
        rows = np.flatnonzero(~wanted(tree.leaf_class[home], slice(None)))
        lower, upper = (None, None) if ball.lower is None else (ball.lower[rows], ball.upper[rows])
        box_class = tree.leaf_class[tree.leaf]

        def rank(part):
            return climb_order(tree.steps[tree.leaf], tree.steps[home[rows[part]]])

        box = tree.table.nearest(
            x[rows],
            lambda part: wanted(box_class[:, None], rows[part]),
            norm=self.norm,
            lower=lower,
            upper=upper,
            rank=rank if self.method == "path" else None,
        )
        found = box >= 0
        if lower is not None:
            lower, upper = lower[found], upper[found]
        rows, box = rows[found], box[found]
        x_adv[rows] = tree.table.enter(x[rows], box, doors=tree.doors, offset=self.offset, lower=lower, upper=upper)
        return self._within(ball, x_adv), Ledger(len(x))


class _Tree(NamedTuple):
    """A tree as the attack wants it."""

    trees: TreeEnsemble
    leaf_class: np.ndarray  # (n_leaves,), position in classes_
    steps: np.ndarray  # (n_leaves, depth), splits on the way to each leaf
    table: BoxTable
    leaf: np.ndarray  # (n_boxes,), leaf of each row of the table
    doors: tuple  # of two arrays (n_bounds,), where features come in from below and from above


def _single_tree(estimator):
    """The one tree of an estimator."""
    others = (
        "DecisionTreeAttack attacks a single decision tree; models of any other kind can be attacked by their scores "
        "(ZooAttack, SquareAttack) or their labels (HopSkipJump, BoundaryAttack)."
    )
    try:
        trees = get_trees(estimator)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{error} {others}") from error
    if trees.n_trees == 1:
        return trees
    n_classes = len(trees.classes_)
    of_class = f" ({n_classes} classes have one each)" if trees.n_outputs > 1 and np.all(trees.output >= 0) else ""
    raise ValueError(f"the model has {trees.n_trees} trees{of_class}. {others}")


def _read(oracle):
    """The tree that an oracle's estimator is, its boxes in the oracle's dtype."""
    trees = _single_tree(oracle.estimator)
    boxes = trees.leaf_boxes()
    dtype = np.dtype(oracle.dtype)
    doors = least, most = replace(boxes, dtype=dtype).representable()
    if dtype.itemsize > boxes.dtype.itemsize:
        # What the model rounds across a threshold is beyond it; but nobody need rely on that.
        least, most = widened(*boxes.representable(), dtype)
        doors = np.maximum(doors[0], least), np.minimum(doors[1], most)
    table = BoxTable(boxes.offsets, boxes.feature, least, most)
    leaf, splits, _ = trees._paths()
    first = np.unique(leaf, return_index=True)[1]  # a leaf may have more than one parent
    return _Tree(
        trees=trees,
        leaf_class=_leaf_classes(trees, boxes, least, most, oracle),
        steps=splits[first],
        table=table,
        leaf=boxes.leaf[table.order],
        doors=doors,
    )


def _leaf_classes(trees, boxes, least, most, oracle):
    """Position in ``classes_`` of what the model says in each leaf."""
    scores = np.tile(trees.bias, (len(trees.values), 1))
    if trees.values.shape[1] == trees.n_outputs:
        scores += trees.values
    else:
        scores[:, trees.output[0]] += trees.values[:, 0]
    if trees.n_outputs == 1:
        scores = np.column_stack([np.zeros(len(scores)), scores])
    classes = scores.argmax(axis=1)
    if trees.outputs == "probabilities":  # of a tie, the first, which scikit-learn takes as well
        return classes
    second, first = np.partition(scores, -2, axis=1)[:, -2:].T
    # Libraries add up in float32, and differ in what they make of a tie.
    tied = np.flatnonzero((first - second <= 1e-5 * (1 + np.abs(scores).max(axis=1)))[boxes.leaf])
    if len(tied):
        points = np.zeros((len(tied), trees.n_features), dtype=least.dtype)
        for point, box in zip(points, tied):
            bounds = slice(boxes.offsets[box], boxes.offsets[box + 1])
            point[boxes.feature[bounds]] = np.clip(0, least[bounds], most[bounds])
        real = np.isfinite(points).all(axis=1)  # not a leaf for missing values
        classes[boxes.leaf[tied[real]]] = oracle.positions(points[real])
    return classes
