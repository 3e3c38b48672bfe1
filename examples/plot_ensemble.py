"""
===========================================
Attack an ensemble jointly, and by transfer
===========================================

Several models that vote are harder to fool than each alone: or are they? This example puts trained models of
different kinds into one ensemble, and compares two adversaries. One knows the ensemble and follows its gradient through
all members at once. The other one knows a single member, and hopes that what fools it fools the others.
"""

# %%
# An ensemble of models that are trained already
# ----------------------------------------------
# A :class:`~sklearn.ensemble.VotingClassifier` over models inside :class:`~sklearn.frozen.FrozenEstimator` averages
# their probabilities and trains none of them again. Members may be anything that has a gradient, Pipelines too. The
# probabilities of a support vector machine come from :class:`~sklearn.calibration.CalibratedClassifierCV`. It stands
# around one machine for each class, whose scores are smooth; those of a single one for many classes are votes, whose
# gradient tells little.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.ensemble import VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from skart.attacks import ProjectedGradientDescent

X, y = load_digits(return_X_y=True)
X = X / 16
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=200, stratify=y, random_state=0)

members = {
    "logistic regression": LogisticRegression(max_iter=500),
    "perceptron": make_pipeline(StandardScaler(), MLPClassifier((64,), random_state=0)),
    "support vectors": CalibratedClassifierCV(OneVsRestClassifier(SVC(C=10)), ensemble=False, cv=3),
}
for member in members.values():
    member.fit(X_train, y_train)

frozen = [(name, FrozenEstimator(member)) for name, member in members.items()]
ensemble = VotingClassifier(frozen, voting="soft").fit(X_train, y_train)

# %%
# What each adversary achieves
# ----------------------------
# Every attack may change each pixel by up to 0.15. A row of the table is the model whose gradient the adversary knows,
# a column the model that reads the changed digits.

models = {**members, "ensemble": ensemble}
accuracy = np.empty((len(models) + 1, len(models)))
accuracy[0] = [model.score(X_test, y_test) for model in models.values()]
for row, known in enumerate(models.values(), start=1):
    attack = ProjectedGradientDescent(known, eps=0.15, loss="margin", clip_values=(0, 1), max_iter=40, random_state=0)
    X_adv = attack.transform(X_test, y_test)
    accuracy[row] = [model.score(X_adv, y_test) for model in models.values()]

rows = ["no attack", *models]
for name, values in zip(rows, accuracy):
    print(f"{name:20s}", *(f"{value:.2f}" for value in values))

# %%
# No column is lower than where the adversary knows the model that reads. The ensemble withstands samples made for one
# of its members better than most members do; those made for all of them together leave little of it, and fool the
# members too. Transferred samples are no measure of an ensemble's robustness; the joint attack is.

fig, ax = plt.subplots(figsize=(7, 5), layout="constrained")
ax.imshow(accuracy, cmap="viridis", vmin=0, vmax=1)
for row, column in np.ndindex(*accuracy.shape):
    value = accuracy[row, column]
    ax.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.6 else "black")
ax.set_xticks(range(len(models)), models, rotation=20)
ax.set_yticks(range(len(rows)), rows)
ax.set_xlabel("model that reads the digits")
ax.set_ylabel("model that the adversary knows")
ax.set_title("Accuracy under attack")
plt.show()
