"""TensorBoard's projector finds the vectors of an embedding and their labels."""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.plugins.projector import ProjectorConfig

from keras_attention.models import TextEncoder
from keras_attention.training import EmbeddingProjector, TrainingConfig, fit
from tests.training import worker
from tests.training.boards import Board

LABELS = ["[PAD]", "two words", "tab\tand\nline", " ", "ä", *[f"id {i}" for i in range(5, worker.VOCABULARY)]]


def _fit(folder, layer="embeddings", labels=LABELS, epochs=2):
    config = TrainingConfig(epochs=epochs, progress=False)
    callback = EmbeddingProjector(folder, layer, labels)
    return fit(lambda: worker.build({"ema_momentum": 0.9}, layers=1), worker.dataset(), None, config, [callback])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder and the result of a run."""
    folder = tmp_path_factory.mktemp("run")
    return folder, _fit(folder)


def test_the_vectors_are_those_of_the_trained_model_and_the_labels_are_in_their_order(run, tmp_path):
    folder, trained = run
    embeddings = folder / "embeddings"
    config = text_format.Parse((embeddings / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (info,) = config.embeddings
    vectors = tf.train.load_checkpoint(str(embeddings)).get_tensor(info.tensor_name)
    np.testing.assert_array_equal(vectors, trained.model.layers[1].embeddings.numpy())
    lines = (embeddings / info.metadata_path).read_text("utf-8").splitlines()
    assert lines == ["[PAD]", "two words", "tab and line", "' '", *LABELS[4:]]
    # Those of earlier epochs are gone.
    assert {path.name for path in embeddings.glob("vectors-*")} == {
        "vectors-12.index",
        "vectors-12.data-00000-of-00001",
    }


def test_tensorboard_serves_them_from_where_they_were_moved(run, tmp_path):
    folder, trained = run
    moved = folder.rename(tmp_path / "moved")
    try:
        with Board(tmp_path, tmp_path / "log") as board:
            runs = board.wait_for(lambda: board.json("plugin/projector/runs"), bool)
            assert runs == ["moved/embeddings"]
            (info,) = board.json("plugin/projector/info", run=runs[0])["embeddings"]
            assert info["tensorShape"] == [worker.VOCABULARY, worker.WIDTH]
            about = {"run": runs[0], "name": info["tensorName"]}
            vectors = np.frombuffer(board.get("plugin/projector/tensor", **about), np.float32)
            expected = trained.model.layers[1].embeddings.numpy()
            np.testing.assert_array_equal(vectors.reshape(expected.shape), expected)
            assert board.get("plugin/projector/metadata", **about).decode().splitlines()[4:] == LABELS[4:]
    finally:
        moved.rename(folder)


def test_the_weight_of_a_layer_within_a_layer_is_found_by_its_name(tmp_path):
    def build():
        model = TextEncoder(10, 7, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=8)
        model.compile("adam", "mse")
        return model

    ids = worker.examples(count=4)[0] % 10
    data = tf.data.Dataset.from_tensor_slices((ids, np.zeros((4, 7, 8), "float32"))).batch(2)
    callback = EmbeddingProjector(tmp_path, "token_embeddings", [str(i) for i in range(10)])
    fit(build, data, config=TrainingConfig(progress=False), callbacks=[callback])
    shapes = tf.train.load_checkpoint(str(tmp_path / "embeddings")).get_variable_to_shape_map()
    assert list(shapes.values()) == [[10, 8]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "nothing"}, r"`layer` must name one of the .*embeddings.*Received: layer='nothing'"),
        ({"layer": "kernel"}, r"`layer` must name one weight, and names .*kernel.*Received: layer='kernel'"),
        ({"labels": ["a", "b"]}, r"`labels` must be one for each of the 32 rows of .*embeddings\. Received: 2 labels"),
        ({"labels": []}, r"`labels` must be a list of str.*labels=\[\]"),
        ({"labels": "abc"}, "`labels` must be a list of str.*labels='abc'"),
    ],
)
def test_what_the_model_does_not_have_is_refused_before_it_trains(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        _fit(tmp_path, **options)
