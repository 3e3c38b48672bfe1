"""
Minimum-norm attacks compared
=============================

An attack in a ball asks whether a perturbation of a given size is enough. The attacks of this example ask how small it
can be, each in its own sense of small: few pixels, little in all, or little in any of them.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from skart.attacks import (
    CarliniL2Method,
    CarliniLInfMethod,
    DeepFool,
    ElasticNetAttack,
    FastGradientMethod,
    NewtonFool,
    SaliencyMapMethod,
)

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0, stratify=y)
clf = MLPClassifier((64, 64), max_iter=400, random_state=0).fit(X_train, y_train)
correct = clf.predict(X_test) == y_test
X_test, y_test = X_test[correct][:200], y_test[correct][:200]

attacks = {
    "FGSM, least step": FastGradientMethod(clf, norm=2, minimal=True, eps_step=0.05, eps_max=5.0, clip_values=(0, 1)),
    "NewtonFool": NewtonFool(clf, clip_values=(0, 1)),
    "DeepFool": DeepFool(clf, clip_values=(0, 1)),
    "C&W, L2": CarliniL2Method(clf, clip_values=(0, 1)),
    "C&W, L-infinity": CarliniLInfMethod(clf, eps=None, clip_values=(0, 1)),
    "elastic net, L1": ElasticNetAttack(clf, decision_rule="L1", clip_values=(0, 1)),
    "saliency map": SaliencyMapMethod(clf, theta=0.5, gamma=0.4, clip_values=(0, 1)),
}
results = {name: attack.run(X_test, y_test) for name, attack in attacks.items()}

# %%
# Each attack is best in the norm that it minimises. The number of changed pixels is what the saliency map keeps low,
# and the elastic net follows since small changes are shrunk to none. Failures are left out of the medians, so the share
# of successes stands beside them.

print(f"{'':18} success  pixels     L1     L2   Linf   passes")
for name, result in results.items():
    delta = (result.X_adv - X_test)[result.success]
    norms = [np.median(np.linalg.norm(delta, ord=norm, axis=1)) for norm in (1, 2, np.inf)]
    pixels = np.median((np.abs(delta) > 1e-3).sum(axis=1))
    passes = result.n_queries.mean()
    print(f"{name:18} {result.success.mean():7.1%} {pixels:7.0f} " + " ".join(f"{n:6.3f}" for n in norms), end="")
    print(f"  {passes:7.0f}")

# %%
# One digit under each of them: what the model says of the result, and the difference, blue for darker, red for lighter.

sample = 3
fig, axes = plt.subplots(2, len(results) + 1, figsize=(13, 3.6), layout="constrained")
axes[0, 0].imshow(X_test[sample].reshape(8, 8), cmap="gray", vmin=0, vmax=1)
axes[0, 0].set_title(f"clean\n{y_test[sample]}", fontsize=9)
axes[1, 0].axis("off")
for (name, result), (top, bottom) in zip(results.items(), axes[:, 1:].T):
    top.imshow(result.X_adv[sample].reshape(8, 8), cmap="gray", vmin=0, vmax=1)
    top.set_title(f"{name}\n{result.y_adv[sample]}", fontsize=9)
    delta = result.X_adv[sample] - X_test[sample]
    bottom.imshow(delta.reshape(8, 8), cmap="seismic", vmin=-0.6, vmax=0.6)
    bottom.set_title(f"L2 {np.linalg.norm(delta):.2f}", fontsize=9)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
plt.show()
