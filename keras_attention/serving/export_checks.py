"""What would make an export wrong or unservable, found before it is written."""

import tensorflow as tf

_PYTHON_OPS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
_STATEFUL_RANDOM_OPS = {
    "Multinomial",
    "ParameterizedTruncatedNormal",
    "RandomGamma",
    "RandomGammaGrad",
    "RandomPoissonV2",
    "RandomShuffle",
    "RandomStandardNormal",
    "RandomUniform",
    "RandomUniformInt",
    "TruncatedNormal",
}
_ASSIGNMENT_OPS = {
    "AssignAddVariableOp",
    "AssignSubVariableOp",
    "AssignVariableOp",
    "RngReadAndSkip",  # tf.random.Generator counts on.
}
# The ops that turn a seed into random numbers, with the position of the seed among their inputs.
_SEEDED_OPS = {
    "StatelessMultinomial": 2,
    "StatelessParameterizedTruncatedNormal": 1,
    "StatelessRandomBinomial": 1,
    "StatelessRandomGammaV2": 1,
    "StatelessRandomGetKeyCounter": 0,
    "StatelessRandomNormal": 1,
    "StatelessRandomUniform": 1,
    "StatelessRandomUniformInt": 1,
    "StatelessTruncatedNormal": 1,
}


class ExportError(RuntimeError):
    """An export that was refused; the message says what is wrong and what to do."""


def check_outputs(name, outputs):
    """Refuses what a signature function must not return: every output is a named tensor with one row per input row."""
    if not isinstance(outputs, dict) or not outputs or not all(isinstance(key, str) for key in outputs):
        raise ExportError(
            f"the function of signature {name!r} must return a dict of named outputs, such as {{'answer': tensor}}; "
            f"without names a client would have to ask for 'output_0'. Received: {type(outputs).__name__}"
        )
    for output_name, value in outputs.items():
        if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
            raise ExportError(
                f"output {output_name!r} of signature {name!r} is a {type(value).__name__}, which saves and cannot be "
                "served. Make it dense: `.to_tensor()` for ragged, `tf.sparse.to_dense` for sparse."
            )
        if not tf.is_tensor(value):
            raise ExportError(
                f"output {output_name!r} of signature {name!r} must be a tensor. Received: {type(value).__name__}"
            )
        if value.shape.rank is None or value.shape.rank < 1 or value.shape[0] is not None:
            raise ExportError(
                f"output {output_name!r} of signature {name!r} must have one row for each row of the inputs, shape "
                f"[None, ...], since servers batch requests. Received: shape {value.shape}"
            )


def check_graph(name, function, owned):
    """Refuses a traced signature that uses what the SavedModel will not hold, or what no server can run or repeat.

    Args:
        name: str, the signature's name.
        function: the `tf.types.experimental.ConcreteFunction`.
        owned: list of `tf.Variable`, those that the resources hold.

    Raises:
        ExportError: with what is wrong and what to do.
    """
    held = {id(variable) for variable in owned}
    strangers = sorted(variable.name for variable in function.graph.variables if id(variable) not in held)
    if any("seed_generator" in stranger for stranger in strangers):
        raise ExportError(
            f"signature {name!r} draws random numbers from a Keras seed generator, whose state no server keeps. Make "
            "the seed an input, [B, 2] int32 with a default, and use `tf.random.stateless_*`."
        )
    if strangers:
        raise ExportError(
            f"signature {name!r} uses variables that nothing in `resources` holds: {', '.join(strangers[:5])}"
            f"{' and more' if len(strangers) > 5 else ''}. The SavedModel would be written without them and fail to "
            "load with 'Could not find variable'. Add the model itself, or the tf.Module that holds it, to `resources`."
        )
    graph = function.graph.as_graph_def()
    _check_nodes(name, graph.node, {node.name for node in graph.node if node.op == "Placeholder"})
    for definition in graph.library.function:
        if definition.attr["_XlaMustCompile"].b:
            raise ExportError(
                f"signature {name!r} contains a function compiled with `jit_compile=True`, which servers without XLA "
                "do not run. Take `jit_compile` off what the signature calls."
            )
        _check_nodes(name, definition.node_def, {argument.name for argument in definition.signature.input_arg})


def _check_nodes(name, nodes, arguments):
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        if node.op in _PYTHON_OPS:
            raise ExportError(
                f"signature {name!r} calls back into Python (tf.py_function or tf.numpy_function, node {node.name!r}), "
                "which exists in this process only. Write that step with TensorFlow operations."
            )
        if node.op in _ASSIGNMENT_OPS:
            raise ExportError(
                f"signature {name!r} changes a variable (node {node.name!r}): a server's answers would depend on the "
                "requests before. A Keras SeedGenerator and a tf.random.Generator do so: make the seed an input, "
                "[B, 2] int32 with a default, and use `tf.random.stateless_*`."
            )
        constant_seed = node.op in _SEEDED_OPS and not _depends_on(node.input[_SEEDED_OPS[node.op]], by_name, arguments)
        if node.op in _STATEFUL_RANDOM_OPS or constant_seed:
            problem = "with a constant seed, the same sample for ever" if constant_seed else "that no seed can repeat"
            raise ExportError(
                f"signature {name!r} draws random numbers {problem} (node {node.name!r}). Make the seed an input, "
                "[B, 2] int32 with a default, and use `tf.random.stateless_*` row by row."
            )


def _depends_on(tensor, by_name, arguments):
    """Whether a tensor is computed from any of the arguments, or from what cannot be followed."""
    seen, waiting = set(), [tensor]
    while waiting:
        node_name = waiting.pop().removeprefix("^").split(":")[0]
        if node_name in arguments:
            return True
        if node_name in seen:
            continue
        seen.add(node_name)
        waiting.extend(by_name[node_name].input if node_name in by_name else ())
    return False
