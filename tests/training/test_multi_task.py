"""Outputs with labels for some of the rows only: the others neither teach them nor count."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_attention.training import RDrop, TrainingConfig, fit

ROWS, TOPICS = 23, 4
# Of each row, whether it has a topic and a score. Some batches have none of one.
HAS_TOPIC = np.arange(ROWS) % 3 != 0
HAS_SCORE = np.arange(ROWS) >= 9


def _examples():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(ROWS, 6)).astype("float32")
    return features, rng.integers(TOPICS, size=ROWS).astype("int32"), rng.normal(size=(ROWS, 1)).astype("float32")


def _build(topic_loss, rate=0.1):
    def build():
        features = keras.Input((6,))
        shared = keras.layers.Dense(5, activation="tanh")(features)
        outputs = {
            "topic": keras.layers.Dense(TOPICS, name="topic")(shared),
            "score": keras.layers.Dense(1, name="score")(shared),
        }
        model = keras.Model(features, outputs)
        model.compile(
            keras.optimizers.SGD(rate),
            loss={"topic": topic_loss, "score": keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")},
            loss_weights={"topic": 2.0, "score": 0.5},
            weighted_metrics={"topic": ["accuracy"], "score": []},
        )
        return model

    return build


def _ignoring():
    """Rows without a topic have a class that the loss ignores."""
    features, topics, scores = _examples()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    weights = {"topic": np.ones(ROWS, np.float32), "score": HAS_SCORE.astype("float32")}
    return _build(loss), (features, {"topic": np.where(HAS_TOPIC, topics, -1), "score": scores}, weights)


def _weighing():
    """Rows without a topic have one, with no weight."""
    features, topics, scores = _examples()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    weights = {"topic": HAS_TOPIC.astype("float32"), "score": HAS_SCORE.astype("float32")}
    return _build(loss), (features, {"topic": np.where(HAS_TOPIC, topics, 0), "score": scores}, weights)


def _data(arrays, batch=6):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(batch)


def _fit(build, data, regularizers=(), **config):
    return fit(build, data, config=TrainingConfig(progress=False, **config), regularizers=regularizers)


WAYS = pytest.mark.parametrize("way", [_ignoring, _weighing])


@WAYS
@pytest.mark.parametrize("parts", [1, 4])
def test_a_loss_is_the_mean_over_the_rows_that_have_the_label(way, parts):
    build, arrays = way()
    keras.utils.set_random_seed(0)
    features, topics, scores = _examples()
    predicted = {name: value.numpy() for name, value in build()(features).items()}
    log_p = tf.nn.log_softmax(predicted["topic"]).numpy()[np.arange(ROWS), topics]
    expected = {
        "topic_loss": -log_p[HAS_TOPIC].mean(),
        "score_loss": ((predicted["score"] - scores)[HAS_SCORE] ** 2).mean(),
    }
    logs = _fit(build, _data(arrays, ROWS), gradient_accumulation_steps=parts).history.history
    for name, value in expected.items():
        assert logs[name] == pytest.approx([value], rel=1e-5), name
    assert logs["loss"] == pytest.approx([2.0 * expected["topic_loss"] + 0.5 * expected["score_loss"]], rel=1e-5)


@WAYS
@pytest.mark.parametrize("head", ["topic", "score"])
def test_rows_without_a_label_teach_that_output_nothing(way, head):
    build, arrays = way()
    without = ~(HAS_TOPIC if head == "topic" else HAS_SCORE)
    data = _data(tf.nest.map_structure(lambda array: array[without], arrays), 3)
    trained = _fit(build, data, epochs=2)
    keras.utils.set_random_seed(0)
    begun = build()
    for weight, other in zip(
        trained.model.get_layer(head).get_weights(), begun.get_layer(head).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weight, other)
    assert trained.history.history[f"{head}_loss"] == [0.0, 0.0]
    assert np.isfinite(trained.history.history["loss"]).all()


@WAYS
def test_what_is_written_where_a_label_is_missing_does_not_matter(way):
    build, (features, targets, weights) = way()
    other = {**targets, "score": np.where(HAS_SCORE[:, np.newaxis], targets["score"], 1e6).astype("float32")}
    trained, same = (_fit(build, _data((features, y, weights))) for y in (targets, other))
    np.testing.assert_allclose(same.history.history["loss"], trained.history.history["loss"], rtol=1e-6)
    for weight, expected in zip(same.model.get_weights(), trained.model.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-6)


@WAYS
def test_parts_with_other_numbers_of_labels_add_up_to_the_batch(way):
    build, arrays = way()
    whole, parts = (_fit(build, _data(arrays), gradient_accumulation_steps=n) for n in (1, 3))
    for name, values in whole.history.history.items():
        np.testing.assert_allclose(parts.history.history[name], values, atol=1e-5, err_msg=name)
    for weight, expected in zip(parts.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-5)


@WAYS
def test_it_is_what_keras_does_on_one_device(way):
    build, arrays = way()
    keras.utils.set_random_seed(0)
    model = build()
    history = model.fit(_data(arrays, ROWS), epochs=3, verbose=0).history
    trained = _fit(build, _data(arrays, ROWS), epochs=3)
    assert set(trained.history.history) == set(history)
    for name, values in history.items():
        np.testing.assert_allclose(trained.history.history[name], values, rtol=1e-5, err_msg=name)


def test_one_output_that_is_no_distribution_is_named_where_r_drop_is_asked_for():
    build, arrays = _weighing()
    with pytest.raises(ValueError, match=r"`RDrop` .*Received: loss=.*mean_squared_error"):
        _fit(build, _data(arrays), [RDrop(1.0)])
