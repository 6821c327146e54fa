"""One training or validation step on all replicas, each in one graph, or with accumulation in a few."""

import contextlib
import inspect

import keras
import tensorflow as tf

from keras_attention.layers.keras_mask import get_keras_mask, set_keras_mask
from keras_attention.training.batches import share

_SUM, _MEAN = tf.distribute.ReduceOp.SUM, tf.distribute.ReduceOp.MEAN


class Steps:
    """The steps of a run.

    Gradients are summed over replicas before they are clipped and applied, so that the update is that of one device;
    Keras's optimizers clip each replica's own and sum afterwards. With accumulation or XLA the weight of the whole
    batch is counted first, in a graph from which TensorFlow prunes what masks and shapes do not need.

    Args:
        model: `keras.Model`, compiled, with its optimizer built.
        strategy: `tf.distribute.Strategy`.
        objective: `Objective`.
        random_states: `RandomStates`.
        feed: `Feed` of the batches to train on.
        config: `TrainingConfig`.
        adversary: `Adversary` or None; it must be in use when the steps are.

    Raises:
        RuntimeError: if this Keras reduces gradients in another way than those that are known.
    """

    def __init__(self, model, strategy, objective, random_states, feed, config, adversary=None):
        self._model = model
        self._strategy = strategy
        self._objective = objective
        self._random_states = random_states
        self._feed = feed
        self._config = config
        self._adversary = adversary
        self._parts = config.gradient_accumulation_steps
        self._sums = strategy.num_replicas_in_sync > 1
        self._streams = strategy.num_replicas_in_sync * self._parts
        self._takes_training = {"training", "kwargs"} & set(inspect.signature(model.call).parameters)
        leave_the_sum_to_us(model.optimizer)

        scalar = tf.TensorSpec([], tf.int64)
        if self._parts == 1 and not config.jit_compile:
            self.graph = self._function(self._whole_step, feed.spec, scalar, with_metrics=True)
            return
        with strategy.scope():
            self._accumulators = [
                # Each replica adds up its own; they are summed once, when they are applied.
                tf.Variable(
                    tf.zeros(weight.shape, weight.dtype),
                    trainable=False,
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.SUM,
                )
                for weight in model.trainable_weights
            ]
        self._has_gradient = [True] * len(self._accumulators)
        self._count = self._function(self._count_step, feed.spec)
        weights = tf.TensorSpec([None], tf.float32)
        self.graph = self._function(self._part_step, feed.spec, scalar, tf.TensorSpec([], tf.int32), weights)
        self._apply = self._function(self._apply_step, with_metrics=True)
        if config.jit_compile:
            self._forward_and_backward = tf.function(self._forward_and_backward, jit_compile=True)

    def train(self, batch, step):
        """Trains on a batch.

        Args:
            batch: structure of tensors, of this worker or of all, as the feed has them.
            step: int, the batches so far.

        Returns:
            (losses, rows, metrics): dict of floats that say the loss of this batch, the rows of the global batch, and
            the dict of what the metrics stand at.
        """
        step = tf.constant(step, tf.int64)
        if self._parts == 1 and not self._config.jit_compile:
            return _numbers(*self.graph(batch, step))
        totals, _ = self._count(batch)
        losses = {}
        for part in range(self._parts):
            contribution, _ = self.graph(batch, step, tf.constant(part), totals)
            for name, value in contribution.items():
                losses[name] = losses.get(name, 0.0) + value
        norm, metrics = self._apply()
        return _numbers(({**losses, **norm}, totals[-1]), metrics)

    def make_test(self, feed):
        """A function of a batch of another feed that returns what `train` returns, and trains nothing."""

        def test_step(batch):
            (x, y, weight), number = self._share(batch, feed)
            outputs = self._call(x, training=False)
            added = self._objective.added()
            terms = self._objective.terms(x, y, outputs, weight, training=False)
            totals = self._totals(self._objective.denominators(terms), number)
            _, losses = self._combine(terms, totals, number, added)
            self._update_metrics(x, y, outputs, weight, number)
            return self._sum(losses), totals[-1]

        graph = self._function(test_step, feed.spec, with_metrics=True)
        return lambda batch: _numbers(*graph(batch))

    # What runs on each replica.

    def _whole_step(self, batch, step):
        (x, y, weight), number = self._share(batch, self._feed)
        gradients, losses, outputs, _, totals = self._forward_and_backward(
            x, y, weight, number, step, self._replica(), None
        )
        norm = self._update(gradients)
        self._update_metrics(x, y, outputs, weight, number)
        return {**self._sum(losses), **norm}, totals[-1]

    def _count_step(self, batch):
        (x, y, weight), number = self._share(batch, self._feed)
        return self._totals(self._objective.count(x, y, self._call(x, training=False), weight), number)

    def _part_step(self, batch, step, part, totals):
        (x, y, weight), number = self._share(batch, self._feed, part, self._parts)
        stream = self._replica() * self._parts + part
        gradients, losses, outputs, masks, _ = self._forward_and_backward(x, y, weight, number, step, stream, totals)
        for output, mask in zip(keras.tree.flatten(outputs), masks, strict=True):
            if mask is not None:
                set_keras_mask(output, mask)
        self._has_gradient = [gradient is not None for gradient in gradients]
        for accumulator, gradient in zip(self._accumulators, gradients, strict=True):
            if gradient is not None:
                accumulator.assign_add(gradient)
        self._update_metrics(x, y, outputs, weight, number)
        return self._sum(losses)

    def _forward_and_backward(self, x, y, weight, number, step, stream, totals):
        """One pass through the model and back, or two where a regulariser wants them."""
        weights, optimizer = self._model.trainable_weights, self._model.optimizer
        with tf.GradientTape() as tape:
            with self._watched(tape) as embeddings:
                outputs = self._pass(x, step, stream)
            again = None
            if self._objective.r_drop is not None:
                again = self._pass(x, step, stream + self._streams)
            added = self._objective.added()
            terms = self._objective.terms(x, y, outputs, weight, training=True, again=again)
            if totals is None:
                totals = self._totals(self._objective.denominators(terms), number)
            loss, losses = self._combine(terms, totals, number, added)
            scaled = optimizer.scale_loss(loss)
        gradients, slopes = tape.gradient(scaled, (weights, embeddings))
        gradients = _dense(gradients)
        if self._adversary is not None:
            with tf.GradientTape() as tape:
                with self._adversary.moved(embeddings, slopes):
                    moved = self._pass(x, step, stream)
                terms = self._objective.terms(x, y, moved, weight, training=True)
                adversarial, _ = self._combine(terms, totals, number)
                scaled = optimizer.scale_loss(adversarial)
            others = _dense(tape.gradient(scaled, weights))
            gradients = [
                first if second is None else second if first is None else first + second
                for first, second in zip(gradients, others, strict=True)
            ]
            losses = {**losses, "loss": loss + adversarial, "adversarial_loss": adversarial}
        masks = [get_keras_mask(output) for output in keras.tree.flatten(outputs)]
        return gradients, losses, outputs, masks, totals

    def _pass(self, x, step, stream):
        self._random_states.set_for(step, stream)
        return self._call(x, training=True)

    def _watched(self, tape):
        return contextlib.nullcontext([]) if self._adversary is None else self._adversary.watched(tape)

    def _apply_step(self):
        accumulated = zip(self._accumulators, self._has_gradient, strict=True)
        norm = self._update([variable.read_value() if has else None for variable, has in accumulated])
        for variable in self._accumulators:
            variable.assign(tf.zeros_like(variable))
        return norm

    def _update(self, gradients):
        """Applies the sum of the replicas' gradients; returns its length as an entry of the logs, if wanted."""
        present = iter(self._sum([gradient for gradient in gradients if gradient is not None]))
        gradients = [None if gradient is None else next(present) for gradient in gradients]
        optimizer, norm = self._model.optimizer, {}
        if self._config.log_gradient_norm:
            length = tf.linalg.global_norm([gradient for gradient in gradients if gradient is not None])
            # A float16 gradient that has overflown is not applied, and counts as nothing.
            length = tf.where(tf.math.is_finite(length), length, 0.0)
            norm["gradient_norm"] = length / optimizer.scale_loss(tf.ones([]))
        optimizer.apply(gradients, self._model.trainable_weights)
        if self._sums:
            # Moving statistics, which each replica has from its own rows.
            statistics = [w for w in self._model.non_trainable_weights if tf.as_dtype(w.dtype).is_floating]
            for weight in statistics:
                weight.assign(tf.distribute.get_replica_context().all_reduce(_MEAN, weight.value))
        return norm

    def _share(self, batch, feed, part=0, parts=1):
        index = self._replica() % feed.replicas
        rows, number = share(batch, index * parts + part, feed.replicas * parts)
        return keras.utils.unpack_x_y_sample_weight(rows), number

    def _totals(self, denominators, number):
        number = tf.cast(number, tf.float32)
        # A share without rows holds one that does not count.
        denominators *= tf.cast(number > 0, tf.float32)
        return self._sum(tf.concat([denominators, number[tf.newaxis]], 0))

    def _combine(self, terms, totals, number, added=0.0):
        fraction = tf.math.divide_no_nan(tf.cast(number, tf.float32), totals[-1])
        return self._objective.combine(terms, totals[:-1], fraction, added)

    def _update_metrics(self, x, y, outputs, weight, number):
        def rows_that_count(tensor):
            rows, mask = tensor[:number], get_keras_mask(tensor)
            if mask is not None:
                set_keras_mask(rows, mask[:number])
            return rows

        x, y, outputs, weight = keras.tree.map_structure(
            lambda tensor: None if tensor is None else rows_that_count(tensor), (x, y, outputs, weight)
        )
        self._model.compute_metrics(x, y, outputs, weight)

    def _call(self, x, training):
        return self._model(x, training=training) if self._takes_training else self._model(x)

    def _replica(self):
        return tf.distribute.get_replica_context().replica_id_in_sync_group

    def _sum(self, values):
        if not self._sums or not tf.nest.flatten(values):
            return values
        return tf.distribute.get_replica_context().all_reduce(_SUM, values)

    def _function(self, step, *signature, with_metrics=False):
        @tf.autograph.experimental.do_not_convert
        def on_all_replicas(*arguments):
            results = self._strategy.run(step, args=arguments)
            results = tf.nest.map_structure(lambda value: self._strategy.experimental_local_results(value)[0], results)
            # Out here, a metric's variable is the sum over replicas.
            metrics = self._model.get_metrics_result() if with_metrics else {}
            return results, {name: value for name, value in metrics.items() if name != "loss"}

        return tf.function(on_all_replicas, input_signature=signature)


def leave_the_sum_to_us(optimizer):
    """Keeps an optimizer from summing gradients over replicas, since they are summed when it gets them.

    Args:
        optimizer: `keras.optimizers.Optimizer`.

    Raises:
        RuntimeError: if this Keras does it in another way than those that are known.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    # The one private name of Keras's trainer or optimizers here: there is no public way to apply a sum.
    if not hasattr(optimizer, "_all_reduce_sum_gradients"):
        raise RuntimeError(
            "training.fit knows how the optimizers of Keras 3.15 sum gradients over replicas, and those of this "
            f"version do it in another way. Received: keras {keras.__version__}"
        )
    optimizer._all_reduce_sum_gradients = list


def _dense(gradients):
    # A sparse gradient has a row for each occurrence of a token. Keras's optimizers square and clip those rows, and not
    # their sum, which would make the update depend on how the occurrences are shared out.
    return [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]


def _numbers(results, metrics):
    """Tensors as Python's and numpy's numbers."""
    losses, rows = results
    return (
        {name: float(value) for name, value in losses.items()},
        float(rows),
        {name: value.numpy() for name, value in metrics.items()},
    )
