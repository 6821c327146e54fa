"""Warm-up: a version's recorded requests are run before it takes any, so that the first client does not wait."""

import logging
from pathlib import Path

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from keras_attention.serving.errors import ServingError, invalid_argument
from keras_attention.serving.inference import (
    Call,
    classify_call,
    multi_inference_calls,
    predict_call,
    regress_call,
)
from keras_attention.serving.protocol import (
    ClassificationResponse,
    MultiInferenceResponse,
    PredictResponse,
    RegressionResponse,
)
from keras_attention.serving.servable import Servable

_log = logging.getLogger(__name__)

_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_MOST_RECORDS = 1000  # as in TensorFlow Serving


def warm_up(servable: Servable, path: Path) -> int:
    """Runs the warm-up records of a version, the answers to their ends, and drops them.

    Args:
        servable: the loaded version.
        path: its folder. A folder without records is warm as it is.

    Returns:
        How many records were run.

    Raises:
        ServingError: if there are more than 1,000, if one is no PredictionLog, if the file is damaged, or whatever a
            record's request is answered with if it fails.
    """
    file = path / _FILE
    if not file.is_file():
        return 0
    count = 0
    try:
        for record in tf.compat.v1.io.tf_record_iterator(str(file)):
            if count == _MOST_RECORDS:
                raise invalid_argument(f"Number of warmup records exceeds the maximum ({_MOST_RECORDS}) at {file}")
            count += 1
            try:
                _run(servable, PredictionLog.FromString(record))
            except DecodeError:
                raise invalid_argument(f"Failed to parse warmup record {count} from {file}") from None
            except ServingError as error:
                raise ServingError(error.code, f"warmup record {count} of {file} failed: {error.message}") from None
    except tf.errors.DataLossError as error:
        raise ServingError(
            grpc.StatusCode.DATA_LOSS, f"{error.message}. Please verify your warmup data is in TFRecord format."
        ) from None
    _log.info("ran %d warm-up records of %s", count, path)
    return count


def _run(servable: Servable, log: PredictionLog) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        _answer(servable, predict_call(servable, log.predict_log.request), PredictResponse())
    elif kind == "classify_log":
        _answer(servable, classify_call(servable, log.classify_log.request), ClassificationResponse())
    elif kind == "regress_log":
        _answer(servable, regress_call(servable, log.regress_log.request), RegressionResponse())
    elif kind == "multi_inference_log":
        for call in multi_inference_calls(servable, log.multi_inference_log.request):
            _answer(servable, call, MultiInferenceResponse().results.add())
    elif kind == "session_run_log":
        raise ServingError(grpc.StatusCode.UNIMPLEMENTED, "Unsupported log_type for warmup: session_run_log")


def _answer(servable: Servable, call: Call, response) -> None:
    call.write(servable.run(call.signature, call.inputs), response)
