"""Searches: from arrays and two collaborators, an objective and a ball, to arrays. No estimator, no framework."""

from typing import NamedTuple

from skart._core._arrays import array_namespace, per_sample, scatter

__all__ = ["Found", "best_of", "minimal_step", "projected_ascent", "single_step"]


class Found(NamedTuple):
    """The best point that a search has seen for each sample: adversarial before not, then by value."""

    x: object  # (n_samples, ...)
    value: object  # (n_samples,)
    adversarial: object  # (n_samples,)

    def keep_better(self, x, here):
        """Take the samples of ``x`` that are better than those held; ``here`` is their evaluation."""
        xp = array_namespace(x)
        # Ties go to the later point: where a cross-entropy underflows to zero, it is nearer to the goal all the same.
        better = (here.adversarial & ~self.adversarial) | (
            (here.adversarial == self.adversarial) & (here.value >= self.value)
        )
        if bool(xp.all(better)):
            return Found(x, here.value, here.adversarial)
        return Found(
            xp.where(per_sample(better, like=x), x, self.x),
            xp.where(better, here.value, self.value),
            self.adversarial | here.adversarial,
        )

    def take(self, rows):
        """The samples that the boolean ``rows`` marks."""
        return Found(*(part[rows] for part in self))

    def scatter(self, where, part):
        """A copy with ``part`` in the samples that the boolean ``where`` marks."""
        xp = array_namespace(self.x)
        return Found(*(scatter(xp.asarray(mine, copy=True), where, new) for mine, new in zip(self, part, strict=True)))


def projected_ascent(x, objective, *, ball, eps_step, max_iter, early_stop=False):
    """Best iterate of projected steepest ascent, sample by sample (Madry et al., 2018).

    Costs ``max_iter`` forward-backward passes and one forward pass, which judges the last point. With
    ``early_stop`` a sample leaves the batch as soon as it is adversarial.
    """
    xp = array_namespace(x)
    here = objective(x)
    found = Found(x, here.value, here.adversarial)
    result = rows = None  # with early_stop: all samples, and which of them are still in the batch
    for iteration in range(max_iter):
        if early_stop and bool(xp.any(found.adversarial)):
            result = found if result is None else result.scatter(rows, found)
            rows = ~result.adversarial
            if not bool(xp.any(rows)):
                return result
            searching = ~found.adversarial
            x, grad = x[searching], here.grad[searching]
            found, ball, objective = found.take(searching), ball[searching], objective[searching]
        else:
            grad = here.grad
        x = ball.project(x + ball.steepest(grad, x, eps_step))
        here = objective(x) if iteration + 1 < max_iter else objective.value(x)
        found = found.keep_better(x, here)
    return found if result is None else result.scatter(rows, found)


def single_step(x, objective, *, ball):
    """The point of the ball that maximises the objective's linear model at ``x``: one forward-backward pass."""
    return ball.farthest(objective(x).grad)


def minimal_step(x, objective, *, ball, eps_step, eps_max):
    """The first of the single steps of radius ``eps_step``, ``2 * eps_step``, ... that is adversarial.

    One gradient gives the direction of all of them. Samples that are adversarial as they come stay as they are; the
    radius of the others grows to ``eps_max`` at most, and samples that resist get the last of the steps.
    """
    xp = array_namespace(x)
    here = objective(x)
    found = Found(x, here.value, here.adversarial)
    rows = ~here.adversarial
    grad = here.grad
    n_steps = int(eps_max / eps_step * (1 + 1e-9))
    for k in range(1, n_steps + 1):
        if not bool(xp.any(rows)):
            break
        # The product, not a running sum: 10 steps of 0.1 are a step of 1.
        moved = ball[rows].farthest(grad[rows], radius=min(k * eps_step, eps_max))
        there = objective[rows].value(moved)
        found = found.scatter(rows, Found(moved, there.value, there.adversarial))
        rows = ~found.adversarial
    return found


def best_of(starts, objective, search, *, ball):
    """Best result of ``search(x, objective, ball=ball)`` over several starting points.

    Samples that one start has broken are left out of the next.
    """
    best = rows = None
    for start in starts:
        if best is None:
            best = search(start, objective, ball=ball)
        else:
            found = search(start[rows], objective[rows], ball=ball[rows])
            best = best.scatter(rows, best.take(rows).keep_better(found.x, found))
        rows = ~best.adversarial
        if not bool(array_namespace(start).any(rows)):  # before a start is drawn that nothing needs
            break
    return best
