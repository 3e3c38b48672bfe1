"""What attacks by decisions share: their units and the samples that they may start from."""

from numbers import Integral

import numpy as np
from array_api_compat import is_torch_array

from skart._core._arrays import array_namespace, device, to_numpy
from skart._core._decision import Region
from skart.attacks._base import BlackBoxAttack
from skart.utils._containers import Container
from skart.utils._sklearn_compat import Interval
from skart.utils._validation import check_eps

__all__ = ["DecisionAttack"]


class DecisionAttack(BlackBoxAttack):
    """Base class of attacks by decisions, which have ``scale``, ``init`` and ``init_size``."""

    _parameter_constraints: dict = {
        **BlackBoxAttack._parameter_constraints,
        "scale": ["array-like", None],
        "init": ["array-like", None],
        "init_size": [Interval(Integral, 1, None, closed="left")],
    }

    def _region(self, x, judge, ball):
        xp, scale = array_namespace(x), None
        if self.scale is not None:
            scale = np.broadcast_to(check_eps(self.scale, tuple(x.shape[1:]), name="scale"), x.shape[1:])
            if not scale.any():
                raise ValueError(
                    f"{type(self).__name__}: scale is zero for all features, so that nothing is left to change."
                )
            scale = xp.asarray(scale, dtype=x.dtype, device=device(x))
        return Region(x, judge, ball, norm=getattr(self, "norm", 2), scale=scale, batch_size=self.batch_size)

    def _starts(self, x):
        """``init`` as rows in the namespace of ``x``, or None."""
        if self.init is None:
            return None
        given = Container(self.init).numbers(to_numpy(self.init) if is_torch_array(self.init) else self.init)
        init = np.asarray(given, dtype=np.float64)
        if init.shape[1:] != tuple(x.shape[1:]) or len(init) == 0:
            raise ValueError(
                f"{type(self).__name__}: init has shape {init.shape}; samples are of shape {tuple(x.shape[1:])}. Give "
                "an array of samples to start from, (n_init, ...), of which each sample takes the nearest that serves."
            )
        if not np.isfinite(init).all():
            raise ValueError(f"{type(self).__name__}: init holds NaN or infinite values.")
        return array_namespace(x).asarray(init.reshape(len(init), -1), dtype=x.dtype, device=device(x))
