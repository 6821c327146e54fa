"""Which value an optional input takes when a request leaves it out."""

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo


def apply_defaults(inputs: dict[str, np.ndarray], signature_def: SignatureDef) -> dict[str, np.ndarray]:
    """Adds the inputs that have a default in the signature and were not given.

    A default for an input with one entry per row, `[B, ...]`, is stored for a single row: either as that row
    (a scalar for an input `[B]`) or as a batch of one. It is repeated for each row of the inputs that were given. Any
    other default is taken as it stands.

    Args:
        inputs: the given inputs by name.
        signature_def: the signature with its `defaults`.

    Returns:
        A new dictionary with the given inputs and the defaults. Inputs without a default that were not given stay
        missing.

    Example:
        A signature `text: string [B], k: int32 [B]` with the default `k=[3]`:

        >>> apply_defaults({"text": np.array([b"a", b"b"], object)}, signature_def)["k"]
        array([3, 3], dtype=int32)
    """
    missing = signature_def.defaults.keys() - inputs.keys()
    if not missing:
        return dict(inputs)
    per_row = [name for name in inputs if name in signature_def.inputs and _is_per_row(signature_def.inputs[name])]
    rows = next((len(inputs[name]) for name in per_row if inputs[name].ndim), 1)
    defaults = {name: tf.make_ndarray(signature_def.defaults[name]) for name in missing}
    for name, value in defaults.items():
        info = signature_def.inputs[name]
        if _is_per_row(info):
            row_rank = len(info.tensor_shape.dim) - 1
            if value.ndim == row_rank:
                defaults[name] = np.broadcast_to(value, (rows, *value.shape))
            elif len(value) == 1:
                defaults[name] = np.broadcast_to(value, (rows, *value.shape[1:]))
    return {**inputs, **defaults}


def _is_per_row(info: TensorInfo) -> bool:
    shape = info.tensor_shape
    return not shape.unknown_rank and len(shape.dim) > 0 and shape.dim[0].size == -1
