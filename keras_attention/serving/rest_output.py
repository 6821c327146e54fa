"""Arrays into JSON, by TensorFlow Serving's rules."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from keras_attention.serving.errors import invalid_argument
from keras_attention.serving.tensor_codec import data_type_name

_WRITABLE = {
    f"DT_{name}"
    for name in ["STRING", "BOOL", "FLOAT", "DOUBLE", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT32", "UINT64"]
}


def to_json(value: Any) -> bytes:
    """Writes objects, lists and arrays.

    Floats take as many digits as they need to be read back bit for bit, at their own precision. NaN, Infinity and
    -Infinity are written by these names, as TensorFlow Serving does and Python's json reads, though they are no JSON.

    Args:
        value: dictionaries and lists of arrays from `writable` and of what JSON knows.

    Returns:
        The document.

    Example:
        >>> to_json({"outputs": np.array([0.1, np.inf], np.float32)})
        b'{"outputs": [0.1, Infinity]}'
    """
    if all(np.all(np.isfinite(array)) for array in _float_arrays(value)):
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(value, default=_as_lists, ensure_ascii=False).encode()


def writable(name: str, array: np.ndarray) -> Any:
    """An output as `to_json` takes it.

    Args:
        name: its name; strings of one that ends in ``_bytes`` are written as base64 objects.
        array: the output. Strings are text in UTF-8; a byte that is none is replaced.

    Returns:
        An array of numbers or booleans, a list, or for a scalar a single value.

    Raises:
        ServingError: INVALID_ARGUMENT, if JSON has no form for its data type.
    """
    if data_type_name(array) not in _WRITABLE:
        kind = data_type_name(array).removeprefix("DT_").lower()
        raise invalid_argument(f"Failed to write JSON value for tensor type: {kind}")
    if array.dtype != object:
        return np.ascontiguousarray(array) if array.ndim else array[()]
    strings = array.ravel().tolist()
    values = np.empty(len(strings), object)
    if name.endswith("_bytes"):
        values[:] = [{"b64": base64.b64encode(string).decode()} for string in strings]
    else:
        values[:] = [string.decode("utf-8", "replace") for string in strings]
    return values.reshape(array.shape).tolist()


def _float_arrays(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind == "f":
            yield value
    elif type(value) in (dict, list):
        for element in value.values() if type(value) is dict else value:
            yield from _float_arrays(element)


def _as_lists(value: np.ndarray | np.generic) -> Any:
    array = np.asarray(value)
    if array.dtype != np.float32:
        return array.tolist()
    # Through its own shortest digits: those of the float64 that is equal to it would be twice as many.
    numbers = np.array([float(str(number)) for number in array.ravel()], np.float64)
    return numbers.reshape(array.shape).tolist()
