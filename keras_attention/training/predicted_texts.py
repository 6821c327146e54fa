"""What a model in training says, as text in TensorBoard."""

import numpy as np
from tensorboard.plugins.text.summary_v2 import text_pb

from keras_attention.training.arguments import check_every_epochs
from keras_attention.training.event_file import EventCallback


class PredictedTexts(EventCallback):
    """A callback of `fit` that writes the model's answers to fixed inputs, for TensorBoard's Text page.

    After every epoch there is a table of inputs and answers. One of these a run: all of them write to "texts" in the
    folder.

    Args:
        folder: of the run, such as the `log_folder` of the config.
        predict: function of the model and `inputs` that returns as many str: generated texts, labels, or what else
            shows what the model can do.
        inputs: list of str.
        every_epochs: int, write after so many epochs.

    Raises:
        ValueError: if an argument makes no sense; in training, if `predict` returns other than a str for each input.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import tensorflow as tf
    >>> import tempfile
    >>> from keras_attention.training import PredictedTexts, TrainingConfig, fit
    >>> def build():
    ...     model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    ...     model.compile("adam", "mse")
    ...     return model
    >>> def predict(model, texts):
    ...     lengths = np.array([[float(len(text))] for text in texts])
    ...     return [f"{value:.1f}" for value in model(lengths).numpy()[:, 0]]
    >>> folder = tempfile.mkdtemp()
    >>> texts = PredictedTexts(folder, predict, ["good", "very good"])
    >>> data = tf.data.Dataset.from_tensor_slices((np.ones((8, 1)), np.ones((8, 1)))).batch(4)
    >>> _ = fit(build, data, config=TrainingConfig(progress=False), callbacks=[texts])

    Reference: https://www.tensorflow.org/tensorboard/text_summaries
    """

    folders = {"texts": False}  # noqa: RUF012

    def __init__(self, folder, predict, inputs, every_epochs=1):
        super().__init__(folder)
        if not callable(predict):
            raise ValueError(f"`predict` must be a function of a model and inputs. Received: predict={predict!r}")
        if not inputs or isinstance(inputs, str) or not all(isinstance(text, str) for text in inputs):
            raise ValueError(f"`inputs` must be a list of str, one at least. Received: inputs={inputs!r}")
        check_every_epochs(every_epochs)
        self.predict = predict
        self.inputs = list(inputs)
        self.every_epochs = every_epochs

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every_epochs:
            return
        texts = list(self.predict(self.model, self.inputs))
        if len(texts) != len(self.inputs) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"`predict` must return a str for each of {len(self.inputs)} inputs. Received: {texts!r}")
        table = np.array([["input", "answer"], *zip(self.inputs, texts, strict=True)], dtype=object)
        self.files["texts"].add(self.progress.step, text_pb("answers", table))
