"""Export: functions that take named inputs become a SavedModel version that any TensorFlow Serving loads."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from keras_attention.serving.export_checks import ExportError, check_graph, check_outputs
from keras_attention.serving.verification import VerificationError, verify

_MAX_WARMUP_RECORDS = 1000  # TensorFlow Serving reads no more.


@dataclasses.dataclass(frozen=True)
class ServingFunction:
    """A function to be served, with what it takes.

    Attributes:
        function: called with its inputs by name, as tensors; returns a dict of named output tensors. Every output is
            [B, ...], one row for each row of the inputs, and a row does not depend on its neighbours.
        inputs: the name, shape and type of each input; every shape begins with None, the batch.
        defaults: the value of each optional input for one row, such as 5 for an input `k` of shape [None]. It is
            written into the signature and used when a request leaves the input out.
    """

    function: Callable[..., dict]
    inputs: Mapping[str, tf.TensorSpec]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def export(
    base_path: str | os.PathLike,
    signatures: Mapping[str, ServingFunction],
    resources: Sequence,
    examples: Mapping[str, Sequence[Mapping[str, Any]]],
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the next version of a servable, checks it as a server would load it, and only then puts it in place.

    The examples and their live outputs become the version's warm-up records. A fresh process, without Keras and without
    this package, loads the version in TensorFlow's own session loader, runs every record and compares. The version
    appears under `base_path` in one rename, so that a server that watches the folder never sees half a model, and a
    process killed on the way leaves nothing that a server could load.

    Args:
        base_path: the servable's folder; versions are its sub-folders 1, 2, 3 and so on. Its name is the model's name.
        signatures: signature name -> `ServingFunction`. `serving_default` is what a client asks for without a name.
        resources: what the functions use and the SavedModel must hold: Keras models and layers, tokenizers, lookup
            tables, variables, `tf.Module`s.
        examples: signature name -> inputs by name, with two rows at least for each signature in one example or more:
            a single row cannot show whether it depends on its neighbours. Take texts that are real: they warm the
            server up.
        metadata: anything that JSON can say (data hash, metrics, seed); lands in `assets.extra/metadata.json` with the
            versions of the libraries.

    Returns:
        The folder of the new version.

    Raises:
        ExportError: if a signature cannot be served, with what is wrong and what to do. Nothing is left behind.

    Example::

        export(
            "saved_models/shout",
            signatures={
                "serving_default": ServingFunction(
                    lambda text: {"shout": tf.strings.upper(text, encoding="utf-8")},
                    inputs={"text": tf.TensorSpec([None], tf.string)},
                )
            },
            resources=[],
            examples={"serving_default": [{"text": ["hello", "good bye"]}]},
        )

    Reference: TensorFlow Serving, SavedModel Warmup, https://www.tensorflow.org/tfx/serving/saved_model_warmup
    """
    base_path = Path(base_path)
    if not signatures:
        raise ExportError("`signatures` is empty: give at least `serving_default`.")
    for name, spec in signatures.items():
        _check_signature(name, spec)
    unknown = set(examples) - set(signatures)
    if unknown:
        raise ExportError(f"`examples` names signatures that do not exist: {', '.join(sorted(unknown))}.")
    feeds = {name: _check_examples(name, spec, examples.get(name, ())) for name, spec in signatures.items()}
    count = sum(map(len, feeds.values()))
    if count > _MAX_WARMUP_RECORDS:
        raise ExportError(
            f"the signatures have {count} examples in all; TensorFlow Serving reads {_MAX_WARMUP_RECORDS} at most."
        )
    metadata_text = _metadata_text(metadata or {})

    variables, assets = _owned(resources)
    functions = {name: _trace(name, spec) for name, spec in signatures.items()}
    for name, function in functions.items():
        check_graph(name, function, variables)

    # What the resources hold, not the resources themselves: a tf.Module with a Keras layer would be stored twice.
    root = tf.Module()
    root.variables_ = variables
    root.assets = assets
    with _temporary_folder(base_path) as folder:
        try:
            tf.saved_model.save(root, str(folder), signatures=functions)
        except AssertionError as error:
            if "untracked" not in str(error):
                raise
            raise ExportError(
                "a signature uses a table or another resource that is not among `resources`. Add the object that holds "
                f"it (the tokenizer, the layer or the table itself). TensorFlow says: {error}"
            ) from error
        _write_defaults(folder, signatures)
        _write_warmup(folder, base_path.name, functions, signatures, feeds)
        (folder / "assets.extra" / "metadata.json").write_text(metadata_text, encoding="utf-8")
        try:
            verify(folder)
        except VerificationError as error:
            # The folder is gone when the message is read.
            message = str(error).removeprefix(f"{folder}: ").replace(str(folder), "the new version")
            raise ExportError(message) from error
        return _publish(folder, base_path)


def _check_signature(name, spec):
    if not isinstance(spec, ServingFunction):
        raise ExportError(
            f"signature {name!r} must be a ServingFunction, a function with its inputs: ServingFunction(function, "
            f"{{'text': tf.TensorSpec([None], tf.string)}}). Received: {type(spec).__name__}"
        )
    for input_name, tensor_spec in spec.inputs.items():
        if not isinstance(tensor_spec, tf.TensorSpec):
            raise ExportError(
                f"input {input_name!r} of signature {name!r} must be a tf.TensorSpec, such as "
                f"tf.TensorSpec([None], tf.string). Received: {type(tensor_spec).__name__}"
            )
        if tensor_spec.shape.rank is None or tensor_spec.shape.rank < 1 or tensor_spec.shape[0] is not None:
            raise ExportError(
                f"input {input_name!r} of signature {name!r} must begin with the batch axis, [None, ...], since "
                f"servers batch requests. Received: shape {tensor_spec.shape}"
            )
    for input_name in set(spec.defaults) - set(spec.inputs):
        raise ExportError(f"signature {name!r} has a default for {input_name!r}, which is not among its inputs.")
    if not set(spec.inputs) - set(spec.defaults):
        raise ExportError(f"signature {name!r} needs at least one input without a default: it gives the batch size.")


def _check_examples(name, spec, examples):
    """The examples of one signature as arrays of the right types."""
    if not examples:
        raise ExportError(
            f"signature {name!r} has no example: give at least one, it is what the export is checked with."
        )
    feeds, rows = [], 0
    for number, example in enumerate(examples):
        missing = set(spec.inputs) - set(spec.defaults) - set(example)
        extra = set(example) - set(spec.inputs)
        if missing or extra:
            raise ExportError(
                f"example {number} of signature {name!r} does not fit its inputs. Missing: {sorted(missing)}. "
                f"Not known: {sorted(extra)}."
            )
        feed = {input_name: _constant(value, spec.inputs[input_name]) for input_name, value in example.items()}
        counts = {input_name: tensor.shape[0] for input_name, tensor in feed.items()}
        if len(set(counts.values())) > 1 or 0 in counts.values():
            raise ExportError(
                f"example {number} of signature {name!r} must have the same number of rows, at least one, in each of "
                f"its inputs. Received: {counts}"
            )
        feeds.append(feed)
        rows += next(iter(counts.values()))
    if rows < 2:
        raise ExportError(
            f"signature {name!r} has a single row over all its examples: give two rows at least, otherwise it cannot "
            "be seen whether an answer depends on the other rows of its batch."
        )
    return feeds


def _constant(value, tensor_spec):
    try:
        tensor = tf.constant(value, tensor_spec.dtype)
    except (TypeError, ValueError) as error:
        raise ExportError(f"an example does not fit {tensor_spec}: {error}") from error
    if not tensor_spec.shape.is_compatible_with(tensor.shape):
        raise ExportError(f"an example does not fit {tensor_spec}. Received: shape {tensor.shape}")
    return tensor


def _owned(resources):
    """Every tf.Variable, and every table and file, that the resources hold, however deep."""
    variables, assets = {}, {}
    for resource in resources:
        if not isinstance(resource, (tf.__internal__.tracking.Trackable, keras.Variable)):
            raise ExportError(
                "`resources` takes Keras layers and models, variables, tables and tf.Modules. "
                f"Received: {type(resource).__name__}"
            )
        if isinstance(resource, keras.layers.Layer) and not resource.built:
            raise ExportError(
                f"the layer {resource.name!r} among `resources` has no weights yet: build or call it first."
            )
        nodes = [resource]
        if isinstance(resource, tf.__internal__.tracking.Trackable):
            nodes += tf.train.TrackableView(resource).descendants()
        for node in nodes:
            # Only Keras knows a layer's variables: to TensorFlow's tracking they are invisible (keras#20095).
            held = node.variables if isinstance(node, keras.layers.Layer) else [node]
            for variable in held:
                if isinstance(variable, keras.Variable):
                    variable = variable.value
                if isinstance(variable, tf.Variable):
                    variables[id(variable)] = variable
            if isinstance(node, (tf.saved_model.experimental.TrackableResource, tf.saved_model.Asset)):
                assets[id(node)] = node
    return list(variables.values()), list(assets.values())


def _trace(name, spec):
    required = next(input_name for input_name in spec.inputs if input_name not in spec.defaults)

    def call(**inputs):
        # A server that knows nothing of rows feeds a default as it is stored, as one row.
        rows = tf.shape(inputs[required])[0]
        for optional in spec.defaults:
            value = inputs[optional]
            shape = tf.concat([[rows], tf.shape(value)[1:]], axis=0)
            inputs[optional] = tf.ensure_shape(tf.broadcast_to(value, shape), spec.inputs[optional].shape)
        outputs = spec.function(**inputs)
        check_outputs(name, outputs)
        return outputs

    specs = {n: tf.TensorSpec(s.shape, s.dtype, name=n) for n, s in spec.inputs.items()}
    try:
        return tf.function(call, autograph=False).get_concrete_function(**specs)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"signature {name!r} could not be traced with the inputs {', '.join(specs)}: "
            f"{type(error).__name__}: {error}\n"
            "The function is called once with symbolic tensors, by name: their values are known only when the graph "
            "runs. Python conditions on them need a tf.function around them."
        ) from error


@contextlib.contextmanager
def _temporary_folder(base_path):
    """A folder beside the versions, with a name that no server takes for one; gone at the end unless renamed."""
    if base_path.exists() and not base_path.is_dir():
        raise ExportError(f"{base_path} is a file; give a folder, the versions go below it.")
    base_path.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(base_path)
    folder = base_path / f".export-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            base_path.rmdir()  # Only an empty one goes: the folder of a first export that failed.


def _clear_leftovers(base_path):
    """Removes what exports on this host left behind when they were killed."""
    mine = f".export-{socket.gethostname()}-"
    for folder in base_path.iterdir():
        # The whole name: another host's may begin with this one's.
        match = re.fullmatch(re.escape(mine) + r"(\d+)-[0-9a-f]{8}", folder.name)
        if not match:
            continue
        try:
            os.kill(int(match[1]), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except PermissionError:
            pass  # It runs, as another user.


def _publish(folder, base_path):
    version = 1 + max((int(entry.name) for entry in base_path.iterdir() if entry.name.isdecimal()), default=0)
    while True:
        target = base_path / str(version)
        try:
            folder.rename(target)
            return target
        except OSError:
            if not target.exists():
                raise
            version += 1  # Another export took the number since.


def _default_rows(spec):
    return {name: _constant([value], spec.inputs[name]) for name, value in spec.defaults.items()}


def _write_defaults(folder, signatures):
    """Puts the defaults into the SignatureDefs, as a batch of one row each."""
    if not any(spec.defaults for spec in signatures.values()):
        return
    path = folder / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for name, spec in signatures.items():
        definition = saved_model.meta_graphs[0].signature_def[name]
        for input_name, row in _default_rows(spec).items():
            definition.defaults[input_name].CopyFrom(tf.make_tensor_proto(row))
    path.write_bytes(saved_model.SerializeToString(deterministic=True))


def _write_warmup(folder, model_name, functions, signatures, feeds):
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, function in functions.items():
            defaults = _default_rows(signatures[name])
            for number, feed in enumerate(feeds[name]):
                try:
                    outputs = function(**{**defaults, **feed})
                except tf.errors.OpError as error:
                    raise ExportError(f"signature {name!r} fails on example {number}: {_reason(error)}") from error
                writer.write(_prediction_log(model_name, name, feed, outputs).SerializeToString())


def _reason(error):
    """What TensorFlow says, in one line: without the stack above it and the names of nodes around it."""
    lines = [line for line in error.message.split("\t [[")[0].splitlines() if line.strip()]
    return re.sub(r"^{{.*?}}", "", lines[-1]).strip() if lines else type(error).__name__


def _prediction_log(model_name, name, feed, outputs):
    log = prediction_log_pb2.PredictionLog()
    predict = log.predict_log
    for message in (predict.request, predict.response):
        message.model_spec.name = model_name
        message.model_spec.signature_name = name
    for input_name, tensor in feed.items():
        predict.request.inputs[input_name].CopyFrom(tf.make_tensor_proto(tensor))
    for output_name, tensor in outputs.items():
        predict.response.outputs[output_name].CopyFrom(tf.make_tensor_proto(tensor))
    return log


def _metadata_text(metadata):
    libraries = ("keras-attention-serving", "tensorflow", "keras", "tensorflow-text", "numpy")
    content = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "libraries": {library: _library_version(library) for library in libraries},
    }
    try:
        # NaN is Python's own: other readers of JSON stop at it.
        return json.dumps({**content, **metadata}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ExportError(f"`metadata` must be a mapping of what JSON can say: {error}") from error


def _library_version(library):
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None  # TensorFlow goes by other names too, such as tensorflow-cpu.
