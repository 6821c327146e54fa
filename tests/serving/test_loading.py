"""What the flags leave open is decided for loading and running."""

from pathlib import Path

import pytest

from keras_attention.serving.config import ServerConfig
from keras_attention.serving.loading import session_threads
from keras_attention.serving.servable import SessionThreads


@pytest.mark.parametrize(
    ("cores", "num_workers", "intra_op"), [(1, 1, 1), (2, 1, 1), (2, 2, 1), (16, 1, 8), (16, 4, 2), (16, 32, 1)]
)
def test_half_of_the_cores_are_tensorflows_and_shared_by_the_workers(cores, num_workers, intra_op):
    config = ServerConfig(Path("models"), num_workers=num_workers)
    assert session_threads(config, cores) == SessionThreads(intra_op, -1)


def test_threads_that_are_given_are_taken():
    flags = {"tensorflow_intra_op_parallelism": 3, "tensorflow_inter_op_parallelism": 2}
    assert session_threads(ServerConfig(Path("models"), **flags), 16) == SessionThreads(3, 2)
    with pytest.raises(ValueError, match=r"tensorflow_inter_op_parallelism must be at least -1\. Received: -2"):
        ServerConfig(Path("models"), tensorflow_inter_op_parallelism=-2)
