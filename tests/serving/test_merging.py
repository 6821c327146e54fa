"""Requests that a server merges: each gets its own rows, none disturbs another, and none waits for the dead."""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from keras_attention.serving.client import Client
from keras_attention.serving.errors import ServingError
from tests.serving.asking import TIMEOUT, predict_request


def test_each_of_32_concurrent_clients_gets_its_own_rows(client):
    def ask(number):
        for attempt in range(10):
            texts = [f"{number}-{attempt}-{row}" for row in range(1 + number % 3)]
            assert client.predict("toy", {"text": texts})["folded"].tolist() == texts

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(ask, range(32), timeout=60))


def test_a_bad_request_does_not_disturb_those_it_was_merged_with(client):
    def ask(number):
        if number % 4:
            texts = [f"good {number}"]
            return client.predict("toy", {"text": texts}, signature="picky")["text"].tolist() == texts
        with pytest.raises(ServingError, match="no bad text, please"):
            client.predict("toy", {"text": ["bad"]}, signature="picky")
        return True

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(ask, range(200), timeout=60))


def test_outputs_without_one_entry_per_row_are_never_split(client):
    def ask(number):
        texts = [f"{number}", f"{number}", "same"]
        values = client.predict("toy", {"text": texts}, signature="distinct")["values"]
        return values.tolist() == [f"{number}", "same"]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(100), timeout=60))


@pytest.mark.parametrize("give_up", ["deadline", "cancel"])
def test_a_request_whose_client_has_gone_is_dropped_before_it_runs(toy_address, give_up):
    def spin(rounds):
        return predict_request("name: 'toy' signature_name: 'spin'", rounds=np.int32([rounds]))

    with grpc.insecure_channel(toy_address) as channel, Client(toy_address, timeout=TIMEOUT) as client:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        running = stub.Predict.future(spin(1500), timeout=TIMEOUT)
        time.sleep(0.1)  # by then it runs
        abandoned = stub.Predict.future(spin(30_000), timeout=0.1 if give_up == "deadline" else TIMEOUT)
        time.sleep(0.1)
        abandoned.cancel()
        begin = time.monotonic()
        client.predict("toy", {"rounds": np.int32([1])}, signature="spin")
        assert time.monotonic() - begin < 10
        assert running.result().outputs["rounds"].int_val == [1500]
