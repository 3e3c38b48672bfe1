"""A graph of TensorFlow 1, in the caller's session, as a scikit-learn classifier."""

import warnings
from collections.abc import Mapping
from numbers import Integral

import numpy as np
from array_api_compat import is_torch_array
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from skart._core._arrays import to_numpy
from skart.estimators._nets import FLOAT_DTYPES, NetClassifier, check_n_outputs, encode, net_samples, shape_samples
from skart.estimators._tensorflow import as_logits
from skart.exceptions import AttackFailureWarning
from skart.gradients._programs import restored
from skart.gradients._registry import Bound, rule
from skart.gradients._tensorflow_v1 import assigned, between_operations, graph_passes, graph_vjp, run
from skart.oracles._activations import Layers, activations
from skart.utils._optional import import_optional
from skart.utils._sklearn_compat import Interval, fit_context

__all__ = ["TensorFlowV1Classifier"]


class TensorFlowV1Classifier(NetClassifier):
    """A graph of TensorFlow 1 (``tf.compat.v1``), in its session, as a fitted scikit-learn classifier.

    It answers from the start, for samples in any floating-point dtype, as arrays or data frames, and in the caller's
    labels. Attacks go through it with exact gradients. What they need is added to the graph when they are first asked
    for, once for each pair of input and output, and the graph does not grow from call to call.

    Parameters
    ----------
    session : tf.compat.v1.Session
        An open session that holds the values of the graph's variables.
    input_placeholder : tensor or str
        Placeholder of the samples, of shape (None, ...); or its name, ``"x:0"``.
    logits : tensor or str
        What the net gives, as ``output`` says; or its name.
    classes : array-like of shape (n_classes,)
        Labels, in the order of the net's outputs.
    output : {"logits", "log_proba", "proba"}, default="logits"
        What ``logits`` holds: logits, logarithms of probabilities, or probabilities, each of shape
        (n_samples, n_classes). For two classes a single logit or probability is enough, that of the second class, of
        shape (n_samples,) or (n_samples, 1).
    labels_placeholder : tensor or str, default=None
        Placeholder that ``train`` reads the labels from: their positions in ``classes``, where it takes one number for
        each sample, or rows of zeros with a one in that place, where it takes as many numbers as there are classes.
    train : operation, tensor or str, default=None
        What is run on each batch of training data, for example ``optimizer.minimize(loss)``. ``None``: the net is
        trained already, and ``fit`` refuses.
    initialize : operation or str, default=None
        What ``fit`` runs first, for example ``tf.compat.v1.global_variables_initializer()``. ``None`` trains on from
        the weights that the session has.
    learning : tensor or str, default=None
        Boolean placeholder that tells whether the net is in training; it is fed ``True`` in training only.
    feed : dict, default=None
        Values of further placeholders (tensors or names), for example ``{keep_prob: 1.0}``.
    feed_training : dict, default=None
        Their values in training. ``None`` means the same ones.
    input_shape : tuple of int, default=None
        Shape of a sample that the net takes; flat rows of as many features are read as such samples. ``None`` takes
        that of the placeholder, where the graph tells it.
    batch_size : int, default=128
        Most samples that are sent through the graph together by predictions and by ``fit``.
    max_epochs : int, default=20
        Number of passes over the training data in ``fit``.
    random_state : int, RandomState instance or None, default=None
        Determines the order of training samples. Random operations of the graph follow their own seeds.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, in the order of the columns of ``predict_proba``.
    n_features_in_ : int
        Number of features seen in ``fit`` (the length of the second axis, for images).
    feature_names_in_ : ndarray of str
        Names of the features, where the training data had some.

    See Also
    --------
    TensorFlowClassifier : Models and functions of TensorFlow 2.

    Notes
    -----
    Weights live in the session. So a clone asks the same session, ``fit`` trains the weights of all classifiers that
    share it, and a classifier cannot be pickled: save the variables by ``tf.compat.v1.train.Saver``, and make a
    classifier of the graph that they are restored to. What fits its estimators (``cross_val_score``, the ``fit`` of a
    Pipeline or an attack) takes a trained net in a :class:`~sklearn.frozen.FrozenEstimator`; with ``train`` and
    ``initialize`` it trains anew each time, one after the other.

    Names of layers, for :func:`~skart.oracles.get_activations`, are those of the operations between the input and the
    output that give floating-point numbers: ``"dense/Relu"``.

    Gradients of ``tf.cond`` and of loops need the control flow of TensorFlow 1
    (``tf.compat.v1.disable_control_flow_v2()``), since others rewrite operations that the session has loaded already.

    Examples
    --------
    >>> import tensorflow as tf
    >>> from sklearn.datasets import load_iris
    >>> from skart.attacks import FastGradientMethod
    >>> from skart.estimators import TensorFlowV1Classifier
    >>> X, y = load_iris(return_X_y=True)
    >>> tf1 = tf.compat.v1
    >>> with tf.Graph().as_default() as graph:
    ...     tf1.set_random_seed(0)
    ...     x, labels = tf1.placeholder(tf.float32, [None, 4]), tf1.placeholder(tf.int64, [None])
    ...     logits = x @ tf1.get_variable("weights", [4, 3]) + tf1.get_variable("bias", [3])
    ...     loss = tf1.losses.sparse_softmax_cross_entropy(labels, logits)
    ...     train = tf1.train.AdamOptimizer(0.1).minimize(loss)
    ...     initialize = tf1.global_variables_initializer()
    >>> session = tf1.Session(graph=graph)
    >>> training = {"labels_placeholder": labels, "train": train, "initialize": initialize}
    >>> clf = TensorFlowV1Classifier(
    ...     session, x, logits, [0, 1, 2], **training, batch_size=16, max_epochs=40, random_state=0
    ... )
    >>> bool(clf.fit(X, y).score(X, y) > 0.9)
    True
    >>> bool(FastGradientMethod(clf, eps=0.8).run(X, y).success.mean() > 0.5)
    True
    >>> session.close()
    """

    _parameter_constraints: dict = {
        **dict.fromkeys(
            ["session", "input_placeholder", "logits", "labels_placeholder", "train", "initialize", "learning"],
            "no_validation",  # TensorFlow may be missing
        ),
        **NetClassifier._parameter_constraints,
        "feed": [Mapping, None],
        "feed_training": [Mapping, None],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        session,
        input_placeholder,
        logits,
        classes,
        *,
        output="logits",
        labels_placeholder=None,
        train=None,
        initialize=None,
        learning=None,
        feed=None,
        feed_training=None,
        input_shape=None,
        batch_size=128,
        max_epochs=20,
        random_state=None,
    ):
        self.session = session
        self.input_placeholder = input_placeholder
        self.logits = logits
        self.classes = classes
        self.output = output
        self.labels_placeholder = labels_placeholder
        self.train = train
        self.initialize = initialize
        self.learning = learning
        self.feed = feed
        self.feed_training = feed_training
        self.input_shape = input_shape
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y):
        """Train the net in its session, where an operation to train with is given.

        Parameters
        ----------
        X : array-like or data frame of shape (n_samples, ...)
            Training data, in any floating-point dtype.
        y : array-like of shape (n_samples,)
            Labels, entries of ``classes``.

        Returns
        -------
        self : object
        """
        return self._train(X, y, self.max_epochs, fresh=True)

    @available_if(lambda self: self.train is not None)
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None):
        """Train on, for one pass over the data.

        Parameters
        ----------
        X : array-like or data frame of shape (n_samples, ...)
            Training data, in any floating-point dtype.
        y : array-like of shape (n_samples,)
            Labels, entries of ``classes``.
        classes : array-like, default=None
            All labels, as scikit-learn's classifiers want them in the first call; they must be among the classifier's
            own.

        Returns
        -------
        self : object
        """
        if classes is not None:
            encode(np.asarray(classes), self.classes_)
        return self._train(X, y, 1, fresh=False)

    def _train(self, X, y, n_epochs, *, fresh):
        owner = type(self).__name__
        if self.train is None or self.labels_placeholder is None:
            raise ValueError(
                f"this {owner} holds a trained net, and has nothing to train it with. To have it taken as it is, wrap "
                "it: FrozenEstimator(clf). To train it, give train=optimizer.minimize(loss) and the "
                "labels_placeholder that the loss reads."
            )
        x, _ = self._ends()
        train, target = self._element("train"), self._element("labels_placeholder")
        X, y = (to_numpy(values) if is_torch_array(values) else values for values in (X, y))
        X, y = validate_data(
            self, X, y, dtype=FLOAT_DTYPES, allow_nd=True, reset=fresh or not hasattr(self, "n_features_in_")
        )
        X = self._shaped(X, x)
        y = _as_taken(encode(y, self.classes_), target, len(self.classes_), owner)
        feed, rng = self._feed(training=True), check_random_state(self.random_state)
        if fresh and self.initialize is not None:
            run(self.session, self._element("initialize"), {}, owner=owner)
        # Batches of about the same size: a last one of a single sample is too few for batch normalisation.
        n_batches = -(-len(X) // self.batch_size)
        for _ in range(n_epochs):
            for rows in np.array_split(rng.permutation(len(X)), n_batches):
                run(self.session, train, {**feed, x: X[rows], target: y[rows]}, owner=owner)
        return self

    def _outputs(self, X):
        x, outputs = self._ends()
        X, feed = self._shaped(to_numpy(X), x), self._feed()
        with self._left_as_found():
            batches = [
                run(self.session, outputs, {**feed, x: X[start : start + self.batch_size]}, owner=type(self).__name__)
                for start in range(0, len(X), self.batch_size)
            ]
        values = np.concatenate(batches)
        return values if values.dtype == np.float64 else values.astype(np.float32, copy=False)

    def _element(self, name, value=None, **kinds):
        """The tensor or operation of the session's graph that a parameter, or ``value``, is or names."""
        value = getattr(self, name) if value is None else value
        try:
            return self.session.graph.as_graph_element(value, **kinds)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{type(self).__name__}: {name} must be a tensor{'' if kinds else ' or an operation'} of the session's "
                f"graph, or its name; got {value!r}. {error.args[0] if error.args else ''}"
            ) from None

    def _ends(self):
        """The tensors of the samples and of the outputs, checked."""
        tf, owner = import_optional("tensorflow", extra="tensorflow", purpose=type(self).__name__), type(self).__name__
        if not hasattr(self.session, "run") or not isinstance(getattr(self.session, "graph", None), tf.Graph):
            raise TypeError(
                f"{owner} takes a tf.compat.v1.Session; got {self.session!r}. Models and functions of TensorFlow 2 go "
                "into TensorFlowClassifier."
            )
        x, outputs = (self._element(name, allow_operation=False) for name in ("input_placeholder", "logits"))
        for name, tensor in (("input_placeholder", x), ("logits", outputs)):
            if not tensor.dtype.is_floating:
                raise ValueError(
                    f"{owner}: {name} must hold floating-point numbers; {tensor.name!r} is {tensor.dtype}."
                )
        if not self.session.graph.is_feedable(x):
            raise ValueError(f"{owner}: {x.name!r} cannot be fed; input_placeholder must be a placeholder.")
        if outputs.shape.rank is None or any(length is None for length in outputs.shape[1:]):
            raise ValueError(
                f"{owner}: the graph does not tell how many outputs {outputs.name!r} has; its shape is "
                f"{outputs.shape}. Say so with tf.ensure_shape(logits, [None, {np.size(self.classes)}])."
            )
        check_n_outputs(tuple(outputs.shape), self.output, self.classes_, owner=owner)
        return x, outputs

    def _shaped(self, X, x):
        """Samples in the shape and dtype that the placeholder takes."""
        owner, shape = type(self).__name__, self.input_shape
        if shape is None and x.shape.rank is not None and x.shape[1:].is_fully_defined():
            shape = x.shape.as_list()[1:]
        X = shape_samples(X, shape, owner=owner)
        if not x.shape.is_compatible_with([None, *X.shape[1:]]):
            raise ValueError(
                f"{owner}: the placeholder {x.name!r} takes arrays of shape {x.shape}; got samples in an array of "
                f"shape {X.shape}. Give an input_shape that fits it."
            )
        if x.shape.rank is not None and x.shape[0] is not None:
            raise ValueError(
                f"{owner}: the placeholder {x.name!r} takes {x.shape[0]} samples at a time; its shape is {x.shape}. "
                "Make it one of shape (None, ...): attacks ask for as many as there are left."
            )
        return X.astype(x.dtype.as_numpy_dtype, copy=False)

    def _feed(self, *, training=False):
        """Values of what is fed beside samples and labels, by tensor."""
        given = self.feed_training if training and self.feed_training is not None else self.feed
        feed = {self._element("feed", tensor, allow_operation=False): value for tensor, value in (given or {}).items()}
        if self.learning is not None:
            feed[self._element("learning", allow_operation=False)] = training
        return feed

    def _left_as_found(self, *tensors):
        """Context that puts back what a pass changes of the variables."""
        variables = assigned(*(tensors or self._ends()[1:]))
        written = [_State(self.session, v) for v in _variables(self.session.graph) if _operation(v) in variables]
        return restored(written, lambda state: state.value(), f"the graph of this {type(self).__name__}")

    def __sklearn_is_fitted__(self):
        return True

    def __sklearn_clone__(self):
        # The session is no recipe for one: it cannot be copied.
        return type(self)(**self.get_params(deep=False))

    def __getstate__(self):
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied: its weights live in a session of this process. Save "
            "them by tf.compat.v1.train.Saver, or freeze the graph, and make a classifier where they are restored."
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        # Without an operation to train with, it may know nothing of the data at hand.
        tags.classifier_tags.poor_score = self.train is None
        tags.classifier_tags.multi_class = np.size(self.classes) > 2
        return tags


@rule("skart.estimators.TensorFlowV1Classifier", gradient="almost everywhere")
def tensorflow_v1_classifier(model, backend):
    owner, (x, outputs) = type(model).__name__, model._ends()

    def to_logits(tensor):
        return as_logits(tensor, model.output, model.classes_, owner=owner)

    passes = graph_passes(x, outputs, model.output, to_logits, owner=owner)
    feed = model._feed()

    def forward(X):
        logits, pull = graph_vjp(model.session, passes, x, model._shaped(to_numpy(X), x), feed, owner=owner)

        def pullback(cotangent):
            return backend.xp.reshape(backend.asarray(pull(to_numpy(cotangent))), X.shape)

        return backend.asarray(logits), pullback

    return Bound(forward, own_input=lambda X: X, contexts=(model._left_as_found,), in_process=True)


@activations("skart.estimators.TensorFlowV1Classifier")
def tensorflow_v1_layers(model):
    x, outputs = model._ends()
    tensors = {
        operation.name: operation.outputs[0]
        for operation in between_operations(x, outputs)
        if operation.outputs and operation.outputs[0].dtype.is_floating
    }
    last = _output_operations(x, outputs)

    def read(X, name, training):
        batch = model._shaped(to_numpy(net_samples(model, X)), x)
        feed = {**model._feed(training=training), x: batch}
        with warnings.catch_warnings():
            if training:  # batch normalisation notes what it sees
                warnings.simplefilter("ignore", AttackFailureWarning)
            with model._left_as_found(tensors[name]):
                values = run(model.session, tensors[name], feed, owner=type(model).__name__)
        return values if values.dtype.kind == "f" else values.astype(np.float32)  # NumPy has no bfloat16

    return Layers([name for name in tensors if name not in last], read, [name for name in tensors if name in last])


def _output_operations(x, outputs):
    """Names of the operations that give the output: the last product with weights, and what follows it."""
    inner, names, operation = set(between_operations(x, outputs)), [], outputs.op
    while operation in inner:
        names.append(operation.name)
        before = [tensor.op for tensor in operation.inputs if tensor.op in inner and tensor.dtype.is_floating]
        product = any(kind in operation.type for kind in ("MatMul", "Conv", "Einsum"))
        if product:
            return names
        if len(before) != 1:
            break
        operation = before[0]
    return names[:1]


def _as_taken(position, target, n_classes, owner):
    """Positions of labels in the form in which a placeholder takes them."""
    dtype, shape = target.dtype.as_numpy_dtype, target.shape
    if shape.rank is None or shape.rank == 1:
        return position.astype(dtype)
    if shape.rank == 2 and shape[1] == 1:
        return position.astype(dtype)[:, None]
    if shape.rank == 2 and shape[1] in (None, n_classes):
        return np.eye(n_classes, dtype=dtype)[position]
    raise ValueError(
        f"{owner}: the labels_placeholder {target.name!r} has shape {shape}; labels are fed as (n_samples,), as "
        f"(n_samples, 1), or as rows of zeros with a one, (n_samples, {n_classes})."
    )


class _State:
    """A variable in a session, which is read and written without a new operation in the graph."""

    def __init__(self, session, variable):
        self.session = session
        self.variable = variable
        self.name = variable.name

    def value(self):
        return self.session.run(self.variable)

    def assign(self, value):
        initializer = self.variable.initializer
        self.session.run(initializer, {initializer.inputs[1]: value})


def _variables(graph):
    import tensorflow as tf

    return graph.get_collection(tf.compat.v1.GraphKeys.GLOBAL_VARIABLES)


def _operation(variable):
    """The operation of a variable, whichever kind it is."""
    handle = getattr(variable, "handle", None)
    return variable.op if handle is None else handle.op
