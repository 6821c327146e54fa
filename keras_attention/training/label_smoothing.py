"""Cross-entropy with smoothed labels, for labels that are ids."""

import keras
from keras import ops

from keras_attention.layers.keras_mask import get_keras_mask, set_keras_mask


@keras.saving.register_keras_serializable("keras_attention")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy against labels that give `1 - label_smoothing` to the id and share the rest among all classes.

    What `keras.losses.CategoricalCrossentropy(label_smoothing=...)` is for one-hot labels, without making them: a
    vocabulary of 30,000 makes a one-hot batch the largest tensor of a model.

    Args:
        label_smoothing: float from 0 to 1.
        from_logits: bool, whether the predictions are logits, or else probabilities.
        ignore_class: int, an id whose positions do not count, or None.
        reduction, name, dtype: as in `keras.losses.Loss`.

    Call arguments:
        y_true: int [B, ...].
        y_pred: float [B, ..., V].

    Raises:
        ValueError: if `label_smoothing` is out of range.

    Example:

    >>> import numpy as np
    >>> from keras_attention.training import SmoothedCrossentropy
    >>> loss = SmoothedCrossentropy(0.1)
    >>> round(float(loss(np.array([1]), np.array([[0.0, 2.0, 0.0]]))), 4)
    0.3729

    Reference: Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision, section 7,
    https://arxiv.org/abs/1512.00567
    """

    def __init__(
        self,
        label_smoothing=0.1,
        from_logits=True,
        ignore_class=None,
        reduction="sum_over_batch_size",
        name="smoothed_crossentropy",
        dtype=None,
    ):
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"`label_smoothing` must be from 0 to 1. Received: label_smoothing={label_smoothing!r}")
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.label_smoothing = label_smoothing
        self.from_logits = from_logits
        self.ignore_class = ignore_class
        # It knows which positions do not count, and marks them for the reduction.
        self._of_the_id = keras.losses.SparseCategoricalCrossentropy(
            from_logits=from_logits, ignore_class=ignore_class, reduction=None, dtype=dtype
        )

    def call(self, y_true, y_pred):
        of_the_id = self._of_the_id.call(y_true, y_pred)
        if self.from_logits:
            logs = ops.log_softmax(y_pred, axis=-1)
        else:
            logs = ops.log(ops.clip(y_pred, keras.config.epsilon(), 1.0 - keras.config.epsilon()))
        of_all = -ops.mean(logs, axis=-1)
        values = (1.0 - self.label_smoothing) * of_the_id + self.label_smoothing * of_all
        mask = get_keras_mask(of_the_id)
        if mask is not None:
            set_keras_mask(values, mask)
        return values

    def get_config(self):
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "from_logits": self.from_logits,
            "ignore_class": self.ignore_class,
        }
