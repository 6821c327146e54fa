"""What every layer of attention models must do, as checks that run on any layer, yours too, on every Keras backend.

Describe a layer by a `Case` and run `CHECKS` on it. With pytest that is::

    from keras_attention import conformance

    CASES = {
        "my layer": conformance.Case(
            make=lambda **arguments: MyLayer(8, **arguments),
            inputs=lambda rng, batch, length: {"x": rng.normal(size=(batch, length, 8))},
        )
    }

    @pytest.mark.parametrize("check", conformance.CHECKS)
    @pytest.mark.parametrize("case", CASES)
    def test_my_layers_conform(case, check):
        conformance.CHECKS[check](CASES[case])

A check raises AssertionError with what differs and by how much, and `NotApplicable` where it says nothing about the
layer or the backend, which pytest and unittest report as skipped.
"""

import dataclasses
import inspect
import tempfile
import unittest
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_attention.conformance_runs import (
    compilers,
    float_names,
    free_shapes,
    functional,
    hide,
    is_finite,
    make_layer,
    require,
    require_close,
    run,
    sample,
    tensors_of,
    to_array,
    value_and_gradients,
    without_build,
)
from keras_attention.layers.keras_mask import get_keras_mask

__all__ = ["CHECKS", "Case", "NotApplicable", "check_export"]

_POLICIES = ("float32", "mixed_bfloat16", "bfloat16", "mixed_float16", "float16")


class NotApplicable(unittest.SkipTest):
    """A check that says nothing about this layer, or cannot run on this backend; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer with what it is called with.

    Attributes:
        make: called with `dtype=`; returns a new layer, the same each time up to its random weights. The layer returns
            one tensor.
        inputs: called with a numpy generator, a batch size and a length; returns the call's arguments by name, arrays
            of rank 2 or more that begin with the batch and their length, the first of them the layer's first. Floats
            are sequences of vectors, integers ids. An array that stands there twice is one tensor:
            `{"query": x, "value": x}` is self-attention.
        call: the other arguments of the call, by name, such as `{"use_causal_mask": True}`.
        masked: whether it knows padding, from the masks that Keras attaches to tensors, or from its ids.
        pad_id: int, what ids are padded with.
        stackable: whether it takes its own output as first argument. Defaults to whether the shapes are the same.
        cached: whether it is causal, has `make_cache(batch_size, max_length)`, takes a `cache` and returns the next one
            beside its output.
        export: whether `CHECKS["export"]` is to run on it, which takes some seconds.
        tolerance: float, by how much float32 numbers of size one may differ.

    Example:

    >>> from keras_attention import conformance
    >>> from keras_attention.layers import FeedForward
    >>> case = conformance.Case(
    ...     make=lambda **arguments: FeedForward(16, **arguments),
    ...     inputs=lambda rng, batch, length: {"inputs": rng.normal(size=(batch, length, 8))},
    ... )
    >>> conformance.CHECKS["padding invariance"](case)
    """

    make: Callable[..., keras.layers.Layer]
    inputs: Callable[[np.random.Generator, int, int], Mapping[str, np.ndarray]]
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    masked: bool = True
    pad_id: int = 0
    stackable: bool | None = None
    cached: bool = False
    export: bool = False
    tolerance: float = 2e-5


def check_shapes(case):
    """Symbolic shapes and types are the real ones, with the batch and the lengths given and with them unknown."""
    small, large = sample(case, 2, 5), sample(case, 3, 7)
    given = {name: array.shape for name, array in small.items()}
    for shapes, samples in ((given, [small]), (free_shapes(case), [small, large])):
        layer = case.make(dtype="float32")
        model = functional(case, layer, shapes)
        symbolic = tuple(model.output.shape)
        for arrays in samples:
            for what, real in (("model", model(tensors_of(arrays))), ("layer", run(case, [layer], arrays))):
                shape = tuple(real.shape)
                fits = len(shape) == len(symbolic) and all(s in (None, n) for s, n in zip(symbolic, shape, strict=True))
                require(fits, f"for inputs of {shapes} the symbolic shape is {symbolic}, that of the {what} {shape}")
            types = [keras.backend.standardize_dtype(x.dtype) for x in (model.output, real)]
            require(types[0] == types[1], f"the symbolic type is {types[0]}, the real one {types[1]}")


def check_compiled(case):
    """The traced function, on TensorFlow with unknown lengths, and the XLA-compiled one give the eager output."""
    if keras.backend.backend() == "torch":
        raise NotApplicable("Keras compiles nothing on PyTorch unless asked")
    layer = make_layer(case)
    arrays, masks = hide(case, sample(case, 2, 5), [3, 5])
    count = len(arrays)

    def call(*tensors):
        named = dict(zip(arrays, tensors[:count], strict=True))
        return run(case, [layer], named, dict(zip(masks, tensors[count:], strict=True)))

    tensors = [*tensors_of(arrays).values(), *tensors_of(masks).values()]
    expected = call(*tensors)
    shapes = [*free_shapes(case).values(), *[(None, None)] * len(masks)]
    for how, compiled in compilers(shapes, [tensor.dtype for tensor in tensors]):
        require_close(case, compiled(call)(*tensors), expected, f"the {how} output differs from the eager one")


def check_precisions(case):
    """In every precision outputs have the right type and are finite, as are gradients, also where all is padding."""
    arrays, masks = hide(case, sample(case, 2, 5), [0, 3])
    floats = float_names(arrays)
    for policy in _POLICIES:
        layer = make_layer(case, dtype=policy)

        def loss(*tensors, layer=layer):
            output = run(case, [layer], {**arrays, **dict(zip(floats, tensors, strict=True))}, masks)
            return ops.sum(ops.cast(output, "float32")), output

        tensors = [ops.cast(arrays[name], layer.compute_dtype) for name in floats]
        (_, output), gradients = value_and_gradients(loss, tensors, layer.trainable_weights)
        got = keras.backend.standardize_dtype(output.dtype)
        require(got == layer.compute_dtype, f"under {policy} the output has type {got}, not {layer.compute_dtype}")
        require(is_finite(output), f"under {policy} the output is not finite beside an example that is all padding")
        sources = [*floats, *[weight.path for weight in layer.trainable_weights]]
        for source, gradient in zip(sources, gradients, strict=True):
            require(gradient is None or is_finite(gradient), f"under {policy} the gradient of {source} is not finite")


def check_padding_invariance(case):
    """What stands as padding beside a sequence, and who is in its batch, changes nothing, at a depth of 1 to 3.

    The masks are those that Keras attaches to tensors: they must come out of each layer to reach the next.
    """
    if not case.masked:
        raise NotApplicable("the layer knows no padding")
    lengths = (3, 5)
    layers = [make_layer(case)]
    alone = [sample(case, 1, length, seed=length) for length in lengths]
    shapes = [tuple(run(case, layers, arrays).shape) for arrays in alone]
    first = next(iter(alone[0].values()))
    stackable = shapes[0] == first.shape if case.stackable is None else case.stackable
    layers += [make_layer(case, seed=depth) for depth in (1, 2) if stackable]
    # The arrays of a longer sample, with those of each sequence at their beginning, and the rest hidden.
    longer = sample(case, 1, 9)
    padded = []
    for arrays, length in zip(alone, lengths, strict=True):
        begun = {name: np.concatenate([arrays[name], longer[name][:, arrays[name].shape[1] :]], 1) for name in longer}
        padded.append(hide(case, begun, [length]))
    batch, batch_masks = ({name: np.concatenate([p[i][name] for p in padded]) for name in padded[0][i]} for i in (0, 1))
    for depth in range(1, len(layers) + 1):
        stack = layers[:depth]
        together = run(case, stack, batch, batch_masks)
        for i, arrays in enumerate(alone):
            expected = run(case, stack, arrays)
            steps = expected.shape[1]
            beside = to_array(run(case, stack, *padded[i]))[:, :steps]
            require_close(case, beside, expected, f"at a depth of {depth} padding changes the output")
            in_batch = to_array(together)[i : i + 1, :steps]
            require_close(case, in_batch, expected, f"at a depth of {depth} the rest of its batch changes the output")
        if shapes[0][1] != shapes[1][1]:
            mask = get_keras_mask(together)
            require(mask is not None, "the output carries no mask, so that what follows attends to padding")
            expected = np.arange(9) < np.array(lengths)[:, None]
            require(np.array_equal(to_array(mask), expected), "the output carries another mask than the input")


def check_cached(case):
    """A sequence in pieces, each with the cache of those before, gives what the whole gives at once."""
    if not case.cached:
        raise NotApplicable("the case says of no cache")
    layer, whole = make_layer(case), sample(case, 2, 6)
    first = next(iter(whole))
    expected = to_array(run(case, [layer], whole))
    # A cache that takes another input, the context of a cross-attention, takes it once and for all steps.
    known = {name: whole[name] for name in whole if name in inspect.signature(layer.make_cache).parameters}
    cache = layer.make_cache(2, 8, **tensors_of(known))
    steps = {name: array for name, array in whole.items() if name not in known}
    for start, stop in ((0, 3), (3, 4), (4, 5), (5, 6)):
        output, cache = run(case, [layer], {**steps, first: whole[first][:, start:stop]}, cache=cache)
        what = f"the cached output of the positions {start} to {stop - 1} differs from that of the whole sequence"
        require_close(case, output, expected[:, start:stop], what)


def check_gradients(case):
    """The gradient of every float input and weight, in float64, is that of central finite differences."""
    probe = ops.convert_to_tensor(np.eye(2), "float64")
    if any("float64" not in str(operation.dtype) for operation in (ops.tanh(probe), ops.matmul(probe, probe))):
        raise NotApplicable("Keras computes in float32 on this backend what is given as float64")
    layer = make_layer(case, dtype="float64")
    arrays, masks = hide(case, sample(case, 2, 4, dtype="float64"), [3, 4])
    floats, weights = float_names(arrays), layer.trainable_weights
    rng = np.random.default_rng(1)
    projection = rng.normal(size=run(case, [layer], arrays, masks).shape)

    def loss(*tensors):
        output = run(case, [layer], {**arrays, **dict(zip(floats, tensors, strict=True))}, masks)
        return ops.sum(output * ops.convert_to_tensor(projection, "float64"))

    sources = [*floats, *[weight.path for weight in weights]]
    values = [arrays[name] for name in floats] + [weight.numpy() for weight in weights]
    _, gradients = value_and_gradients(loss, values[: len(floats)], weights)

    def loss_at(values):
        for weight, value in zip(weights, values[len(floats) :], strict=True):
            weight.assign(value)
        return float(to_array(loss(*[ops.convert_to_tensor(value) for value in values[: len(floats)]])))

    def compare(directions):
        """The derivative along a direction in all sources together, by the gradients and by finite differences."""
        ahead, behind = (
            loss_at([value + step * direction for value, direction in zip(values, directions, strict=True)])
            for step in (1e-5, -1e-5)
        )
        pairs = zip(gradients, directions, strict=True)
        analytical = sum(float(np.sum(to_array(g) * d)) for g, d in pairs if g is not None and np.ndim(d))
        numerical = (ahead - behind) / 2e-5
        return abs(numerical - analytical) <= 1e-5 * abs(numerical) + 1e-7, analytical, numerical

    for _ in range(2):
        directions = [rng.normal(size=value.shape) for value in values]
        if compare(directions)[0]:
            continue
        # Which of them is it? One after the other takes as many runs, and so only now.
        for i, source in enumerate(sources):
            right, analytical, numerical = compare([d if i == j else 0.0 for j, d in enumerate(directions)])
            require(
                right,
                f"the gradient of {source} along a random direction is {analytical:.8g}, by finite differences "
                f"{numerical:.8g}",
            )
        raise AssertionError(f"the gradients of {', '.join(sources)} together differ from finite differences")


def check_saving(case):
    """Every constructor argument is in the config, and a model saved as `.keras` and loaded gives the same outputs."""
    layer, tensors = make_layer(case), tensors_of(sample(case, 2, 5))
    parameters = list(inspect.signature(type(layer).__init__).parameters.values())[1:]
    wanted = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    config = layer.get_config()
    missing = sorted(wanted - set(config))
    require(not missing, f"`get_config` of {type(layer).__name__} lacks the constructor's {', '.join(missing)}")
    model = functional(case, layer, free_shapes(case))
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        again = keras.models.load_model(Path(folder) / "model.keras")
    loaded = again.get_layer(layer.name).get_config()
    differing = sorted(name for name in config if without_build(loaded.get(name)) != without_build(config[name]))
    require(not differing, f"after saving and loading the config differs in {', '.join(differing)}")
    require_close(case, again(tensors), model(tensors), "after saving and loading the output differs")


def check_export(case_or_cases, folder=None):
    """Exports layers as a SavedModel, and TensorFlow's C++ loader, in a fresh process, gives their outputs.

    It is `keras_attention.serving.export`, of some seconds: several cases go into one export with profit, as one
    signature each, with a mask `<name>_mask` beside each sequence.

    Args:
        case_or_cases: a `Case`, for which nothing is exported unless it asks for it; or a dict of cases.
        folder: where the SavedModel goes. Defaults to a temporary folder.

    Raises:
        NotApplicable: on another backend than TensorFlow, and for a single case with `export=False`.
        keras_attention.serving.ExportError: if an output differs, or a layer cannot be exported.
    """
    if keras.backend.backend() != "tensorflow":
        raise NotApplicable("a SavedModel is exported from TensorFlow")
    if isinstance(case_or_cases, Case) and not case_or_cases.export:
        raise NotApplicable("the case does not ask for an export")
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return check_export(case_or_cases, Path(temporary) / "layers")
    import tensorflow as tf

    from keras_attention.serving import ServingFunction, export

    cases = {"serving_default": case_or_cases} if isinstance(case_or_cases, Case) else case_or_cases
    signatures, examples, layers = {}, {}, []
    for name, case in cases.items():
        layers.append(make_layer(case))
        arrays, masks = hide(case, sample(case, 2, 5), [3, 5])
        feed = {**arrays, **{f"{array}_mask": mask for array, mask in masks.items()}}
        free = free_shapes(case)

        def call(case=case, layer=layers[-1], arrays=tuple(arrays), masks=tuple(masks), **fed):
            attached = {name: fed[f"{name}_mask"] for name in masks}
            return {"output": run(case, [layer], {name: fed[name] for name in arrays}, attached)}

        signature = "".join(character if character.isalnum() else "_" for character in name)
        specs = {key: tf.TensorSpec(free.get(key, (None, None)), value.dtype) for key, value in feed.items()}
        signatures[signature], examples[signature] = ServingFunction(call, specs), [feed]
    return export(folder, signatures=signatures, resources=layers, examples=examples)


def check_training(case):
    """A step of `fit` has a finite loss, and every trainable weight has a gradient and moves."""
    layer = make_layer(case)
    if not layer.trainable_weights:
        raise NotApplicable("the layer has no trainable weights")
    arrays, masks = hide(case, sample(case, 4, 5), [3, 5, 4, 5])
    target = np.random.default_rng(3).normal(size=run(case, [layer], arrays).shape).astype("float32")

    def loss():
        return ops.mean(ops.square(run(case, [layer], arrays, masks) - ops.convert_to_tensor(target)))

    _, gradients = value_and_gradients(loss, [], layer.trainable_weights)
    for weight, gradient in zip(layer.trainable_weights, gradients, strict=True):
        require(gradient is not None, f"{weight.path} has no gradient")
    before = [weight.numpy().copy() for weight in layer.trainable_weights]
    model = functional(case, layer, free_shapes(case))
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)  # tracing takes longer than the step
    step = model.fit(arrays, target, verbose=0).history["loss"][-1]
    require(np.isfinite(step), f"the loss of a training step is {step}")
    for weight, old in zip(layer.trainable_weights, before, strict=True):
        require(np.any(weight.numpy() != old), f"{weight.path} does not move in a training step")


def check_small(case):
    """A batch of one is as in a larger batch, a batch of zero is empty, and a length of one gives numbers."""
    layer, arrays = make_layer(case), sample(case, 3, 5)
    expected = to_array(run(case, [layer], arrays))
    for start, stop, what in ((1, 2, "one"), (0, 0, "zero")):
        got = run(case, [layer], {name: array[start:stop] for name, array in arrays.items()})
        require_close(case, got, expected[start:stop], f"the output of a batch of {what} differs")
    require(is_finite(run(case, [layer], sample(case, 2, 1))), "the output for a length of one is not finite")


CHECKS: Mapping[str, Callable[[Case], Any]] = {
    "shapes": check_shapes,
    "compiled": check_compiled,
    "precisions": check_precisions,
    "padding invariance": check_padding_invariance,
    "cached": check_cached,
    "gradients": check_gradients,
    "saving": check_saving,
    "export": check_export,
    "training": check_training,
    "small": check_small,
}
