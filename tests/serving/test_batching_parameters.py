"""A server with a batching parameters file."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from keras_attention.serving.client import Client
from keras_attention.serving.errors import ServingError
from tests.server_process import Server

PARAMETERS = """
max_batch_size { value: 4 }
batch_timeout_micros { value: 300000 }
max_enqueued_batches { value: 2 }
num_batch_threads { value: 1 }
allowed_batch_sizes: 2
allowed_batch_sizes: 4
pad_variable_length_inputs: true
"""


@pytest.fixture(scope="module")
def client(toy_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("batching")
    (folder / "parameters").write_text(PARAMETERS)
    flags = ("--enable_batching=true", f"--batching_parameters_file={folder / 'parameters'}")
    server = Server(toy_path, "toy", folder / "log", *flags)
    try:
        with Client(server.wait_for_address()) as client:
            yield client
    finally:
        server.close()


def widths(client, *ids):
    return client.predict("toy", {"ids": np.array(ids, np.int32)}, signature="widths")


def test_a_batch_is_filled_up_to_an_allowed_size_and_the_answer_is_cut(client):
    outputs = widths(client, [1, 2])
    assert outputs["rows"].tolist() == [2]
    assert outputs["total"].tolist() == [3]


def test_requests_of_different_widths_wait_for_one_another_and_run_as_one_batch(client):
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda width: widths(client, [1] * width), (1, 2, 3, 4)))
    assert [answer["total"].tolist() for answer in answers] == [[1], [2], [3], [4]]
    assert [(answer["rows"][0], answer["columns"][0]) for answer in answers] == [(4, 4)] * 4


def test_a_request_larger_than_a_batch_is_refused_as_in_tensorflow_serving(client):
    message = "INVALID_ARGUMENT: Task size 5 is larger than maximum input batch size 4"
    with pytest.raises(ServingError, match=message):
        widths(client, *[[1]] * 5)


def test_a_full_queue_refuses_and_answers_what_it_has_taken(client):
    def spin(_):
        try:
            return client.predict("toy", {"rounds": np.int32([100] * 4)}, signature="spin")["rounds"].tolist()
        except ServingError as error:
            return error.code, error.message.partition(";")[0]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(spin, range(16)))
    message = "The batch scheduling queue to which this task was submitted is full"
    assert (grpc.StatusCode.RESOURCE_EXHAUSTED, message) in answers
    assert [100] * 4 in answers
