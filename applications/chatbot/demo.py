"""The whole way once: build the bot from real dialogues, export, verify, serve, and ask it over gRPC."""

import signal
import subprocess
import sys
import time

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from applications.chatbot.ask import as_text, format_answer
from applications.chatbot.config import ExportConfig, TrainConfig
from applications.chatbot.export import export
from applications.chatbot.train import train
from keras_attention import serving

_QUESTIONS = [
    "my computer will not turn on",
    "My printer doesn't print, what can I do?",
    "I forgot my password",
    "the internet does not work",
    "tell me a joke please",
    "whats artificial intelligence",
    "Can I bring my dog on the train to Lisbon?",
]
_OUT_OF_SCOPE = _QUESTIONS[-1]


def demo(config):
    """Runs the demonstration and stops the server that it started.

    Raises:
        RuntimeError: if the server does not start, or an answer is not what it should be.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that `finally` stops the server
    start = time.perf_counter()
    made = train(TrainConfig(output=config.run))
    version = export(ExportConfig(config.run, config.output), made)
    print(f"exported and verified: {version}")
    command = [sys.executable, "-m", "keras_attention.cli", "serve", "--port=0", "--model_name=chatbot"]
    command.append(f"--model_base_path={config.output.resolve()}")
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline().strip()  # "Serving chatbot version 1 at 127.0.0.1:41234 (gRPC)", or nothing
        if not line.startswith("Serving"):
            raise RuntimeError(f"the server did not start (exit code {server.wait(timeout=10)})")
        print(line)
        address = line.split(" at ")[1].split()[0]
        with serving.Client(address) as client:
            client.wait_until_ready("chatbot", timeout=60)
        for question in _QUESTIONS:
            outputs = _predict(address, question)
            print(format_answer(question, outputs))
            if outputs["answered"] == (question == _OUT_OF_SCOPE):
                raise RuntimeError(f"unexpected: {question!r} gave {outputs}")
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
    print(f"done in {time.perf_counter() - start:.0f} s; the server was stopped")


def _predict(address, question):
    """Asks with the stubs of tensorflow-serving-api alone, as any TensorFlow Serving client does."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "chatbot"
    request.inputs["text"].CopyFrom(tf.make_tensor_proto([question]))
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(request, timeout=30)
    return {name: as_text(tf.make_ndarray(value)[0]) for name, value in response.outputs.items()}
