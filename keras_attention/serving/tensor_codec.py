"""TensorProto to numpy and back, without TensorFlow: five times as fast as `tf.make_tensor_proto`.

Reading follows TensorFlow's `Tensor::FromProto`, so whatever a client may send to TensorFlow Serving is understood.
Writing has two forms: packed bytes, the quickest for requests, and typed fields, in which TensorFlow Serving answers
and which clients that read ``response.outputs["scores"].float_val`` rely on.
"""

import math

import ml_dtypes
import numpy as np

from keras_attention.serving.protocol import DataType, TensorProto

# Per data type: its numpy dtype, the repeated field with its values, and the dtype of the numbers in that field.
_FORMATS = {
    "DT_FLOAT": (np.float32, "float_val", np.float32),
    "DT_DOUBLE": (np.float64, "double_val", np.float64),
    "DT_INT32": (np.int32, "int_val", np.int32),
    "DT_INT64": (np.int64, "int64_val", np.int64),
    "DT_BOOL": (np.bool_, "bool_val", np.bool_),
    "DT_UINT8": (np.uint8, "int_val", np.int32),
    "DT_INT8": (np.int8, "int_val", np.int32),
    "DT_UINT16": (np.uint16, "int_val", np.int32),
    "DT_INT16": (np.int16, "int_val", np.int32),
    "DT_UINT32": (np.uint32, "uint32_val", np.uint32),
    "DT_UINT64": (np.uint64, "uint64_val", np.uint64),
    "DT_HALF": (np.float16, "half_val", np.uint16),
    "DT_BFLOAT16": (ml_dtypes.bfloat16, "half_val", np.uint16),
    "DT_COMPLEX64": (np.complex64, "scomplex_val", np.float32),
    "DT_COMPLEX128": (np.complex128, "dcomplex_val", np.float64),
}
_NUMERIC = {DataType.Value(name): (np.dtype(t), field, np.dtype(v)) for name, (t, field, v) in _FORMATS.items()}
_DATA_TYPES = {dtype: data_type for data_type, (dtype, _, _) in _NUMERIC.items()}
_STRING = DataType.Value("DT_STRING")

# The field holds the bits of these (two floats for a complex number), not their values.
_STORED_AS_BITS = {DataType.Value(f"DT_{name}") for name in ("HALF", "BFLOAT16", "COMPLEX64", "COMPLEX128")}

# A few bytes can ask for a tensor of any size, whose one value is to be repeated. This many elements are allowed, half
# a gigabyte of float64: more than any model's constant input, and less than what takes a server down.
_MOST_REPEATED = 2**26


def dtype_name(data_type: int) -> str:
    """The name that TensorFlow's messages use for a data type, such as ``float`` or ``string``."""
    if data_type not in DataType.values():
        return f"unknown data type {data_type}"
    return DataType.Name(data_type).removeprefix("DT_").lower()


def data_type_name(array: np.ndarray) -> str:
    """The name of the data type of an array in TensorFlow, such as ``DT_FLOAT`` or ``DT_STRING``."""
    data_type = _STRING if array.dtype == object else _DATA_TYPES.get(array.dtype)
    return str(array.dtype) if data_type is None else DataType.Name(data_type)


def decode(tensor: TensorProto) -> np.ndarray:
    """Reads a tensor.

    Args:
        tensor: packed (`tensor_content`) or with typed values. As in TensorFlow, a list of values that is too short
            repeats its last one, an empty one is zeros or empty strings, and surplus values are ignored.

    Returns:
        An array of the tensor's shape; strings as an object array of bytes. It may be read-only.

    Raises:
        ValueError: if the shape is not fully known, the packed bytes do not fill it, far too few values are there for
            it, or the data type is none that travels as values.

    Example:
        >>> decode(TensorProto(dtype=1, tensor_shape={"dim": [{"size": 3}]}, float_val=[1.0, 2.0]))
        array([1., 2., 2.], dtype=float32)
    """
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise ValueError(f"the shape is not fully known: {list(shape)}")
    if tensor.dtype == _STRING:
        if tensor.tensor_content:
            raise ValueError("strings are read from string_val, not from tensor_content")
        return _fill(np.array(list(tensor.string_val), dtype=object), shape, filler=b"")
    if tensor.dtype not in _NUMERIC:
        raise ValueError(f"tensors of type {dtype_name(tensor.dtype)} cannot be sent")
    dtype, field, field_dtype = _NUMERIC[tensor.dtype]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    values = np.array(getattr(tensor, field), field_dtype)
    values = values.view(dtype) if tensor.dtype in _STORED_AS_BITS else values.astype(dtype, copy=False)
    return _fill(values, shape, filler=0)


def _fill(values: np.ndarray, shape: tuple[int, ...], filler) -> np.ndarray:
    size = math.prod(shape)
    if len(values) < size:
        if size > _MOST_REPEATED:
            raise ValueError(f"{len(values)} values for the {size} elements of the shape {list(shape)}")
        last = values[-1] if len(values) else filler
        values = np.concatenate([values, np.full(size - len(values), last, values.dtype)])
    return values[:size].reshape(shape)


def write_packed(array: np.ndarray, tensor: TensorProto) -> None:
    """Writes an array with its numbers as packed bytes: the form for requests.

    Args:
        array: numbers, or an object array of bytes.
        tensor: an empty tensor, which is filled.

    Raises:
        TypeError: if TensorFlow has no data type for the array's dtype.
    """
    _write_header(array, tensor)
    if tensor.dtype == _STRING:
        tensor.string_val.extend(array.ravel().tolist())
    else:
        tensor.tensor_content = array.tobytes()


def write_fields(array: np.ndarray, tensor: TensorProto) -> None:
    """Writes an array into the field of its type: the form in which TensorFlow Serving answers.

    Args:
        array: numbers, or an object array of bytes.
        tensor: an empty tensor, which is filled.

    Raises:
        TypeError: if TensorFlow has no data type for the array's dtype.
    """
    _write_header(array, tensor)
    values = array.ravel()
    if tensor.dtype == _STRING:
        tensor.string_val.extend(values.tolist())
        return
    _, field, field_dtype = _NUMERIC[tensor.dtype]
    values = values.view(field_dtype) if tensor.dtype in _STORED_AS_BITS else values
    getattr(tensor, field).extend(values.tolist())


def _write_header(array: np.ndarray, tensor: TensorProto) -> None:
    data_type = _STRING if array.dtype == object else _DATA_TYPES.get(array.dtype)
    if data_type is None:
        raise TypeError(f"TensorFlow has no data type for arrays of {array.dtype}")
    tensor.dtype = data_type
    dims = tensor.tensor_shape.dim
    for size in array.shape:
        dims.add(size=size)
