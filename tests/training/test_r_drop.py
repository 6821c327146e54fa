"""Two passes with other dropout are drawn to one another, and nothing else changes."""

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax, rel_entr, softmax

from keras_attention.layers.keras_mask import set_keras_mask
from keras_attention.training import RDrop, SmoothedCrossentropy, TrainingConfig, fit
from keras_attention.training.objective import Objective
from tests.training import worker

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ARRAYS = hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-5, 5, width=32, allow_subnormal=False))


def _divergence(p, q):
    """(KL(p, q) + KL(q, p)) / 2 of the last axis, by its definition."""
    return (rel_entr(p, q) + rel_entr(q, p)).sum(-1) / 2


def _build(dropout=0.3, loss=LOGITS, **options):
    def build():
        ids = keras.Input((None,), dtype="int32")
        x = keras.layers.Embedding(worker.VOCABULARY, 16, mask_zero=True)(ids)
        x = keras.layers.Dropout(dropout, seed=1)(keras.layers.Dense(32, activation="relu")(x))
        model = keras.Model(ids, keras.layers.Dense(worker.VOCABULARY)(x))
        model.compile(keras.optimizers.SGD(0.5), loss, **options)
        return model

    return build


def _fit(build, *regularizers, data=None, **config):
    data = worker.dataset() if data is None else data
    return fit(build, data, None, TrainingConfig(progress=False, **config), regularizers=regularizers)


@hypothesis.settings(deadline=None)
@hypothesis.given(output=ARRAYS, again=ARRAYS, alpha=st.floats(0, 5))
def test_the_value_of_a_position_is_the_mean_of_its_losses_and_alpha_times_the_divergence(output, again, alpha):
    values, values_again = np.ones((2, 3), np.float32), np.full((2, 3), 2.0, np.float32)
    expected = 1.5 + alpha * _divergence(softmax(output, -1), softmax(again, -1))
    for loss, function in ((LOGITS, np.asarray), ("sparse_categorical_crossentropy", lambda x: softmax(x, -1))):
        result = RDrop(alpha).values(loss, values, values_again, function(output), function(again))
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@hypothesis.settings(deadline=None)
@hypothesis.given(output=ARRAYS, again=ARRAYS)
def test_the_divergence_of_binary_outputs_is_the_mean_of_theirs(output, again):
    def two_sided(logits):
        p = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
        return np.stack([p, 1 - p], -1)

    expected = _divergence(two_sided(output), two_sided(again)).mean(-1)
    zeros = np.zeros((2, 3), np.float32)
    logits = keras.losses.BinaryCrossentropy(from_logits=True)
    np.testing.assert_allclose(RDrop(1.0).values(logits, zeros, zeros, output, again), expected, rtol=1e-3, atol=1e-4)
    p, q = (two_sided(x)[..., 0].astype("float32") for x in (output, again))
    np.testing.assert_allclose(RDrop(1.0).values("binary_crossentropy", zeros, zeros, p, q), expected, atol=1e-3)


@hypothesis.settings(deadline=None)
@hypothesis.given(output=ARRAYS)
def test_a_prediction_does_not_diverge_from_itself(output):
    values = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(RDrop(4.0).values(LOGITS, values, values, output, output), values)


@pytest.mark.parametrize("loss", [LOGITS, keras.losses.SparseCategoricalCrossentropy(True, ignore_class=10)])
def test_masks_weights_and_ignored_classes_count_for_the_divergence_as_for_the_loss(loss):
    rng = np.random.default_rng(0)
    outputs, again = rng.normal(size=(2, 4, 7, worker.VOCABULARY)).astype("float32")
    ids, targets = (array[:4] for array in worker.examples())
    weights = rng.uniform(size=(4, 7)).astype("float32")
    predicted = tf.constant(outputs)
    set_keras_mask(predicted, tf.constant(ids != 0))
    objective = Objective(_build(loss=loss)(), 1, RDrop(2.0))
    (term,) = objective.terms(ids, targets, predicted, weights, True, again=again).values()
    (plain,) = Objective(_build(loss=loss)(), 1).terms(ids, targets, predicted, weights, True).values()

    counts = weights * (ids != 0) * (targets != getattr(loss, "ignore_class", None))
    at = np.take_along_axis
    losses = [-at(log_softmax(x, -1), targets[..., np.newaxis], -1)[..., 0] for x in (outputs, again)]
    values = (losses[0] + losses[1]) / 2 + 2.0 * _divergence(softmax(outputs, -1), softmax(again, -1))
    assert float(term.numerator) == pytest.approx((values * counts).sum(), rel=1e-4)
    assert float(term.denominator) == float(plain.denominator)


def test_without_dropout_nothing_changes():
    trained, plain = _fit(_build(0.0), RDrop(4.0), epochs=2), _fit(_build(0.0), epochs=2)
    np.testing.assert_allclose(trained.history.history["loss"], plain.history.history["loss"], rtol=1e-6)
    for weight, other in zip(trained.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}, {"jit_compile": True}])
def test_the_second_pass_draws_other_dropout_and_alpha_weighs_how_the_passes_differ(options):
    data = worker.dataset().take(1)
    alphas = (0, 50, 100)
    losses = [_fit(_build(), RDrop(alpha), data=data, **options).history.history["loss"][0] for alpha in alphas]
    assert losses[1] - losses[0] > 1e-3
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-3)


def test_the_passes_of_a_model_that_was_trained_so_differ_less():
    def difference(*regularizers):
        model = _fit(_build(), *regularizers, epochs=10).model
        ids, _ = worker.examples()
        p, q = (softmax(model(ids, training=True), -1) for _ in range(2))
        return _divergence(p, q)[ids != 0].mean()

    assert difference(RDrop(5.0)) < 0.7 * difference()


def test_classes_of_a_text_are_predicted_alike_as_those_of_positions_are():
    def build():
        inputs = keras.Input((7,))
        x = keras.layers.Dropout(0.5, seed=1)(keras.layers.Dense(8)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(5)(x))
        model.compile("sgd", SmoothedCrossentropy(0.1), weighted_metrics=["accuracy"])
        return model

    data = worker.dataset().map(lambda ids, y: (tf.cast(ids, tf.float32) / 32, y[:, 0] % 5))
    logs = _fit(build, RDrop(2.0), data=data, epochs=2).history.history
    assert logs["loss"][1] < logs["loss"][0]


def test_validation_is_not_changed():
    validation = worker.dataset(count=13, seed=1)
    config = TrainingConfig(progress=False)
    trained = fit(_build(), worker.dataset(), validation, config, regularizers=[RDrop(4.0)])
    evaluated = trained.model.evaluate(validation, verbose=0)
    assert trained.history.history["val_loss"][0] == pytest.approx(evaluated, rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", keras.losses.Huber(), lambda y, p: keras.ops.mean(p)])
def test_a_loss_that_is_no_cross_entropy_is_refused(loss):
    with pytest.raises(ValueError, match=r"`RDrop` .*needs a cross-entropy[\s\S]*Received: loss="):
        _fit(_build(loss=loss), RDrop(1.0))


def test_a_loss_of_the_models_own_is_refused():
    class Model(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return super().compute_loss(x, y, y_pred, sample_weight, training)

    def build():
        model = _build()()
        model = Model(model.inputs, model.outputs)
        model.compile("sgd", LOGITS)
        return model

    with pytest.raises(ValueError, match=r"`RDrop` needs the losses of `compile`.*Received: "):
        _fit(build, RDrop(1.0))


@pytest.mark.parametrize("alpha", [-1.0, float("inf"), float("nan"), "1"])
def test_a_weight_that_is_none_is_refused(alpha):
    with pytest.raises(ValueError, match=r"`alpha` must be a number of at least 0\. Received: alpha="):
        RDrop(alpha)
