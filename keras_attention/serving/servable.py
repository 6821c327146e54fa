"""One version of a model, loaded and ready to run: the SavedModel in a session of its own.

The session loader is the C++ code that TensorFlow Serving loads with, so what loads here loads there; it needs the ops
of TensorFlow and tensorflow-text, and no Keras.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  registers its ops, which a model with a tokenizer contains
from tensorflow.core.protobuf.config_pb2 import CallableOptions

from keras_attention.serving.errors import ServingError, failed_precondition, invalid_argument
from keras_attention.serving.signature import Signature

DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY

# TensorFlow and gRPC number their status codes alike.
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class SessionThreads:
    """How many threads TensorFlow uses; 0 lets it decide by the number of cores.

    Args:
        intra_op: threads inside one operation.
        inter_op: operations at the same time; -1 to run them in the thread of the caller.
    """

    intra_op: int = 0
    inter_op: int = 0


class Servable:
    """One loaded version of a model.

    Args:
        path: the version's folder, with its `saved_model.pb`.
        threads: TensorFlow's threads. The first session of a process sets them for all that follow.

    Attributes:
        signature_defs: every SignatureDef of the SavedModel by name.

    Raises:
        ServingError: with TensorFlow's status code and message, if the SavedModel cannot be loaded.

    Example:
        >>> servable = Servable(Path("saved_models/chatbot/1"))
        >>> servable.run(servable.signature("serving_default"), {"text": np.array([b"hello"], object)})
        {'answer': array([b'Hello!'], dtype=object)}
    """

    def __init__(self, path: Path, threads: SessionThreads | None = None):
        threads = threads or SessionThreads()
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(
            graph=graph,
            config=tf.compat.v1.ConfigProto(
                intra_op_parallelism_threads=threads.intra_op, inter_op_parallelism_threads=threads.inter_op
            ),
        )
        try:
            with graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(self._session, [tf.saved_model.SERVING], str(path))
        except Exception as error:
            self._session.close()
            raise _serving_error(error) from error
        self.signature_defs = dict(meta_graph.signature_def)
        self._signatures: dict[str, Signature] = {}
        self._callables: dict[str, Callable] = {}
        self._callables_lock = threading.Lock()

    def signature(self, name: str) -> Signature:
        """Finds a signature.

        Args:
            name: its name; an empty one means `serving_default`, as in TensorFlow Serving.

        Returns:
            The signature.

        Raises:
            ServingError: FAILED_PRECONDITION, if the model has none of this name.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self._signatures:
            if name not in self.signature_defs:
                raise failed_precondition(f'Serving signature key "{name}" not found.')
            self._signatures[name] = Signature(name, self.signature_defs[name])
        return self._signatures[name]

    def run(self, signature: Signature, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a signature. Calls from several threads run side by side.

        Args:
            signature: one of this servable's.
            inputs: an array for each of its inputs, checked by `Signature.read_inputs`.

        Returns:
            An array for each of its outputs.

        Raises:
            ServingError: with TensorFlow's status code and message, if the computation fails.
        """
        try:
            outputs = self._callable(signature)(*(inputs[name] for name in signature.input_names))
        except Exception as error:
            raise _serving_error(error) from error
        return {name: _as_array(value) for name, value in zip(signature.output_names, outputs, strict=True)}

    def close(self) -> None:
        """Frees the model's memory. No call may be running or follow."""
        self._callables.clear()
        self._session.close()

    def _callable(self, signature: Signature) -> Callable:
        # A private method of the session, which `make_callable` would stand for if it did not go through `run` as soon
        # as there is something to feed: 0.2 ms instead of 0.5 ms for a call of a small model.
        with self._callables_lock:
            if signature.name not in self._callables:
                definition = signature.definition
                options = CallableOptions(
                    feed=[definition.inputs[name].name for name in signature.input_names],
                    fetch=[definition.outputs[name].name for name in signature.output_names],
                )
                self._callables[signature.name] = self._session._make_callable_from_options(options)
            return self._callables[signature.name]


def _as_array(value) -> np.ndarray:
    # A scalar string comes as bytes, which numpy would store with a fixed width and so without its trailing NULs.
    return np.array(value, dtype=object) if isinstance(value, bytes) else np.asarray(value)


def _serving_error(error: Exception) -> ServingError:
    if isinstance(error, tf.errors.OpError):
        return ServingError(_STATUS_CODES[error.error_code], error.message)
    if isinstance(error, UnicodeDecodeError):
        # TensorFlow failed and its message quotes bytes that are no UTF-8. They can only be the request's; the status
        # is lost on the way to Python.
        return invalid_argument(error.object.decode("utf-8", "replace"))
    # The session loader reports a folder without a SavedModel as OSError.
    code = grpc.StatusCode.NOT_FOUND if isinstance(error, OSError) else grpc.StatusCode.INTERNAL
    return ServingError(code, str(error) or type(error).__name__)
