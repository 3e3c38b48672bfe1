"""
===================
Attack a neural net
===================

A PyTorch net that is wrapped by skorch is a scikit-learn classifier, and skart attacks it like any other. This example
trains a small net on handwritten digits and compares three adversaries: one that takes a single step, one that takes
many, and one that has never seen the net.
"""

# %%
# A net that scikit-learn understands
# -----------------------------------
# The module returns logits, so the criterion is the cross-entropy of logits. skart reads skorch's conventions and takes
# the scores for what they are. Nets compute in 32 bits, and so do the attacks on them.

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)


class ConvolutionalNet(torch.nn.Module):
    """Two convolutions and a linear layer over images of 8 x 8 pixels, which come as rows of 64."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Unflatten(1, (1, 8, 8)),
            torch.nn.Conv2d(1, 16, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(32 * 4 * 4, 10),
        )

    def forward(self, X):
        return self.layers(X)


torch.manual_seed(0)
net = NeuralNetClassifier(
    ConvolutionalNet,
    criterion=torch.nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=0.005,
    max_epochs=15,
    train_split=None,
    verbose=0,
)
net.fit(X_train, y_train)
print(f"clean accuracy  {net.score(X_test, y_test):.3f}")

# %%
# One step, or many
# -----------------
# :class:`~skart.attacks.FastGradientMethod` takes one step along the sign of the gradient.
# :class:`~skart.attacks.ProjectedGradientDescent` takes many small ones and keeps the best point that it met. ``run``
# reports on every sample: whether the attack succeeded, how far it went, and what it asked of the net.

from skart.attacks import FastGradientMethod, ProjectedGradientDescent

one_step = FastGradientMethod(net, eps=0.1, clip_values=(0, 1))
many_steps = ProjectedGradientDescent(net, eps=0.1, clip_values=(0, 1), max_iter=20, random_state=0)
for attack in (one_step, many_steps):
    result = attack.run(X_test, y_test)
    print(
        f"{type(attack).__name__:25} deceives the net on {result.success.mean():.1%} of the digits, "
        f"with {result.n_gradients.mean():.0f} gradients for each"
    )

# %%
# An adversary who does not know the net
# --------------------------------------
# An attack that has an estimator of its own stays aimed there. Here that is a logistic regression trained on the same
# digits; its adversarial samples are then given to the net. Often they deceive it as well: keeping a model secret
# protects less than one might hope.

import matplotlib.pyplot as plt
from sklearn.linear_model import LogisticRegression

from skart.inspection import SecurityCurveDisplay

surrogate = LogisticRegression(max_iter=500).fit(X_train, y_train)
transferred = ProjectedGradientDescent(surrogate, clip_values=(0, 1), max_iter=20, random_state=0)

figure, ax = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
adversaries = {"logistic regression's samples": transferred, "one step": one_step, "many steps": many_steps}
for name, attack in adversaries.items():
    SecurityCurveDisplay.from_estimator(
        net, X_test, y_test, attack=attack, param_range=np.linspace(0, 0.3, 7), ax=ax, name=name
    )
_ = ax.set(title="A net under three adversaries", xlabel="eps: largest change of a pixel")

# %%
# Choose the mistake
# ------------------
# With ``target`` the adversary wants a certain answer: here every digit is to be read as a zero. The size of the change
# is measured by the Euclidean norm this time, so a few pixels may change much if the others change little.

to_zero = ProjectedGradientDescent(net, norm=2, eps=2, clip_values=(0, 1), target=0, random_state=0)
print(f"read as a zero: {to_zero.run(X_test).success.mean():.1%} of the digits")

digits = [np.flatnonzero(y_test == digit)[0] for digit in range(1, 10)]
result = to_zero.run(X_test[digits], y_test[digits])

figure, axes = plt.subplots(2, len(digits), figsize=(9, 2.8), layout="constrained")
for row, images, read in zip(axes, (X_test[digits], result.X_adv), (net.predict(X_test[digits]), result.y_adv)):
    for ax, image, label in zip(row, images, read):
        ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(f"reads {label}", fontsize=10)
        ax.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("clean")
_ = axes[1, 0].set_ylabel("attacked")
