"""JSON values into arrays of a signature's dtype, by TensorFlow Serving's rules.

A value that is right is read at numpy's pace: its lists are flattened level by level. One that is not is walked through
once more, element by element, to say what is wrong as TensorFlow Serving does.
"""

import base64
import binascii
from itertools import chain
from typing import Any

import grpc
import numpy as np

from keras_attention.serving.errors import ServingError, invalid_argument
from keras_attention.serving.protocol import DataType
from keras_attention.serving.rest_json import describe, type_name
from keras_attention.serving.tensor_codec import dtype_name

_STRING, _BOOL = DataType.Value("DT_STRING"), DataType.Value("DT_BOOL")
_FLOATS = {DataType.Value("DT_FLOAT"): np.float32, DataType.Value("DT_DOUBLE"): np.float64}
_INTEGERS = {
    DataType.Value(f"DT_{np.dtype(kind).name.upper()}"): kind
    for kind in (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint32, np.uint64)
}
_MOST_DIMENSIONS = 64  # numpy's limit


def is_base64(value: Any) -> bool:
    """Whether a value is an object that stands for bytes: ``{"b64": "..."}`` with nothing else in it."""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def read_array(value: Any, data_type: int) -> np.ndarray | None:
    """Reads a number, string, boolean or base64 object, or lists of them.

    Args:
        value: the JSON value.
        data_type: the tensor's DataType.

    Returns:
        The array; None if the value is wrong for it, which `check_array` explains.

    Example:
        >>> read_array([["a", {"b64": "/w=="}]], DataType.Value("DT_STRING"))
        array([[b'a', b'\\xff']], dtype=object)
    """
    flat = _flatten(value)
    if flat is None:
        return None
    shape, leaves = flat
    array = _convert(leaves, data_type)
    return None if array is None else array.reshape(shape)


def check_array(value: Any, data_type: int) -> tuple[int, ...]:
    """Explains what is wrong with a value.

    Args:
        value: the JSON value.
        data_type: the tensor's DataType.

    Returns:
        The shape, if nothing is.

    Raises:
        ServingError: INVALID_ARGUMENT for the first element that does not fit, UNIMPLEMENTED if the data type is none
            that JSON can hold.
    """
    shape: list[int] = []
    first = value
    while type(first) is list:
        shape.append(len(first))
        if len(shape) > _MOST_DIMENSIONS:
            raise invalid_argument(f"lists are nested deeper than a tensor's {_MOST_DIMENSIONS} dimensions")
        if not first:
            break
        first = first[0]
    _check_level(value, data_type, shape, 0)
    return tuple(shape)


def _flatten(value: Any) -> tuple[list[int], list] | None:
    if type(value) is not list:
        return [], [value]
    shape, level = [len(value)], value
    while True:
        kinds = set(map(type, level))
        if list not in kinds:
            return shape, level
        lengths = set(map(len, level)) if len(kinds) == 1 else ()
        if len(lengths) != 1 or len(shape) == _MOST_DIMENSIONS:
            return None
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))


def _convert(leaves: list, data_type: int) -> np.ndarray | None:
    kinds = set(map(type, leaves))
    if data_type == _STRING:
        return _convert_strings(leaves, kinds)
    if data_type == _BOOL:
        return np.array(leaves, np.bool_) if kinds <= {bool} else None
    if data_type in _INTEGERS:
        limits = np.iinfo(_INTEGERS[data_type])
        if not kinds <= {int} or (leaves and not limits.min <= min(leaves) <= max(leaves) <= limits.max):
            return None
        return np.array(leaves, _INTEGERS[data_type])
    if data_type in _FLOATS:
        dtype = _FLOATS[data_type]
        whole = [leaf for leaf in leaves if type(leaf) is int] if int in kinds else ()
        if not kinds <= {int, float} or (whole and max(max(whole), -min(whole)) > _largest_whole(dtype)):
            return None
        numbers = np.array(leaves, np.float64)
        if dtype is np.float32 and np.any(np.isfinite(numbers) & (np.abs(numbers) > np.finfo(np.float32).max)):
            return None
        return numbers.astype(dtype, copy=False)
    return None


def _convert_strings(leaves: list, kinds: set[type]) -> np.ndarray | None:
    array = np.empty(len(leaves), object)
    try:
        if kinds <= {str}:
            array[:] = [leaf.encode() for leaf in leaves]
        else:
            array[:] = [leaf.encode() if type(leaf) is str else _decode_base64(leaf) for leaf in leaves]
    except ServingError:
        return None
    return array


def _largest_whole(dtype: type) -> int:
    # TensorFlow Serving takes whole numbers up to here, and not the larger ones of which some would be exact too.
    return 2 ** (np.finfo(dtype).nmant + 1) - 1


def _decode_base64(value: Any) -> bytes:
    if not is_base64(value):
        raise invalid_argument(f"JSON Value: {describe(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split())
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid_argument("Unable to base64 decode") from None


def _check_level(value: Any, data_type: int, shape: list[int], level: int) -> None:
    rank = len(shape)
    if type(value) is not list:
        if level != rank:
            raise invalid_argument(
                f"JSON Value: {describe(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {rank}"
            )
        _check_leaf(value, data_type)
        return
    if level >= rank:
        raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {rank}")
    if len(value) != shape[level]:
        raise invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for element in value:
        _check_level(element, data_type, shape, level + 1)


def _check_leaf(value: Any, data_type: int) -> None:
    if type(value) is dict and data_type == _STRING:
        _decode_base64(value)
    elif data_type not in {_STRING, _BOOL, *_FLOATS, *_INTEGERS}:
        raise ServingError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"Conversion of JSON Value: {describe(value)} to type: {dtype_name(data_type)}",
        )
    elif data_type in _FLOATS and type(value) in (int, float) and _convert([value], data_type) is None:
        raise invalid_argument(
            f"Cannot convert JSON value: {describe(value)} to {dtype_name(data_type)} without loss of precision."
        )
    elif type(value) is dict or _convert_is_wrong(value, data_type):
        raise invalid_argument(
            f"JSON Value: {describe(value)} Type: {type_name(value)} is not of expected type: {dtype_name(data_type)}"
        )


def _convert_is_wrong(value: Any, data_type: int) -> bool:
    return type(value) is not str if data_type == _STRING else _convert([value], data_type) is None
