"""One signature of a loaded model: what it takes, checked before anything runs, and whether its rows can be merged."""

from collections.abc import Iterable, Mapping, Sequence

import grpc
import numpy as np

from keras_attention.serving.errors import ServingError, invalid_argument
from keras_attention.serving.protocol import DataType, SignatureDef, TensorProto
from keras_attention.serving.signature_defaults import apply_defaults
from keras_attention.serving.tensor_codec import decode, dtype_name

_STRING = DataType.Value("DT_STRING")
_METHOD_NAMES = ("tensorflow/serving/predict", "tensorflow/serving/classify", "tensorflow/serving/regress")


class Signature:
    """The contract of one signature, with TensorFlow Serving's checks and messages.

    Args:
        name: its key in the SavedModel.
        definition: its SignatureDef.

    Attributes:
        name: its key in the SavedModel.
        definition: its SignatureDef.
        input_names: the order in which inputs are fed.
        output_names: the order in which outputs are fetched.
        batchable: whether every input and every output has an unknown first dimension, so that requests can be
            concatenated along it.

    Raises:
        ServingError: INTERNAL, if the signature has no method that can be called, such as a loader's own entries.
    """

    def __init__(self, name: str, definition: SignatureDef):
        if definition.method_name not in _METHOD_NAMES:
            raise ServingError(
                grpc.StatusCode.INTERNAL,
                f"Expected prediction signature method_name to be one of {{{', '.join(_METHOD_NAMES)}}}. "
                f"Was: {definition.method_name}",
            )
        self.name = name
        self.definition = definition
        self.input_names = sorted(definition.inputs)
        self.output_names = sorted(definition.outputs)
        tensors = [*definition.inputs.values(), *definition.outputs.values()]
        self.batchable = bool(definition.inputs) and all(_shape(tensor)[:1] == [-1] for tensor in tensors)

    def read_inputs(self, tensors: Mapping[str, TensorProto]) -> dict[str, np.ndarray]:
        """Decodes and checks the inputs of one request, and adds the defaults of those that it leaves out.

        Everything is checked here, before requests are merged: one bad request must not fail its batch-mates.

        Args:
            tensors: the request's inputs.

        Returns:
            An array for each input of the signature.

        Raises:
            ServingError: INVALID_ARGUMENT, for a missing or unknown name, a wrong dtype, rank or dimension, or a
                tensor that cannot be read.
        """
        self._check_names(tensors)
        inputs = {name: self._read_input(name, tensors[name]) for name in self.input_names if name in tensors}
        return apply_defaults(inputs, self.definition)

    def read_arrays(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Checks inputs that have been read already, and adds the defaults; otherwise as `read_inputs`.

        Args:
            arrays: the request's inputs, of the dtypes that the signature asks for.

        Returns:
            An array for each input of the signature.

        Raises:
            ServingError: INVALID_ARGUMENT, for a missing or unknown name, or a wrong rank or dimension.
        """
        self._check_names(arrays)
        for name, array in arrays.items():
            self._check_tensor(name, self.definition.inputs[name].dtype, list(array.shape))
        return apply_defaults(dict(arrays), self.definition)

    def read_text(self, texts: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Takes a list of byte strings as the only input of the signature, as Classify and Regress do.

        Args:
            texts: one for each row.

        Returns:
            An array for the input.

        Raises:
            ServingError: INVALID_ARGUMENT, if the input is not of strings or cannot have this shape.
        """
        (name,) = self.input_names
        self._check_tensor(name, _STRING, [len(texts)])
        return {name: np.array(texts, dtype=object)}

    def select_outputs(self, output_filter: Iterable[str]) -> list[str]:
        """Names the outputs that a request asks for.

        Args:
            output_filter: the wanted names; empty for all of them.

        Returns:
            The names, in the order of the filter.

        Raises:
            ServingError: INVALID_ARGUMENT, for an unknown or repeated name.
        """
        names = list(output_filter)
        for position, name in enumerate(names):
            if name not in self.definition.outputs:
                expected = ",".join(self.output_names)
                raise invalid_argument(
                    f"output tensor alias not found in signature: {name} "
                    f"Outputs expected to be in the set {{{expected}}}."
                )
            if name in names[:position]:
                raise invalid_argument(f"duplicate output tensor alias: {name}")
        return names or self.output_names

    def rows(self, inputs: Mapping[str, np.ndarray]) -> int | None:
        """Counts the rows of a request: None if its rows cannot be merged with others', or its inputs disagree."""
        if not self.batchable:
            return None
        counts = {len(array) for array in inputs.values()}
        return counts.pop() if len(counts) == 1 else None

    def _check_names(self, given: Mapping[str, TensorProto | np.ndarray]) -> None:
        extra = sorted(given.keys() - self.definition.inputs.keys())
        missing = sorted(self.definition.inputs.keys() - self.definition.defaults.keys() - given.keys())
        if extra or missing:
            raise invalid_argument(
                f"input size does not match signature: {len(given)}!={len(self.input_names)} "
                f"len({{{','.join(sorted(given))}}}) != len({{{','.join(self.input_names)}}}). "
                f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}."
            )

    def _read_input(self, name: str, tensor: TensorProto) -> np.ndarray:
        self._check_tensor(name, tensor.dtype, [dim.size for dim in tensor.tensor_shape.dim])
        try:
            return decode(tensor)
        except (ValueError, MemoryError) as error:
            raise invalid_argument(f"tensor parsing error: {name}: {error}") from None

    def _check_tensor(self, name: str, dtype: int, received: list[int]) -> None:
        info = self.definition.inputs[name]
        if dtype != info.dtype:
            raise invalid_argument(
                f"Expects arg[{self.input_names.index(name)}] to be {dtype_name(info.dtype)} "
                f"but {dtype_name(dtype)} is provided"
            )
        if not info.tensor_shape.unknown_rank:
            expected = _shape(info)
            fits = len(expected) == len(received) and all(e in (-1, r) for e, r in zip(expected, received, strict=True))
            if not fits:
                raise invalid_argument(
                    f"Input {name} of signature {self.name} expects shape {_shape_text(expected)} "
                    f"but {_shape_text(received)} is provided"
                )


def _shape(info) -> list[int]:
    return [dim.size for dim in info.tensor_shape.dim]


def _shape_text(shape: list[int]) -> str:
    return "[" + ",".join("?" if size == -1 else str(size) for size in shape) + "]"
