"""Runs the warm-up records of a SavedModel through TensorFlow's session loader: `python session_check.py FOLDER`.

This file is run by `verify` as a program of its own and imports neither Keras nor this package, so that nothing but the
SavedModel itself can give the answers. The session loader is the C++ code that TensorFlow Serving loads with; a Python
reload goes another way and proves nothing about it. Prints one line of JSON: {"records": {signature: count}} or
{"error": message}.
"""

import importlib.util
import json
import sys
from pathlib import Path

# TensorFlow imports Keras when it finds it; here it must not.
sys.modules["keras"] = None

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from google.protobuf.message import DecodeError  # noqa: E402
from tensorflow_serving.apis import prediction_log_pb2  # noqa: E402

# Reordered float32 sums differ in the last bits; anything beyond is another answer.
_RTOL, _ATOL = 1e-4, 1e-5

_MAX_RECORDS = 1000  # TensorFlow Serving reads no more.


class CheckFailed(Exception):
    """What is wrong with the SavedModel, in a sentence."""


def reason(error):
    """What a TensorFlow error says, without its frame and its list of nodes."""
    return str(getattr(error, "message", error)).removeprefix("Graph execution error:").strip().split("\n")[0]


def load_text_ops():
    """Registers tensorflow-text's operations, which TensorFlow Serving's image has built in, without its Python."""
    package = importlib.util.find_spec("tensorflow_text")
    for location in package.submodule_search_locations if package else ():
        for library in sorted(Path(location).glob("python/*/_*.so")):
            tf.load_op_library(str(library))


def read_records(folder):
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    if not path.is_file():
        raise CheckFailed(f"it carries no warm-up records ({path} is missing), so there is nothing to check it with.")
    try:
        records = list(tf.compat.v1.io.tf_record_iterator(str(path)))
    except tf.errors.DataLossError as error:
        raise CheckFailed(f"its file of warm-up records is damaged: {reason(error)}.") from error
    if not records:
        raise CheckFailed("its file of warm-up records is empty, so there is nothing to check it with.")
    if len(records) > _MAX_RECORDS:
        raise CheckFailed(f"it has {len(records)} warm-up records; TensorFlow Serving reads {_MAX_RECORDS} at most.")
    return [read_record(record, f"warm-up record {number}") for number, record in enumerate(records, start=1)]


def read_record(record, what):
    try:
        log = prediction_log_pb2.PredictionLog.FromString(record)
    except DecodeError as error:
        raise CheckFailed(f"{what} is no PredictionLog: {error}.") from error
    if not log.HasField("predict_log"):
        raise CheckFailed(f"{what} is no PredictionLog of a Predict request, the only kind that is checked here.")
    if not log.predict_log.response.outputs:
        raise CheckFailed(f"{what} has a request and no stored response, so there is nothing to compare with.")
    return log.predict_log


def load(session, folder):
    try:
        return tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(folder)).signature_def
    except (tf.errors.OpError, OSError, ValueError) as error:
        raise CheckFailed(f"TensorFlow's loader refuses it: {reason(error)}") from error


class Runner:
    """Runs one signature in the session, feeding a default as the SignatureDef stores it."""

    def __init__(self, session, name, definition):
        self.session = session
        self.name = name
        self.definition = definition
        self.outputs = {key: info.name for key, info in definition.outputs.items()}

    def __call__(self, inputs):
        defaults = {key: tf.make_ndarray(value) for key, value in self.definition.defaults.items()}
        values = {**defaults, **inputs}
        missing = sorted(set(self.definition.inputs) - set(values))
        if missing:
            raise CheckFailed(f"a record of signature {self.name!r} lacks the input {missing[0]!r}.")
        feed = {self.definition.inputs[key].name: value for key, value in values.items()}
        try:
            return self.session.run(self.outputs, feed)
        except tf.errors.FailedPreconditionError as error:
            raise CheckFailed(
                f"signature {self.name!r} needs what was not saved: {reason(error)} The model, or whatever owns it, "
                "was not tracked by the export."
            ) from error
        except (tf.errors.OpError, ValueError) as error:
            raise CheckFailed(f"signature {self.name!r} fails on a record: {reason(error)}") from error

    def takes_rows(self):
        """Whether every input and output has the batch as its first axis."""
        infos = [*self.definition.inputs.values(), *self.definition.outputs.values()]
        return all(info.tensor_shape.dim and info.tensor_shape.dim[0].size == -1 for info in infos)


def compare(got, expected, what):
    """Raises CheckFailed unless two dicts of outputs are the same answers."""
    if set(got) != set(expected):
        raise CheckFailed(f"{what}: the outputs are {sorted(got)}, expected {sorted(expected)}.")
    for name in expected:
        a, b = np.atleast_1d(got[name]), np.atleast_1d(expected[name])
        if a.shape != b.shape:
            raise CheckFailed(f"{what}: output {name!r} has shape {a.shape}, expected {b.shape}.")
        if (a.dtype.kind in "SO") != (b.dtype.kind in "SO"):
            raise CheckFailed(f"{what}: output {name!r} is of type {a.dtype}, expected {b.dtype}.")
        if np.issubdtype(b.dtype, np.inexact) or b.dtype.name == "bfloat16":
            a, b = a.astype("float64"), b.astype("float64")
            if not np.allclose(a, b, rtol=_RTOL, atol=_ATOL, equal_nan=True):
                raise CheckFailed(f"{what}: output {name!r} differs by up to {np.nanmax(np.abs(a - b)):.2g}.")
        elif not np.array_equal(a.astype(b.dtype), b):
            row = next(i for i in range(len(b)) if not np.array_equal(a[i], b[i]))
            raise CheckFailed(f"{what}: output {name!r} differs in row {row}: {a[row]!r}, expected {b[row]!r}.")


def check_rows(runner, examples):
    """A row alone and a row among others must give the same answer, since servers batch what arrives together."""
    advice = (
        "A row's answer must not depend on its batch: servers put requests together. The usual causes are padding that "
        "takes part in the computation, in a pooling without the mask for instance, and ties at a threshold or in "
        "top_k: between two candidates with the same score the last bit decides, and it changes with the batch"
    )
    groups = {}
    for inputs, outputs in examples:
        if len({len(value) for value in inputs.values()}) != 1:
            raise CheckFailed(
                f"a record of signature {runner.name!r} has inputs with different numbers of rows, or none at all."
            )
        key = tuple(sorted((name, value.shape[1:], value.dtype.str) for name, value in inputs.items()))
        groups.setdefault(key, []).append((inputs, outputs))
    for group in groups.values():
        sizes = [len(next(iter(inputs.values()))) for inputs, _ in group]
        together = {name: np.concatenate([inputs[name] for inputs, _ in group]) for name in group[0][0]}
        got = runner(together)
        for name in got:
            shape = np.shape(got[name])
            if shape[:1] != (sum(sizes),):
                raise CheckFailed(
                    f"output {name!r} of signature {runner.name!r} has shape {shape} for {sum(sizes)} rows of inputs."
                )
        start = 0
        for (_, outputs), size in zip(group, sizes, strict=True):
            part = {name: value[start : start + size] for name, value in got.items()}
            trailing_fits = all(part[name].shape[1:] == np.asarray(outputs[name]).shape[1:] for name in outputs)
            if not trailing_fits:
                raise CheckFailed(
                    f"signature {runner.name!r}: an output's shape beyond the batch changes with the batch. {advice}."
                )
            compare(part, outputs, f"signature {runner.name!r}, batched with the other records. {advice}")
            start += size
        for row in range(sum(sizes)) if sum(sizes) > 1 else ():
            alone = runner({name: value[row : row + 1] for name, value in together.items()})
            expected = {name: value[row : row + 1] for name, value in got.items()}
            compare(alone, expected, f"signature {runner.name!r}, row {row} alone. {advice}")


def check(folder):
    """Loads a version and runs all its records; returns how many there were for each signature."""
    counts, examples, runners = {}, {}, {}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        definitions = load(session, folder)
        for log in read_records(folder):
            name = log.request.model_spec.signature_name or "serving_default"
            if name not in runners:
                if name not in definitions:
                    raise CheckFailed(f"a record asks for the signature {name!r}, which it does not have.")
                runners[name] = Runner(session, name, definitions[name])
            inputs = {key: tf.make_ndarray(value) for key, value in log.request.inputs.items()}
            expected = {key: tf.make_ndarray(value) for key, value in log.response.outputs.items()}
            counts[name] = counts.get(name, 0) + 1
            got = runners[name](inputs)
            compare(got, expected, f"signature {name!r}, record {counts[name]}, against its stored response")
            examples.setdefault(name, []).append((inputs, expected))
        for name, runner in runners.items():
            if runner.takes_rows():
                check_rows(runner, examples[name])
    return counts


def main():
    load_text_ops()
    try:
        result = {"records": check(Path(sys.argv[1]))}
    except CheckFailed as error:
        result = {"error": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
