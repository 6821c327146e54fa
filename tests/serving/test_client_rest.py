"""The client over REST, against answers as TensorFlow Serving writes them."""

import json
import time

import grpc
import numpy as np
import pytest

from keras_attention.serving.client import Client, ModelVersion, ScoredClass
from keras_attention.serving.errors import ServingError
from tests.serving.canned_rest import canned_server, metadata

MODEL = "/v1/models/m"


def ask(answers, question, **arguments):
    """What a client makes of the answers, and what it asked for."""
    with canned_server(answers) as server, Client(f"http://{server.address}", **arguments) as client:
        return question(client), server.requests


def predict(answer: bytes, inputs=None, **outputs):
    answers = {f"{MODEL}:predict": [(200, answer)], f"{MODEL}/metadata": [(200, metadata(**outputs))]}
    return ask(answers, lambda client: client.predict("m", {"x": [1.0]} if inputs is None else inputs))


def test_dtypes_and_the_name_of_a_single_output_come_from_the_metadata():
    (outputs, _) = predict(b'{"outputs": [1, 2.5, NaN, -Infinity]}', y=("DT_HALF", [-1]))
    assert outputs["y"].dtype == np.float16
    np.testing.assert_array_equal(outputs["y"], np.float16([1, 2.5, np.nan, -np.inf]))


def test_several_outputs_have_their_names_and_bytes_come_in_base64():
    answer = (
        b'{"outputs": {"id": [9007199254740993], "ok": [true], "raw_bytes": [{"b64": "/w=="}], "text": ["\xc3\xa9"]}}'
    )
    outputs, _ = predict(
        answer, id=("DT_INT64", [-1]), ok=("DT_BOOL", [-1]), raw_bytes=("DT_STRING", [-1]), text=("DT_STRING", [-1])
    )
    assert {name: (value.dtype, value.tolist()) for name, value in outputs.items()} == {
        "id": (np.int64, [2**53 + 1]),
        "ok": (np.bool_, [True]),
        "raw_bytes": (object, [b"\xff"]),
        "text": (object, ["é"]),
    }


def test_text_that_is_no_utf8_comes_back_as_surrogate_escapes():
    outputs, _ = predict(b'{"outputs": ["a\xff"]}', text=("DT_STRING", [-1]))
    assert outputs["text"][0].encode("utf-8", "surrogateescape") == b"a\xff"


def test_an_empty_output_has_the_shape_of_the_metadata():
    assert predict(b'{"outputs": []}', y=("DT_FLOAT", [-1, 3]))[0]["y"].shape == (0, 3)


def test_inputs_are_sent_in_columns_and_bytes_that_are_no_text_in_base64():
    inputs = {"text": ["é", b"\xff"], "half": np.float16([[0.5]]), "n": [1]}
    _, requests = predict(b'{"outputs": [1]}', inputs, y=("DT_FLOAT", [-1]))
    sent = {"text": ["é", {"b64": "/w=="}], "half": [[0.5]], "n": [1]}
    assert requests[0] == (f"{MODEL}:predict", {"signature_name": "serving_default", "inputs": sent})


def test_complex_numbers_are_a_type_error():
    with pytest.raises(TypeError, match="input x has complex numbers, which JSON has not"):
        predict(b"", {"x": np.complex64([1])}, y=("DT_FLOAT", [-1]))


def test_the_metadata_of_a_version_is_asked_for_once_and_a_label_is_part_of_the_path():
    pages = {}
    for version in ("versions/3", "labels/stable"):
        pages[f"{MODEL}/{version}:predict"] = [(200, b'{"outputs": [1]}')]
        pages[f"{MODEL}/{version}/metadata"] = [(200, metadata(y=("DT_FLOAT", [-1])))]
    versions = [3, 3, "stable", "stable"]
    _, requests = ask(pages, lambda client: [client.predict("m", {"x": [1]}, version=v) for v in versions])
    assert [path.removeprefix(f"{MODEL}/") for path, _ in requests] == [
        "versions/3:predict",
        "versions/3/metadata",
        "versions/3:predict",
        "labels/stable:predict",
        "labels/stable/metadata",
        "labels/stable:predict",
    ]


def test_metadata_that_no_longer_fits_the_answer_is_asked_for_again():
    answers = {
        f"{MODEL}:predict": [(200, b'{"outputs": [1]}'), (200, b'{"outputs": {"y": [1], "z": ["a"]}}')],
        f"{MODEL}/metadata": [
            (200, metadata(y=("DT_FLOAT", [-1]))),
            (200, metadata(y=("DT_INT32", [-1]), z=("DT_STRING", [-1]))),
        ],
    }
    (first, second), _ = ask(answers, lambda client: [client.predict("m", {"x": [1]}) for _ in range(2)])
    assert (first["y"].dtype, second["y"].dtype, second["z"].tolist()) == (np.float32, np.int32, ["a"])


def test_classify_and_regress_send_examples_and_read_results():
    answers = {
        f"{MODEL}:classify": [(200, b'{"results": [[["yes", 0.1], ["no", 0.9]]]}')],
        f"{MODEL}:regress": [(200, b'{"results": [0.1, 2.0]}')],
    }
    example = {"price": 1, "ratio": np.float32(0.5), "words": ["a", b"\xff"], "hot": True, "none": []}
    (classes, values), requests = ask(
        answers, lambda client: (client.classify("m", [example]), client.regress("m", [{"x": 1.0}], "double"))
    )
    assert classes == [[ScoredClass("yes", float(np.float32(0.1))), ScoredClass("no", float(np.float32(0.9)))]]
    assert (values.dtype, values.tolist()) == (np.float32, np.float32([0.1, 2]).tolist())
    sent = {"price": [1], "ratio": [0.5], "words": ["a", {"b64": "/w=="}], "hot": [1], "none": []}
    assert requests == [
        (f"{MODEL}:classify", {"signature_name": "serving_default", "examples": [sent]}),
        (f"{MODEL}:regress", {"signature_name": "double", "examples": [{"x": [1.0]}]}),
    ]


def test_the_status_is_read_as_it_is_documented():
    broken = {"error_code": "NOT_FOUND", "error_message": "no such file"}
    content = {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}},
            {"version": "2", "state": "END", "status": broken},
        ]
    }
    versions, _ = ask({MODEL: [(200, json.dumps(content).encode())]}, lambda client: client.status("m"))
    assert versions == [ModelVersion(2, "END", "no such file"), ModelVersion(1, "AVAILABLE", "")]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_ARGUMENT"),
        (404, "NOT_FOUND"),
        (418, "UNKNOWN"),
        (429, "RESOURCE_EXHAUSTED"),
        (500, "INTERNAL"),
        (501, "UNIMPLEMENTED"),
        (503, "UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
    ],
)
def test_a_status_becomes_the_code_and_its_message_stays(status, code):
    with pytest.raises(ServingError, match=f"^{code}: what is wrong$"):
        ask({MODEL: [(status, b'{ "error": "what is wrong" }')]}, lambda client: client.status("m"), retries=0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, b"<html>"), "INTERNAL: http://.* does not answer as TensorFlow Serving's REST does: no JSON object"),
        ((200, b'{"other": 1}'), "does not answer as TensorFlow Serving's REST does"),
        ((502, b"<html>bad gateway"), "UNAVAILABLE: HTTP status 502 from http://.*: '<html>bad gateway'"),
    ],
)
def test_something_else_that_speaks_http_is_told(answer, message):
    with pytest.raises(ServingError, match=message):
        ask({f"{MODEL}:regress": [answer]}, lambda client: client.regress("m", [{"x": 1.0}]), retries=0)


def test_the_metadata_counts_for_the_deadline_too():
    answers = {f"{MODEL}:predict": [(200, b'{"outputs": [1]}', 0.2)], f"{MODEL}/metadata": [(200, metadata(), 5)]}
    start = time.monotonic()
    with pytest.raises(ServingError, match=r"no answer from http://.* within 0\.5 s") as caught:
        ask(answers, lambda client: client.predict("m", {"x": [1]}, timeout=0.5))
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - start < 3


def test_an_address_may_have_a_path_and_a_name_any_characters():
    answers = {"/serving/v1/models/a%2Fb%20c": [(200, b'{"model_version_status": []}')]}
    with canned_server(answers) as server, Client(f"http://{server.address}/serving/") as client:
        assert client.status("a/b c") == []
