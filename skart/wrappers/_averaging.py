"""Averages of a model's answers over replicates of the samples."""

import numpy as np

from skart._core._arrays import array_namespace
from skart._core._draws import handing

__all__ = ["chunks", "log_mean"]


def chunks(n_samples, n_replicates, size):
    """Pieces ``(rows, start, stop)`` of at most ``size`` replicates of samples, all of which they cover once.

    Samples stand together as long as all replicates of several of them fit; else one sample's replicates are split.
    """
    n_rows, n_each = max(1, size // n_replicates), min(n_replicates, size)
    for first in range(0, n_samples, n_rows):
        rows = slice(first, min(first + n_rows, n_samples))
        for start in range(0, n_replicates, n_each):
            yield rows, start, min(start + n_each, n_replicates)


def log_mean(log_proba, versions, n_versions, size, draws):
    """Logarithm of the mean of a model's probabilities over versions of the same samples, and its pullback.

    Parameters
    ----------
    log_proba : callable
        Forward of the model's log-probabilities.
    versions : iterable of (array of shape (n_samples, ...), pullback)
        Versions of the samples, each with the function that pulls a cotangent back to the samples themselves.
    n_versions : int
        How many there are.
    size : int
        Rows that go through the model together; at least one version of all samples does.
    draws : Draws
        What random steps of the model draw from.

    Returns
    -------
    output : array of shape (n_samples, n_classes)
    pullback : callable
    """
    parts, waiting = [], []
    for index, version in enumerate(versions):
        waiting.append(version)
        n_samples = version[0].shape[0]
        if (len(waiting) + 1) * n_samples > size or index + 1 == n_versions:
            xp = array_namespace(version[0])
            stack = xp.concat([array for array, _ in waiting], axis=0)
            with handing(draws.part(slice(None), index + 1 - len(waiting), index + 1)):
                output, pull = log_proba(stack)
            parts.append((xp.reshape(output, (len(waiting), n_samples, -1)), pull, [back for _, back in waiting]))
            waiting = []
    terms = xp.concat([output for output, _, _ in parts], axis=0)  # (n_versions, n_samples, n_classes)
    top = xp.max(terms, axis=0)
    total = xp.log(xp.sum(xp.exp(terms - top), axis=0)) + top
    mean = total - float(np.log(n_versions))

    def pullback(cotangent):
        grad = 0
        for output, pull, backs in parts:
            share = xp.exp(output - total) * cotangent
            pulled = pull(xp.reshape(share, (-1, share.shape[2])))
            for k, back in enumerate(backs):
                grad = grad + back(pulled[k * n_samples : (k + 1) * n_samples])
        return grad

    return mean, pullback
