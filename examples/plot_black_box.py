"""
Attacking a model that answers with labels alone
================================================

A service says "benign" or "malignant", and nothing else: no probabilities, no gradient, and there would be none, since
XGBoost stands behind it. Attacks by decisions ask it about points near its boundary. How near do they come, and how
many questions does it take?
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from skart.attacks import BoundaryAttack, HopSkipJump
from skart.estimators import BlackBoxClassifier

data = load_breast_cancer(as_frame=True)
names = data.target_names[data.target]
X_train, X_test, y_train, y_test = train_test_split(data.data, data.target, random_state=0, stratify=data.target)
pipeline = make_pipeline(StandardScaler(), XGBClassifier(n_estimators=100, random_state=0)).fit(X_train, y_train)
print(f"accuracy: {pipeline.score(X_test, y_test):.3f}")

# %%
# What the attacker sees of it is a function from measurements to names. It counts what it is asked, and refuses where
# its budget is spent.

service = BlackBoxClassifier(
    lambda X: data.target_names[pipeline.predict(X)], data.target_names, output="labels", max_queries=500_000
)

# %%
# The measurements have very different units: an area of 500 and a smoothness of 0.1. ``scale`` says what counts as a
# change of one in each of them, here the standard deviations of data like those of the service. All samples are
# attacked together, each with 2000 questions at most, and ``trace`` records how near each of them has come.

patients = X_test.iloc[:60]
scale = X_train.std().to_numpy()
given = {"scale": scale, "clip_values": (0, np.inf), "max_queries": 2000, "trace": True, "random_state": 0}
attacks = {
    "HopSkipJump": HopSkipJump(service, **given),
    "BoundaryAttack": BoundaryAttack(service, max_iter=10_000, **given),
}
results = {name: attack.run(patients) for name, attack in attacks.items()}
for name, result in results.items():
    print(f"{name}: {result.success.mean():.0%} of the answers turned, {result.n_queries.sum()} questions")
print(f"the service counted {service.n_queries_}")

# %%
# Distance against queries, as the median over the patients: half a standard deviation more or less in a few features
# turns a diagnosis. What comes back is a frame of the same columns.

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", width_ratios=[1.2, 1])
for name, result in results.items():
    queries, distances = result.trace
    left.plot(np.median(queries, axis=1), np.median(distances, axis=1), label=name)
left.set(xlabel="queries for each patient", ylabel="median distance, in standard deviations", ylim=(0, 6))
left.legend()

changes = (results["HopSkipJump"].X_adv - patients).abs() / scale
largest = changes.mean().sort_values(ascending=False).head(8)
right.barh(largest.index, largest, color="tab:orange")
right.invert_yaxis()
right.set(xlabel="mean change, in standard deviations")
plt.show()
