"""The queue that merges requests: what runs together, what is padded, what is refused."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc
import numpy as np
import pytest

from keras_attention.serving.batching import BatchQueue
from keras_attention.serving.batching_options import BatchingOptions, read_batching_options
from keras_attention.serving.errors import ServingError


def merge(run, requests, **options):
    """Submits all requests at once, and returns their answers or exceptions."""

    async def submit_all():
        with ThreadPoolExecutor(1) as executor:
            in_thread = partial(asyncio.get_running_loop().run_in_executor, executor)
            batches = BatchQueue(run, in_thread, BatchingOptions(**options))
            submissions = (batches.submit({"x": x}, len(x)) for x in requests)
            return await asyncio.wait_for(asyncio.gather(*submissions, return_exceptions=True), timeout=30)

    return asyncio.run(submit_all())


def test_requests_that_wait_together_run_together_and_get_their_own_rows():
    sizes = []

    def run(inputs):
        sizes.append(len(inputs["x"]))
        return {"y": inputs["x"] * 10}

    answers = merge(run, [np.array([1, 2]), np.array([3]), np.array([4, 5, 6])])
    assert [answer["y"].tolist() for answer in answers] == [[10, 20], [30], [40, 50, 60]]
    assert sizes == [6]


def test_a_merged_batch_stays_within_its_size_and_one_large_request_runs_as_it_is():
    sizes = []

    def run(inputs):
        sizes.append(len(inputs["x"]))
        return {"y": inputs["x"]}

    merge(run, [np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(9)], max_batch_size=4)
    assert sizes == [4, 2, 9]


def test_requests_of_different_row_shapes_are_not_concatenated():
    answers = merge(lambda inputs: {"y": inputs["x"]}, [np.zeros([1, 2]), np.zeros([1, 3]), np.zeros([2, 2])])
    assert [answer["y"].shape for answer in answers] == [(1, 2), (1, 3), (2, 2)]


def test_when_a_merged_batch_fails_only_the_guilty_request_fails():
    def run(inputs):
        if (inputs["x"] < 0).any():
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, "negative")
        return {"y": inputs["x"]}

    first, guilty, last = merge(run, [np.array([1]), np.array([-1]), np.array([2])])
    assert (first["y"].tolist(), last["y"].tolist()) == ([1], [2])
    assert isinstance(guilty, ServingError)


def test_rows_of_different_sizes_are_padded_with_zeros_or_empty_strings_where_that_is_asked_for():
    seen = []

    def run(inputs):
        seen.append(inputs["x"].tolist())
        return {"y": inputs["x"]}

    merge(run, [np.array([[1, 2]]), np.array([[3]])], pad_variable_length_inputs=True)
    merge(run, [np.array([[b"a"]], object), np.array([[b"b", b"c"]], object)], pad_variable_length_inputs=True)
    assert seen == [[[1, 2], [3, 0]], [[b"a", b""], [b"b", b"c"]]]


def test_a_batch_is_filled_up_to_an_allowed_size_and_the_answer_is_cut():
    sizes = []

    def run(inputs):
        sizes.append(len(inputs["x"]))
        return {"y": inputs["x"] * 10}

    options = {"max_batch_size": 8, "allowed_batch_sizes": (4, 8)}
    answers = merge(run, [np.array([1, 2]), np.array([3])], **options)
    assert [answer["y"].tolist() for answer in answers] == [[10, 20], [30]]
    assert merge(run, [np.arange(5)], **options)[0]["y"].tolist() == [0, 10, 20, 30, 40]
    assert merge(run, [np.zeros([0])], **options)[0]["y"].tolist() == []
    assert sizes == [4, 8, 0]


def test_an_output_that_is_not_by_row_is_not_cut_to_an_allowed_size():
    options = {"max_batch_size": 4, "allowed_batch_sizes": (4,)}
    (answer,) = merge(lambda inputs: {"total": np.array([inputs["x"].sum()])}, [np.array([1, 2])], **options)
    assert answer["total"].tolist() == [3]


def test_what_comes_to_a_full_queue_is_refused_and_what_waits_is_answered():
    answers = merge(lambda inputs: {"y": inputs["x"]}, [np.zeros(2)] * 5, max_batch_size=2, max_enqueued_batches=2)
    refused = [answer for answer in answers if isinstance(answer, ServingError)]
    assert len(refused) == 3
    assert refused[0].code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused[0].message == (
        "The batch scheduling queue to which this task was submitted is full; task size is 2 but scheduling capacity "
        "is only 0 (num_enqueued_batches=2, max_enqueued_batches=2, open_batch_size=0, max_execution_batch_size=2)"
    )


def test_requests_whose_callers_have_gone_make_room_and_do_not_run():
    ran = []

    async def submit_and_give_up():
        with ThreadPoolExecutor(1) as executor:
            in_thread = partial(asyncio.get_running_loop().run_in_executor, executor)
            options = BatchingOptions(max_batch_size=1, max_enqueued_batches=2)
            queue = BatchQueue(lambda inputs: ran.extend(inputs["x"].tolist()) or inputs, in_thread, options)
            first = [asyncio.create_task(queue.submit({"x": np.array([number])}, 1)) for number in (1, 2)]
            await asyncio.sleep(0)
            for task in first:
                task.cancel()
            await asyncio.gather(*first, return_exceptions=True)
            await queue.submit({"x": np.array([3])}, 1)

    asyncio.run(submit_and_give_up())
    assert ran == [3]


def write(path, text):
    path.write_text(text)
    return path


def test_a_batching_parameters_file_is_read_and_what_it_leaves_out_is_as_in_tensorflow_serving(tmp_path):
    text = "max_batch_size { value: 8 } batch_timeout_micros { value: 500 } allowed_batch_sizes: [2, 8]"
    options = read_batching_options(write(tmp_path / "batching", text + " pad_variable_length_inputs: true"))
    assert (options.max_batch_size, options.batch_timeout_seconds, options.max_enqueued_batches) == (8, 0.0005, 10)
    assert (tuple(options.allowed_batch_sizes), options.pad_variable_length_inputs) == ((2, 8), True)
    assert read_batching_options(None).max_batch_size == 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size { value: 4 } allowed_batch_sizes: [2, 8]", "final entry in allowed_batch_sizes must equal"),
        ("max_batch_size { value: 4 } allowed_batch_sizes: [4, 4]", "entries must be monotonically increasing"),
        ("max_batch_size { value: 0 }", "max_batch_size in .* must be at least 1. Received: 0"),
        ("max_batch_size: 4", "is no BatchingParameters: 1:17"),
        ("size { value: 4 }", 'has no field named "size"'),
    ],
)
def test_batching_parameters_that_make_no_sense_are_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(ServingError, match=message) as caught:
        read_batching_options(write(tmp_path / "batching", text))
    assert "\n" not in caught.value.message
    assert str(tmp_path / "batching") in caught.value.message
