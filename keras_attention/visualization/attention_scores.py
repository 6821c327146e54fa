"""The attention weights of layers inside of a model, whatever the model returns."""

import contextlib
import inspect

import keras

from keras_attention.layers import MultiHeadAttention
from keras_attention.visualization.layer_paths import layers_by_path, matching

_KINDS = (MultiHeadAttention, keras.layers.MultiHeadAttention)


def attention_scores(model, inputs, layers=None):
    """The attention weights of a model's layers on some inputs, without dropout.

    The model is called as it is, and while it is, each chosen layer is asked for its weights: models need not pass them
    on, and functional models, subclasses, blocks and encoders inside of them are all the same.

    Args:
        model: `keras.Model`, built.
        inputs: what the model is called with, of B examples.
        layers: list of str, the layers by name or by parts of their path: "self_attention" is every layer of that name
            and "block_0" all inside of that block. Defaults to all.

    Returns:
        dict of numpy arrays [B, N, T, S] by the path of the layer; with "#1" and so on for the further calls of a layer
        that is called several times.

    Raises:
        ValueError: if a name is no attention layer's, with those that there are.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from keras_attention.layers import TransformerBlock
    >>> from keras_attention.visualization import attention_scores
    >>> ids = keras.Input((None,), dtype="int32")
    >>> x = keras.layers.Embedding(10, 8, mask_zero=True)(ids)
    >>> model = keras.Model(ids, TransformerBlock(num_heads=2, intermediate_dim=16, name="block")(x))
    >>> scores = attention_scores(model, np.array([[3, 4, 5]]))
    >>> {path: values.shape for path, values in scores.items()}
    {'block/self_attention': (1, 2, 3, 3)}
    """
    found = attention_layers(model, layers)
    recorded = {}
    with contextlib.ExitStack() as stack:
        for path, layer in found.items():
            stack.enter_context(_recorded(layer, recorded.setdefault(path, [])))
        model(inputs)
    scores = {
        f"{path}#{number}" if number else path: keras.ops.convert_to_numpy(keras.ops.cast(values, "float32"))
        for path, calls in recorded.items()
        for number, values in enumerate(calls)
    }
    for path, values in scores.items():
        if values.ndim != 4:
            raise ValueError(
                f"`layers` must attend over the second axis alone. Received: layers with {path!r}, whose weights have "
                f"shape {values.shape}"
            )
    return scores


def attention_layers(model, names=None):
    """The attention layers of a model, all or those that some names stand for, by path.

    Args:
        model: `keras.Model`, built.
        names: list of str, as in `attention_scores`, or None.

    Returns:
        dict of layers.

    Raises:
        ValueError: if there are none.
    """
    found = layers_by_path(model, _KINDS)
    if names is None and found:
        return found
    chosen = {path for name in names or [""] for path in matching(found, name, "layers", "attention layers")}
    return {path: layer for path, layer in found.items() if path in chosen}


@contextlib.contextmanager
def _recorded(layer, calls):
    """While it is entered, the layer adds its attention weights to a list at each call."""
    call = layer.call
    signature = inspect.signature(call)

    def recording(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        wanted = bound.arguments.get("return_attention_scores", False)
        bound.arguments["return_attention_scores"] = True
        output, scores, *rest = call(*bound.args, **bound.kwargs)
        calls.append(scores)
        if wanted:
            return (output, scores, *rest)
        return (output, *rest) if rest else output

    layer.call = recording
    try:
        yield
    finally:
        del layer.call
