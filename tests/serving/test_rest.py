"""The REST API of a real server: what it answers to requests that are right, and that gRPC answers the same."""

import base64
import http.client
import json
import shutil
import subprocess
import urllib.request

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tests.serving.asking import TIMEOUT, example_list, predict_request
from tests.serving.conftest import DTYPES

TOY, EXAMPLES, TYPES = "/v1/models/toy", "/v1/models/examples", "/v1/models/types"
on_a_server = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def predictions(rest_server):
    with grpc.insecure_channel(rest_server.address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def test_rows_of_one_input_give_objects_of_several_outputs(rest):
    answer = rest.post(f"{TOY}:predict", {"instances": ["AbC", {"b64": "/wBB"}]})
    assert answer.code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == {
        "predictions": [
            {"folded": "abc", "length": 3, "raw_bytes": {"b64": "QWJD"}, "version": 1},
            {"folded": "\N{REPLACEMENT CHARACTER}\0a", "length": 3, "raw_bytes": {"b64": "/wBB"}, "version": 1},
        ]
    }


def test_columns_of_one_input_give_columns_of_several_outputs(rest):
    expected = {"folded": ["a", "b"], "length": [1, 1], "raw_bytes": [{"b64": "QQ=="}, {"b64": "Qg=="}]}
    for inputs in (["A", "B"], {"text": ["A", "B"]}):
        assert rest.answer(f"{TOY}:predict", {"inputs": inputs}) == {"outputs": {**expected, "version": [1, 1]}}


def test_a_single_output_drops_its_name(rest):
    rows = [{"x": [1, 2.5], "factor": 3}, {"x": [0, -1], "factor": 0.5}]
    body = {"signature_name": "scale", "instances": rows}
    assert rest.answer(f"{TOY}:predict", body) == {"predictions": [[3.0, 7.5], [0.0, -0.5]]}
    columns = {"x": [[1, 2.5], [0, -1]], "factor": [3, 0.5]}
    body = {"signature_name": "scale", "inputs": columns}
    assert rest.answer(f"{TOY}:predict", body) == {"outputs": [[3.0, 7.5], [0.0, -0.5]]}


def test_inputs_with_a_default_may_be_left_out(rest):
    body = {"signature_name": "scale", "instances": [{"x": [1, 2]}, {"x": [3, 4]}]}
    assert rest.answer(f"{TOY}:predict", body) == {"predictions": [[2.0, 4.0], [6.0, 8.0]]}
    body = {"signature_name": "scale", "inputs": {"x": [[1, 2]]}}
    assert rest.answer(f"{TOY}:predict", body) == {"outputs": [[2.0, 4.0]]}


def test_an_input_without_dimensions_is_a_column_and_no_row(rest):
    assert rest.answer(f"{TYPES}:predict", {"signature_name": "scalar", "inputs": 1.5}) == {"outputs": 3.0}


def test_an_empty_column_gives_an_empty_answer(rest):
    assert rest.answer(f"{TYPES}:predict", {"signature_name": "text", "inputs": []}) == {"outputs": []}


@pytest.mark.parametrize("place", ["", "/versions/1", "/labels/stable"])
def test_a_version_is_asked_for_by_number_or_label(rest, place):
    assert rest.answer(f"{TOY}{place}:predict", {"instances": ["a"]})["predictions"][0]["version"] == 1
    for path in (f"{TOY}{place}", f"{TOY}{place}/metadata"):
        assert rest.get(path).code == 200


def test_paths_are_matched_without_case_and_names_are_decoded(rest):
    assert rest.answer("/V1/Models/%74oy:PREDICT", {"instances": ["a"]})["predictions"][0]["length"] == 1
    assert rest.get("/v1/models/toy?pretty=1").code == 200


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype not in ("bool", "float16")])
def test_the_limits_of_each_dtype_pass_both_ways(rest, dtype):
    kind = np.dtype(dtype)
    if kind.kind == "f":
        limits = np.finfo(kind)
        values = [limits.max, limits.min, limits.tiny, limits.smallest_subnormal, 0.1, 2**24 - 1, 1e10, 0.0]
        values = [float(np.array(value, kind)) for value in values]
    else:
        limits = np.iinfo(kind)
        values = [int(limits.min), 0, int(limits.max)]
    got = rest.answer(f"{TYPES}:predict", {"signature_name": dtype, "instances": values})["predictions"]
    assert np.array(got, kind).tobytes() == np.array(values, kind).tobytes()
    assert {type(value) for value in got} == {float if kind.kind == "f" else int}


def test_booleans_pass(rest):
    body = {"signature_name": "bool", "inputs": [[True, False]]}
    assert rest.answer(f"{TYPES}:predict", body) == {"outputs": [[True, False]]}


def test_not_a_number_and_infinities_are_taken_and_written_by_their_names(rest):
    body = b'{"signature_name": "divide", "inputs": {"x": [0, 1, -1, 1, NaN, Infinity], "y": [0, 0, 0, 10, 1, 1]}}'
    answer = rest.post(f"{TYPES}:predict", body)
    assert answer.body == b'{"outputs": [NaN, Infinity, -Infinity, 0.1, NaN, Infinity]}'
    rows = b'{"signature_name": "float64", "instances": [NaN, -Infinity, 0.1]}'
    assert rest.post(f"{TYPES}:predict", rows).body == b'{"predictions": [NaN, -Infinity, 0.1]}'


@on_a_server
@given(rows=st.lists(st.tuples(*[st.floats(width=32, allow_nan=False)] * 3), min_size=1, max_size=20))
def test_numbers_are_those_of_grpc_bit_for_bit(rest, predictions, rows):
    x, factor = np.float32([row[:2] for row in rows]), np.float32([row[2] for row in rows])
    request = predict_request("name: 'toy' signature_name: 'scale'", x=x, factor=factor)
    expected = tf.make_ndarray(predictions.Predict(request, timeout=TIMEOUT).outputs["y"])
    instances = [{"x": list(row[:2]), "factor": row[2]} for row in rows]
    got = rest.answer(f"{TOY}:predict", {"signature_name": "scale", "instances": instances})["predictions"]
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(np.float32(got)), nan)
    assert np.float32(got)[~nan].tobytes() == expected[~nan].tobytes()


@on_a_server
@given(strings=st.lists(st.binary(max_size=200), min_size=1, max_size=10))
def test_any_bytes_come_back_from_base64(rest, strings):
    values = [{"b64": base64.b64encode(string).decode()} for string in strings]
    for key, answer in (("instances", "predictions"), ("inputs", "outputs")):
        got = rest.answer(f"{TYPES}:predict", {"signature_name": "echo", key: values})[answer]
        assert [base64.b64decode(value["b64"]) for value in got] == strings


@on_a_server
@given(strings=st.lists(st.text(max_size=50), min_size=1, max_size=10))
def test_any_text_comes_back(rest, strings):
    body = {"signature_name": "text", "instances": strings}
    assert rest.answer(f"{TYPES}:predict", body) == {"predictions": strings}


def test_base64_may_lack_its_padding_and_have_spaces(rest):
    body = {"signature_name": "echo", "instances": [{"b64": "YQ"}, {"b64": "Y W\nI="}]}
    assert rest.answer(f"{TYPES}:predict", body) == {"predictions": [{"b64": "YQ=="}, {"b64": "YWI="}]}


def test_classify_gives_labels_and_scores_as_grpc_does(rest, predictions):
    request = classification_pb2.ClassificationRequest(model_spec={"name": "examples"}, input=example_list(0.3, 1))
    response = predictions.Classify(request, timeout=TIMEOUT)
    expected = [[[c.label, c.score] for c in row.classes] for row in response.result.classifications]
    got = rest.answer(f"{EXAMPLES}:classify", {"examples": [{"x": 0.3}, {"x": [1.0]}]})["results"]
    assert [[[label, float(np.float32(score))] for label, score in row] for row in got] == expected


def test_regress_gives_values_as_grpc_does(rest, predictions):
    spec = {"name": "examples", "signature_name": "regress"}
    request = regression_pb2.RegressionRequest(model_spec=spec, input=example_list(0.3, 1))
    response = predictions.Regress(request, timeout=TIMEOUT)
    body = {"signature_name": "regress", "examples": [{"x": 0.3}, {"x": 1.0}]}
    got = rest.answer(f"{EXAMPLES}/versions/1:regress", body)["results"]
    assert np.float32(got).tolist() == [entry.value for entry in response.result.regressions]


def test_the_context_is_added_to_every_example(rest):
    body = {"signature_name": "regress", "context": {"shift": 0.5}, "examples": [{"x": 0.25}, {"x": 0.5, "more": "a"}]}
    assert rest.answer(f"{EXAMPLES}:regress", body) == {"results": [1.5, 2.0]}


def test_status_is_the_message_of_grpc_in_json(rest):
    answer = rest.get(EXAMPLES).json
    response = json_format.ParseDict(answer, get_model_status_pb2.GetModelStatusResponse())
    (entry,) = response.model_version_status
    assert (entry.version, entry.state, entry.status.error_message) == (1, entry.AVAILABLE, "")
    status = {"error_code": "OK", "error_message": ""}
    assert answer == {"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": status}]}


def test_metadata_holds_the_signatures(rest):
    answer = rest.get(f"{TOY}/metadata").json
    assert answer["model_spec"] == {"name": "toy", "signature_name": "", "version": "1"}
    signatures = answer["metadata"]["signature_def"]
    assert signatures["signature_def"]["scale"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
    parsed = json_format.ParseDict(signatures, get_model_metadata_pb2.SignatureDefMap())
    assert set(parsed.signature_def["scale"].inputs) == {"x", "factor"}


def test_many_requests_pass_on_one_connection(rest):
    connection = http.client.HTTPConnection(rest.address, timeout=TIMEOUT)
    for text in ("a", "bc", "def"):
        connection.request("POST", f"{TOY}:predict", json.dumps({"instances": [text]}))
        answer = json.loads(connection.getresponse().read())
        assert answer["predictions"][0]["length"] == len(text)
    connection.close()


def test_a_body_of_many_megabytes_passes(rest):
    text = "y" * 6_000_000
    assert rest.answer(f"{TYPES}:predict", {"signature_name": "text", "instances": [text]}) == {"predictions": [text]}


def test_pages_of_other_servers_may_ask_if_cors_is_on(rest):
    preflight = rest.ask("OPTIONS", f"{TOY}:predict", Origin="https://example.com")
    assert preflight.code == 200
    for answer in (preflight, rest.get(TOY), rest.get("/v1/models/m")):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-methods"] == "POST, GET"
        assert answer.headers["access-control-allow-headers"] == "Content-Type"


def test_urllib_asks(rest):
    request = urllib.request.Request(f"http://{rest.address}{TOY}:predict", b'{"instances": ["Ab"]}')
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        assert json.load(response)["predictions"][0]["folded"] == "ab"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl asks")
def test_curl_asks(rest):
    def curl(*arguments):
        command = ["curl", "--silent", "--show-error", "--max-time", "30", *arguments]
        return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)

    url = f"http://{rest.address}{TOY}"
    assert curl(url)["model_version_status"][0]["state"] == "AVAILABLE"
    assert curl("-d", '{"instances": ["Ab"]}', "-X", "POST", f"{url}:predict")["predictions"][0]["folded"] == "ab"
    assert "error" in curl("-d", "{}", f"{url}:predict")
