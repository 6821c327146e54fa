"""What the serving benchmark compares with: calls of the loaded signature in a loop, without any server.

    python -m benchmarks.serving_direct PATH_OF_A_VERSION SENTENCES.JSON INTRA_OP_THREADS CALLERS

reads lines `batch seconds seed` from stdin and answers each with a line `sentences/s p50 p99 CPU-seconds/sentence`,
latencies in milliseconds of a call. The signature is called as the server calls it, which is the quickest way that
TensorFlow has: through a session's callable.
"""

import random
import resource
import sys
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.serving_model import read_sentences


def measure(call, sentences, callers, batch, seconds, seed):
    """Calls in `callers` threads for some seconds: sentences/s, p50, p99, CPU seconds a sentence."""
    latencies = []
    deadline = time.perf_counter() + seconds

    def loop(number):
        chance = random.Random(f"{seed} {number}")
        while (start := time.perf_counter()) < deadline:
            call(np.array(chance.choices(sentences, k=batch), dtype=object))
            latencies.append(time.perf_counter() - start)

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(callers)]
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = len(latencies) * batch
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    return rows / (time.perf_counter() - start), p50, p99, (_cpu_seconds() - cpu_start) / rows


def _cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main(path, sentences, intra_op, callers):
    from keras_attention.serving.servable import Servable, SessionThreads

    servable = Servable(Path(path), SessionThreads(int(intra_op)))
    signature = servable.signature("serving_default")
    texts = read_sentences(Path(sentences).parent)

    def call(batch):
        servable.run(signature, {"text": batch})

    for batch in (1, 32):
        measure(call, texts, 1, batch, 1.0, 0)
    print("ready", flush=True)
    for line in sys.stdin:
        batch, seconds, seed = line.split()
        print(*measure(call, texts, int(callers), int(batch), float(seconds), int(seed)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
