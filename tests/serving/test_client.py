"""The client against a real server, and against none."""

import socket
import subprocess
import sys

import grpc
import numpy as np
import pytest

from keras_attention.serving.client import Client
from keras_attention.serving.errors import ServingError


def test_the_client_does_not_import_tensorflow_and_leaves_it_importable():
    code = (
        "import sys, keras_attention.serving.client\n"
        "assert 'tensorflow' not in sys.modules\n"
        "import tensorflow as tf\n"
        "from keras_attention.serving.protocol import TensorProto\n"
        "assert type(tf.make_tensor_proto(1.0)) is TensorProto\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize(
    "text",
    [["Ab", "CD"], [b"Ab", b"CD"], ("Ab", b"CD"), np.array(["Ab", "CD"]), np.array([b"Ab", b"CD"], dtype=object)],
    ids=["str", "bytes", "tuple of both", "array of str", "object array"],
)
def test_text_goes_in_as_str_or_bytes_and_comes_out_as_str(client, text):
    outputs = client.predict("toy", {"text": text})
    assert outputs["folded"].tolist() == ["ab", "cd"]
    assert outputs["length"].dtype == np.int32


def test_an_output_named_bytes_comes_out_as_bytes(client):
    assert client.predict("toy", {"text": [b"\xff\0"]})["raw_bytes"].tolist() == [b"\xff\0"]


def test_bytes_that_are_no_utf8_come_back_as_surrogate_escapes_that_can_be_sent_again(client):
    (text,) = client.predict("toy", {"text": [b"a\xff"]}, signature="picky")["text"]
    assert text.encode("utf-8", "surrogateescape") == b"a\xff"
    assert client.predict("toy", {"text": [text]})["raw_bytes"].tolist() == [b"a\xff"]


def test_bytes_that_are_no_ascii_may_stand_beside_a_str(client):
    outputs = client.predict("toy", {"text": [b"\xff\xfe", "when"]})
    assert outputs["raw_bytes"].tolist() == [b"\xff\xfe", b"when"]


def test_an_empty_list_is_an_error_that_asks_for_its_type_and_an_empty_array_is_sent(client):
    with pytest.raises(ValueError, match=r"input text is an empty list.* np\.array\(\[\], object\)"):
        client.predict("toy", {"text": []})
    assert client.predict("toy", {"text": np.array([], object)})["length"].shape == (0,)


def test_plain_python_numbers_are_taken_as_float32_and_int32(client):
    assert client.predict("toy", {"x": [[1.0, 2.0]]}, signature="scale")["y"].tolist() == [[2.0, 4.0]]
    assert client.predict("toy", {"rounds": [1]}, signature="spin")["rounds"].tolist() == [1]
    with pytest.raises(OverflowError):
        client.predict("toy", {"rounds": [2**40]}, signature="spin")


def test_values_that_no_tensor_can_hold_are_a_type_error_that_names_the_input(client):
    with pytest.raises(TypeError, match=r"input text must hold numbers, str or bytes\. Received: NoneType"):
        client.predict("toy", {"text": [None]})


def test_status_and_metadata_describe_the_model(client):
    (version,) = client.status("toy")
    assert (version.version, version.state, version.error) == (1, "AVAILABLE", "")
    signatures = client.metadata("toy", version=1)
    assert signatures["scale"] == {
        "method": "predict",
        "inputs": {
            "x": {"dtype": "float32", "shape": [None, 2]},
            "factor": {"dtype": "float32", "shape": [None], "default": [2.0]},
        },
        "outputs": {"y": {"dtype": "float32", "shape": [None, 2]}},
    }
    assert signatures["serving_default"]["inputs"] == {"text": {"dtype": "string", "shape": [None]}}
    assert set(signatures) == {"serving_default", "scale", "fixed", "picky", "distinct", "widths", "spin"}


def test_the_servers_status_and_message_are_raised(client):
    with pytest.raises(ServingError, match=r"^NOT_FOUND: Servable not found for request: Latest\(other\)$") as caught:
        client.predict("other", {"text": ["a"]})
    assert caught.value.code == grpc.StatusCode.NOT_FOUND


def test_an_unreachable_server_is_named(unused_address):
    with (
        Client(unused_address, timeout=5) as client,
        pytest.raises(ServingError, match=f"UNAVAILABLE: no server answers at {unused_address}"),
    ):
        client.predict("toy", {"text": ["a"]})


def test_waiting_for_a_server_that_never_comes_ends_in_time_and_says_why(unused_address):
    with (
        Client(unused_address) as client,
        pytest.raises(ServingError, match=r"model toy at .* is not ready after 0.5 s: UNAVAILABLE"),
    ):
        client.wait_until_ready("toy", timeout=0.5)


def test_waiting_returns_at_once_when_the_model_is_in_service(client):
    client.wait_until_ready("toy", timeout=5)


def test_an_answer_that_takes_too_long_is_an_error_that_says_how_long(toy_address):
    with (
        Client(toy_address, timeout=0.1) as client,
        pytest.raises(ServingError, match=f"DEADLINE_EXCEEDED: no answer from {toy_address} within 0.1 s"),
    ):
        client.predict("toy", {"rounds": [1000]}, signature="spin")


@pytest.fixture
def unused_address():
    """An address that nobody listens on: the port is bound, and so not given to anybody else."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"
