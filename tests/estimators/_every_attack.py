"""Every attack that works on any classifier, and what it must do on one of a foreign library."""

import numpy as np
from numpy.testing import assert_array_equal

from tests.common._discovery import learns, make_attack, public_attacks, takes_any_model

# Those that want a family of their own or learn from data beforehand have tests of their own.
EVERY_ATTACK = [cls for cls in public_attacks() if takes_any_model(cls) and not learns(cls)]


# Steps of those that ask much in each.
STEPS = {"BoundaryAttack": 20, "HopSkipJump": 10}


def check_attack(cls, clf, X, y):
    """Run an attack on a fitted classifier of standardized data."""
    steps = STEPS.get(cls.__name__, 100)
    attack = make_attack(cls, clf, eps=2.0, max_iter=steps, batch_size=16, n_jobs=2, max_queries=400)
    before = X.copy()
    result = attack.run(X, y)
    assert_array_equal(X, before)
    assert result.X_adv.shape == X.shape
    assert result.X_adv.dtype == X.dtype
    assert np.isfinite(result.X_adv).all()
    assert_array_equal(clf.predict(result.X_adv), result.y_adv)
    assert_array_equal(result.success, result.y_adv != y)
    right = clf.predict(X) == y
    assert right.sum() > len(X) / 2
    assert result.success[right].mean() > 0.3
    assert result.n_queries.sum() > 0
