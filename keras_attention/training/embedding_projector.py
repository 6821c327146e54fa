"""The table of an embedding, as points in TensorBoard's projector."""

import numpy as np
import tensorflow as tf
from tensorboard.plugins import projector

from keras_attention.training.event_file import EventCallback
from keras_attention.visualization.layer_paths import matching


class EmbeddingProjector(EventCallback):
    """A callback of `fit` that keeps the vectors of an embedding where TensorBoard's Projector page finds them.

    After every epoch the vectors of the epoch before give way to the new ones. One of these a run: all of them write to
    "embeddings" in the folder.

    Args:
        folder: of the run, such as the `log_folder` of the config.
        layer: str, the embedding layer or its weight by name or by parts of the path, such as "token_embeddings".
        labels: list of str, what each row of the table stands for.

    Raises:
        ValueError: if `labels` is empty; when training begins, if there is no such weight or more than one, or another
            number of rows than of labels.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import tensorflow as tf
    >>> import tempfile
    >>> from keras_attention.training import EmbeddingProjector, TrainingConfig, fit
    >>> def build():
    ...     model = keras.Sequential(
    ...         [keras.Input((2,), dtype="int32"), keras.layers.Embedding(3, 4, name="words"), keras.layers.Dense(3)]
    ...     )
    ...     model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ...     return model
    >>> folder = tempfile.mkdtemp()
    >>> points = EmbeddingProjector(folder, "words", ["[PAD]", "good", "bad"])
    >>> ids = np.array([[1, 2], [2, 1]])
    >>> data = tf.data.Dataset.from_tensor_slices((ids, ids)).batch(2)
    >>> _ = fit(build, data, config=TrainingConfig(progress=False), callbacks=[points])

    Reference: https://www.tensorflow.org/tensorboard/tensorboard_projector_plugin
    """

    folders = {"embeddings": False}  # noqa: RUF012

    def __init__(self, folder, layer, labels):
        super().__init__(folder)
        if not labels or isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"`labels` must be a list of str, one at least. Received: labels={labels!r}")
        self.layer = layer
        self.labels = list(labels)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._weight = self._find()
        self.files["embeddings"].open()  # The page lists only folders that are runs.
        path = self.folder / "embeddings"
        lines = [" ".join(label.split()) or repr(label) for label in self.labels]
        (path / "metadata.tsv").write_text("\n".join(lines) + "\n", "utf-8")
        config = projector.ProjectorConfig()
        config.embeddings.add(tensor_name=self._name(), metadata_path="metadata.tsv")
        projector.visualize_embeddings(str(path), config)

    def on_epoch_end(self, epoch, logs=None):
        self._save()

    def on_train_end(self, logs=None):
        self._save()  # The moving average, or the weights of the best epoch.
        super().on_train_end(logs)

    def _find(self):
        tables = {weight.path: weight for weight in self.model.weights if len(weight.shape) == 2}
        paths = matching(tables, self.layer, "layer", "one of the 2-dimensional weights")
        if len(paths) > 1:
            raise ValueError(
                f"`layer` must name one weight, and names {', '.join(paths)}: give more of the path. Received: layer="
                f"{self.layer!r}"
            )
        rows = tables[paths[0]].shape[0]
        if rows != len(self.labels):
            raise ValueError(
                f"`labels` must be one for each of the {rows} rows of {paths[0]}. Received: {len(self.labels)} labels"
            )
        return tables[paths[0]]

    def _name(self):
        return self._weight.path.replace("/", ".")

    def _save(self):
        path = self.folder / "embeddings"
        prefix = path / f"vectors-{self.progress.step}"
        # The operation itself: a `tf.train.Checkpoint` wants a variable, which a strategy would make on all workers.
        tf.raw_ops.SaveV2(
            prefix=str(prefix),
            tensor_names=[self._name()],
            shape_and_slices=[""],
            tensors=[tf.constant(np.array(self._weight), tf.float32)],
        )
        # Where TensorFlow looks for the newest; by its name alone, so that the folder may move.
        (path / "checkpoint").write_text(f'model_checkpoint_path: "{prefix.name}"\n')
        for old in path.glob("vectors-*"):
            if old.stem != prefix.name:
                old.unlink()
