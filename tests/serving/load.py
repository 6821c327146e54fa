"""Load on a server from many connections at the same time, and what became of each request."""

import threading
from dataclasses import dataclass, field

import grpc
from tensorflow_serving.apis import prediction_service_pb2_grpc

from tests.serving.asking import TIMEOUT, predict_request


def connect(address: str, count: int) -> list[grpc.Channel]:
    """Channels that share no connection, as those of different clients do not."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return [grpc.insecure_channel(address, options) for _ in range(count)]


@dataclass
class Asked:
    """What one connection was answered.

    Attributes:
        answers: how many requests were answered.
        versions: of each answer, the version that it says it is from and the ones that gave its rows.
        failures: the status and message of each request that failed.
    """

    answers: int = 0
    versions: set[tuple[int, ...]] = field(default_factory=set)
    failures: list[tuple[grpc.StatusCode, str]] = field(default_factory=list)


class Load:
    """Asks one request after the other on each of several connections, until the block ends.

    Args:
        address: the server's.
        connections: how many.
        models: the models to be asked, in turn.
        wait_for_ready: whether a request waits for a connection, where otherwise it fails for a second after a failed
            attempt to make one.
    """

    def __init__(self, address: str, connections: int, models=("toy",), wait_for_ready: bool = False):
        self.asked = [Asked() for _ in range(connections)]
        self._channels = connect(address, connections)
        self._requests = [predict_request(f"name: '{model}'", text=["a", "b", "c"]) for model in models]
        self._wait_for_ready = wait_for_ready
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=pair) for pair in zip(self._channels, self.asked, strict=True)
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT)
        for channel in self._channels:
            channel.close()

    @property
    def answers(self) -> int:
        return sum(asked.answers for asked in self.asked)

    @property
    def failures(self) -> list[tuple[grpc.StatusCode, str]]:
        return [failure for asked in self.asked for failure in asked.failures]

    def _ask(self, channel: grpc.Channel, asked: Asked) -> None:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        while not self._stop.is_set():
            for request in self._requests:
                try:
                    response = predict(request, timeout=TIMEOUT, wait_for_ready=self._wait_for_ready)
                except grpc.RpcError as error:
                    asked.failures.append((error.code(), error.details()))
                    continue
                asked.answers += 1
                rows = response.outputs["version"].int_val
                asked.versions.add((response.model_spec.version.value, *rows))
