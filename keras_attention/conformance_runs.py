"""How the checks of `keras_attention.conformance` run a layer: inputs, masks and gradients, on every backend."""

import keras
import numpy as np
from keras import ops

from keras_attention.layers.keras_mask import set_keras_mask


def sample(case, batch, length, seed=0, dtype="float32"):
    """The inputs of a case, each tensor once, floats in `dtype` and integers in int32."""
    arrays = case.inputs(np.random.default_rng(seed), batch, length)
    same = _same_tensor(case)
    return {
        name: np.asarray(array, dtype if np.issubdtype(np.asarray(array).dtype, np.floating) else "int32")
        for name, array in arrays.items()
        if same[name] == name
    }


def float_names(arrays):
    """The names of the inputs that are no ids."""
    return [name for name, array in arrays.items() if array.dtype.kind == "f"]


def free_shapes(case):
    """The shapes of the inputs with None where they depend on the batch or the length."""
    small, large = sample(case, 2, 5), sample(case, 3, 7)
    return {
        name: tuple(a if a == b else None for a, b in zip(small[name].shape, large[name].shape, strict=True))
        for name in small
    }


def make_layer(case, seed=0, dtype="float32"):
    """A built layer of a case, with weights so large that a position attended to by mistake would show."""
    layer = case.make(dtype=dtype)
    arrays = sample(case, 2, 5, dtype=layer.compute_dtype if dtype == "float64" else "float32")
    run(case, [layer], arrays)
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        noise = rng.normal(size=weight.shape)
        is_matrix = len(weight.shape) > 1
        weight.assign(0.5 * noise if is_matrix else np.asarray(weight.numpy(), "float64") + 0.2 * noise)
    return layer


def tensors_of(arrays):
    """The same dict with numpy arrays as tensors."""
    return {name: ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x for name, x in arrays.items()}


def run(case, layers, arrays, masks=None, **extra):
    """Calls layers one after another: the output of one is the first argument of the next.

    Args:
        case: `keras_attention.conformance.Case`.
        layers: list of layers.
        arrays: the inputs by name, each tensor once: arrays, tensors or symbolic tensors. What is missing is not given.
        masks: name -> bool [B, length], attached to the inputs as Keras attaches them.
        **extra: further arguments of the call.

    Returns:
        What the last layer returns.
    """
    tensors = tensors_of(arrays)
    for name, mask in tensors_of(masks or {}).items():
        set_keras_mask(tensors[name], mask)
    same = _same_tensor(case)
    first = next(iter(same))
    x = tensors[first]
    for layer in layers:
        others = {name: x if same[name] == first else tensors.get(same[name]) for name in same if name != first}
        others = {name: tensor for name, tensor in others.items() if tensor is not None}
        x = layer(x, **others, **case.call, **extra)
    return x


def functional(case, layer, shapes):
    """A functional model of one layer, with inputs of these shapes, by name."""
    types = {name: array.dtype.name for name, array in sample(case, 2, 5).items()}
    inputs = {name: keras.Input(batch_shape=shapes[name], dtype=types[name], name=name) for name in types}
    return keras.Model(inputs, run(case, [layer], inputs))


def hide(case, arrays, lengths):
    """Makes the end of each example padding.

    Args:
        case: `keras_attention.conformance.Case`.
        arrays: the inputs by name.
        lengths: how many positions of the first input are real, for each example. Other inputs lose as many; an example
            of none has none in any input.

    Returns:
        (the inputs with padding of nines or, in ids, of `pad_id`; the masks of the inputs that are no ids).
    """
    if not case.masked:
        return arrays, {}
    longest = next(iter(arrays.values())).shape[1]
    hidden, masks = {}, {}
    for name, array in arrays.items():
        kept = [length and length + array.shape[1] - longest for length in lengths]
        mask = np.arange(array.shape[1]) < np.array(kept)[:, None]
        is_float = array.dtype.kind == "f"
        shaped = mask.reshape(*mask.shape, *[1] * (array.ndim - 2))
        hidden[name] = np.where(shaped, array, np.asarray(9 if is_float else case.pad_id, array.dtype))
        if is_float:
            masks[name] = mask
    return hidden, masks


def to_array(x):
    """A tensor as float64 array, or bool as it is."""
    array = np.asarray(ops.convert_to_numpy(x))
    return array if array.dtype == bool else array.astype("float64")


def without_build(config):
    """A config without what says only whether, and with what shapes, a layer in it was built."""
    if isinstance(config, dict):
        return {name: without_build(value) for name, value in config.items() if name != "build_config"}
    return config


def is_finite(x):
    return bool(np.all(np.isfinite(to_array(x))))


def require(condition, message):
    """Raises AssertionError, also where Python runs with -O."""
    if not condition:
        raise AssertionError(message)


def require_close(case, got, expected, what):
    """Raises AssertionError if two tensors differ by more than the case tolerates."""
    got, expected = to_array(got), to_array(expected)
    require(got.shape == expected.shape, f"{what}: its shape is {got.shape}, not {expected.shape}")
    scale = max(1.0, np.abs(expected).max(initial=0.0))
    error = np.abs(got - expected).max(initial=0.0) / scale
    require(error <= case.tolerance, f"{what} by {error:.2g}; {case.tolerance:.2g} is tolerated")


def compilers(shapes, types):
    """How this backend traces and compiles functions of tensors: list of (name, function of a function)."""
    if keras.backend.backend() == "jax":
        import jax

        return [("compiled", jax.jit)]
    if keras.backend.backend() == "torch":
        return []
    import tensorflow as tf

    signature = [tf.TensorSpec(shape, dtype) for shape, dtype in zip(shapes, types, strict=True)]
    return [
        ("traced", lambda function: tf.function(function, input_signature=signature)),
        ("XLA-compiled", lambda function: tf.function(function, jit_compile=True)),
    ]


def value_and_gradients(function, tensors, variables=()):
    """A function's value and its gradients, on every backend.

    Args:
        function: called with the tensors, by position; returns a scalar, or a tuple that begins with one. Its layers
            are built. On JAX it leaves no state behind, such as that of a seed generator.
        tensors: list of float arrays or tensors.
        variables: list of trainable `keras.Variable` that it uses.

    Returns:
        (what the function returned, list of gradients for each tensor and then for each variable). A gradient is None
        where the scalar does not depend on the source; on JAX it is zeros.
    """
    tensors = [ops.convert_to_tensor(tensor) for tensor in tensors]

    def scalar(result):
        return result[0] if isinstance(result, tuple) else result

    if keras.backend.backend() == "jax":
        import jax

        def stateless(tensors, values):
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                result = function(*tensors)
            return scalar(result), result

        differentiated = jax.value_and_grad(stateless, argnums=(0, 1), has_aux=True)
        (_, result), gradients = differentiated(tensors, [variable.value for variable in variables])
        return result, [*gradients[0], *gradients[1]]
    if keras.backend.backend() == "torch":
        import torch

        tensors = [tensor.detach().clone().requires_grad_() for tensor in tensors]
        result = function(*tensors)
        sources = [*tensors, *[variable.value for variable in variables]]
        if not sources or not scalar(result).requires_grad:
            return result, [None] * len(sources)
        return result, list(torch.autograd.grad(scalar(result), sources, allow_unused=True))
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        result = function(*tensors)
    gradients = tape.gradient(scalar(result), [*tensors, *[variable.value for variable in variables]])
    return result, [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]


def _same_tensor(case):
    """The name of each argument -> the name under which its tensor stands first."""
    arrays = case.inputs(np.random.default_rng(0), 1, 2)
    return {name: next(other for other in arrays if arrays[other] is array) for name, array in arrays.items()}
