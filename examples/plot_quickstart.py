"""
==================================================
Audit a Pipeline's robustness and pick its defence
==================================================

A model that reads handwritten digits almost perfectly may fail on digits that an adversary has touched, even where
the change is too small for people to notice. This example measures how far that goes for a scikit-learn Pipeline,
searches for the defence and the classifier that hold up best, and shows what the adversary does.
"""

# %%
# A Pipeline with a defence
# -------------------------
# The digits are images of 8 x 8 pixels, scaled here to [0, 1]. The defence is
# :class:`~skart.defences.FeatureSqueezing`, a transformer that keeps only a few grey levels. Pixels are rounded to the
# nearest level, so a small change of a pixel often vanishes before the classifier sees it.

import os
import sys

from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC

from skart.attacks import ProjectedGradientDescent
from skart.defences import FeatureSqueezing
from skart.inspection import SecurityCurveDisplay
from skart.metrics import make_robustness_scorer, robust_accuracy_score

X, y = load_digits(return_X_y=True)
X = X / 16
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)

logistic = LogisticRegression(max_iter=500)
model = Pipeline([("squeeze", FeatureSqueezing(bit_depth=2, rounding="nearest")), ("clf", logistic)])

# %%
# Clean and robust accuracy
# -------------------------
# The adversary may change every pixel by up to 0.1, a tenth of its range, and knows everything about the model: the
# attack follows the gradient through the whole Pipeline. Rounding has no useful gradient, so the attack passes
# straight through it, as an adversary who knows the defence would.
#
# An attack without an estimator is a recipe. The scorer aims it at each model that it is asked to score, so it works
# wherever scikit-learn takes a scorer. A digit counts if it is read correctly both before and after the attack.

attack = ProjectedGradientDescent(eps=0.1, clip_values=(0, 1), max_iter=20, n_restarts=2, loss="margin", random_state=0)
robust = make_robustness_scorer(attack)

clean_scores = cross_val_score(model, X_train, y_train, scoring="accuracy")
robust_scores = cross_val_score(model, X_train, y_train, scoring=robust)
print(f"clean accuracy   {clean_scores.mean():.3f} +/- {clean_scores.std():.3f}")
print(f"robust accuracy  {robust_scores.mean():.3f} +/- {robust_scores.std():.3f}")

# %%
# Search for the defence and the classifier
# -----------------------------------------
# How many bits should a pixel keep, and which classifier should follow? That is a parameter search like any other. It
# scores both kinds of accuracy and picks the model by the robust one. Eight bits keep all 17 grey levels of these
# images apart: that is as good as no defence.

classifiers = {
    "logistic regression": logistic,
    "RBF support vectors": SVC(),
    "multi-layer perceptron": MLPClassifier((64,), alpha=0.1, learning_rate_init=0.01, random_state=0),
}
bit_depths = [1, 2, 3, 8]
search = GridSearchCV(
    model,
    {"clf": list(classifiers.values()), "squeeze__bit_depth": bit_depths},
    scoring={"clean": "accuracy", "robust": robust},
    refit="robust",
    cv=3,
    n_jobs=2,
)
search.fit(X_train, y_train)

names = {repr(classifier): name for name, classifier in classifiers.items()}
found = search.cv_results_
print(f"{'classifier':24}{'bits':>4}{'clean':>8}{'robust':>8}")
for k, params in enumerate(found["params"]):
    chosen = "  <- chosen" if k == search.best_index_ else ""
    print(
        f"{names[repr(params['clf'])]:24}{params['squeeze__bit_depth']:>4}"
        f"{found['mean_test_clean'][k]:>8.3f}{found['mean_test_robust'][k]:>8.3f}{chosen}"
    )

# %%
# By clean accuracy all of these models look alike, and the undefended ones look best. Under attack they differ widely.
# One or two bits help every classifier, since most pixels of a digit are nearly black or nearly white, and a change of
# 0.1 does not take them across a rounding threshold. Three bits make things *worse* than no defence: the grey levels
# are 1/7 apart, so a change of 0.1 becomes one of 0.14. A defence is worth measuring before it is trusted.

# %%
# The security curve
# ------------------
# One value of ``eps`` tells little of a model. The curve shows what is left of the accuracy on held-out digits as the
# adversary grows stronger; the bands are 95 % confidence intervals.

import matplotlib.pyplot as plt
import numpy as np

best = search.best_estimator_
undefended = Pipeline([("squeeze", FeatureSqueezing(bit_depth=8, rounding="nearest")), ("clf", SVC())])
undefended.fit(X_train, y_train)
linear = Pipeline([("squeeze", FeatureSqueezing(bit_depth=8, rounding="nearest")), ("clf", logistic)])
linear.fit(X_train, y_train)

curve_figure, ax = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
curves = {"the search's choice": best, "RBF support vectors, 8 bits": undefended, "logistic regression, 8 bits": linear}
for name, estimator in curves.items():
    display = SecurityCurveDisplay.from_estimator(
        estimator,
        X_test,
        y_test,
        attack=attack,
        param_range=np.linspace(0, 0.25, 6),
        ax=ax,
        name=name,
        plot_chance_level=name == list(curves)[-1],
    )
_ = ax.set(title="Digits read correctly under attack", xlabel="eps: largest change of a pixel")

# %%
# The search answers for the ``eps`` that it was given. Beyond 1/6, which is half the distance between two of the four
# grey levels, even the black and the white pixels change their level, and the defence does more harm than good.
#
# Is the gain before that real? A model that merely hides its gradient looks robust until somebody tries harder.
# So try harder: with more steps and more random starts, a sound figure hardly moves.

harder = ProjectedGradientDescent(
    eps=0.1, clip_values=(0, 1), max_iter=50, n_restarts=10, loss="margin", random_state=1
)
print(f"robust accuracy on held-out digits  {robust_accuracy_score(best, X_test, y_test, attack=attack):.3f}")
print(f"with more steps and restarts        {robust_accuracy_score(best, X_test, y_test, attack=harder):.3f}")

# %%
# What the adversary does
# -----------------------
# ``run`` attacks samples and reports on each of them. Here it attacks the logistic regression without a defence, and
# then the model that the search chose. Shown is, for each class, the first digit on which the logistic regression was
# deceived; above each image stands what the attacked model reads, in red where that is wrong.

linear_run = clone(attack).set_params(estimator=linear).run(X_test, y_test)
best_run = clone(attack).set_params(estimator=best).run(X_test, y_test)
print(linear_run)
print(best_run)

deceived = linear_run.success & (linear.predict(X_test) == y_test)
shown = [np.flatnonzero(deceived & (y_test == digit))[0] for digit in range(10)]
rows = {
    "clean digits": (X_test, linear.predict(X_test)),
    "logistic regression,\nattacked": (linear_run.X_adv, linear_run.y_adv),
    "the search's choice,\nattacked": (best_run.X_adv, best_run.y_adv),
    "the same, as its\nclassifier sees it": (best["squeeze"].transform(best_run.X_adv), best_run.y_adv),
}
digits_figure, axes = plt.subplots(len(rows), len(shown), figsize=(9, 4.6), layout="constrained")
for row, (title, (images, read)) in zip(axes, rows.items()):
    row[0].set_ylabel(title, rotation=0, ha="right", va="center")
    for ax, index in zip(row, shown):
        ax.imshow(images[index].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(read[index], color="black" if read[index] == y_test[index] else "red", fontsize=10)
        ax.set(xticks=[], yticks=[])

# %%
# Run as a script, the example leaves its figures in the current folder.

if "sphinx_gallery" not in sys.modules:
    for figure, path in ((curve_figure, "quickstart.png"), (digits_figure, "quickstart_digits.png")):
        figure.savefig(path, dpi=150)
        print(f"wrote {os.path.abspath(path)}")
