"""TextEncoder as a Keras model: shapes, saving, training, precision."""

import keras
import numpy as np
import pytest

from keras_attention.layers.keras_mask import get_keras_mask
from keras_attention.models import TextEncoder
from tests.backend import assert_close, assert_equal

ARGUMENTS = {
    "vocabulary_size": 20,
    "sequence_length": 10,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
}
IDS = np.array([[3, 4, 5, 0], [6, 0, 0, 0]])


@pytest.mark.parametrize("options", [{}, {"norm": "pre", "num_segments": 0, "pad_id": 3, "dropout": 0.0, "seed": 1}])
def test_it_saves_and_loads_with_every_argument(options, tmp_path):
    encoder = TextEncoder(**ARGUMENTS, **options)
    states = encoder(IDS)
    assert states.shape == (2, 4, 8)
    assert_equal(get_keras_mask(states), encoder.pad_id != IDS)
    encoder.save(tmp_path / "encoder.keras")
    again = keras.models.load_model(tmp_path / "encoder.keras")
    assert_close(again(IDS), states, atol=1e-6)
    config = again.get_config()
    assert {name: config[name] for name in (*ARGUMENTS, *options)} == {**ARGUMENTS, **options}


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_classifier_on_it_learns_which_token_is_there(dtype):
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 20, size=(256, 6))
    ids[rng.random(ids.shape) < 0.2] = 0
    labels = np.any(ids == 7, axis=1)
    inputs = keras.Input((None,), dtype="int32")
    states = TextEncoder(**ARGUMENTS, dropout=0.0, dtype=dtype)(inputs)
    pooled = keras.layers.GlobalMaxPooling1D()(states)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", dtype="float32")(pooled))
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    keras.utils.set_random_seed(0)
    history = model.fit(ids, labels, epochs=15, verbose=0)
    assert history.history["accuracy"][-1] > 0.95


def test_no_two_dropouts_of_a_seeded_encoder_drop_the_same():
    encoder = TextEncoder(**ARGUMENTS, dropout=0.5, seed=3)
    encoder.build((None, None))
    layers = [encoder.embedding_dropout]
    for block in encoder.blocks:
        layers += [block.residual_dropout, block.self_attention]
    seeds = [layer.seed for layer in layers]
    assert len(set(seeds)) == len(seeds)
    again = TextEncoder(**ARGUMENTS, dropout=0.5, seed=3)
    again(IDS)
    again.set_weights(encoder.get_weights())
    assert_equal(again(IDS, training=True), encoder(IDS, training=True))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="Received: num_heads=3, hidden_dim=8"):
        TextEncoder(**{**ARGUMENTS, "num_heads": 3})


def test_ids_longer_than_the_positions_are_refused():
    with pytest.raises(ValueError, match="must not be longer than `sequence_length`"):
        TextEncoder(**ARGUMENTS)(np.ones((1, 11), "int32"))
