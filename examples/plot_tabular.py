"""
Auditing a Pipeline on a table
==============================

A bank decides on loans with a Pipeline that scales numbers, encodes categories and asks three models to vote. How
little must an applicant change to get another answer? An attack tells, column by column: it moves the numbers within
what is plausible for each, and leaves the categories as they are.

The table is made up, so that the example needs no download.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from skart.attacks import ProjectedGradientDescent

rng = np.random.default_rng(0)
n_applicants = 1200
applicants = pd.DataFrame(
    {
        "age": rng.integers(20, 70, n_applicants),
        "income": rng.lognormal(10.3, 0.4, n_applicants).round(),
        "debt": rng.lognormal(8.5, 0.9, n_applicants).round(),
        "years employed": rng.exponential(6, n_applicants).round(1),
        "housing": rng.choice(["rents", "owns", "family"], n_applicants),
        "married": rng.random(n_applicants) < 0.5,
    }
)
worth = np.log(applicants["income"]) - 0.4 * np.log(applicants["debt"]) + 0.03 * applicants["years employed"]
worth += 0.3 * (applicants["housing"] == "owns") + 0.15 * rng.standard_normal(n_applicants)
decision = np.where(worth > worth.median(), "granted", "refused")
X_train, X_test, y_train, y_test = train_test_split(applicants, decision, random_state=0, stratify=decision)

# %%
# The model: string labels, a frame with numbers, text and booleans, and a vote over three families.

columns = ColumnTransformer(
    [
        ("numbers", StandardScaler(), ["age", "income", "debt", "years employed"]),
        ("categories", OneHotEncoder(drop="if_binary"), ["housing", "married"]),
    ]
)
vote = VotingClassifier(
    [
        ("linear", LogisticRegression()),
        ("kernel", CalibratedClassifierCV(SVC(), ensemble=False)),
        ("net", MLPClassifier((32,), max_iter=600, random_state=0)),
    ],
    voting="soft",
)
model = make_pipeline(columns, vote).fit(X_train, y_train)
print(f"accuracy: {model.score(X_test, y_test):.3f}")

# %%
# One radius for each column that an applicant could misstate or change, in its own units. Age is not among them, so it
# stays; housing and marriage are no numbers, so they stay as well. What comes back is a frame like that which went in.

plausible = {"income": 2000.0, "debt": 1500.0, "years employed": 1.0}
attack = ProjectedGradientDescent(model, eps=plausible, clip_values=(0, np.inf), random_state=0)
result = attack.run(X_test, y_test)
print(f"accuracy under attack: {model.score(result.X_adv, y_test):.3f}")
print(result.X_adv[result.success].head())

# %%
# Which of the three is it that matters? The same attack with one column at a time.

shares = {}
for name, eps in plausible.items():
    alone = ProjectedGradientDescent(model, eps={name: eps}, clip_values=(0, np.inf), random_state=0)
    shares[f"{name} ± {eps:g}"] = alone.run(X_test, model.predict(X_test)).success.mean()
shares["all three"] = attack.run(X_test, model.predict(X_test)).success.mean()

fig, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
bars = ax.barh(list(shares), list(shares.values()), color="tab:blue")
ax.bar_label(bars, fmt="{:.1%}", padding=3)
ax.invert_yaxis()
ax.set(xlabel="share of applicants whose decision can be turned", xlim=(0, 1.25 * max(shares.values())))
plt.show()
