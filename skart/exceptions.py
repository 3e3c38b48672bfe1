"""Errors and warnings of skart."""

__all__ = ["AttackFailureWarning", "GradientUnavailableError"]


class GradientUnavailableError(TypeError):
    """An estimator, or a step of one, was asked for a gradient that it does not have.

    The message names the step, says why there is no gradient, and lists what applies instead.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from skart.exceptions import GradientUnavailableError
    >>> from skart.oracles import loss_gradient
    >>> X, y = load_iris(return_X_y=True)
    >>> try:
    ...     loss_gradient(DecisionTreeClassifier().fit(X, y), X, y)
    ... except GradientUnavailableError:
    ...     print("a tree has no gradient")
    a tree has no gradient
    """


class AttackFailureWarning(UserWarning):
    """An attack failed for a reason that says nothing good about the model.

    Gradients that vanish or are not finite, saturated probabilities, answers that vary from call to call, samples
    that came back unchanged: read as robustness, each of them would flatter the model. The message says what was
    seen, on how many samples, and what to do.

    Examples
    --------
    Turn the warning into an error where an unnoticed failure must not pass, in a release check for example:

    >>> import warnings
    >>> from skart.exceptions import AttackFailureWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", AttackFailureWarning)
    """
