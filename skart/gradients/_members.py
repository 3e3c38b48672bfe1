"""What ensembles ask of their members: probabilities and decision values, whatever the members' logits are."""

from functools import reduce

from skart._core._arrays import array_namespace
from skart._core._objectives import log_softmax
from skart.exceptions import GradientUnavailableError
from skart.gradients._registry import Bound, united

__all__ = [
    "bind_members",
    "concatenated",
    "decision_values",
    "joined",
    "log_mixture",
    "log_probabilities",
    "margin_columns",
    "normalised",
]


def bind_members(members, backend):
    """Bound rules of the (name, estimator) pairs."""
    return [backend.bind(member, where=f"member {name!r}") for name, member in members]


def joined(forward, members, **fields):
    """``forward`` as the bound rule of an ensemble, whose answers depend on those of all its bound members."""
    return Bound(
        forward,
        continuous=all(member.continuous for member in members),
        contexts=tuple(context for member in members for context in member.contexts),
        fixed=reduce(united, (member.fixed for member in members)),
        random=any(member.random for member in members),
        in_process=any(member.in_process for member in members),
        **fields,
    )


def normalised(forward):
    """Forward of the log-softmax of another forward's output."""

    def log_proba(X):
        scores, pull = forward(X)
        output = log_softmax(scores)
        xp = array_namespace(output)

        def pullback(cotangent):
            return pull(cotangent - xp.exp(output) * xp.sum(cotangent, axis=1, keepdims=True))

        return output, pullback

    return log_proba


def _of_the_public(bound):
    """Forward of a member's logits without the threshold that shifts its ``predict``."""
    if bound.public is None:
        return bound.forward

    def forward(X):
        # The shift is the same for all samples: derivatives of differences know nothing of it.
        logits, pull = bound.forward(X)
        return bound.public(logits), pull

    return forward


def log_probabilities(name, member, bound):
    """Forward of the logarithm of a member's ``predict_proba``: (n_samples, n_classes of the member)."""
    if not hasattr(member, "predict_proba"):
        raise GradientUnavailableError(
            f"member {name!r}: {type(member).__name__} has no `predict_proba`. Take a member that has one, or "
            "calibrate it: `sklearn.calibration.CalibratedClassifierCV(estimator, ensemble=False)`."
        )
    if bound.follows_predict or not bound.probabilistic:
        raise GradientUnavailableError(
            f"member {name!r}: the `predict_proba` of this {type(member).__name__} does not follow from the scores "
            "that `predict` compares (Platt's for an SVC come out of an iteration inside libsvm), and has no gradient "
            "rule. Put `sklearn.calibration.CalibratedClassifierCV(estimator, ensemble=False)` in its place; "
            "for an SVC of several classes around `OneVsRestClassifier(SVC())`, since its own scores are votes."
        )
    return normalised(_of_the_public(bound))


def decision_values(name, member, bound):
    """Forward of a member's ``decision_function``, as columns: a binary margin is one."""
    if bound.follows_predict and bound.decision is None:
        raise GradientUnavailableError(
            f"member {name!r}: the `decision_function` of this {type(member).__name__} is not what its `predict` "
            "compares, and has no gradient rule. Take another member."
        )
    return margin_columns(bound.decision or _of_the_public(bound))


def margin_columns(scores):
    """Forward of another forward's scores, those of two classes as their difference alone."""

    def forward(X):
        output, pull = scores(X)
        if output.shape[1] > 2:
            return output, pull
        xp = array_namespace(output)
        return output[:, 1:] - output[:, :1], lambda cotangent: pull(xp.concat([-cotangent, cotangent], axis=1))

    return forward


def log_mixture(forwards, log_weights, columns, n_classes):
    """Forward of ``log(sum_m exp(log_weights[m] + L_m))`` for forwards of log-probabilities ``L_m``.

    ``columns`` has for each forward the positions of its classes among the ``n_classes``, or None for all of them in
    their order. A class that a member does not know has probability zero with it.
    """
    known = set().union(*(range(n_classes) if index is None else map(int, index) for index in columns))

    def forward(X):
        outputs, pulls = zip(*(part(X) for part in forwards))
        xp = array_namespace(outputs[0])
        # Small enough to count for nothing, and finite, so that no difference is undefined.
        nothing = [
            -1e30 if k in known else float(xp.log(xp.asarray(xp.finfo(outputs[0].dtype).smallest_normal)))
            for k in range(n_classes)
        ]
        terms = []
        for output, weight, index in zip(outputs, log_weights, columns):
            if index is not None:
                found = {int(k): output[:, column] for column, k in enumerate(index)}
                output = xp.stack(
                    [found[k] if k in found else xp.full_like(output[:, 0], nothing[k]) for k in range(n_classes)],
                    axis=1,
                )
            terms.append(output + weight)
        terms = xp.stack(terms)  # (n_members, n_samples, n_classes)
        top = xp.max(terms, axis=0)
        mixture = top + xp.log(xp.sum(xp.exp(terms - top), axis=0))

        def pullback(cotangent):
            grad = 0
            for m, (pull, index) in enumerate(zip(pulls, columns)):
                share = xp.exp(terms[m, ...] - mixture) * cotangent
                if index is not None:
                    share = xp.stack([share[:, int(k)] for k in index], axis=1)
                grad = grad + pull(share)
            return grad

        return mixture, pullback

    return forward


def concatenated(forwards):
    """Forward of the columns of several forwards, side by side."""

    def forward(X):
        outputs, pulls = zip(*(part(X) for part in forwards))

        def pullback(cotangent):
            grad, start = 0, 0
            for output, pull in zip(outputs, pulls):
                stop = start + output.shape[1]
                grad = grad + pull(cotangent[:, start:stop])
                start = stop
            return grad

        return array_namespace(X).concat(outputs, axis=1), pullback

    return forward
