"""The metrics: their names and numbers, as Prometheus reads them from a real server, and added up."""

import pickle

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tensorflow_serving.apis import inference_pb2, prediction_service_pb2_grpc

from keras_attention.serving.metrics import Metrics, add, render
from tests.serving.asking import TIMEOUT, example_list, predict_request, refusal

PAGE = "/monitoring/prometheus/metrics"
PREFIX = ":tensorflow:serving:"


def parsed(page: str) -> dict[tuple, float]:
    """Every sample of a page by its name, without the common prefix, and its labels."""
    return {
        (sample.name.removeprefix(PREFIX), *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def increase(rest, work) -> dict[tuple, float]:
    """How much each sample grows while something is done."""
    before = parsed(rest.get(PAGE).body.decode())
    work()
    after = parsed(rest.get(PAGE).body.decode())
    return {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}


def labels(**values):
    return tuple(sorted(values.items()))


@pytest.fixture(scope="module")
def predictions(rest_server):
    with grpc.insecure_channel(rest_server.address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def test_grpc_and_rest_requests_are_counted_alike(rest, predictions):
    def work():
        predictions.Predict(predict_request(text=["a", "b"]), timeout=TIMEOUT)
        rest.answer("/v1/models/toy:predict", {"instances": ["a", "b", "c"]})
        rest.answer("/v1/models/toy:predict", {"instances": ["a"]})

    grown = increase(rest, work)
    assert grown["request_count_total", *labels(model_name="toy", status="OK")] == 3
    for api, entrypoint, count in (("Predict", "GRPC", 1), ("predict", "REST", 2)):
        series = labels(model_name="toy", API=api, entrypoint=entrypoint)
        assert grown["request_latency_count", *series] == count
        assert 100 < grown["request_latency_sum", *series] < 1e7 * count
        last = labels(model_name="toy", API=api, entrypoint=entrypoint, le="+Inf")
        assert grown["request_latency_bucket", *last] == count
    assert grown["runtime_latency_count", *labels(model_name="toy", API="Predict", runtime="TF1")] == 3
    assert grown["request_example_count_total", *labels(model="toy")] == 6
    assert grown["request_example_counts_sum", *labels(model="toy")] == 6
    assert grown["batching_session:wrapped_run_count_total",] == 3
    assert grown["batching_session:processed_batch_size_sum",] == 6
    pool = labels(thread_pool_name="model_server_batch_threads")
    assert grown["batching_session:queuing_latency_count", *pool] == 3


def test_refusals_are_counted_by_status_and_without_latency(rest, predictions):
    def work():
        refusal(predictions.Predict, predict_request())
        rest.post("/v1/models/toy:predict", b"nonsense")
        rest.post("/v1/models/made-up:predict", {"instances": [1]})
        refusal(predictions.Predict, predict_request("name: 'made-up too'"))

    grown = increase(rest, work)
    assert grown == {
        ("request_count_total", *labels(model_name="toy", status="INVALID_ARGUMENT")): 2,
        # Names that clients make up have one line together.
        ("request_count_total", *labels(model_name="", status="NOT_FOUND")): 2,
    }


def test_classify_regress_and_multi_inference_are_counted(rest, predictions):
    request = inference_pb2.MultiInferenceRequest(input=example_list(1.0))
    request.tasks.add(model_spec={"name": "examples"}, method_name="tensorflow/serving/classify")

    def work():
        rest.answer("/v1/models/examples:classify", {"examples": [{"x": 1.0}]})
        rest.answer("/v1/models/examples:regress", {"signature_name": "regress", "examples": [{"x": 1.0}]})
        predictions.MultiInference(request, timeout=TIMEOUT)

    grown = increase(rest, work)
    assert grown["request_count_total", *labels(model_name="examples", status="OK")] == 3
    for api, entrypoint in (("classify", "REST"), ("regress", "REST"), ("MultiInference", "GRPC")):
        assert grown["request_latency_count", *labels(model_name="examples", API=api, entrypoint=entrypoint)] == 1


def test_looking_at_the_status_counts_as_no_request(rest):
    def work():
        assert rest.get("/v1/models/toy").code == rest.get("/v1/models/toy/metadata").code == 200

    assert increase(rest, work) == {}


def test_the_page_has_the_names_and_buckets_of_tensorflow_serving(rest):
    rest.answer("/v1/models/toy:predict", {"instances": ["a"]})
    answer = rest.get(PAGE)
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.body.decode().splitlines()
    assert f"# TYPE {PREFIX}request_count counter" in lines
    assert any(line.startswith(f'{PREFIX}request_count{{model_name="toy",status="OK"}} ') for line in lines)
    series = f'{PREFIX}request_latency_bucket{{model_name="toy",API="predict",entrypoint="REST",le='
    limits = [line.split("le=")[1].split('"')[1] for line in lines if line.startswith(series)]
    # The bucket limits that dashboards for TensorFlow Serving name.
    assert limits[:4] == ["10", "18", "32.4", "58.32"]
    assert "708235" in limits
    assert (len(limits), limits[-1]) == (34, "+Inf")


def test_snapshots_of_several_processes_add_up():
    first, second, both = Metrics("pool"), Metrics("pool"), Metrics("pool")
    random = np.random.default_rng(1)
    for number, seconds in enumerate(random.lognormal(-6, 2, 400)):
        for metrics in ((first, second)[number % 2], both):
            metrics.record_request(f"m{number % 3}", "Predict", "GRPC", ("OK", "INTERNAL")[number % 5 == 0], seconds)
            metrics.record_run(f"m{number % 3}", "Predict", number % 7, seconds)
            metrics.record_batch([seconds, 2 * seconds], number % 40)
    sent = [pickle.loads(pickle.dumps(metrics.snapshot())) for metrics in (first, second)]
    one, other = parsed(render([add(sent)])), parsed(render([both.snapshot()]))
    assert one.keys() == other.keys()
    np.testing.assert_allclose([one[key] for key in other], list(other.values()), rtol=1e-12)
    assert parsed(render(sent)) == one


def test_a_snapshot_stays_as_it_is():
    metrics = Metrics()
    metrics.record_batch([0.1], 1)
    snapshot = metrics.snapshot()
    page = render([snapshot])
    metrics.record_batch([0.1], 1)
    assert render([snapshot]) == page != render([metrics.snapshot()])


def test_an_observation_on_a_buckets_limit_is_in_it():
    metrics = Metrics()
    metrics.record_batch([], 2)
    buckets = {
        dict(key[1:])["le"]: value for key, value in parsed(render([metrics.snapshot()])).items() if len(key) > 1
    }
    assert (buckets["1"], buckets["2"], buckets["+Inf"]) == (0, 1, 1)


def test_names_of_models_are_escaped():
    metrics = Metrics()
    metrics.record_request('a"b\\c\nd', "Predict", "GRPC", "INTERNAL", 1.0)
    samples = parsed(render([metrics.snapshot()]))
    assert ("request_count_total", ("model_name", 'a"b\\c\nd'), ("status", "INTERNAL")) in samples
