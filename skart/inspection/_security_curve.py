"""The security curve: what is left of a model's score as the adversary grows stronger."""

import copy

import numpy as np
from scipy.special import ndtri
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from skart._core._arrays import to_numpy
from skart.attacks._base import BaseAttack
from skart.metrics._scorers import clean_scorer, make_robustness_scorer
from skart.utils._optional import import_optional

__all__ = ["SecurityCurveDisplay"]

SCORE_NAMES = {"accuracy": "Robust accuracy", "median_distance": "Median distance"}


class SecurityCurveDisplay:
    """Score of a model under an attack, over a range of one of the attack's parameters.

    Make one with :meth:`from_estimator`, which measures and plots. Values are shown as they were measured: a curve
    that rises where the adversary grows stronger says that the attack failed there, not that the model is robust.

    Parameters
    ----------
    param_name : str
        Parameter of the attack that was varied.
    param_range : array-like of shape (n_values,)
        Its values.
    scores : array-like of shape (n_values,)
        Score under the attack for each of them.
    n_samples : int, default=None
        Number of samples behind each score, where the score is a share of them: it gives the width of the band.
    clean_score : float, default=None
        Score without an attack.
    chance_level : float, default=None
        Score of a model that always predicts the commonest class, which no attack can change.
    score_name : str, default="Score"
        Label of the vertical axis.
    name : str, default=None
        Name of the model in the legend.

    Attributes
    ----------
    line_ : matplotlib Artist
        The curve.
    band_ : matplotlib Artist or None
        The 95 % confidence band.
    clean_level_, chance_level_ : matplotlib Artist or None
        The horizontal lines.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    skart.metrics.robust_accuracy_score : One point of the curve.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.attacks import FastGradientMethod
    >>> from skart.inspection import SecurityCurveDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=200).fit(X, y)
    >>> display = SecurityCurveDisplay.from_estimator(
    ...     clf, X, y, attack=FastGradientMethod(), param_range=np.linspace(0, 1, 5)
    ... )
    >>> bool(display.scores[0] == clf.score(X, y) > display.scores[-1])
    True
    """

    def __init__(
        self,
        *,
        param_name,
        param_range,
        scores,
        n_samples=None,
        clean_score=None,
        chance_level=None,
        score_name="Score",
        name=None,
    ):
        self.param_name = param_name
        self.param_range = param_range
        self.scores = scores
        self.n_samples = n_samples
        self.clean_score = clean_score
        self.chance_level = chance_level
        self.score_name = score_name
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y,
        *,
        attack,
        param_name="eps",
        param_range,
        metric="accuracy",
        ax=None,
        name=None,
        plot_band=True,
        plot_clean_level=False,
        plot_chance_level=False,
        line_kw=None,
        fill_between_kw=None,
        clean_level_kw=None,
        chance_level_kw=None,
    ):
        """Attack a fitted model with each value of a parameter, and plot what its score comes to.

        Parameters
        ----------
        estimator : estimator
            Fitted classifier.
        X : array-like, tensor or data frame of shape (n_samples, ...)
            Clean samples, better not those that the model was trained on.
        y : array-like of shape (n_samples,)
            True labels.
        attack : attack
            One of skart's attacks; it stays as it is. With ``attack.estimator=None`` copies are aimed at ``estimator``;
            one with an estimator of its own stays aimed there, and its samples transfer. What it learnt in ``fit``
            stays with it. Set its ``n_jobs`` to spread the work, and its ``random_state`` to an integer for the same
            random draws at every value.
        param_name : str, default="eps"
            Parameter of the attack to vary.
        param_range : array-like of shape (n_values,)
            Its values.
        metric : {"accuracy", "median_distance"}, name of a scikit-learn scorer, or callable, default="accuracy"
            What to measure under attack, as in :func:`~skart.metrics.make_robustness_scorer`.
        ax : matplotlib Axes, default=None
            Where to draw, for several models in one figure. ``None`` makes a new figure.
        name : str, default=None
            Name of the model in the legend. ``None`` takes that of its class.
        plot_band : bool, default=True
            Draw the band of Wilson's 95 % confidence intervals, which says what ``n_samples`` samples can tell.
            There is none for a ``metric`` that is no share of the samples.
        plot_clean_level : bool, default=False
            Draw a line at the score without an attack.
        plot_chance_level : bool, default=False
            Draw a line at the accuracy of a model that always predicts the commonest class.
        line_kw, fill_between_kw, clean_level_kw, chance_level_kw : dict, default=None
            Keywords for matplotlib's ``plot`` (the curve), ``fill_between`` (the band) and ``axhline`` (the levels).

        Returns
        -------
        display : SecurityCurveDisplay
        """
        import_optional("matplotlib.pyplot", extra="plot", purpose=f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        check_consistent_length(X, y)
        param_range, attacks = _vary(attack, param_name, param_range)
        scores = [make_robustness_scorer(varied, metric)(estimator, X, y) for varied in attacks]
        n_samples = clean_score = chance_level = None
        if metric == "accuracy":
            counts = np.unique(to_numpy(y), return_counts=True)[1]
            n_samples, chance_level = int(counts.sum()), float(counts.max() / counts.sum())
        if metric != "median_distance":
            clean_score = float(clean_scorer(metric)(estimator, X, y))
        display = cls(
            param_name=param_name,
            param_range=param_range,
            scores=np.array(scores, dtype=np.float64),
            n_samples=n_samples,
            clean_score=clean_score,
            chance_level=chance_level,
            score_name=_score_name(metric),
            name=type(estimator).__name__ if name is None else name,
        )
        return display.plot(
            ax,
            plot_band=plot_band,
            plot_clean_level=plot_clean_level,
            plot_chance_level=plot_chance_level,
            line_kw=line_kw,
            fill_between_kw=fill_between_kw,
            clean_level_kw=clean_level_kw,
            chance_level_kw=chance_level_kw,
        )

    def plot(
        self,
        ax=None,
        *,
        name=None,
        plot_band=True,
        plot_clean_level=False,
        plot_chance_level=False,
        line_kw=None,
        fill_between_kw=None,
        clean_level_kw=None,
        chance_level_kw=None,
    ):
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. ``None`` makes a new figure.
        name : str, default=None
            Name of the model in the legend. ``None`` takes that of the display.
        plot_band, plot_clean_level, plot_chance_level : bool
            What to draw beside the curve, as in :meth:`from_estimator`.
        line_kw, fill_between_kw, clean_level_kw, chance_level_kw : dict, default=None
            Keywords for matplotlib, as in :meth:`from_estimator`.

        Returns
        -------
        display : SecurityCurveDisplay
        """
        plt = import_optional("matplotlib.pyplot", extra="plot", purpose=f"{type(self).__name__}.plot")
        for wanted, value, level in (
            (plot_clean_level, self.clean_score, "clean"),
            (plot_chance_level, self.chance_level, "chance"),
        ):
            if wanted and value is None:
                raise ValueError(f"this display has no {level} level: {self.score_name!r} does not define one.")
        if ax is None:
            _, ax = plt.subplots()
        name = self.name if name is None else name
        places, categories = _places(self.param_range)
        scores = np.asarray(self.scores, dtype=np.float64)
        label = {} if name is None else {"label": name}
        (self.line_,) = ax.plot(places, scores, **{"marker": "o", "markersize": 4, **label, **(line_kw or {})})
        self.band_ = self.clean_level_ = self.chance_level_ = None
        if plot_band and self.n_samples is not None:
            style = {"color": self.line_.get_color(), "alpha": 0.15, "linewidth": 0, **(fill_between_kw or {})}
            self.band_ = ax.fill_between(places, *wilson_interval(scores, self.n_samples), **style)
        if plot_clean_level:
            style = {"color": self.line_.get_color(), "linestyle": ":", "label": f"Clean ({self.clean_score:.2f})"}
            self.clean_level_ = ax.axhline(self.clean_score, **{**style, **(clean_level_kw or {})})
        if plot_chance_level:
            style = {"color": "k", "linestyle": "--", "label": f"Chance level ({self.chance_level:.2f})"}
            self.chance_level_ = ax.axhline(self.chance_level, **{**style, **(chance_level_kw or {})})
        if categories is not None:
            ax.set_xticks(places, categories)
        ax.set(xlabel=self.param_name, ylabel=self.score_name)
        if self.n_samples is not None:
            ax.set_ylim(-0.02, 1.02)
        if ax.get_legend_handles_labels()[0]:
            ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


def wilson_interval(share, n_samples, level=0.95):
    """Lower and upper ends of Wilson's interval for a share that was found on ``n_samples`` samples."""
    z = ndtri((1 + level) / 2)
    shrink = 1 + z**2 / n_samples
    centre = (share + z**2 / (2 * n_samples)) / shrink
    half = z / shrink * np.sqrt(share * (1 - share) / n_samples + z**2 / (4 * n_samples**2))
    return centre - half, centre + half


def _vary(attack, param_name, param_range):
    """The values as an array, and a copy of the attack for each of them."""
    if not isinstance(attack, BaseAttack):
        raise TypeError(f"attack must be one of skart's attacks, an instance; got {attack!r}.")
    known = [name for name in attack.get_params(deep=False) if name != "estimator"]
    if param_name not in known:
        raise ValueError(
            f"{param_name!r} is no parameter of {type(attack).__name__} that a curve can vary; those are "
            f"{', '.join(known)}."
        )
    param_range = np.asarray(param_range)
    if param_range.ndim != 1 or len(param_range) == 0:
        raise ValueError(
            f"param_range must be a sequence of at least one value of {param_name!r}; got an array of shape "
            f"{param_range.shape}."
        )
    attacks = []
    for value in param_range.tolist():
        varied = copy.copy(attack)
        setattr(varied, param_name, value)
        varied._validate_params()  # before the first attack runs, so that a wrong last value wastes no time
        attacks.append(varied)
    return param_range, attacks


def _places(param_range):
    """Where the values stand on the horizontal axis and, unless they are plain numbers, how they are written there."""
    values = np.asarray(param_range)
    if values.dtype.kind in "iuf" and np.isfinite(values).all():
        return values, None
    return np.arange(len(values)), [str(value) for value in values.tolist()]


def _score_name(metric):
    if not isinstance(metric, str):
        return "Score under attack"
    return SCORE_NAMES.get(metric, f"{metric.replace('_', ' ').capitalize()} under attack")
