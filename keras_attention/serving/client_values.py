"""What a client's user gives and gets, arrays, strings and plain Python, to and from TensorFlow Serving's messages."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from keras_attention.serving.protocol import (
    Example,
    GetModelStatusResponse,
    ModelVersionStatus,
    SignatureDef,
    TensorProto,
)
from keras_attention.serving.tensor_codec import decode, dtype_name

_INTEGERS = "biu"


@dataclass(frozen=True)
class ModelVersion:
    """Where one version of a model stands.

    Attributes:
        version: its number.
        state: START, LOADING, AVAILABLE, UNLOADING or END.
        error: why it could not be loaded; empty if nothing is wrong.
    """

    version: int
    state: str
    error: str


class ScoredClass(NamedTuple):
    """One class of a classification.

    Attributes:
        label: its name; empty if the model gives none.
        score: its score; 0 if the model gives none.
    """

    label: str
    score: float


def as_arrays(inputs: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """Makes the arrays that are sent.

    Args:
        inputs: arrays, or lists of str, bytes or numbers, by name.

    Returns:
        Numbers, Python's as TensorFlow takes them, as int32 and float32; strings as object arrays of bytes.

    Raises:
        TypeError: if a value is nothing that a tensor can hold.
        ValueError: if a value is an empty list, which says nothing about its type.
        OverflowError: if one of Python's integers does not fit.
    """
    return {name: _as_array(name, value) for name, value in inputs.items()}


def _as_array(name: str, value: ArrayLike) -> np.ndarray:
    # As objects from the start: numpy would decode bytes that stand beside a str as ASCII.
    array = np.asarray(value, dtype=object) if _holds_text(value) else np.asarray(value)
    if isinstance(value, list | tuple) and array.size == 0:
        raise ValueError(
            f"input {name} is an empty list, which says nothing about its type: give an array with a dtype, such as "
            "np.array([], object) for strings"
        )
    if array.dtype.kind in "USO":
        return _as_bytes(f"input {name}", np.asarray(value, dtype=object))
    if not isinstance(value, np.ndarray | np.generic):
        narrow = {np.dtype(np.int64): np.int32, np.dtype(np.float64): np.float32}.get(array.dtype)
        # From the value, not from the array: only so does a number that does not fit raise.
        return array if narrow is None else np.asarray(value, dtype=narrow)
    return array


def _holds_text(value: ArrayLike) -> bool:
    return isinstance(value, str | bytes) or (isinstance(value, list | tuple) and any(map(_holds_text, value)))


def _as_bytes(what: str, array: np.ndarray) -> np.ndarray:
    encoded = np.empty(array.shape, dtype=object)
    for index, item in np.ndenumerate(array):
        if not isinstance(item, str | bytes):
            raise TypeError(f"{what} must hold numbers, str or bytes. Received: {type(item).__name__}")
        encoded[index] = item.encode("utf-8", "surrogateescape") if isinstance(item, str) else item
    return encoded


def as_outputs(outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Makes text of the outputs that are text.

    Args:
        outputs: arrays of numbers, or object arrays of bytes, by name.

    Returns:
        The same with str for bytes, but where the name ends in ``_bytes``.
    """
    return {
        name: _as_text(array) if array.dtype == object and not name.endswith("_bytes") else array
        for name, array in outputs.items()
    }


def _as_text(array: np.ndarray) -> np.ndarray:
    text = np.empty(array.shape, dtype=object)
    for index, item in np.ndenumerate(array):
        text[index] = item.decode("utf-8", "surrogateescape")
    return text


def as_features(examples: Iterable[Mapping[str, ArrayLike]]) -> list[dict[str, list]]:
    """Makes the features that are sent.

    Args:
        examples: for each example its features by name: a value or a list of values, which are str or bytes, integers
            or bools, or floats.

    Returns:
        The same with lists of bytes, of int or of float.

    Raises:
        TypeError: if a value is nothing that a feature can hold.
    """
    return [{name: _as_feature(name, value) for name, value in example.items()} for example in examples]


def _as_feature(name: str, value: ArrayLike) -> list:
    array = np.atleast_1d(np.asarray(value, dtype=object) if _holds_text(value) else np.asarray(value))
    if array.ndim > 1:
        raise TypeError(f"feature {name} must be a value or a flat list. Received: {array.ndim} dimensions")
    if array.dtype.kind in "USO":
        return _as_bytes(f"feature {name}", array.astype(object)).tolist()
    if array.dtype.kind not in _INTEGERS and not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"feature {name} must hold numbers, str or bytes. Received: {array.dtype}")
    return array.astype(np.int64 if array.dtype.kind in _INTEGERS else np.float64).tolist()


def as_example(features: Mapping[str, list]) -> Example:
    """Makes the tf.Example of features that `as_features` has made."""
    example = Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        kinds = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}
        if values:
            kinds[type(values[0])].value.extend(values)
    return example


def as_versions(response: GetModelStatusResponse) -> list[ModelVersion]:
    """The versions of a status, newest first."""
    return [
        ModelVersion(v.version, ModelVersionStatus.State.Name(v.state), v.status.error_message)
        for v in sorted(response.model_version_status, key=lambda v: -v.version)
    ]


def tensor_dtype(data_type: int) -> np.dtype | None:
    """The numpy dtype of a TensorFlow data type, object for strings; None for one that cannot be sent."""
    try:
        return decode(TensorProto(dtype=data_type, tensor_shape={"dim": [{"size": 0}]})).dtype
    except ValueError:
        return None


def describe(signatures: Mapping[str, SignatureDef]) -> dict[str, dict[str, Any]]:
    """Puts signatures into plain Python.

    Args:
        signatures: the signatures by name.

    Returns:
        For each what `Client.metadata` says. What TensorFlow keeps for itself, under names with ``__``, is left out.
    """
    return {
        name: {
            "method": signature.method_name.rpartition("/")[2],
            "inputs": {
                key: _describe_tensor(info, signature.defaults.get(key))
                for key, info in sorted(signature.inputs.items())
            },
            "outputs": {key: _describe_tensor(info) for key, info in sorted(signature.outputs.items())},
        }
        for name, signature in _sorted(signatures)
        if not name.startswith("__")
    }


def _sorted(named: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(named.items(), key=lambda item: item[0])


def _describe_tensor(info, default: TensorProto | None = None) -> dict[str, Any]:
    dtype = tensor_dtype(info.dtype)
    shape = [None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim]
    described = {
        "dtype": dtype_name(info.dtype) if dtype in (None, np.dtype(object)) else dtype.name,
        "shape": None if info.tensor_shape.unknown_rank else shape,
    }
    if default is not None:
        described["default"] = as_outputs({"": decode(default)})[""].tolist()
    return described
