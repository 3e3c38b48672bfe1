"""Compiled passes of nets outside of torch, kept for as long as their owner lives; and their state, put back.

An oracle is made anew for every call of an attack, and a program of JAX or TensorFlow costs seconds to compile: so
programs are kept here, by the estimator that owns the net. They read the net's weights anew in every pass, and are
made anew where the net, or what it is built of, is another one.
"""

import contextlib
import warnings
import weakref

import numpy as np

from skart.exceptions import AttackFailureWarning

__all__ = ["kept", "padded_size", "restored"]

_kept: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # owner -> (net, its structure, programs by name)


def kept(owner, net, name, make, structure=None):
    """The program called ``name`` of ``owner``'s net, made by ``make()`` when it is first asked for.

    Parameters
    ----------
    owner : estimator
    net : object
        The net of which the programs are.
    name : hashable
    make : callable
    structure : object, default=None
        What the net is built of: programs of another structure are forgotten.
    """
    known, built, programs = _kept.get(owner, (None, None, None))
    if known is not net or built != structure:
        programs = {}
        _kept[owner] = (net, structure, programs)
    if name not in programs:
        programs[name] = make()
    return programs[name]


def padded_size(n_samples, sizes):
    """Size to which a batch is padded, so that batches of all sizes share a few programs; noted in the set ``sizes``.

    A batch more than twice as large as any before keeps its size, since attacks begin with full batches. All others
    take the smallest known size that is less than twice their own, or else the next power of two.
    """
    fits = [size for size in sizes if n_samples <= size < max(2 * n_samples, 9)]
    if fits:
        return min(fits)
    if n_samples >= 8 and n_samples > 2 * max(sizes, default=0):
        size = n_samples
    else:
        size = max(8, 1 << (n_samples - 1).bit_length() if n_samples else 0)
    sizes.add(size)
    return size


@contextlib.contextmanager
def restored(variables, read, name):
    """Put back variables that change.

    Parameters
    ----------
    variables : iterable
        Variables of Keras or TensorFlow, which have ``assign``.
    read : callable
        Gives the value of one as a NumPy array.
    name : str
        Whose they are, for the warning.

    Warns
    -----
    AttackFailureWarning
        Some did change: answers depended on what was asked before.
    """
    variables = list(variables)
    before = [np.array(read(variable)) for variable in variables]
    changed = []
    try:
        yield
    finally:
        for variable, value in zip(variables, before):
            if not np.array_equal(read(variable), value, equal_nan=value.dtype.kind == "f"):
                variable.assign(value)
                changed.append(variable.name)
    if changed:
        warnings.warn(
            f"{name} changed its state ({', '.join(changed)}) while it was asked with training=False: its answers "
            "depend on what it was asked before. Make its call free of side effects then.",
            AttackFailureWarning,
            stacklevel=3,
        )
