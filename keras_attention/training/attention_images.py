"""Attention maps of a model in training as images in TensorBoard."""

import io

import keras

from keras_attention.training.arguments import check_every_epochs
from keras_attention.training.event_file import EventCallback, image
from keras_attention.visualization import attention_figure, attention_scores
from keras_attention.visualization.attention_scores import attention_layers


class AttentionImages(EventCallback):
    """A callback of `fit` that draws what layers attend to on fixed examples, for TensorBoard's Images page.

    There is an image for each layer and example, with a panel for each head, after every epoch, and a slider for the
    epochs. Drawing takes matplotlib. One of these a run: all of them write to "attention" in the folder.

    Args:
        folder: of the run, such as the `log_folder` of the config.
        examples: what the model is called with, a batch of few examples.
        layers: list of str, the attention layers by name or by parts of their path, as in
            `keras_attention.visualization.attention_scores`. Defaults to all.
        heads: list of int. Defaults to all.
        tokens: for each example a list of str, which label the axes of layers that attend from a sequence to itself;
            what is longer than the list is padding and left out.
        every_epochs: int, draw after so many epochs.

    Raises:
        ValueError: if an argument makes no sense; when training begins, if the model has no such layer or head.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import tensorflow as tf
    >>> import tempfile
    >>> from keras_attention.layers import TransformerBlock
    >>> from keras_attention.training import AttentionImages, TrainingConfig, fit
    >>> def build():
    ...     ids = keras.Input((None,), dtype="int32")
    ...     x = keras.layers.Embedding(10, 8, mask_zero=True)(ids)
    ...     x = TransformerBlock(num_heads=2, intermediate_dim=16, name="block")(x)
    ...     model = keras.Model(ids, keras.layers.Dense(10)(x))
    ...     model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ...     return model
    >>> ids = np.array([[3, 4, 5], [6, 7, 0]])
    >>> folder = tempfile.mkdtemp()
    >>> images = AttentionImages(folder, ids, layers=["block"], tokens=[["a", "b", "c"], ["d", "e"]])
    >>> data = tf.data.Dataset.from_tensor_slices((ids, ids)).batch(2)
    >>> _ = fit(build, data, config=TrainingConfig(log_folder=folder, progress=False), callbacks=[images])

    Reference: https://www.tensorflow.org/tensorboard/image_summaries
    """

    folders = {"attention": False}  # noqa: RUF012

    def __init__(self, folder, examples, layers=None, heads=None, tokens=None, every_epochs=1):
        super().__init__(folder)
        count = len(keras.tree.flatten(examples)[0])
        if not count:
            raise ValueError("`examples` must hold an example at least. Received: none")
        if tokens is not None and len(tokens) != count:
            raise ValueError(
                f"`tokens` must be a list for each of the {count} examples. Received: tokens of length {len(tokens)}"
            )
        check_every_epochs(every_epochs)
        self.examples = examples
        self.layers = layers
        self.heads = heads
        self.tokens = tokens
        self.every_epochs = every_epochs

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        for path, layer in attention_layers(self.model, self.layers).items():
            for head in self.heads or ():
                if not isinstance(head, int) or not 0 <= head < layer.num_heads:
                    raise ValueError(
                        f"`heads` must be from 0 to {layer.num_heads - 1} for the layer {path}. Received: heads="
                        f"{self.heads!r}"
                    )

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every_epochs:
            return
        for path, scores in attention_scores(self.model, self.examples, self.layers).items():
            for example, heads in enumerate(scores):
                self.files["attention"].add(self.progress.step, [self._draw(f"{path}/{example}", heads, example)])

    def _draw(self, tag, scores, example):
        """The image of an example's scores [N, T, S]."""
        numbers = list(range(len(scores))) if self.heads is None else self.heads
        _, length, sources = scores.shape
        labels = None
        if self.tokens is not None and length == sources:
            labels = list(self.tokens[example])[:length]
            scores = scores[:, : len(labels), : len(labels)]
        figure = attention_figure(scores[numbers], labels, labels, [f"head {number}" for number in numbers])
        file = io.BytesIO()
        figure.savefig(file, format="png")
        width, height = figure.canvas.get_width_height()
        return image(tag, file.getvalue(), width, height)
