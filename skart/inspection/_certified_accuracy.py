"""Certified accuracy of a smoothed classifier, against the radius."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skart.inspection._security_curve import wilson_interval
from skart.utils._optional import import_optional
from skart.wrappers._smoothing import certified_accuracy_curve

__all__ = ["CertifiedAccuracyDisplay"]


class CertifiedAccuracyDisplay:
    """Share of samples that are certified to be classified rightly, against the radius.

    Make one with :meth:`from_estimator`, which certifies and plots, or with :meth:`from_predictions`.

    Parameters
    ----------
    radii : array-like of shape (n_radii,)
        Radii in increasing order.
    accuracy : array-like of shape (n_radii,)
        Certified accuracy at each of them.
    n_samples : int, default=None
        Number of samples behind the curve: it gives the width of the band.
    name : str, default=None
        Name of the model in the legend.

    Attributes
    ----------
    line_ : matplotlib Artist
        The curve.
    band_ : matplotlib Artist or None
        The 95 % confidence band.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    skart.wrappers.certified_accuracy_curve : The numbers alone.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.inspection import CertifiedAccuracyDisplay
    >>> from skart.wrappers import RandomizedSmoothing
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = RandomizedSmoothing(LogisticRegression(max_iter=500), sigma=0.5, random_state=0).fit(X, y)
    >>> display = CertifiedAccuracyDisplay.from_estimator(clf, X, y, n_samples=200)
    >>> bool(display.accuracy[0] > 0.5 > display.accuracy[-1])
    True
    """

    def __init__(self, *, radii, accuracy, n_samples=None, name=None):
        self.radii = radii
        self.accuracy = accuracy
        self.n_samples = n_samples
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y,
        *,
        n_samples=None,
        ax=None,
        name=None,
        plot_band=True,
        line_kw=None,
        fill_between_kw=None,
    ):
        """Certify samples and plot the curve.

        Parameters
        ----------
        estimator : RandomizedSmoothing
            Fitted classifier that certifies.
        X : array-like, tensor or data frame of shape (n_samples, ...)
            Samples, better not those that the model was trained on.
        y : array-like of shape (n_samples,)
            True labels.
        n_samples : int, default=None
            Number of noisy versions of each sample. ``None`` takes the estimator's own.
        ax : matplotlib Axes, default=None
            Where to draw, for several models in one figure. ``None`` makes a new figure.
        name : str, default=None
            Name of the model in the legend. ``None`` takes that of its class and its ``sigma``.
        plot_band : bool, default=True
            Draw the band of Wilson's 95 % confidence intervals, which says what that many samples can tell.
        line_kw, fill_between_kw : dict, default=None
            Keywords for matplotlib's ``plot`` (the curve) and ``fill_between`` (the band).

        Returns
        -------
        display : CertifiedAccuracyDisplay
        """
        if not hasattr(estimator, "certify"):
            raise TypeError(
                f"{type(estimator).__name__} does not certify; wrap it: "
                "skart.wrappers.RandomizedSmoothing(FrozenEstimator(clf))."
            )
        import_optional("matplotlib.pyplot", extra="plot", purpose=f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        return cls.from_predictions(
            y,
            estimator.certify(X, n_samples=n_samples),
            ax=ax,
            name=f"{type(estimator).__name__} (sigma={estimator.sigma:g})" if name is None else name,
            plot_band=plot_band,
            line_kw=line_kw,
            fill_between_kw=fill_between_kw,
        )

    @classmethod
    def from_predictions(
        cls, y_true, certificate, *, ax=None, name=None, plot_band=True, line_kw=None, fill_between_kw=None
    ):
        """Plot the curve of certificates that are there already.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True labels.
        certificate : Certificate
            What :meth:`~skart.wrappers.RandomizedSmoothing.certify` says of the samples.
        ax : matplotlib Axes, default=None
            Where to draw. ``None`` makes a new figure.
        name : str, default=None
            Name of the model in the legend.
        plot_band : bool, default=True
            Draw the confidence band.
        line_kw, fill_between_kw : dict, default=None
            Keywords for matplotlib, as in :meth:`from_estimator`.

        Returns
        -------
        display : CertifiedAccuracyDisplay
        """
        radii, accuracy = certified_accuracy_curve(y_true, certificate)
        display = cls(radii=radii, accuracy=accuracy, n_samples=len(certificate.y), name=name)
        return display.plot(ax, plot_band=plot_band, line_kw=line_kw, fill_between_kw=fill_between_kw)

    def plot(self, ax=None, *, name=None, plot_band=True, line_kw=None, fill_between_kw=None):
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. ``None`` makes a new figure.
        name : str, default=None
            Name of the model in the legend. ``None`` takes that of the display.
        plot_band : bool, default=True
            Draw the confidence band.
        line_kw, fill_between_kw : dict, default=None
            Keywords for matplotlib, as in :meth:`from_estimator`.

        Returns
        -------
        display : CertifiedAccuracyDisplay
        """
        plt = import_optional("matplotlib.pyplot", extra="plot", purpose=f"{type(self).__name__}.plot")
        if ax is None:
            _, ax = plt.subplots()
        name = self.name if name is None else name
        label = {} if name is None else {"label": name}
        # A radius that is certified counts still; the curve falls behind it.
        radii = np.append(self.radii, self.radii[-1])
        accuracy = np.append(self.accuracy, 0.0)
        style = {"drawstyle": "steps-pre", **label, **(line_kw or {})}
        (self.line_,) = ax.plot(radii, accuracy, **style)
        self.band_ = None
        if plot_band and self.n_samples is not None:
            style = {"color": self.line_.get_color(), "alpha": 0.15, "linewidth": 0, "step": "pre"}
            band = wilson_interval(np.asarray(self.accuracy, dtype=np.float64), self.n_samples)
            self.band_ = ax.fill_between(self.radii, *band, **{**style, **(fill_between_kw or {})})
        ax.set(xlabel="L2 radius", ylabel="Certified accuracy", ylim=(-0.02, 1.02))
        if ax.get_legend_handles_labels()[0]:
            ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self
