"""A gluon block of MXNet as a scikit-learn classifier."""

import contextlib
import copy
import warnings
from numbers import Integral

import numpy as np
from array_api_compat import is_torch_array
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from skart._core._arrays import to_numpy
from skart.estimators._nets import FLOAT_DTYPES, NetClassifier, check_n_outputs, encode, net_samples, shape_samples
from skart.exceptions import AttackFailureWarning, GradientUnavailableError
from skart.gradients._programs import restored
from skart.gradients._registry import Bound, rule
from skart.oracles._activations import Layers, activations
from skart.utils._optional import import_optional
from skart.utils._sklearn_compat import Interval, fit_context

__all__ = ["MXNetClassifier"]


class MXNetClassifier(NetClassifier):
    """A gluon block of MXNet 1.9, as it is, as a fitted scikit-learn classifier.

    It answers from the start, for samples in any floating-point dtype, as arrays or data frames, and in the caller's
    labels. Attacks go through it with exact gradients. The block stays on its device and is asked in prediction mode.

    Parameters
    ----------
    block : mxnet.gluon.Block
        The net, initialized, hybridized or not. Of several outputs the first counts.
    classes : array-like of shape (n_classes,)
        Labels, in the order of the block's outputs.
    output : {"logits", "log_proba", "proba"}, default="logits"
        What the block gives: logits, logarithms of probabilities, or probabilities, each of shape
        (n_samples, n_classes). For two classes a single logit or probability is enough, that of the second class, of
        shape (n_samples,) or (n_samples, 1).
    input_shape : tuple of int, default=None
        Shape of a sample that the block takes, for example ``(1, 28, 28)``; flat rows of as many features are read as
        such samples. ``None`` hands samples on as they come.
    batch_size : int, default=128
        Most samples that are sent through the block together by predictions and by ``fit``.
    optimizer : str, mxnet.optimizer.Optimizer or callable, default=None
        What trains the block: a name (``"adam"``), an optimizer, which is copied, or a function that makes one
        (``functools.partial(mxnet.optimizer.Adam, learning_rate=0.01)``). ``None``: the block is trained already, and
        ``fit`` refuses.
    max_epochs : int, default=20
        Number of passes over the training data in ``fit``.
    random_state : int, RandomState instance or None, default=None
        Determines the order of training samples. Dropout, and weights whose shapes are not known before data comes,
        are drawn from MXNet's global generator, which nothing but ``mxnet.random.seed`` can set.

    Attributes
    ----------
    block_ : mxnet.gluon.Block
        The trained copy of the block, after ``fit``.
    trainer_ : mxnet.gluon.Trainer
        What trained it, after ``fit``.
    classes_ : ndarray of shape (n_classes,)
        Labels, in the order of the columns of ``predict_proba``.
    n_features_in_ : int
        Number of features seen in ``fit`` (the length of the second axis, for images).
    feature_names_in_ : ndarray of str
        Names of the features, where the training data had some.

    See Also
    --------
    TorchClassifier : The same for torch modules.

    Notes
    -----
    ``fit`` trains a copy of the block, from the weights that it has, by the cross-entropy; it leaves the given one
    alone. A clone has a copy of the block with its weights. What fits its estimators (``cross_val_score``, the ``fit``
    of a Pipeline or an attack) takes a trained block in a :class:`~sklearn.frozen.FrozenEstimator`.

    A classifier pickles with its block, whose class must be importable; what the optimizer has gathered is left out,
    so that ``partial_fit`` starts it anew. MXNet's own files are written by ``clf.block_.save_parameters(path)``.

    MXNet 1.9.1 is its last release. It needs a NumPy before 1.24.

    Examples
    --------
    >>> import mxnet as mx
    >>> from sklearn.datasets import load_digits
    >>> from skart.attacks import FastGradientMethod
    >>> from skart.estimators import MXNetClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> mx.random.seed(0)
    >>> block = mx.gluon.nn.HybridSequential()
    >>> block.add(mx.gluon.nn.Dense(32, activation="relu"), mx.gluon.nn.Dense(10))
    >>> block.initialize(mx.init.Xavier())
    >>> clf = MXNetClassifier(block, range(10), optimizer="adam", batch_size=16, random_state=0).fit(X / 16, y)
    >>> clf.score(X / 16, y) > 0.95
    True
    >>> bool(FastGradientMethod(clf, eps=0.2).run(X[:200] / 16).success.mean() > 0.8)
    True
    """

    _parameter_constraints: dict = {
        "block": "no_validation",  # MXNet may be missing
        **NetClassifier._parameter_constraints,
        "optimizer": "no_validation",
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        block,
        classes,
        *,
        output="logits",
        input_shape=None,
        batch_size=128,
        optimizer=None,
        max_epochs=20,
        random_state=None,
    ):
        self.block = block
        self.classes = classes
        self.output = output
        self.input_shape = input_shape
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.max_epochs = max_epochs
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y):
        """Train a copy of the block, where an optimizer is given.

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
        if self.optimizer is None:
            raise ValueError(
                f"this {type(self).__name__} holds a trained block, and has no optimizer to train it with. To have it "
                "taken as it is, wrap it: FrozenEstimator(clf). To train it, give optimizer='adam', or another one."
            )
        # A fit that raises leaves this one as it was.
        learnt = self._again()
        learnt._train(X, y, self.max_epochs, fresh=True)
        self.__dict__ = vars(learnt)
        return self

    @available_if(lambda self: self.optimizer is not None)
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
        learnt = self._again()
        learnt._train(X, y, 1, fresh=not hasattr(self, "block_"))
        self.__dict__ = vars(learnt)
        return self

    def _again(self):
        """Another one with the same parameters and attributes, none of them copied."""
        other = type(self).__new__(type(self))
        other.__dict__ = dict(vars(self))
        return other

    def _train(self, X, y, n_epochs, *, fresh):
        mx = _check_block(self.block)
        X, y = (to_numpy(values) if is_torch_array(values) else values for values in (X, y))
        X, y = validate_data(self, X, y, dtype=FLOAT_DTYPES, allow_nd=True, reset=fresh)
        X = shape_samples(X, self.input_shape, owner=type(self).__name__)
        position = encode(y, self.classes_)
        block = copied(self.block) if fresh else self.block_
        net = _Net(self, block, lazy=True)
        with mx.autograd.pause(train_mode=False):
            self._to_logits(net(net.array(X[:2])))  # gives parameters their shapes, and raises for wrong outputs
        if fresh or not hasattr(self, "trainer_"):
            self.trainer_ = mx.gluon.Trainer(block.collect_params(), self._made_optimizer(mx))
        self.block_, rng = block, check_random_state(self.random_state)
        # Batches of about the same size: a last one of a single sample is too few for batch normalisation.
        n_batches = -(-len(X) // self.batch_size)
        for _ in range(n_epochs):
            for rows in np.array_split(rng.permutation(len(X)), n_batches):
                samples, labels = net.array(X[rows]), mx.nd.array(position[rows], net.device, np.float32)
                with mx.autograd.record():
                    losses = -mx.nd.pick(mx.nd.log_softmax(self._to_logits(net(samples))), labels)
                losses.backward()
                self.trainer_.step(len(rows), ignore_stale_grad=True)  # a part of a block may have no say

    def _made_optimizer(self, mx):
        if isinstance(self.optimizer, str):
            return self.optimizer
        if isinstance(self.optimizer, mx.optimizer.Optimizer):
            return copy.deepcopy(self.optimizer)
        made = self.optimizer() if callable(self.optimizer) else self.optimizer
        if not isinstance(made, mx.optimizer.Optimizer):
            raise TypeError(
                f"{type(self).__name__}: optimizer must be a name ('adam'), an mxnet.optimizer.Optimizer, or a "
                f"function that makes one; got {self.optimizer!r}."
            )
        return made

    def _net(self, block=None):
        _check_block(self.block)
        return _Net(self, getattr(self, "block_", self.block) if block is None else block)

    def _outputs(self, X):
        net, X = self._net(), to_numpy(X)
        with net.left_as_found():
            outputs = np.concatenate(
                [net.values(X[start : start + self.batch_size]) for start in range(0, len(X), self.batch_size)]
            )
        return outputs if outputs.dtype == np.float64 else outputs.astype(np.float32, copy=False)

    def _to_logits(self, output):
        """Logits, (n_samples, n_classes), of what the block gives, in MXNet."""
        import mxnet as mx

        check_n_outputs(output.shape, self.output, self.classes_, owner=type(self).__name__)
        single = output.ndim == 1 or output.shape[1] == 1
        output = output.reshape((-1,)) if single else output
        if self.output == "proba":
            tiny = float(np.finfo(output.dtype).tiny)
            log = mx.nd.log(mx.nd.maximum(output, tiny))
            output = log - mx.nd.log(mx.nd.maximum(1 - output, tiny)) if single else log
        return mx.nd.stack(mx.nd.zeros_like(output), output, axis=1) if single else output

    def __sklearn_is_fitted__(self):
        # What is no block, or was never initialized, is reported where it is used.
        return True

    def __sklearn_clone__(self):
        params = self.get_params(deep=False)
        if hasattr(self.block, "collect_params"):
            params["block"] = copied(self.block)
        return type(self)(**params)

    def __getstate__(self):
        state = dict(super().__getstate__())
        state.pop("trainer_", None)  # it holds handles of the engine's
        for name in ("block", "block_"):
            if hasattr(state.get(name), "collect_params"):
                clear_programs(state[name])
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        for name in ("block", "block_"):
            if hasattr(state.get(name), "collect_params"):
                mark_weights(state[name])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.classifier_tags.multi_class = np.size(self.classes) > 2
        # Without an optimizer it cannot be trained, and may know nothing of the data at hand.
        tags.classifier_tags.poor_score = self.optimizer is None
        return tags


class _Net:
    """A block with its dtype and device, asked with NumPy arrays."""

    def __init__(self, owner, block, *, lazy=False):
        self.owner = owner
        self.block = block
        self.dtype, self.device = _dtype_and_device(block, owner=type(owner).__name__, lazy=lazy)

    def array(self, X):
        """Samples as MXNet takes them; always a copy."""
        import mxnet as mx

        array = mx.nd.array(X, self.device, self.dtype)
        return array.as_np_ndarray() if mx.util.is_np_array() else array

    def __call__(self, x):
        """What the block gives, as an NDArray."""
        output = self.block(x)
        output = output[0] if isinstance(output, (list, tuple)) else output
        if not hasattr(output, "asnumpy"):
            raise TypeError(
                f"{type(self.block).__name__} gives a {type(output).__name__}; MXNetClassifier takes an array of one "
                "output for each class, or a tuple that begins with it."
            )
        return output.as_nd_ndarray()

    def values(self, X):
        """The same as NumPy arrays, in prediction mode."""
        import mxnet as mx

        with mx.autograd.pause(train_mode=False):
            return self(self.array(X)).asnumpy()

    def vjp(self, X, head):
        """The head of what the block gives, and its pullback."""
        import mxnet as mx

        x = self.array(X)
        x.attach_grad()
        with mx.autograd.record(train_mode=False):
            logits = head(self(x))

        def pullback(cotangent):
            try:
                (grad,) = mx.autograd.grad(
                    [logits],
                    [x],
                    [mx.nd.array(cotangent, self.device, logits.dtype)],
                    retain_graph=True,
                    train_mode=False,
                )
            except mx.MXNetError as error:
                raise GradientUnavailableError(
                    f"{type(self.block).__name__}: the output does not depend on the input through differentiable "
                    "operations (a detour over NumPy, or `autograd.pause`, cuts the graph). Give that operation a "
                    f"`mxnet.autograd.Function` with the backward pass to use, or attack by scores. MXNet says: "
                    f"{str(error).splitlines()[-1]}"
                ) from None
            return grad.asnumpy()

        return logits.asnumpy(), pullback

    @contextlib.contextmanager
    def left_as_found(self):
        """Put back what a pass changes of the state that the block keeps beside its weights."""
        parameters = [p for p in self.block.collect_params().values() if p.grad_req == "null"]
        with restored([_State(p) for p in parameters], lambda s: s.value(), f"the block {type(self.block).__name__}"):
            yield


class _State:
    """A parameter of a block, under the names that other frameworks have for its methods."""

    def __init__(self, parameter):
        self.parameter = parameter
        self.name = parameter.name

    def value(self):
        return self.parameter.data().asnumpy()

    def assign(self, value):
        import mxnet as mx

        self.parameter.set_data(mx.nd.array(value, dtype=value.dtype))


@rule("skart.estimators.MXNetClassifier", gradient="almost everywhere")
def mxnet_classifier(model, backend):
    net = model._net()

    def forward(X):
        x = shape_samples(to_numpy(X), model.input_shape, owner=type(model).__name__)
        logits, pull = net.vjp(x, model._to_logits)

        def pullback(cotangent):
            return backend.xp.reshape(backend.asarray(pull(to_numpy(cotangent))), X.shape)

        return backend.asarray(logits), pullback

    return Bound(forward, own_input=lambda X: X, contexts=(net.left_as_found,), in_process=True)


@activations("skart.estimators.MXNetClassifier")
def mxnet_layers(model):
    net = model._net()
    parts = dict(_parts(net.block, "", {net.block}))
    leaves = [name for name, part in parts.items() if not part._children]
    weighted = [name for name in leaves if part_has_parameters(parts[name])]
    # What gives the output: the last part with weights, and what follows it.
    last = leaves[leaves.index(weighted[-1]) :] if weighted else []
    hidden = [name for name in parts if name not in last and not any(leaf.startswith(f"{name}.") for leaf in last)]

    def read(X, name, training):
        import mxnet as mx

        given = []

        def keep(part, args, output):
            # A copy, since what follows may work in place.
            output = output[0] if isinstance(output, (list, tuple)) else output
            given[:] = [output.copy() if hasattr(output, "copy") else output]

        handle = parts[name].register_forward_hook(keep)
        try:
            with warnings.catch_warnings():
                if training:  # batch normalisation notes what it sees
                    warnings.simplefilter("ignore", AttackFailureWarning)
                x = net.array(to_numpy(net_samples(model, X)))
                # A pass that is not recorded would not be one of training.
                with net.left_as_found(), part_by_part(net.block), mx.autograd.record(train_mode=training):
                    net(x)
        finally:
            handle.detach()
        if not given or not hasattr(given[0], "asnumpy"):
            what = f"gives a {type(given[0]).__name__}" if given else "is not called as a block in a forward pass"
            raise ValueError(f"layer {name!r} of {type(net.block).__name__} {what}: it has no activations to read.")
        return given[0].asnumpy()

    return Layers(hidden, read, [name for name in parts if name not in hidden])


def part_has_parameters(part):
    """Whether a block has parameters, its parts' included."""
    return any(True for _ in part.collect_params().values())


def _parts(block, prefix, seen):
    """Names and parts of a block, as it defines them, each after its own parts and only once."""
    for name, part in block._children.items():
        if part not in seen:
            seen.add(part)
            yield from _parts(part, f"{prefix}{name}.", seen)
            yield prefix + name, part


def _hybrid(block):
    """Parts of a block that may be compiled, itself included."""
    parts = [block, *(part for _, part in _parts(block, "", {block}))]
    return [part for part in parts if hasattr(part, "_clear_cached_op")]


@contextlib.contextmanager
def part_by_part(block):
    """Run a hybridized block part by part, so that hooks on its parts are called."""
    parts = [(part, part._active) for part in _hybrid(block)]
    try:
        for part, _ in parts:
            part._active = False
        yield
    finally:
        for part, active in parts:
            part._active = active


def clear_programs(block):
    """Drop what a hybridized block has compiled, which neither copies nor pickles; the next pass compiles it again."""
    for part in _hybrid(block):
        part._clear_cached_op()


def copied(block):
    """A copy of a block with its weights."""
    clear_programs(block)
    other = copy.deepcopy(block)
    mark_weights(other)
    return other


def mark_weights(block):
    """Tell autograd of the weights of a block that was copied or unpickled, which loses that."""
    for parameter in block.collect_params().values():
        wanted = parameter.grad_req
        parameter.grad_req = "null"
        parameter.grad_req = wanted


def _check_block(block):
    mx = import_optional("mxnet", extra="mxnet", purpose="MXNetClassifier")
    if isinstance(block, type):
        raise TypeError(
            f"MXNetClassifier takes a block that is made and holds weights; got the class {block.__name__}. Give an "
            f"instance: {block.__name__}(...)."
        )
    if not isinstance(block, mx.gluon.Block):
        raise TypeError(
            f"MXNetClassifier takes an mxnet.gluon.Block; got {type(block).__name__}. A net of symbols goes into a "
            "gluon.SymbolBlock, a function of samples into BlackBoxClassifier."
        )
    return mx


def _dtype_and_device(block, *, owner, lazy):
    """Floating-point dtype and device in which a block computes.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        The block is not initialized, or, unless ``lazy``, waits for data to know the shapes of its parameters.
    """
    import mxnet as mx

    parameters = list(block.collect_params().values())
    for parameter in parameters:
        try:
            parameter.list_ctx()
        except RuntimeError:
            raise NotFittedError(
                f"this {owner}'s block has parameters that are not initialized ({parameter.name!r}). Call "
                "block.initialize(), or block.load_parameters(path), first."
            ) from None
        try:
            parameter.data(parameter.list_ctx()[0])
        except mx.gluon.parameter.DeferredInitializationError:
            if not lazy:
                raise NotFittedError(
                    f"this {owner}'s block has parameters whose shapes are not known before data comes "
                    f"({parameter.name!r}). Call `fit`, or send a batch through the block, first."
                ) from None
    # Weights tell, rather than a count or a statistic.
    for parameter in sorted(parameters, key=lambda parameter: parameter.grad_req == "null"):
        if np.dtype(parameter.dtype).kind == "f":
            return np.dtype(parameter.dtype), parameter.list_ctx()[0]
    return np.dtype(np.float32), mx.context.current_context()
