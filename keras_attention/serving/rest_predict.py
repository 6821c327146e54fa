"""Predict in JSON: rows (`instances` in, `predictions` out) and columns (`inputs` in, `outputs` out)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_attention.serving.errors import ServingError, invalid_argument
from keras_attention.serving.inference import Run
from keras_attention.serving.rest_json import describe
from keras_attention.serving.rest_output import to_json, writable
from keras_attention.serving.rest_tensors import check_array, is_base64, read_array
from keras_attention.serving.servable import DEFAULT_SIGNATURE, Servable
from keras_attention.serving.signature import Signature


def read_signature_name(document: Mapping[str, Any]) -> str:
    """The signature that a request asks for; empty for the default one.

    Raises:
        ServingError: INVALID_ARGUMENT, if it is no string.
    """
    name = document.get("signature_name", "")
    if type(name) is not str:
        raise invalid_argument(
            f"JSON Value: {describe(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def predict_run(servable: Servable, document: Mapping[str, Any]) -> Run:
    """Checks the body of a predict request.

    Args:
        servable: the version that is to answer.
        document: the body.

    Returns:
        What to run.

    Raises:
        ServingError: INVALID_ARGUMENT, with TensorFlow Serving's message, if the body asks for an unknown signature or
            does not fit it.
    """
    name = read_signature_name(document)
    if (name or DEFAULT_SIGNATURE) not in servable.signature_defs:
        raise invalid_argument(f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def')
    signature = servable.signature(name)
    if not signature.input_names:
        raise invalid_argument(f"Failed to get input map for signature: {name or 'DEFAULT'}")
    if "instances" in document and "inputs" in document:
        raise _format_error(
            document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        )
    if "instances" in document:
        instances = document["instances"]
        if type(instances) is not list:
            raise _format_error(document, "Excepting 'instances' to be an list/array")
        if not instances:
            raise _format_error(document, "No values in 'instances' array")
        inputs = _Rows(signature, instances).read()
    elif "inputs" in document:
        inputs = _read_columns(signature, document["inputs"])
    else:
        raise invalid_argument("Missing 'inputs' or 'instances' key")
    return Run(signature, signature.read_arrays(inputs))


def write_predictions(outputs: Mapping[str, np.ndarray]) -> bytes:
    """Writes the answer to `instances`: one entry for each row, which is an object if there are several outputs.

    Raises:
        ServingError: INVALID_ARGUMENT, if the outputs do not all have the same number of rows.
    """
    rows = -1
    for name, array in sorted(outputs.items()):
        if array.ndim == 0:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        if rows not in (-1, len(array)):
            raise invalid_argument(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {rows}")
        rows = len(array)
    columns = {name: writable(name, array) for name, array in sorted(outputs.items())}
    if len(columns) == 1:
        return to_json({"predictions": next(iter(columns.values()))})
    predictions = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return to_json({"predictions": predictions})


def write_outputs(outputs: Mapping[str, np.ndarray]) -> bytes:
    """Writes the answer to `inputs`: the outputs by name, or the only one without its name."""
    columns = {name: writable(name, array) for name, array in sorted(outputs.items())}
    return to_json({"outputs": next(iter(columns.values())) if len(columns) == 1 else columns})


def _read_columns(signature: Signature, value: Any) -> dict[str, np.ndarray]:
    infos = signature.definition.inputs
    if not _is_named(value):
        if len(infos) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        return {name: _read(value, info.dtype) for name, info in infos.items()}
    columns = {}
    for name in signature.input_names:
        if name in value:
            columns[name] = _read(value[name], infos[name].dtype)
        elif name not in signature.definition.defaults:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
    return columns


class _Rows:
    """The list of instances of one request, values or objects with a value for each input."""

    def __init__(self, signature: Signature, instances: list):
        self._types = {name: info.dtype for name, info in signature.definition.inputs.items()}
        self._names = set(self._types)
        self._required = self._names - signature.definition.defaults.keys()
        self._instances = instances
        self._named = _is_named(instances[0])
        if not self._named and len(self._names) > 1:
            raise invalid_argument(
                "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
                "tensorinfo_map"
            )

    def read(self) -> dict[str, np.ndarray]:
        columns = self._columns()
        if columns is not None:
            arrays = {name: read_array(column, self._types[name]) for name, column in columns.items()}
            if all(array is not None for array in arrays.values()):
                return arrays
        raise self._explanation()

    def _columns(self) -> dict[str, list] | None:
        """The instances by input; None if they are not all alike."""
        if not self._named:
            alike = not any(map(_is_named, self._instances))
            return {next(iter(self._names)): self._instances} if alike else None
        keys = self._instances[0].keys()
        if not self._required <= keys <= self._names:
            return None
        if not all(type(instance) is dict and instance.keys() == keys for instance in self._instances):
            return None
        return {name: [instance[name] for instance in self._instances] for name in keys}

    def _explanation(self) -> ServingError:
        shapes: dict[str, tuple[int, ...]] = {}
        for position, instance in enumerate(self._instances):
            try:
                self._check(position, instance, shapes)
            except ServingError as error:
                return error
        return invalid_argument("the elements of 'instances' do not fit together")

    def _check(self, position: int, instance: Any, shapes: dict[str, tuple[int, ...]]) -> None:
        if self._named and not _is_named(instance):
            raise invalid_argument(f"Expecting object but got list at item {position} of input list")
        if not self._named and _is_named(instance):
            raise invalid_argument(f"Expecting value/list but got object at item {position} of input list")
        values = instance if self._named else {next(iter(self._names)): instance}
        for name, value in values.items():
            try:
                self._check_value(name, value, shapes)
            except ServingError as error:
                key = f" key: {name}" if self._named else ""
                raise ServingError(
                    error.code, f"Failed to process element: {position}{key} of 'instances' list. Error: {error}"
                ) from None
        # Which of the inputs with a default are given must be the same in each instance: they travel as one batch.
        if self._named and not self._required <= values.keys() == self._instances[0].keys():
            raise invalid_argument(
                f"Failed to process element: {position} of 'instances' list. JSON object: {describe(instance)} "
                f"must only have keys: {','.join(sorted(self._names))}"
            )

    def _check_value(self, name: str, value: Any, shapes: dict[str, tuple[int, ...]]) -> None:
        if name not in self._names:
            raise invalid_argument(f"JSON object: does not have named input: {name}")
        shape = check_array(value, self._types[name])
        expected = shapes.setdefault(name, shape)
        if np.prod(shape) != np.prod(expected):
            raise invalid_argument(f"Expecting tensor size: {int(np.prod(expected))} but got: {int(np.prod(shape))}")
        if shape != expected:
            raise invalid_argument(f"Expecting shape {_text(expected)} but got: {_text(shape)}")


def _read(value: Any, data_type: int) -> np.ndarray:
    array = read_array(value, data_type)
    if array is None:
        check_array(value, data_type)
        raise invalid_argument(f"JSON Value: {describe(value)} cannot be read")
    return array


def _is_named(value: Any) -> bool:
    return type(value) is dict and not is_base64(value)


def _text(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _format_error(document: Mapping[str, Any], message: str) -> ServingError:
    return invalid_argument(f"JSON Value: {describe(document)} {message}")
