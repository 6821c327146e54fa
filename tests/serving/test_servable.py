"""What happens to a request inside the server: tensors, checks, defaults, merging, running."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from keras_attention.serving.batching_options import BatchingOptions
from keras_attention.serving.errors import ServingError
from keras_attention.serving.loaded_version import LoadedVersion
from keras_attention.serving.servable import Servable
from keras_attention.serving.signature_defaults import apply_defaults
from keras_attention.serving.tensor_codec import decode, write_fields, write_packed

DTYPES = [
    *(np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.complex64, np.complex128, np.bool_),
    *(np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
]


@pytest.fixture(scope="module")
def servable(toy_path):
    servable = Servable(toy_path / "1")
    yield servable
    servable.close()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("write", [write_packed, write_fields])
def test_tensorflow_reads_what_the_codec_writes_and_the_codec_what_tensorflow_writes(dtype, write):
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    tensor = TensorProto()
    write(array, tensor)
    np.testing.assert_array_equal(tf.make_ndarray(tensor), array)
    np.testing.assert_array_equal(decode(tensor), array)
    np.testing.assert_array_equal(decode(tf.make_tensor_proto(array)), array)
    assert decode(tensor).dtype == array.dtype


@pytest.mark.parametrize("write", [write_packed, write_fields])
def test_strings_of_any_bytes_survive_the_codec(write):
    array = np.array([[b"", b"nul at the end\0"], ["grün".encode(), b"\xff\xfe"]], dtype=object)
    tensor = TensorProto()
    write(array, tensor)
    assert decode(tensor).tolist() == tf.make_ndarray(tensor).tolist() == array.tolist()


def test_a_short_list_of_values_repeats_its_last_one_and_an_empty_one_is_zero_as_in_tensorflow():
    shape = {"dim": [{"size": 3}]}
    assert decode(TensorProto(dtype=1, tensor_shape=shape, float_val=[1, 2])).tolist() == [1, 2, 2]
    assert decode(TensorProto(dtype=7, tensor_shape=shape, string_val=[b"a"])).tolist() == [b"a"] * 3
    assert decode(TensorProto(dtype=3, tensor_shape=shape)).tolist() == [0, 0, 0]
    assert decode(TensorProto(dtype=7, tensor_shape=shape)).tolist() == [b""] * 3
    assert decode(TensorProto(dtype=1, float_val=[1])).shape == ()


@pytest.mark.parametrize("sizes", [[2**31], [2**20, 2**20], [2**62, 2**62]])
def test_a_shape_of_billions_with_one_value_is_refused_before_it_takes_memory(sizes):
    shape = {"dim": [{"size": size} for size in sizes]}
    for tensor in (TensorProto(dtype=2, tensor_shape=shape, double_val=[1]), TensorProto(dtype=7, tensor_shape=shape)):
        with pytest.raises(ValueError, match=r"^[01] values for the \d+ elements of the shape"):
            decode(tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        TensorProto(dtype=1, tensor_shape={"dim": [{"size": -1}]}, float_val=[1]),
        TensorProto(dtype=1, tensor_shape={"unknown_rank": True}, float_val=[1]),
        TensorProto(dtype=1, tensor_shape={"dim": [{"size": 2}]}, tensor_content=b"\0" * 7),
        TensorProto(dtype=20),
        TensorProto(dtype=12345),
    ],
    ids=["unknown dimension", "unknown rank", "packed bytes too short", "resource", "no such type"],
)
def test_a_tensor_that_cannot_be_read_is_a_value_error(tensor):
    with pytest.raises(ValueError, match=r"."):
        decode(tensor)


def signature_with_default(default: np.ndarray, *, shape: list[int]) -> SignatureDef:
    signature = SignatureDef()
    for name, dims in (("text", [-1]), ("option", shape)):
        signature.inputs[name].tensor_shape.SetInParent()
        for size in dims:
            signature.inputs[name].tensor_shape.dim.add(size=size)
    signature.defaults["option"].CopyFrom(tf.make_tensor_proto(default))
    return signature


@pytest.mark.parametrize(
    ("default", "shape", "expected"),
    [
        (np.int32(3), [-1], [3, 3]),
        (np.int32([3]), [-1], [3, 3]),
        (np.int32([3, 4]), [-1, 2], [[3, 4], [3, 4]]),
        (np.int32([[3, 4]]), [-1, 2], [[3, 4], [3, 4]]),
        (np.int32(3), [], 3),
        (np.int32([3]), [1], [3]),
        (np.array([b"x"], object), [-1], [b"x", b"x"]),
    ],
)
def test_a_default_is_repeated_for_each_row_where_the_input_has_one_entry_per_row(default, shape, expected):
    signature = signature_with_default(default, shape=shape)
    inputs = apply_defaults({"text": np.array([b"a", b"b"], dtype=object)}, signature)
    assert inputs["option"].tolist() == expected


def test_a_given_input_wins_over_its_default_and_nothing_is_added_for_other_missing_inputs():
    signature = signature_with_default(np.int32([3]), shape=[-1])
    assert apply_defaults({"option": np.int32([7])}, signature)["option"].tolist() == [7]
    assert apply_defaults({}, signature).keys() == {"option"}


def test_a_servable_runs_its_signatures_without_any_server(servable):
    outputs = servable.run(servable.signature(""), {"text": np.array(["GRÜN".encode()], dtype=object)})
    assert outputs["folded"].tolist() == ["grün".encode()]
    assert outputs["version"].tolist() == [1]


def test_a_failing_computation_is_an_error_with_tensorflows_code_and_no_traceback(servable):
    with pytest.raises(ServingError, match="no bad text, please") as caught:
        servable.run(servable.signature("picky"), {"text": np.array([b"bad"], dtype=object)})
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "Traceback" not in caught.value.message


def test_a_folder_without_a_saved_model_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ServingError, match=str(tmp_path)):
        Servable(tmp_path)


def test_only_signatures_with_a_batch_dimension_everywhere_are_merged(servable):
    assert servable.signature("serving_default").batchable
    assert not servable.signature("fixed").batchable


def test_inputs_that_disagree_on_the_number_of_rows_are_not_merged(servable):
    signature = servable.signature("scale")
    assert signature.rows({"x": np.zeros([3, 2]), "factor": np.zeros([3])}) == 3
    assert signature.rows({"x": np.zeros([3, 2]), "factor": np.zeros([1])}) is None


@pytest.mark.parametrize("rows", [1, None], ids=["in a batch", "alone"])
def test_a_version_is_closed_only_when_the_call_of_a_request_that_was_given_up_has_ended(rows):
    started, may_end, events = threading.Event(), threading.Event(), []

    def run(signature, inputs):
        started.set()
        assert may_end.wait(timeout=30)
        events.append("the call ended")
        return inputs

    servable = SimpleNamespace(run=run, close=lambda: events.append("closed"))
    signature = SimpleNamespace(name="slow", batchable=rows is not None, rows=lambda inputs: rows)

    async def ask(version):
        with version.in_use():
            return await version.run(signature, {"x": np.zeros([1])})

    async def give_up_and_close():
        with ThreadPoolExecutor(1) as executor:
            version = LoadedVersion(1, servable, executor, BatchingOptions())
            asking = asyncio.create_task(ask(version))
            await asyncio.to_thread(started.wait, 30)
            asking.cancel()  # as gRPC does when the client's deadline passes
            closing = asyncio.create_task(version.close())
            await asyncio.sleep(0.2)
            assert asking.cancelled()
            assert events == []
            may_end.set()
            await asyncio.wait_for(closing, timeout=30)

    asyncio.run(give_up_and_close())
    assert events == ["the call ended", "closed"]
