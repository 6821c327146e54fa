"""Training on embeddings moved along their gradient is what the paper says, wherever it runs."""

import signal

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_attention.layers.keras_mask import get_keras_mask
from keras_attention.training import FastGradientMethod, RDrop, TrainingConfig, fit
from keras_attention.training.adversarial import Adversary, perturbation
from tests.training import worker
from tests.training.runs import Run

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
METHOD = FastGradientMethod("tokens", epsilon=0.7)


def _build(dropout=0.0, rate=0.5, trainable=True, calls=1, penalty=None):
    def build():
        ids = keras.Input((None,), dtype="int32")
        embedding = keras.layers.Embedding(worker.VOCABULARY, 8, mask_zero=True, name="tokens", trainable=trainable)
        x = keras.layers.concatenate([embedding(ids) for _ in range(calls)]) if calls > 1 else embedding(ids)
        x = keras.layers.Dropout(dropout, seed=1)(x)
        x = keras.layers.Dense(8, activation="tanh")(x)
        model = keras.Model(ids, keras.layers.Dense(worker.VOCABULARY, kernel_regularizer=penalty)(x))
        model.compile(keras.optimizers.SGD(rate), LOSS)
        return model

    return build


def _fit(build, data=None, regularizers=(METHOD,), **config):
    data = worker.dataset() if data is None else data
    return fit(build, data, None, TrainingConfig(progress=False, **config), regularizers=regularizers)


def _start(build):
    """The model that `fit` begins with."""
    keras.utils.set_random_seed(0)
    return build()


def _same_weights(ours, theirs, **tolerance):
    for weight, other in zip(ours.get_weights(), theirs, strict=True):
        np.testing.assert_allclose(weight, other, **tolerance)


@hypothesis.settings(deadline=None)
@hypothesis.given(
    gradient=hnp.arrays(
        np.float32, (3, 4, 2), elements=st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)
    ),
    lengths=st.lists(st.integers(0, 4), min_size=3, max_size=3),
    epsilon=st.sampled_from([0.0, 0.01, 1.0, 7.5]),
    scale=st.sampled_from([1.0, 1e-20]),
)
def test_every_example_is_moved_by_epsilon_and_padding_is_not(gradient, lengths, epsilon, scale):
    mask = np.arange(4) < np.array(lengths)[:, np.newaxis]
    gradient = gradient * np.float32(scale)
    moved = perturbation(tf.constant(gradient), tf.constant(mask), epsilon).numpy()
    real = gradient * mask[..., np.newaxis]
    # The smallest numbers of all have no reciprocal.
    has_direction = np.abs(real).max((1, 2)) > 1e-37
    norms = np.sqrt((moved.astype(np.float64) ** 2).sum((1, 2)))
    np.testing.assert_allclose(norms[has_direction], epsilon, rtol=1e-5)
    assert not moved[~mask].any()
    assert not moved[real == 0].any()
    assert ((moved >= 0) == (real >= 0))[moved != 0].all()


def test_a_gradient_that_has_overflown_moves_nothing():
    gradient = tf.constant([[[np.inf, 1.0]], [[np.nan, 0.0]]], tf.float16)
    moved = perturbation(gradient, None, 2.0).numpy()
    np.testing.assert_array_equal(moved, [[[0, 2]], [[0, 0]]])


def _losses(model, adversary, ids, targets, factor):
    """The loss of each example as it is, and where it is moved along the gradient, by so many epsilons."""

    @tf.function
    def losses():
        def of(outputs):
            weights = tf.cast(get_keras_mask(outputs), tf.float32)
            values = keras.losses.sparse_categorical_crossentropy(targets, outputs, from_logits=True)
            return tf.reduce_sum(values * weights, 1)

        with tf.GradientTape() as tape, adversary.watched(tape) as embeddings:
            before = of(model(ids))
        (slope,) = tape.gradient(before, embeddings)
        with adversary.moved(embeddings, [factor * slope]):
            return before, of(model(ids))

    return losses()


def test_the_loss_of_every_example_rises_in_the_direction_and_falls_against_it():
    model = _start(_build())
    ids, targets = worker.examples()
    with Adversary(model, FastGradientMethod("tokens", 0.05)) as adversary:
        before, after = _losses(model, adversary, ids, targets, 1.0)
        _, against = _losses(model, adversary, ids, targets, -1.0)
    assert (after > before).numpy().all()
    assert (against < before).numpy().all()
    assert "call" not in vars(model.get_layer("tokens"))


def _by_hand(build, method, rate=0.5):
    """One step of SGD on the loss and the adversarial loss, by the formula, without anything that is tested here."""
    model = _start(build)
    table = model.get_layer("tokens").embeddings.value
    rest = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    ids, targets = (array[:8] for array in worker.examples())
    mask = (ids > 0).astype("float32")

    def loss(embedded):
        x = rest[1](rest[0](embedded))
        values = keras.losses.sparse_categorical_crossentropy(targets, x, from_logits=True)
        return tf.reduce_sum(values * mask) / mask.sum()

    weights = [table, *(weight.value for layer in rest for weight in layer.trainable_weights)]
    with tf.GradientTape() as tape:
        embedded = tf.gather(table, ids)
        plain = loss(embedded)
    slope = tape.gradient(plain, embedded).numpy()
    moved = method.epsilon * slope / np.sqrt((slope**2).sum((1, 2), keepdims=True))
    with tf.GradientTape() as tape:
        adversarial = loss(tf.gather(table, ids) + moved)
        total = loss(tf.gather(table, ids)) + adversarial
    gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(total, weights)]
    return total, adversarial, [w.numpy() - rate * g.numpy() for w, g in zip(weights, gradients, strict=True)]


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 3}, {"jit_compile": True}])
def test_a_step_is_that_of_the_formula(options):
    total, adversarial, weights = _by_hand(_build(), METHOD)
    trained = _fit(_build(), worker.dataset().take(1), **options)
    logs = trained.history.history
    assert logs["loss"] == pytest.approx([float(total)], abs=1e-5)
    assert logs["adversarial_loss"] == pytest.approx([float(adversarial)], abs=1e-5)
    assert adversarial > total / 2
    _same_weights(trained.model, weights, atol=1e-5)


def test_without_a_distance_the_loss_counts_twice():
    trained = _fit(_build(rate=0.25), regularizers=[FastGradientMethod("tokens", 0.0)], epochs=2)
    plain = _fit(_build(rate=0.5), regularizers=(), epochs=2)
    np.testing.assert_allclose(trained.history.history["loss"], 2 * np.array(plain.history.history["loss"]), rtol=1e-5)
    _same_weights(trained.model, plain.model.get_weights(), atol=1e-5)


def test_padding_changes_nothing():
    padded = worker.dataset().map(lambda ids, y: (tf.pad(ids, [[0, 0], [0, 5]]), tf.pad(y, [[0, 0], [0, 5]])))
    trained, wider = _fit(_build(), epochs=2), _fit(_build(), padded, epochs=2)
    np.testing.assert_allclose(wider.history.history["loss"], trained.history.history["loss"], atol=1e-5)
    _same_weights(wider.model, trained.model.get_weights(), atol=1e-5)


def test_losses_that_layers_add_count_once():
    method = FastGradientMethod("tokens", 0.0)
    logs = _fit(_build(penalty="l2"), worker.dataset().take(1), [method]).history.history
    first = worker.dataset().take(1)
    with_penalty, without = (_fit(_build(penalty=each), first, ()).history.history["loss"][0] for each in ("l2", None))
    assert with_penalty > without + 0.01
    assert logs["adversarial_loss"][0] == pytest.approx(without, rel=1e-5)
    assert logs["loss"][0] == pytest.approx(with_penalty + without, rel=1e-5)


def test_a_frozen_embedding_is_moved_and_stays_as_it_was():
    build = _build(trainable=False)
    trained = _fit(build)
    assert trained.history.history["adversarial_loss"][0] > trained.history.history["loss"][0] / 2
    np.testing.assert_array_equal(trained.model.get_weights()[0], _start(build).get_weights()[0])


def test_a_layer_that_is_called_twice_is_moved_at_each_call():
    once, twice = (_fit(_build(calls=calls), worker.dataset().take(1)).history.history for calls in (1, 2))
    assert all(logs["adversarial_loss"][0] > logs["loss"][0] / 2 for logs in (once, twice))


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("parts", [1, 2])
def test_mixed_precision_trains(precision, parts):
    config = {"mixed_precision": precision, "gradient_accumulation_steps": parts, "epochs": 3}
    logs = _fit(_build(dropout=0.1), regularizers=[METHOD, RDrop(1.0)], **config).history.history
    assert np.isfinite(logs["loss"]).all()
    assert logs["loss"][-1] < logs["loss"][0]


FITS = {
    "adversarial": {"regularizers": [["FastGradientMethod", {"embedding": "tokens", "epsilon": 0.5}]]},
    "both": {
        "regularizers": [["FastGradientMethod", {"embedding": "tokens", "epsilon": 0.5}], ["RDrop", {"alpha": 2.0}]],
        "config": {"epochs": 2, "gradient_accumulation_steps": 2, "log_gradient_norm": True},
    },
    "added": {"model": {"layers": 1, "activity_regularizer": "l2"}},
    # Both replicas have what the one device has, and so they must differ.
    "dropout": {"regularizers": [["RDrop", {"alpha": 2.0}]], "model": {"layers": 1, "dropout": 0.3}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What came of the fits on one device, and on two replicas with twice as many rows where it is for dropout."""
    common = {"validation": False, "optimizer": {"learning_rate": 0.01, "epsilon": 1e-3}}
    folder, started = tmp_path_factory.mktemp("adversarial"), {}
    for strategy, copies in (("one_device", 1), ("mirrored", 2)):
        fits = {name: {**common, "model": {"layers": 1}, **fit} for name, fit in FITS.items()}
        fits["dropout"] = {**fits["dropout"], "data": {"count": 4, "repeat": copies}}
        started[strategy] = Run(folder / strategy, strategy, fits)
    try:
        return {strategy: run.succeed() for strategy, run in started.items()}
    finally:
        for run in started.values():
            run.kill()


@pytest.mark.parametrize("name", ["adversarial", "both", "added"])
def test_two_replicas_train_as_one_device(runs, name):
    expected, run = runs["one_device"], runs["mirrored"]
    np.testing.assert_allclose(run.losses(name), expected.losses(name), atol=1e-5)
    for weight, other in zip(run.weights(name), expected.weights(name), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)
    for log, values in expected.history(name).items():
        np.testing.assert_allclose(run.history(name)[log], values, atol=1e-4, err_msg=log)
    assert ("adversarial_loss" in expected.history(name)) == (name != "added")


def test_replicas_with_the_same_rows_draw_other_dropout(runs):
    assert (abs(runs["one_device"].losses("dropout") - runs["mirrored"].losses("dropout")) > 1e-4).all()


class _Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_run_that_was_stopped_goes_on_with_the_same_dropout_in_both_passes(tmp_path, parts):
    regularizers = [METHOD, RDrop(3.0)]

    def run(folder, *callbacks):
        config = TrainingConfig(
            epochs=2, checkpoint_folder=tmp_path / folder, gradient_accumulation_steps=parts, progress=False
        )
        return fit(_build(dropout=0.5), worker.dataset(), None, config, callbacks, regularizers)

    expected = run("whole")
    with pytest.raises(SystemExit):
        run("stopped", _Stop())
    trained = run("stopped")
    for name, values in expected.history.history.items():
        np.testing.assert_allclose(trained.history.history[name], values, rtol=0, atol=1e-7, err_msg=name)
    _same_weights(trained.model, expected.model.get_weights(), rtol=0, atol=1e-7)


def test_the_model_is_left_as_it_was_even_after_an_error():
    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            models.append(self.model)
            raise RuntimeError("stop here")

    models = []
    with pytest.raises(RuntimeError, match="stop here"):
        fit(_build(), worker.dataset(), None, TrainingConfig(progress=False), [Fail()], [METHOD])
    models.append(_fit(_build()).model)
    for model in models:
        assert "call" not in vars(model.get_layer("tokens"))
        model.evaluate(worker.dataset(), verbose=0)


def _unused():
    model = _build()()
    model.spare = keras.layers.Dense(3, name="spare_embedding")
    return model


@pytest.mark.parametrize(
    ("build", "regularizers", "message"),
    [
        (_build(), [FastGradientMethod("words")], r"one layer of the model, which has 0 .* there are .*tokens"),
        (_unused, [FastGradientMethod("spare_embedding")], r"a layer that is not called by the model"),
        (_build(), [METHOD, METHOD], r"`regularizers` may hold one `RDrop` and one `FastGradientMethod`"),
        (_build(), ["l2"], r"`regularizers` may hold one `RDrop` and one `FastGradientMethod`"),
    ],
)
def test_what_makes_no_sense_is_refused(build, regularizers, message):
    with pytest.raises(ValueError, match=rf"{message}[\s\S]*Received: "):
        _fit(build, regularizers=regularizers)


@pytest.mark.parametrize("epsilon", [-1.0, float("inf"), float("nan"), "1"])
def test_a_distance_that_is_none_is_refused(epsilon):
    with pytest.raises(ValueError, match=r"`epsilon` must be a number of at least 0\. Received: epsilon="):
        FastGradientMethod("tokens", epsilon)
