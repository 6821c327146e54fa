"""What the REST API refuses, with TensorFlow Serving's codes and messages, and what becomes of abandoned requests."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.asking import wait_until
from tests.serving.http_asking import TIMEOUT, Rest, free_port

TOY, EXAMPLES, TYPES = "/v1/models/toy", "/v1/models/examples", "/v1/models/types"
ROW = "Failed to process element: "
LIST = " of 'instances' list. Error: INVALID_ARGUMENT: "


@pytest.mark.parametrize(
    ("method", "path", "code", "message"),
    [
        ("GET", "/", 404, "Not found: GET /"),
        ("GET", "/v2/models/toy", 404, "Not found: GET /v2/models/toy"),
        ("GET", "/v1/models/toy/x", 400, "Malformed request: GET /v1/models/toy/x"),
        ("GET", f"{TOY}:predict", 400, f"Malformed request: GET {TOY}:predict"),
        ("POST", TOY, 400, f"Malformed request: POST {TOY}"),
        ("PUT", f"{TOY}:predict", 400, f"Malformed request: PUT {TOY}:predict"),
        ("DELETE", TOY, 400, f"Malformed request: DELETE {TOY}"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/m", 404, "Could not find any versions of model m"),
        ("GET", f"{TOY}/versions/7", 404, "Could not find version 7 of model toy"),
        ("GET", f"{TOY}/versions/{10**20}", 400, f"Failed to convert version: {10**20} to numeric."),
        ("GET", f"{TOY}/labels/x", 400, "Unrecognized servable version label: x"),
        ("GET", "/v1/models/m/metadata", 404, "Servable not found for request: Latest(m)"),
        ("POST", "/v1/models/m:predict", 404, "Servable not found for request: Latest(m)"),
        ("POST", f"{TOY}/versions/7:predict", 404, "Servable not found for request: Specific(toy, 7)"),
        ("POST", f"{TOY}/labels/x:predict", 400, "Unrecognized servable version label: x"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused(rest, method, path, code, message):
    answer = rest.ask(method, path, b'{"instances": ["a"]}' if method == "POST" else None)
    assert (answer.code, answer.json) == (code, {"error": message})
    assert answer.headers["content-type"] == "application/json"


def quoted(value) -> str:
    return f"JSON Value: {json.dumps(value, indent=4)}"


def named(value) -> str:
    return f"JSON object: {json.dumps(value, indent=4)}"


def of(signature: str, **body):
    return {"signature_name": signature, **body}


PREDICT = [
    (of("x", instances=[1]), 400, 'Serving signature name: "x" not found in signature def'),
    ({"signature_name": 1}, 400, quoted({"signature_name": 1})
     + " not formatted correctly. 'signature_name' key must be a string value."),
    ({}, 400, "Missing 'inputs' or 'instances' key"),
    ([1], 400, quoted([1]) + " Is not object"),
    ({"instances": [], "inputs": []}, 400, quoted({"instances": [], "inputs": []})
     + " Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "),
    ({"instances": "a"}, 400, quoted({"instances": "a"}) + " Excepting 'instances' to be an list/array"),
    ({"instances": []}, 400, quoted({"instances": []}) + " No values in 'instances' array"),
    ({"instances": [1]}, 400, f"{ROW}0{LIST}JSON Value: 1 Type: Number is not of expected type: string"),
    ({"instances": ["a", True]}, 400, f"{ROW}1{LIST}JSON Value: true Type: True is not of expected type: string"),
    ({"instances": [None]}, 400, f"{ROW}0{LIST}JSON Value: null Type: Null is not of expected type: string"),
    ({"instances": ["a", ["b"]]}, 400, f"{ROW}1{LIST}Expecting shape [] but got: [1]"),
    ({"instances": [["a"], ["b", "c"]]}, 400, f"{ROW}1{LIST}Expecting tensor size: 1 but got: 2"),
    ({"instances": [["a", ["b"]]]}, 400, f"{ROW}0{LIST}Encountered list at unexpected level: 1 expected < 1"),
    ({"instances": [[["a"], "b"]]}, 400,
     f'{ROW}0{LIST}JSON Value: "b" found at incorrect level: 2 in the JSON DOM. Expected at level: 2'),
    ({"instances": [[["a"], ["b", "c"]]]}, 400,
     f"{ROW}0{LIST}Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
    ({"instances": [["a"]]}, 400, "Input text of signature serving_default expects shape [?] but [1,1] is provided"),
    ({"instances": [{"b64": "!"}]}, 400, f"{ROW}0{LIST}Unable to base64 decode"),
    ({"inputs": [{"b64": 1}]}, 400, quoted({"b64": 1}) + " not formatted correctly for base64 data"),
    ({"instances": ["a", {"text": "b"}]}, 400, "Expecting value/list but got object at item 1 of input list"),
    ({"instances": [{"text": "b"}, "a"]}, 400, "Expecting object but got list at item 1 of input list"),
    ({"instances": [{"x": "b"}]}, 400, f"{ROW}0 key: x{LIST}JSON object: does not have named input: x"),
    (of("scale", instances=[1]), 400, "instances is a plain list, but expecting list of objects as multiple input "
     "tensors required as per tensorinfo_map"),
    (of("scale", inputs=[1]), 400, "inputs is a plain value/list, but expecting an object as multiple input "
     "tensors required as per tensorinfo_map"),
    (of("scale", inputs={"factor": [1]}), 400, "Missing named input: x in 'inputs' object."),
    (of("scale", instances=[{"factor": 1}]), 400,
     f"{ROW}0 of 'instances' list. {named({'factor': 1})} must only have keys: factor,x"),
    (of("scale", instances=[{"x": [1, 2]}, {"x": [1, 2], "factor": 1}]), 400,
     f"{ROW}1 of 'instances' list. {named({'x': [1, 2], 'factor': 1})} must only have keys: factor,x"),
    (of("scale", inputs={"x": [[1, 2, 3]]}), 400,
     "Input x of signature scale expects shape [?,2] but [1,3] is provided"),
    (of("scale", inputs={"x": [[1, "2"]]}), 400, 'JSON Value: "2" Type: String is not of expected type: float'),
    (of("scale", inputs={"x": [[1, True]]}), 400, "JSON Value: true Type: True is not of expected type: float"),
    (of("float32", inputs=2**24), 400, "Cannot convert JSON value: 16777216 to float without loss of precision."),
    (of("float32", inputs=[0.5, -(2**24)]), 400,
     "Cannot convert JSON value: -16777216 to float without loss of precision."),
    (of("float32", inputs=1e39), 400, "Cannot convert JSON value: 1e+39 to float without loss of precision."),
    (of("float64", inputs=2**53), 400, f"Cannot convert JSON value: {2**53} to double without loss of precision."),
    (of("int32", inputs=1.0), 400, "JSON Value: 1.0 Type: Number is not of expected type: int32"),
    (of("int32", inputs=2**31), 400, f"JSON Value: {2**31} Type: Number is not of expected type: int32"),
    (of("int32", inputs=True), 400, "JSON Value: true Type: True is not of expected type: int32"),
    (of("int64", inputs=2**63), 400, f"JSON Value: {2**63} Type: Number is not of expected type: int64"),
    (of("uint8", inputs=-1), 400, "JSON Value: -1 Type: Number is not of expected type: uint8"),
    (of("bool", inputs=1), 400, "JSON Value: 1 Type: Number is not of expected type: bool"),
    (of("float16", inputs=1), 501, "Conversion of JSON Value: 1 to type: half"),
    (of("scalar", instances=[1]), 400, "Input x of signature scalar expects shape [] but [1] is provided"),
    (of("uneven", instances=[1, 2, 3]), 400, "Tensor name: two has inconsistent batch size: 2 expecting: 3"),
]  # fmt: skip
ON_TYPES = {"float32", "float64", "int32", "int64", "uint8", "bool", "float16", "scalar", "uneven"}


@pytest.mark.parametrize(("body", "code", "message"), PREDICT, ids=[message[-60:] for _, _, message in PREDICT])
def test_a_predict_request_that_does_not_fit_is_refused(rest, body, code, message):
    model = TYPES if isinstance(body, dict) and body.get("signature_name") in ON_TYPES else TOY
    answer = rest.post(f"{model}:predict", body)
    assert (answer.code, answer.json["error"]) == (code, message)


def test_a_computation_that_fails_is_refused_with_tensorflows_message(rest):
    answer = rest.post(f"{TOY}:predict", of("picky", instances=["bad"]))
    assert answer.code == 400
    assert "no bad text, please" in answer.json["error"]


numbers = st.one_of(st.floats(), st.integers(-3, 2**65), st.booleans(), st.none(), st.text(max_size=3))
values = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["x", "factor", "text", "b64", "context"]), inner, max_size=2),
    ),
    max_leaves=6,
)
bodies = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("instances", "inputs", "examples", "context", "signature_name"), values)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(
        st.binary(max_size=30), values, bodies, bodies.map(lambda body: {**body, "signature_name": "scale"})
    ),
    method=st.sampled_from(["predict", "classify", "regress"]),
)
def test_whatever_is_sent_is_answered_and_never_the_servers_fault(rest, body, method):
    answer = rest.post(f"{TOY}:{method}", body)
    assert answer.code in (200, 400)
    assert answer.code == 200 or list(answer.json) == ["error"]


EXAMPLE_REFUSALS = [
    ({}, quoted({}) + " When method is classify, key 'examples' is expected and was not found"),
    ({"examples": {}}, quoted({"examples": {}}) + " Expecting 'examples' value to be an list/array"),
    ({"examples": []}, quoted({"examples": []}) + " 'examples' value is an empty array"),
    ({"examples": ["a"]}, "Example must be JSON object but got JSON String"),
    ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
    ({"examples": [{"x": [[1]]}]}, "Feature: x has element with unexpected JSON type: Array"),
    ({"examples": [{"x": {"y": 1}}]}, "Feature: x has element with unexpected JSON type: Object"),
    ({"examples": [{"x": [1.5, 1]}]}, "Unexpected element type in feature: x expecting type: float"),
    ({"examples": [{"x": [1, "a"]}]}, "Unexpected element type in feature: x expecting type: int64"),
    ({"examples": [{"x": ["a", True]}]}, "Unexpected element type in feature: x expecting type: bytes"),
    ({"examples": [{"x": 2**63}]}, "Feature: x has uint64 element. Only int64 is supported."),
    ({"examples": [{"x": 1e39}]}, "Cannot convert JSON value: 1e+39 to float without loss of precision."),
    ({"examples": [{"x": {"b64": "!"}}]}, "Unable to base64 decode"),
    (of("x", examples=[{"x": 1.0}]), "No signature was found with the name: x"),
    (of("regress", examples=[{"x": 1.0}]), "Expected classification signature method_name to be "
     "tensorflow/serving/classify. Was: tensorflow/serving/regress"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message"), EXAMPLE_REFUSALS, ids=[message[-60:] for _, message in EXAMPLE_REFUSALS])
def test_a_classify_request_that_does_not_fit_is_refused(rest, body, message):
    answer = rest.post(f"{EXAMPLES}:classify", body)
    assert (answer.code, answer.json["error"]) == (400, message)


def test_what_takes_too_long_is_given_up(rest):
    begin = time.monotonic()
    answer = rest.post(f"{TOY}:predict", of("spin", instances=[6000]))
    assert (answer.code, answer.json) == (504, {"error": "Timed out waiting for notification"})
    assert 1.9 < time.monotonic() - begin < 10
    assert rest.answer(f"{TOY}:predict", {"instances": ["a"]})  # nothing else is held up


def test_a_request_whose_client_has_gone_leaves_the_queue_and_a_full_queue_is_429(start_server, toy_path, tmp_path):
    monitoring, batching = tmp_path / "monitoring.config", tmp_path / "batching.config"
    monitoring.write_text("prometheus_config { enable: true path: '/metrics' }")
    batching.write_text("max_batch_size { value: 1 } num_batch_threads { value: 1 } max_enqueued_batches { value: 1 }")
    port = free_port()
    server = start_server(
        toy_path,
        f"--rest_api_port={port}",
        f"--monitoring_config_file={monitoring}",
        "--enable_batching",
        f"--batching_parameters_file={batching}",
    )
    address = f"127.0.0.1:{port}"
    assert server.wait_for_line().endswith(f" (gRPC), {address} (REST)")
    rest = Rest(address)

    def counted(metric):
        return f":tensorflow:serving:{metric} " in rest.get("/metrics").body.decode()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(rest.answer, f"{TOY}:predict", of("spin", instances=[3000]))
        wait_until(lambda: counted("batching_session:wrapped_run_count{}"))
        body = json.dumps(of("spin", instances=[100_000])).encode()
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
            head = f"POST {TOY}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            time.sleep(0.1)  # by then it waits
            full = rest.post(f"{TOY}:predict", of("spin", instances=[1]))
        assert full.code == 429
        assert full.json["error"].startswith("The batch scheduling queue to which this task was submitted is full")
        wait_until(lambda: counted('request_count{model_name="toy",status="CANCELLED"}'))
        assert running.result(timeout=TIMEOUT)["predictions"][0]["rounds"] == 3000
    # It would wait for a minute behind the request whose client has gone.
    assert rest.answer(f"{TOY}:predict", of("spin", instances=[1]))
    assert rest.get("/monitoring/prometheus/metrics").code == 404
    assert "Traceback" not in server.log.read_text()
