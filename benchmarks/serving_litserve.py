"""The benchmark's model behind LitServe: run by the Python of an environment that has it.

    python benchmarks/serving_litserve.py PATH_OF_A_VERSION PORT WORKERS BATCH TIMEOUT_SECONDS INTRA_OP_THREADS

It calls the model as the embedded server does, merges up to BATCH requests, waits TIMEOUT_SECONDS for them, and moves
them between its processes by its fast queue.
"""

import sys
from pathlib import Path

import litserve
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

VERSION, PORT, WORKERS, BATCH, TIMEOUT, INTRA_OP = sys.argv[1:]


class Classifier(litserve.LitAPI):
    """Takes {"text": "..."} and gives {"label": "...", "scores": [...]}."""

    def setup(self, device):
        from keras_attention.serving.servable import Servable, SessionThreads

        self.servable = Servable(Path(VERSION), SessionThreads(int(INTRA_OP)))
        self.signature = self.servable.signature("serving_default")
        for rows in (1, 2, 4, 8, 16, 32):
            self.servable.run(self.signature, {"text": np.array([b"what do you think about it?"] * rows, dtype=object)})

    def decode_request(self, request):
        return request["text"].encode()

    def batch(self, inputs):
        return np.array(inputs, dtype=object)

    def predict(self, texts):
        texts = texts if int(BATCH) > 1 else np.array([texts], dtype=object)
        outputs = self.servable.run(self.signature, {"text": texts})
        return list(zip(outputs["label"].tolist(), outputs["scores"].tolist(), strict=True))

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        label, scores = output if int(BATCH) > 1 else output[0]
        return {"label": label.decode(), "scores": scores}


if __name__ == "__main__":
    api = Classifier(max_batch_size=int(BATCH), batch_timeout=float(TIMEOUT))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(WORKERS), fast_queue=True)
    server.run(host="127.0.0.1", port=int(PORT), generate_client_file=False, log_level="warning")
