"""The loss of a compiled model over a batch that several replicas share: one sum, divided by one weight."""

import dataclasses
import inspect
from typing import Any

import keras
import tensorflow as tf

from keras_attention.layers.keras_mask import get_keras_mask


@dataclasses.dataclass(frozen=True)
class Term:
    """One loss on some of the rows of a batch.

    Attributes:
        numerator: float scalar, the weighted sum of the losses.
        denominator: float scalar, these rows' part of what the sum over all rows is divided by.
        is_sum: bool, whether the sum is not to be divided at all.
        weight: float, how much the loss counts among those of several outputs.
    """

    numerator: Any
    denominator: Any
    is_sum: bool = False
    weight: float = 1.0


class Objective:
    """The loss that a model was compiled with, so that it can be summed over replicas and parts of a batch.

    Keras averages on each replica and averages the averages, which weighs the tokens of a replica with much padding
    more. Here numerators and denominators of all replicas are summed before one is divided by the other, and the loss
    is what Keras computes for the whole batch on one device, for every reduction.

    Args:
        model: `keras.Model`, compiled. One with a `compute_loss` of its own is asked for it: that loss counts as a mean
            over examples, scaled by the number of replicas as Keras's losses are.
        num_replicas: int.
        r_drop: `RDrop` or None.

    Raises:
        ValueError: if the model has no loss, or one that is not reduced to a number, or one that `r_drop` is not for.
    """

    def __init__(self, model, num_replicas, r_drop=None):
        self._model = model
        self._num_replicas = num_replicas
        self.r_drop = r_drop
        self._is_custom = type(model).compute_loss is not keras.Model.compute_loss
        self._losses, self._weights = model.loss, None
        if self._is_custom:
            if r_drop is not None:
                raise ValueError(
                    "`RDrop` needs the losses of `compile`: a model with a `compute_loss` of its own must do it there. "
                    f"Received: {model!r}"
                )
            return
        if model.loss is None:
            raise ValueError("`build` must compile the model with a `loss`. Received: loss=None")
        self._weights = model.get_compile_config().get("loss_weights")
        for loss in keras.tree.flatten(model.loss):
            if isinstance(loss, keras.losses.Loss) and loss.reduction in (None, "none"):
                raise ValueError(
                    f"`loss` must be reduced to a number: its `reduction` may not be None. Received: loss={loss!r}"
                )
            if r_drop is not None:
                r_drop.check(loss)

    def terms(self, x, y, y_pred, sample_weight, training, again=None):
        """The losses on some rows.

        Args:
            x: what the model was called with.
            y: the targets.
            y_pred: what the model gave.
            sample_weight: the weights of the examples or of their positions, or None.
            training: bool.
            again: what the model gave in a second pass, for `RDrop`.

        Returns:
            dict of `Term`, by the name of the output.
        """
        rows = _rows(y_pred)
        if self._is_custom:
            takes_training = "training" in inspect.signature(self._model.compute_loss).parameters
            options = {"training": training} if takes_training else {}
            loss = self._model.compute_loss(x, y, y_pred, sample_weight, **options)
            return {"output": Term(tf.cast(loss, tf.float32) * self._num_replicas * rows, rows)}
        outputs = self._by_name(y_pred)
        again = {} if again is None else self._by_name(again)
        single = len(outputs) == 1
        terms = {}
        for position, (name, output) in enumerate(outputs.items()):
            loss, weight = (self._part(part, name, position) for part in (self._losses, self._weights))
            if loss is None:
                continue
            target = y if single and not keras.tree.is_nested(y) else self._part(y, name, position)
            weights = sample_weight
            if keras.tree.is_nested(sample_weight):
                weights = self._part(sample_weight, name, position)
            term = _term(loss, target, output, weights, rows, again.get(name), self.r_drop)
            terms[name] = term if weight is None else dataclasses.replace(term, weight=weight)
        return terms

    def added(self):
        """The sum of the losses that layers have added; to be asked for right after the model was called."""
        if self._is_custom:
            return 0.0
        return sum((tf.reduce_sum(tf.cast(extra, tf.float32)) for extra in self._model.losses), 0.0)

    def combine(self, terms, totals, share, added=0.0):
        """The part of the loss of the whole batch that some rows contribute.

        Args:
            terms: what `terms` returned for these rows.
            totals: float [number of terms], the denominators of the whole batch.
            share: float scalar, the fraction of the batch's rows that these are, for losses that layers add.
            added: float scalar, what `added` returned.

        Returns:
            (loss, parts): scalar, and a dict of scalars by the name of the log, which add up over rows.
        """
        loss, parts = added * share, {}
        for (name, term), total in zip(terms.items(), tf.unstack(totals, len(terms)), strict=True):
            part = term.numerator if term.is_sum else tf.math.divide_no_nan(term.numerator, total)
            # A share without rows holds one that does not count.
            parts[f"{name}_loss"] = part * tf.cast(share > 0, part.dtype)
            loss += parts[f"{name}_loss"] * term.weight
        return loss, {"loss": loss, **(parts if len(parts) > 1 else {})}

    def count(self, x, y, y_pred, sample_weight):
        """The denominators of `terms` alone, for a graph that is to compute nothing else."""
        if self._is_custom:
            return tf.stack([_rows(y_pred)])
        return self.denominators(self.terms(x, y, y_pred, sample_weight, training=False))

    @staticmethod
    def denominators(terms):
        """The denominators of terms as one tensor, to be summed over replicas."""
        return tf.stop_gradient(tf.stack([term.denominator for term in terms.values()]))

    def _by_name(self, outputs):
        if isinstance(outputs, dict):
            return outputs
        if not keras.tree.is_nested(outputs):
            return {"output": outputs}
        names = getattr(self._model, "output_names", None) or [f"output_{i}" for i in range(len(outputs))]
        return dict(zip(names, outputs, strict=True))

    @staticmethod
    def _part(parts, name, position):
        """What a loss, weight or target given for all outputs says about one."""
        if isinstance(parts, dict):
            return parts.get(name)
        if isinstance(parts, list | tuple):
            return parts[position]
        return parts


def _rows(outputs):
    return tf.cast(tf.shape(keras.tree.flatten(outputs)[0])[0], tf.float32)


def _term(loss, target, output, weights, rows, again=None, r_drop=None):
    """The numerator and the denominator of one of Keras's losses, which `Loss.__call__` would divide at once."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    dtype = loss.dtype if isinstance(loss, keras.losses.Loss) else keras.backend.floatx()
    mask = get_keras_mask(output)
    target, output = (tf.cast(tensor, dtype) for tensor in (target, output))
    if isinstance(loss, keras.losses.Loss):
        compute, reduction = loss.call, loss.reduction
    else:
        compute, reduction = (lambda y, y_pred: loss(*_same_rank(y, y_pred))), "sum_over_batch_size"
    values = compute(target, output)
    ignored = get_keras_mask(values)
    if ignored is not None:  # Keras's losses say so where a class is to be ignored.
        mask = ignored if mask is None else tf.logical_and(mask, ignored)
    values = tf.cast(values, tf.float32)
    if again is not None:
        again = tf.cast(again, dtype)
        values = r_drop.values(loss, values, tf.cast(compute(target, again), tf.float32), output, again)
    if values.shape.rank == 0:  # a mean that the function has taken itself
        return Term(values * rows, rows)
    size = tf.reduce_prod(tf.cast(_shape(values, target), tf.float32))
    weights = None if weights is None else tf.cast(weights, tf.float32)
    if mask is not None:
        mask = tf.cast(mask, tf.float32)
        size *= tf.math.divide_no_nan(tf.reduce_sum(mask), tf.cast(tf.size(mask), tf.float32))
        lower, higher = sorted((mask, mask if weights is None else weights), key=lambda tensor: tensor.shape.rank)
        weights = mask if weights is None else tf.multiply(*_broadcast(lower, higher))
    if weights is not None:
        weights, values = _broadcast(weights, values)
        values = values * weights
    numerator = tf.reduce_sum(values)
    if reduction == "sum":
        return Term(numerator, rows, is_sum=True)
    if reduction == "mean_with_sample_weight" and weights is not None:
        size = tf.reduce_sum(weights)
    return Term(numerator, size)


def _shape(values, target):
    """The shape of a loss's values without computing them: they stand at the leading positions of the targets."""
    known, dynamic = values.shape.as_list(), tf.shape(target)
    if len(known) > target.shape.rank:
        return tf.shape(values)
    return tf.stack([size if size is not None else dynamic[axis] for axis, size in enumerate(known)])


def _same_rank(x, y):
    """Both tensors with the same rank where they differ by a last axis of size 1, as Keras does it."""
    if x.shape.rank == y.shape.rank + 1 and x.shape[-1] == 1:
        return (x, tf.expand_dims(y, -1)) if y.shape.rank == 1 else (tf.squeeze(x, -1), y)
    if y.shape.rank == x.shape.rank + 1 and y.shape[-1] == 1:
        return (tf.expand_dims(x, -1), y) if x.shape.rank == 1 else (x, tf.squeeze(y, -1))
    return x, y


def _broadcast(weights, values):
    """Weights [B] or [B, T] made to stand beside values [B, T, ...]."""
    weights, values = _same_rank(weights, values)
    missing = values.shape.rank - weights.shape.rank
    if missing > 0:
        weights = tf.reshape(weights, tf.concat([tf.shape(weights), tf.ones(missing, tf.int32)], 0))
    return weights, values
