"""The batches of a run, with a position to return to, and the rows of them that each replica gets."""

import inspect
import zlib

import tensorflow as tf

from keras_attention.training.reader_errors import reader_errors


class Feed:
    """The batches of one dataset, pass after pass, on one worker.

    Args:
        source: what `fit` was given: a `tf.data.Dataset` of global batches, a function without arguments that makes
            one, or a function of a `tf.distribute.InputContext` that makes the dataset of this worker's own batches.
        strategy: `tf.distribute.Strategy`.
        cluster: `Cluster`.
        name: str, what the argument is called.

    Attributes:
        first_batch: int, a checksum of the first batch of the first pass, once that has begun: the same on all workers,
            or 0 where they do not share the batches.
    """

    def __init__(self, source, strategy, cluster, name):
        self.is_shared = True
        if callable(source) and not isinstance(source, tf.data.Dataset):
            if inspect.signature(source).parameters:
                self.is_shared = len(cluster.workers) == 1
                source = source(
                    tf.distribute.InputContext(
                        num_input_pipelines=len(cluster.workers),
                        input_pipeline_id=cluster.index,
                        num_replicas_in_sync=strategy.num_replicas_in_sync,
                    )
                )
            else:
                source = source()
        if not isinstance(source, tf.data.Dataset):
            raise ValueError(
                f"`{name}` must be a tf.data.Dataset or a function that makes one. Received: {name}={source!r}"
            )
        for spec in tf.nest.flatten(source.element_spec):
            if not isinstance(spec, tf.TensorSpec) or spec.shape.rank in (None, 0):
                raise ValueError(
                    f"`{name}` must consist of batches of dense tensors of known rank: use `batch` or `padded_batch`. "
                    f"Received: {name} of {source.element_spec}"
                )
        # Of the replicas that share a batch, all or those of this worker.
        self.replicas = strategy.num_replicas_in_sync // (1 if self.is_shared else len(cluster.workers))
        self._dataset = source
        # A batch has any number of rows, whatever the specification says: there may be none left here.
        self.spec = tf.nest.map_structure(lambda s: tf.TensorSpec([None, *s.shape[1:]], s.dtype), source.element_spec)
        self._name = name
        self._nothing = tf.nest.map_structure(
            lambda s: tf.zeros([0, *(size or 1 for size in s.shape[1:])], s.dtype), self.spec
        )
        self.passes, self.batches = -1, 0
        self.first_batch = None

    @property
    def length(self):
        """The batches of a pass, or None where that is not known."""
        count = int(self._dataset.cardinality())
        return count if self.is_shared and count > 0 else None

    def start(self):
        """Begins the next pass."""
        self._begin()
        self.passes += 1
        self.batches = 0

    def go_to(self, passes, batches):
        """Goes to where a feed of the same data was.

        Args:
            passes: int, the passes before the present one. Each is begun again, so that a shuffled dataset comes to the
                order of the present one.
            batches: int, the batches of the present pass that have been used. They are read again and skipped.
        """
        self.skip_passes(passes - self.passes - 1)
        self._begin()
        self.passes, self.batches = passes, batches
        for _ in range(batches):
            self._ahead = self._next()

    def _begin(self):
        self._iterator = iter(self._dataset)
        self._ahead = self._next()
        if self.first_batch is None:
            self.first_batch = self._checksum()

    def skip_passes(self, count):
        """Begins and leaves so many passes, for what is shuffled anew in each."""
        for _ in range(count):
            if self.first_batch is None:
                self._begin()
            else:
                iter(self._dataset)
            self.passes += 1

    @property
    def has_next(self):
        """Whether this worker has a batch left in the pass."""
        return self._ahead is not None

    def take(self):
        """The next batch; one without rows where the pass has ended on this worker and goes on on others."""
        batch = self._nothing if self._ahead is None else self._ahead
        self._ahead = self._next()
        self.batches += 1
        return batch

    def _next(self):
        with reader_errors():
            return next(self._iterator, None)

    def _checksum(self):
        """A number that follows from the next batch; 0 where the workers do not share the batches."""
        checksum = 0
        if self.is_shared and self._ahead is not None:
            for tensor in tf.nest.flatten(self._ahead):
                checksum = zlib.crc32(tf.io.serialize_tensor(tensor).numpy(), checksum)
        return checksum

    def require_complete(self, batch, rows):
        """Refuses batches that are not of one size on the workers that share them: rows were left out, or used twice.

        Args:
            batch: what `take` has returned.
            rows: float, how many rows all replicas together have used of it.

        Raises:
            ValueError: if the batch has another number.
        """
        size = tf.nest.flatten(batch)[0].shape[0]
        if self.is_shared and size != rows:
            raise ValueError(
                f"`{self._name}` must give the same batches on all workers, or be a function of the input context. "
                f"Received: batch {self.batches} of a pass with {size} rows here and {rows:.0f} in the shares of all"
            )

    def empty(self):
        """A batch of one row of zeros, to build a model with."""
        return tf.nest.map_structure(lambda s: tf.zeros([1, *(size or 1 for size in s.shape[1:])], s.dtype), self.spec)


def share(batch, index, count):
    """One of `count` nearly equal shares of a batch.

    Args:
        batch: structure of tensors [B, ...].
        index: int or int32 scalar, which of them.
        count: int.

    Returns:
        (rows, number): structure of tensors [max(number, 1), ...], and the int32 scalar of rows that count. A share of
        nothing holds one row that does not: layers need not know what to do without any.
    """
    with tf.device("CPU:0"):  # Only its share travels to a device.
        size = tf.shape(tf.nest.flatten(batch)[0])[0]
        start, end = size * index // count, size * (index + 1) // count
        number = end - start

        def rows(tensor):
            some = tensor[start:end]
            filler = tf.zeros(tf.concat([[tf.where(number > 0, 0, 1)], tf.shape(tensor)[1:]], 0), tensor.dtype)
            some = tf.concat([some, filler], 0)
            some.set_shape([None, *tensor.shape[1:]])
            return some

        return tf.nest.map_structure(rows, batch), number
