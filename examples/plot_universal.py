"""
=========================
One attack for all images
=========================

Most attacks change each image in a way of its own. The attacks of this example learn once: one perturbation, one
rotation, or one patch, which then deceives a model on images that neither of them has ever seen. That makes them cheap
to use, and the patch can be printed and put in front of a camera.
"""

# %%
# A model of digits
# -----------------
# Images of 8 x 8 pixels come as rows of 64 numbers, which is what scikit-learn's models take. A support vector machine
# reads them well. One part of the data trains it, another one is there for the attacks to learn from, and the rest
# stands for the images of tomorrow.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

X, y = load_digits(return_X_y=True)
X_train, X_rest, y_train, y_rest = train_test_split(X / 16, y, train_size=0.5, stratify=y, random_state=0)
X_learn, X_new, y_learn, y_new = train_test_split(X_rest, y_rest, train_size=0.5, stratify=y_rest, random_state=0)

clf = SVC().fit(X_train, y_train)
print(f"accuracy on new digits: {clf.score(X_new, y_new):.3f}")


def show(axes, images, label):
    """Draw a row of digits with what the model reads."""
    for ax, image, said in zip(axes, images, clf.predict(images)):
        ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(f"reads {said}", fontsize=9)
        ax.set(xticks=[], yticks=[])
    axes[0].set_ylabel(label)


digits = [np.flatnonzero(y_new == digit)[0] for digit in range(10)]

# %%
# One perturbation
# ----------------
# :class:`~skart.attacks.UniversalPerturbation` learns a perturbation of bounded size that changes what the model says
# of as many images as possible. A :class:`~sklearn.frozen.FrozenEstimator` tells ``fit`` to leave the model as it is.
# Random noise of the same size deceives it half as often.

from skart.attacks import UniversalPerturbation

victim = FrozenEstimator(clf)
universal = UniversalPerturbation(victim, eps=0.35, delta=0.0, max_iter=10, clip_values=(0, 1), random_state=0)
universal.fit(X_learn)
noise = np.random.default_rng(0).choice([-0.35, 0.35], size=64)
print(f"deceived by the perturbation: {universal.run(X_new).success.mean():.1%}")
print(f"deceived by noise:            {np.mean(clf.predict(np.clip(X_new + noise, 0, 1)) != clf.predict(X_new)):.1%}")

figure, axes = plt.subplots(2, 11, figsize=(11, 2.7), layout="constrained")
show(axes[0, 1:], X_new[digits], "")
show(axes[1, 1:], universal.transform(X_new[digits]), "")
axes[0, 0].axis("off")
axes[1, 0].imshow(universal.perturbation_.reshape(8, 8), cmap="RdBu", vmin=-0.35, vmax=0.35)
axes[1, 0].set_title("added", fontsize=9)
_ = axes[1, 0].set(xticks=[], yticks=[])

# %%
# One rotation and translation
# ----------------------------
# :class:`~skart.attacks.SpatialTransformation` needs no gradients, and changes nothing but where the digit lies. It has
# to know how a row makes an image.

from skart.attacks import SpatialTransformation

spatial = SpatialTransformation(victim, num_rotations=13, image_shape=(8, 8), clip_values=(0, 1)).fit(X_learn)
print(
    f"turned by {spatial.rotation_:.0f} degrees and moved by {spatial.translation_} percent: "
    f"{spatial.run(X_new).success.mean():.1%} deceived"
)

# %%
# One patch
# ---------
# :class:`~skart.attacks.AdversarialPatch` has a target: whatever the digit, it is to be read as an eight. It learns
# with the patch in ever other sizes and places, so that it works wherever it is put.

from skart.attacks import AdversarialPatch

patch = AdversarialPatch(
    victim, target=8, patch_type="square", image_shape=(8, 8), clip_values=(0, 1), random_state=0
).fit(X_learn)
widths = np.linspace(0.2, 0.8, 7)
taken = [np.mean(clf.predict(patch.apply_patch(X_new, scale=width)) == 8) for width in widths]

figure, axes = plt.subplots(3, 11, figsize=(11, 4), layout="constrained")
show(axes[0, 1:], X_new[digits], "")
show(axes[1, 1:], spatial.transform(X_new[digits]), "")
show(axes[2, 1:], patch.apply_patch(X_new[digits], scale=0.7), "")
for ax, label in zip(axes[:, 0], ("clean", "turned", "patched")):
    ax.text(0.9, 0.5, label, ha="right", va="center", transform=ax.transAxes)
    ax.axis("off")

# %%
# The larger the patch, the surer it works: a patch that lies in a corner does not hide the digit.

figure, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
ax.plot(widths, taken, marker="o")
_ = ax.set(
    xlabel="width of the patch, share of the image", ylabel="digits that are read as 8", ylim=(0, 1), title="One patch"
)
