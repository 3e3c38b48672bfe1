"""Errors and warnings of skart."""

__all__ = ["AttackFailureWarning", "GradientUnavailableError", "QueryBudgetExceeded"]


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


# No RuntimeError: where a model is asked, those may lead to asking it once more, in another form.
class QueryBudgetExceeded(Exception):  # noqa: N818 - the name says what happened; whoever waits for it planned it
    """A model refused to answer, since its budget of queries is spent.

    Parameters
    ----------
    message : str
        How much was spent, and how much more was wanted.

    Attributes
    ----------
    result : AttackResult or None
        What an attack had found when the budget ran out. Attacks by labels or scores have the best of what the model
        has judged, in the batch that was not finished, too. Else samples of such batches are there as they came,
        without success, and with the label to leave as ``y_adv``, since the model was not asked for it. ``None``
        outside an attack, and before the first batch.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skart.estimators import BlackBoxClassifier
    >>> from skart.exceptions import QueryBudgetExceeded
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=200).fit(X, y)
    >>> clf = BlackBoxClassifier(model.predict_proba, classes=[0, 1, 2], max_queries=100)
    >>> try:
    ...     clf.predict(X)
    ... except QueryBudgetExceeded:
    ...     print("150 samples are too many")
    150 samples are too many
    """

    def __init__(self, message):
        super().__init__(message)
        self.result = None
        self._outcome = None  # of the batch at hand, on its way to the result
