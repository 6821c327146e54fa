"""What every implementation of attention is called with, after the checks."""

import dataclasses

from keras import ops

from keras_attention.biases import Bias
from keras_attention.masks import Mask


@dataclasses.dataclass(frozen=True)
class Arguments:
    """One call of `keras_attention.ops.dot_product_attention`.

    Attributes:
        query: float [B, T, N, H], as the score function prepared it, not yet scaled.
        key: float [B, S, K, H], with K a divisor of N.
        value: float [B, S, K, H_v].
        bias: what is added to the scores, or None.
        mask: who may attend to whom, or None.
        scale: float, what the scores are multiplied with.
        soft_cap: float or None.
        additive: float [N, H], the vector of the additive score function; None for products.
        sinks: float [N] or None.
        dropout: float in [0, 1).
        seed: int or `keras.random.SeedGenerator`, for the dropout.
    """

    query: object
    key: object
    value: object
    bias: Bias | None
    mask: Mask | None
    scale: float
    soft_cap: float | None
    additive: object
    sinks: object
    dropout: float
    seed: object

    def replace(self, **changes):
        """The same call with other arguments."""
        return dataclasses.replace(self, **changes)

    def with_repeated_heads(self):
        """The same call with as many heads for key and value as for query."""
        groups = self.query.shape[2] // self.key.shape[2]
        if groups == 1:
            return self
        return self.replace(key=ops.repeat(self.key, groups, axis=2), value=ops.repeat(self.value, groups, axis=2))
