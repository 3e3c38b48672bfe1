"""Forward and backward passes through a graph of TensorFlow 1, asked in the caller's session.

The backward pass is added to the graph once for each pair of tensors, whichever classifiers ask for it, and known by
the names of its tensors from then on: nothing is added by a call. It is asked by itself, fed with what the forward
pass has computed, so that both see the same random numbers, and the forward part is not computed twice.
"""

import weakref
from typing import NamedTuple

import numpy as np

from skart.exceptions import GradientUnavailableError

__all__ = ["GraphPasses", "ancestors", "assigned", "between_operations", "graph_passes", "graph_vjp", "run"]

# Names only: tensors would keep the graph alive.
_built: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # graph -> {(input, output, kind): GraphPasses}

_READS = {"VarHandleOp", "ReadVariableOp", "Variable", "VariableV2", "ResourceGather"}
_OLD_FLOW = {"Switch", "RefSwitch", "Merge", "RefMerge", "Enter", "RefEnter", "Exit", "RefExit"}
_NEW_FLOW = {"If", "StatelessIf", "While", "StatelessWhile", "Case", "StatelessCase"}


class GraphPasses(NamedTuple):
    """Names of the tensors of a forward and a backward pass.

    Attributes
    ----------
    logits : str
    cotangent, grad : str or None
        None where the logits do not depend on the input through differentiable operations.
    between : tuple of str
        What the backward pass is fed, as the forward pass computed it.
    alone : bool
        Whether the backward pass can be asked so. With the control flow of TensorFlow 1, it computes the forward part
        again.
    """

    logits: str
    cotangent: str | None
    grad: str | None
    between: tuple
    alone: bool


def run(session, fetches, feed, *, owner):
    """``session.run``, with one clear error where the session is closed."""
    try:
        return session.run(fetches, feed)
    except RuntimeError as error:
        if "closed" not in str(error).lower():
            raise
        raise RuntimeError(
            f"{owner}: the session is closed, and with it the values of the graph's variables are gone. Keep the "
            "session open for as long as the classifier is in use; a `with` block closes it at its end."
        ) from None


def graph_passes(x, outputs, kind, to_logits, *, owner):
    """The passes from a tensor of samples to the logits, added to their graph when first asked for.

    Parameters
    ----------
    x, outputs : tensor
    kind : hashable
        What the outputs are taken for.
    to_logits : callable
        Makes the logits of the outputs, in the graph.
    owner : str
        Who asks, for errors.
    """
    known = _built.setdefault(x.graph, {})
    key = (x.name, outputs.name, kind)
    if key not in known:
        known[key] = _build(x, outputs, to_logits, owner)
    return known[key]


def _build(x, outputs, to_logits, owner):
    import tensorflow as tf

    if x.graph.finalized:
        raise GradientUnavailableError(
            f"{owner}: the graph is finalized, and gradients would have to be added to it. Ask for them once before "
            "it is (make an attack, or `skart.oracles.as_oracle(clf, X)`), or attack by scores."
        )
    if not between_operations(x, outputs):
        raise ValueError(f"{owner}: {outputs.name!r} does not depend on {x.name!r}; these are not two ends of one net.")
    if _rewritten(x, outputs):
        raise GradientUnavailableError(
            f"{owner}: a `cond` or `while_loop` lies between {x.name!r} and {outputs.name!r}, and its gradient would "
            "rewrite operations that the session has loaded already. Build the graph after "
            "tf.compat.v1.disable_control_flow_v2(), or within "
            "tf.compat.v1.experimental.output_all_intermediates(True), or attack by scores."
        )
    with x.graph.as_default(), tf.compat.v1.name_scope("skart"), tf.control_dependencies(None):
        logits = to_logits(outputs)
        before = set(x.graph.get_operations())
        cotangent = tf.compat.v1.placeholder(logits.dtype, logits.shape, name="cotangent")
        try:
            (grad,) = tf.gradients(logits, x, cotangent)
        except LookupError as error:
            raise GradientUnavailableError(f"{owner}: {error}") from None
        if grad is None:
            return GraphPasses(logits.name, None, None, (), False)
        grad = tf.convert_to_tensor(grad)
    between, alone = _read_between(x, grad, before)
    return GraphPasses(logits.name, cotangent.name, grad.name, between, alone)


def _read_between(x, grad, known):
    """Names of what the operations behind ``grad`` read of those in ``known``, and whether that can be fed."""
    between, seen, left = set(), set(), [grad.op]
    varying = {}
    while left:
        operation = left.pop()
        if operation in seen:
            continue
        seen.add(operation)
        for tensor in operation.inputs:
            if tensor.op not in known:
                left.append(tensor.op)
            # Weights and constants are not fed, but read where they are.
            elif tensor is not x and _varies(tensor.op, x.op, varying):
                between.add(tensor)
    alone = all(x.graph.is_feedable(tensor) and x.graph.is_fetchable(tensor) for tensor in between)
    if any(operation.type in _OLD_FLOW for operation in ancestors(*between)):
        alone = False  # branches that were not taken have no values
    return tuple(sorted(tensor.name for tensor in between)), alone


def _varies(operation, source, known):
    """Whether an operation depends on the samples, or on random numbers, and not on weights and constants only."""
    for ancestor in ancestors(operation):  # those nearer to the input come first
        if ancestor not in known:
            stateful = ancestor.op_def is not None and ancestor.op_def.is_stateful and ancestor.type not in _READS
            known[ancestor] = ancestor is source or stateful or any(known.get(t.op, False) for t in ancestor.inputs)
    return known[operation]


def ancestors(*ends, control=False):
    """Operations on which these tensors or operations depend, themselves included, each after those that it reads."""
    order, done, left = [], set(), [(getattr(end, "op", end), False) for end in ends]
    while left:
        operation, read = left.pop()
        if read:
            order.append(operation)
        elif operation not in done:
            done.add(operation)
            left.append((operation, True))
            left += [(tensor.op, False) for tensor in operation.inputs]
            left += [(before, False) for before in (operation.control_inputs if control else ())]
    return order


def between_operations(x, outputs):
    """Operations on the way from ``x`` to ``outputs``, in order; that of ``x`` itself is left out."""
    found = {}  # an ordered set
    for operation in ancestors(outputs):
        if operation is not x.op and any(tensor.op in found or tensor is x for tensor in operation.inputs):
            found[operation] = True
    return list(found) if outputs.op in found else []


def assigned(*ends):
    """Variables (their operations) that are written to where these tensors are computed."""
    writers = [operation for operation in ancestors(*ends, control=True) if operation.type.startswith("Assign")]
    return {writer.inputs[0].op for writer in writers}


def _rewritten(x, outputs):
    """Whether gradients would change operations of the graph itself, which the session does not take.

    They are computed in a copy of the graph, to see it.
    """
    import tensorflow as tf

    flow = [operation.name for operation in between_operations(x, outputs) if operation.type in _NEW_FLOW]
    if not flow:
        return False
    definition = tf.compat.v1.graph_util.extract_sub_graph(x.graph.as_graph_def(), [outputs.op.name])
    with tf.Graph().as_default() as copy:
        tf.import_graph_def(definition, name="")
        counts = [len(copy.get_operation_by_name(name).outputs) for name in flow]
        tf.gradients(copy.get_tensor_by_name(outputs.name), copy.get_tensor_by_name(x.name))
        return counts != [len(copy.get_operation_by_name(name).outputs) for name in flow]


def graph_vjp(session, passes, x, X, feed, *, owner):
    """Logits at ``X``, and the function that pulls cotangents back to it; NumPy arrays."""
    feed = {**feed, x: np.array(X)}  # a copy, which the caller cannot change
    fetches = [passes.logits, *(passes.between if passes.alone else ())]
    logits, *values = run(session, fetches, feed, owner=owner)
    feed.update(zip(passes.between, values))

    def pullback(cotangent):
        if passes.grad is None:
            raise GradientUnavailableError(
                f"{owner}: {passes.logits!r} does not depend on {x.name!r} through differentiable operations (a "
                "`stop_gradient`, a rounding, an `argmax`, or a detour over NumPy cuts the graph). Give that operation "
                "a gradient of its own with `tf.custom_gradient`, or attack by scores."
            )
        return run(session, passes.grad, {**feed, passes.cotangent: cotangent}, owner=owner)

    return logits, pullback
