"""Training as one call: Keras's callbacks, metrics and history, on one device, several, or several hosts.

The loop is our own. Keras's `fit` can be made to run under every strategy by replacing private methods of its trainer,
but it cannot be made right by that: its optimizers clip each replica's gradient before they are summed, its losses are
means of the replicas' means, its accumulation fails under MirroredStrategy, and it can begin again only at an epoch.
This loop takes public names of Keras and two private ones (`steps.leave_the_sum_to_us`, and `layer_paths` to find
nested layers), and gives the numbers of one device whatever the strategy.
"""

import contextlib
import dataclasses
import logging
from typing import NamedTuple

import keras

from keras_attention.training.adversarial import Adversary, FastGradientMethod
from keras_attention.training.batches import Feed
from keras_attention.training.checkpoints import CheckpointFolder
from keras_attention.training.config import TrainingConfig
from keras_attention.training.event_file import check_folder
from keras_attention.training.loop import Loop
from keras_attention.training.objective import Objective
from keras_attention.training.progress_bar import ProgressBar
from keras_attention.training.r_drop import RDrop
from keras_attention.training.randomness import RandomStates
from keras_attention.training.run_log import HistoryTable, RunLog
from keras_attention.training.signals import Termination
from keras_attention.training.state import RunState
from keras_attention.training.steps import Steps
from keras_attention.training.strategies import Agreement, make_strategy, this_cluster

logger = logging.getLogger(__name__)


class Trained(NamedTuple):
    """What a run gives.

    Attributes:
        model: `keras.Model`, trained.
        history: `keras.callbacks.History`, of all epochs, those before the run was resumed among them.
    """

    model: keras.Model
    history: keras.callbacks.History


def fit(build, train, validation=None, config=None, callbacks=(), regularizers=()):
    """Trains a model under a distribution strategy, and goes on where a run before was stopped.

    The batch of a dataset is the batch of an update, whatever the devices: with 4 replicas and batches of 32 each
    replica gets 8 rows, and the result is that of one device with 32. Batches need not be of one size. On several
    workers every worker reads the same dataset, which must give the same batches on each, and takes its rows of every
    batch. Where reading is what takes the time, give a function of the input context: it makes the dataset of this
    worker's own rows, such as `dataset.shard(context.num_input_pipelines, context.input_pipeline_id).batch(16)`, and
    the batch of an update is what the workers have together. They may have different numbers of batches.

    A run with a `checkpoint_folder` that is killed goes on from the newest checkpoint when the same program is started
    again, and ends with the same numbers as one that was not: weights, optimizer, metrics, history, what Keras's
    callbacks know, dropout and the position in the data are restored. The data must come in the same order each time:
    seed what shuffles. At SIGTERM it ends the step, saves, and exits with status 143. Only the chief (the first
    worker) writes; the others get their state from it. If one worker dies the others fail within seconds: whatever
    supervises them must stop and start all.

    On GPUs the same numbers take `tf.config.experimental.enable_op_determinism()`. A CSVLogger that is to keep its
    lines takes `append=True`.

    Dropout differs between replicas and parts of a batch, and follows from the seed, the step and the replica alone.

    Several outputs are trained with the losses and weights of `compile(loss={...}, loss_weights={...})`. A row that has
    no label for an output either has the class that this output's loss ignores (`ignore_class=-1`), or any label and a
    sample weight of 0 beside a loss with `reduction="mean_with_sample_weight"`: it then gives that output no gradient
    and does not count in its mean.

    Callbacks run on all workers, with the same logs; those of Keras that write files, and others that have an attribute
    `chief_only` that is true, on the chief. Callbacks that learn something in a run may have `get_state`, which returns
    a dict for JSON, and `set_state`, and are then resumed like Keras's. Those that have `set_progress` are given the
    run's `Progress` before it begins: where it is, kept up to date.

    Args:
        build: function without arguments that makes and compiles the model; called once, in the strategy's scope and
            under the precision of the config.
        train: `tf.data.Dataset` of batches (x, y) or (x, y, sample_weight), a function without arguments that makes
            one, or a function of a `tf.distribute.InputContext` that makes this worker's own.
        validation: the same for the data that is evaluated after every epoch, or None.
        config: `TrainingConfig`. Defaults to one with its defaults.
        callbacks: list of `keras.callbacks.Callback`.
        regularizers: list of `RDrop` and `FastGradientMethod`, one of each at most.

    Returns:
        `Trained`.

    Raises:
        ValueError: if an argument makes no sense under the strategy, if TF_CONFIG does not parse, or if the folder's
            checkpoint is of another model, with the weights that differ.
        OSError: if a checkpoint cannot be written; the one before is as it was.
        SystemExit: with status 143, at SIGTERM, once the state is saved.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import tensorflow as tf
    >>> from keras_attention.training import TrainingConfig, fit
    >>> def build():
    ...     model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    ...     model.compile("adam", "mse")
    ...     return model
    >>> data = tf.data.Dataset.from_tensor_slices((np.ones((8, 3)), np.ones((8, 1)))).batch(4)
    >>> trained = fit(build, data, config=TrainingConfig(epochs=2, progress=False))
    >>> len(trained.history.history["loss"])
    2

    Reference: https://www.tensorflow.org/tutorials/distribute/custom_training
    """
    config = config or TrainingConfig()
    if config.log_folder is not None:
        config = dataclasses.replace(config, log_gradient_norm=True)
    cluster = this_cluster()
    strategy = make_strategy(config.strategy)
    if config.seed is not None:
        keras.utils.set_random_seed(config.seed)
    feed = Feed(train, strategy, cluster, "train")
    validation_feed = None if validation is None else Feed(validation, strategy, cluster, "validation")
    model = _build(build, config, strategy, feed)

    random_states = RandomStates(model)
    r_drop, method = _one_of_each(regularizers)
    adversary = None if method is None else Adversary(model, method)
    objective = Objective(model, strategy.num_replicas_in_sync, r_drop)
    steps = Steps(model, strategy, objective, random_states, feed, config, adversary)
    callbacks = _callbacks(callbacks, config, cluster, validation)
    callback_list = keras.callbacks.CallbackList(
        callbacks,
        add_history=True,
        verbose=int(config.progress),
        epochs=config.epochs,
        steps=config.steps_per_epoch or feed.length,
        model=model,
    )
    agreement = Agreement(strategy, cluster)
    folder = None
    if config.checkpoint_folder is not None:
        folder = CheckpointFolder(config.checkpoint_folder, config.keep_checkpoints)
    loop = Loop(
        model=model,
        steps=steps,
        feed=feed,
        validation_feed=validation_feed,
        callbacks=callback_list,
        state=RunState(model, random_states, callback_list.callbacks),
        folder=folder,
        agreement=agreement,
        cluster=cluster,
        config=config,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(_graph_for_tensorboard(model, steps))
        if adversary is not None:
            stack.enter_context(adversary)
        termination = stack.enter_context(Termination(folder is not None))
        stack.enter_context(strategy.scope())
        loop.run(termination)
    return Trained(model, model.history)


def _build(build, config, strategy, feed):
    """The model, compiled, with the variables of its layers, metrics and optimizer made."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.mixed_precision)
    try:
        with strategy.scope():
            model = build()
            _check(model)
            # Once, with a row of zeros: what is made lazily must be there before the state is restored, and before a
            # function is traced for all replicas.
            x, y, weight = keras.utils.unpack_x_y_sample_weight(feed.empty())
            outputs = model(x)
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            model.compute_metrics(x, y, outputs, weight)
            model.reset_metrics()
    finally:
        keras.config.set_dtype_policy(policy)
    return model


def _check(model):
    if not isinstance(model, keras.Model) or not model.compiled or model.optimizer is None:
        raise ValueError(f"`build` must return a compiled `keras.Model` with an optimizer. Received: {model!r}")
    if type(model).train_step is not keras.Model.train_step or type(model).test_step is not keras.Model.test_step:
        raise ValueError(
            f"`build` must return a model without a `train_step` or `test_step` of its own, which know nothing of the "
            f"other replicas; a `compute_loss` of its own is called. Received: {model!r}"
        )
    for name, meaning in (("run_eagerly", False), ("steps_per_execution", 1)):
        if getattr(model, name) != meaning:
            raise ValueError(
                f"`build` must compile the model with `{name}={meaning}`: the steps are not Keras's. Received: "
                f"{name}={getattr(model, name)!r}"
            )
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if optimizer.gradient_accumulation_steps:
        raise ValueError(
            "`gradient_accumulation_steps` belongs into the TrainingConfig: Keras's own fails on several replicas. "
            f"Received: an optimizer with gradient_accumulation_steps={optimizer.gradient_accumulation_steps}"
        )


def _one_of_each(regularizers):
    """The `RDrop` and the `FastGradientMethod` among regularizers, or None."""
    by_kind = {type(regularizer): regularizer for regularizer in regularizers}
    if len(by_kind) < len(regularizers) or by_kind.keys() - {RDrop, FastGradientMethod}:
        raise ValueError(
            "`regularizers` may hold one `RDrop` and one `FastGradientMethod`. Received: "
            f"regularizers={list(regularizers)!r}"
        )
    return by_kind.get(RDrop), by_kind.get(FastGradientMethod)


_WRITERS = (
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.TensorBoard,
    keras.callbacks.CSVLogger,
    keras.callbacks.RemoteMonitor,
)


def _callbacks(callbacks, config, cluster, validation):
    callbacks = list(callbacks)
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise ValueError(
                "`callbacks` may hold no BackupAndRestore: `checkpoint_folder` does that, exactly. Received: "
                f"callbacks with {callback!r}"
            )
    if config.patience is not None:
        monitor = "loss" if validation is None else "val_loss"
        # First, so that at the end the others find the weights of the best epoch.
        callbacks.insert(
            0, keras.callbacks.EarlyStopping(monitor, patience=config.patience, mode="min", restore_best_weights=True)
        )
    if config.log_folder is not None:
        folder = check_folder("log_folder", config.log_folder)
        callbacks += [RunLog(folder), HistoryTable(folder)]
    if config.progress:
        callbacks.append(ProgressBar())
    if cluster.is_chief:
        return callbacks
    return [c for c in callbacks if not isinstance(c, _WRITERS) and not getattr(c, "chief_only", False)]


@contextlib.contextmanager
def _graph_for_tensorboard(model, steps):
    """Keras's TensorBoard callback draws the function that it finds here, which a later `fit` must not."""
    model.train_function = steps.graph
    try:
        yield
    finally:
        model.train_function = None
