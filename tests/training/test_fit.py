"""`fit` on one device does what Keras's own does, and more."""

import csv
import doctest
import importlib
import pkgutil
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_attention.training
from keras_attention.training import SmoothedCrossentropy, TrainingConfig, fit
from tests.training import worker

QUIET = {"progress": False}


def _build(loss=None, optimizer=None, heads=1, **options):
    def build():
        ids = keras.Input((None,), dtype="int32")
        x = keras.layers.Embedding(worker.VOCABULARY, 16, mask_zero=True)(ids)
        outputs = [keras.layers.Dense(worker.VOCABULARY, name=f"head_{i}")(x) for i in range(heads)]
        model = keras.Model(ids, outputs if heads > 1 else outputs[0])
        given = loss if loss is not None else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # Keras's Adam squares the gradient of each occurrence of a token, ours of the token: SGD knows no squares.
        model.compile(optimizer() if optimizer else keras.optimizers.SGD(0.5), given, **options)
        return model

    return build


def _weighted(data):
    def weigh(ids, targets):
        positions = tf.range(1, tf.shape(ids)[1] + 1)
        return ids, targets, tf.cast(targets % 3, tf.float32) + 1.0 / tf.cast(positions, tf.float32)

    return data.map(weigh)


def _keras_fit(build, train, validation, **options):
    keras.utils.set_random_seed(0)
    model = build()
    return model, model.fit(train, validation_data=validation, verbose=0, **options).history


def _require_same(ours, theirs):
    assert set(ours) == set(theirs)
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
def test_the_history_and_the_weights_are_those_of_keras(reduction, weighted, parts):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    metrics = {"metrics": ["accuracy"], "weighted_metrics": ["sparse_categorical_crossentropy"]}
    rate = 0.005 if reduction == "sum" else 0.5
    build = _build(loss, lambda: keras.optimizers.SGD(rate), **metrics)
    train, validation = worker.dataset(), worker.dataset(count=13, seed=1)
    if weighted:
        train, validation = _weighted(train), _weighted(validation)
    model, history = _keras_fit(build, train, validation, epochs=2)
    config = TrainingConfig(epochs=2, gradient_accumulation_steps=parts, **QUIET)
    trained = fit(build, train, validation, config)
    _require_same(trained.history.history, history)
    assert trained.history is trained.model.history
    for ours, theirs in zip(trained.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        ("mse", lambda ids: tf.cast(ids[:, :1], tf.float32)),
        ("mse", lambda ids: tf.cast(ids[:, 0], tf.float32)),
        (keras.losses.MeanAbsoluteError(), lambda ids: tf.cast(ids[:, 0], tf.float32)),
        (lambda y, p: keras.ops.mean(keras.ops.abs(y - p)), lambda ids: tf.cast(ids[:, :1], tf.float32)),
    ],
)
def test_losses_by_name_function_and_rank_are_those_of_keras(loss, targets):
    def build():
        model = keras.Sequential([keras.Input((7,)), keras.layers.Dense(1, kernel_regularizer="l2")])
        model.compile("adam", loss)
        return model

    data = worker.dataset().map(lambda ids, _: (tf.cast(ids, tf.float32), targets(ids)))
    _, history = _keras_fit(build, data, None, epochs=2)
    _require_same(fit(build, data, config=TrainingConfig(epochs=2, **QUIET)).history.history, history)


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_outputs_with_weights_are_those_of_keras(as_dict):
    def structure(values):
        return {f"head_{i}": value for i, value in enumerate(values)} if as_dict else list(values)

    loss = [keras.losses.SparseCategoricalCrossentropy(from_logits=True), SmoothedCrossentropy(0.1)]
    options = {"loss_weights": structure([1.0, 0.5]), "metrics": structure([["accuracy"]] * 2)}
    build = _build(structure(loss), heads=2, **options)
    # Batches of one size: Keras's mean of one output's loss does not know how large a batch was.
    data = worker.dataset(count=40).map(
        lambda ids, y: (ids, structure([y, (y + 1) % 5]) if as_dict else (y, (y + 1) % 5))
    )
    _, history = _keras_fit(build, data, None, epochs=2)
    for parts in (1, 2):
        config = TrainingConfig(epochs=2, gradient_accumulation_steps=parts, **QUIET)
        _require_same(fit(build, data, config=config).history.history, history)


def test_smoothed_crossentropy_is_keras_on_one_hot_labels():
    rng = np.random.default_rng(0)
    ids, logits = rng.integers(0, 6, (4, 5)), rng.normal(size=(4, 5, 6))
    one_hot = np.eye(6)[ids]
    for from_logits, predictions in ((True, logits), (False, np.array(keras.ops.softmax(logits)))):
        expected = keras.losses.CategoricalCrossentropy(from_logits=from_logits, label_smoothing=0.2)(
            one_hot, predictions
        )
        loss = SmoothedCrossentropy(0.2, from_logits=from_logits)
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
        assert float(again(ids, predictions)) == pytest.approx(float(expected), rel=1e-5)
    ignoring = SmoothedCrossentropy(0.2, ignore_class=0)
    one = SmoothedCrossentropy(0.2)(ids[ids != 0], logits[ids != 0])
    assert float(ignoring(ids, logits)) == pytest.approx(float(one), rel=1e-5)
    with pytest.raises(ValueError, match=r"`label_smoothing` .*Received"):
        SmoothedCrossentropy(1.5)


def test_the_classes_that_a_loss_ignores_do_not_count():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=10)
    build = _build(loss)
    _, history = _keras_fit(build, worker.dataset(), None, epochs=2)
    config = TrainingConfig(epochs=2, gradient_accumulation_steps=2, **QUIET)
    _require_same(fit(build, worker.dataset(), config=config).history.history, history)


def _recorder():
    """A callback, and the list of what is called with which epoch or batch and which logs."""
    events = []

    def record(name):
        return lambda *arguments, **logs: events.append(
            (name, *(a if isinstance(a, int) else sorted(a or ()) for a in [*arguments, *logs.values()]))
        )

    spans = ("train", "test", "train_batch", "test_batch", "epoch")
    names = [f"on_{span}_{end}" for span in spans for end in ("begin", "end")]
    return keras.callbacks.LambdaCallback(**{name: record(name) for name in names}), events


def _callbacks(folder):
    folder.mkdir()
    return {
        "checkpoint": keras.callbacks.ModelCheckpoint(str(folder / "best.keras"), save_best_only=True),
        "stopping": keras.callbacks.EarlyStopping(min_delta=10.0, patience=2, restore_best_weights=True),
        "plateau": keras.callbacks.ReduceLROnPlateau(min_delta=10.0, patience=1, factor=0.5),
        "board": keras.callbacks.TensorBoard(str(folder / "board"), update_freq=1, histogram_freq=1),
        "csv": keras.callbacks.CSVLogger(str(folder / "log.csv")),
    }


def test_callbacks_behave_as_in_keras(tmp_path):
    build = _build(metrics=["accuracy"])
    train, validation = worker.dataset(), worker.dataset(count=13, seed=1)
    ours, theirs = (_callbacks(tmp_path / name) for name in ("ours", "theirs"))
    (ours["events"], our_events), (theirs["events"], their_events) = _recorder(), _recorder()
    model, history = _keras_fit(build, train, validation, epochs=9, callbacks=list(theirs.values()))
    trained = fit(build, train, validation, TrainingConfig(epochs=9, **QUIET), list(ours.values()))
    assert len(trained.history.history["loss"]) == 3
    _require_same(trained.history.history, history)
    assert our_events == their_events
    assert float(trained.model.optimizer.learning_rate) == pytest.approx(float(model.optimizer.learning_rate))
    for mine, other in zip(trained.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
    rows = [list(csv.DictReader((tmp_path / name / "log.csv").open())) for name in ("ours", "theirs")]
    for mine, other in zip(*rows, strict=True):
        assert {k: float(v) for k, v in mine.items()} == pytest.approx(
            {k: float(v) for k, v in other.items()}, abs=1e-4
        )
    best = keras.models.load_model(tmp_path / "ours" / "best.keras")
    assert len(best.get_weights()) == len(model.get_weights())
    tags = [_tags(tmp_path / name / "board") for name in ("ours", "theirs")]
    assert tags[0] == tags[1]


def _tags(folder):
    events = [event for path in folder.rglob("events*") for event in tf.compat.v1.train.summary_iterator(str(path))]
    return {re.sub(r"_\d+$", "", value.tag.split("/")[0]) for event in events for value in event.summary.value}


def test_a_callback_that_stops_within_an_epoch_ends_it(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 2

    config = TrainingConfig(epochs=3, checkpoint_folder=tmp_path, **QUIET)
    trained = fit(_build(), worker.dataset(), None, config, [Stop()])
    assert int(trained.model.optimizer.iterations) == 3
    assert len(trained.history.history["loss"]) == 1
    again = fit(_build(), worker.dataset(), None, config)  # it was stopped, and stays so
    assert int(again.model.optimizer.iterations) == 3


def test_data_without_an_end_makes_epochs_of_some_steps():
    config = TrainingConfig(epochs=2, steps_per_epoch=4, validation_steps=1, **QUIET)
    endless = worker.dataset().repeat()
    trained = fit(_build(), lambda: endless, worker.dataset().repeat(), config)
    _, history = _keras_fit(_build(), endless, worker.dataset().take(1), epochs=2, steps_per_epoch=4)
    _require_same(trained.history.history, history)


def test_the_moving_average_of_the_weights_is_the_model_in_the_end():
    build = _build(optimizer=lambda: keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5))
    model, history = _keras_fit(build, worker.dataset(), None, epochs=2)
    config = TrainingConfig(epochs=2, log_gradient_norm=True, **QUIET)
    trained = fit(build, worker.dataset(), config=config)
    norms = trained.history.history.pop("gradient_norm")
    assert all(0 < norm < 1 for norm in norms)
    _require_same(trained.history.history, history)
    for ours, theirs in zip(trained.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_loss_of_the_models_own_is_called():
    class Model(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return 2.0 * super().compute_loss(x, y, y_pred, sample_weight, training)

    def build():
        inputs = keras.Input((7,))
        model = Model(inputs, keras.layers.Dense(7)(inputs))
        model.compile("adam", "mse")
        return model

    data = worker.dataset().map(lambda ids, y: (tf.cast(ids, tf.float32), tf.cast(y, tf.float32)))
    _, history = _keras_fit(build, data, None, epochs=2)
    for parts in (1, 2):
        config = TrainingConfig(epochs=2, gradient_accumulation_steps=parts, **QUIET)
        _require_same(fit(build, data, config=config).history.history, history)


def test_the_precision_is_that_of_the_config_within_build_and_not_after():
    before = keras.config.dtype_policy()
    trained = fit(_build(), worker.dataset(), config=TrainingConfig(mixed_precision="mixed_float16", **QUIET))
    assert trained.model.layers[-1].dtype_policy.name == "mixed_float16"
    assert type(trained.model.optimizer).__name__ == "LossScaleOptimizer"
    assert keras.config.dtype_policy() == before


def test_adam_sees_the_sum_of_the_gradients_of_a_token_that_comes_twice():
    def build(dense):
        def make():
            ids = keras.Input((7,), dtype="int32")
            if dense:  # the same embedding as a matrix product
                one_hot = keras.layers.CategoryEncoding(worker.VOCABULARY, output_mode="one_hot")(ids)
                x = keras.layers.Dense(4, use_bias=False, kernel_initializer=initializer)(one_hot)
            else:
                x = keras.layers.Embedding(worker.VOCABULARY, 4, embeddings_initializer=initializer)(ids)
            model = keras.Model(ids, keras.layers.Dense(worker.VOCABULARY, kernel_initializer=initializer)(x))
            model.compile(
                keras.optimizers.Adam(0.01, global_clipnorm=0.1),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
            return model

        return make

    initializer = keras.initializers.RandomNormal(seed=0)
    histories = [fit(build(dense), worker.dataset(), config=TrainingConfig(**QUIET)).history for dense in (False, True)]
    _require_same(histories[0].history, histories[1].history)


def test_the_progress_bar_is_shown(capsys):
    fit(_build(), worker.dataset())
    assert "6/6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: None, "`build` must return a compiled"),
        (lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]), "`build` must return a compiled"),
        (_build(run_eagerly=True), "`run_eagerly=False`"),
        (_build(steps_per_execution=2), "`steps_per_execution=1`"),
        (_build(optimizer=lambda: keras.optimizers.Adam(gradient_accumulation_steps=2)), "belongs into"),
        (_build(keras.losses.SparseCategoricalCrossentropy(reduction=None)), "must be reduced to a number"),
    ],
)
def test_models_that_cannot_be_trained_are_refused(build, message):
    with pytest.raises(ValueError, match=rf"{message}[\s\S]*Received: "):
        fit(build, worker.dataset(), config=TrainingConfig(**QUIET))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (np.zeros((3, 2)), "`train` must be a tf.data.Dataset"),
        (lambda: [1, 2], "`train` must be a tf.data.Dataset"),
        (tf.data.Dataset.range(3), "`train` must consist of batches"),
        (tf.data.Dataset.from_tensors(tf.ragged.constant([[1], [2, 3]])), "`train` must consist of batches"),
        (worker.dataset().take(0), "`train` must have a batch"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(train, message):
    with pytest.raises(ValueError, match=rf"{message}[\s\S]*Received: "):
        fit(_build(), train, config=TrainingConfig(**QUIET))


def test_a_callback_that_would_resume_too_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"BackupAndRestore.*Received"):
        fit(_build(), worker.dataset(), None, TrainingConfig(**QUIET), [keras.callbacks.BackupAndRestore(tmp_path)])


@pytest.mark.parametrize(
    "name",
    [module.name for module in pkgutil.iter_modules(keras_attention.training.__path__)],
)
def test_the_examples_in_a_modules_docstrings_run_as_shown(name):
    module = importlib.import_module(f"keras_attention.training.{name}")
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert failed == 0
