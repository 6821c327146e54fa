"""The position-wise feed-forward network of a transformer."""

import keras
from keras import activations, initializers, ops

# Names of the gated forms, and the activation of their gate.
_GATED = {"swiglu": "silu", "geglu": "gelu"}


@keras.saving.register_keras_serializable("keras_attention")
def gelu_tanh(x):
    """GELU in its tanh approximation (`gelu_new` of published checkpoints); Hendrycks & Gimpel 2016, section 2."""
    return activations.gelu(x, approximate=True)


def get_activation(identifier):
    """What `keras.activations.get` gives, but "swiglu" and "geglu", which are more than a function, stay names."""
    return identifier if _is_gated(identifier) else activations.get(identifier)


def serialize_activation(activation):
    """The inverse of `get_activation`, for `get_config`."""
    return activation if _is_gated(activation) else activations.serialize(activation)


def _is_gated(activation):
    return isinstance(activation, str) and activation in _GATED


@keras.saving.register_keras_serializable("keras_attention")
class FeedForward(keras.layers.Layer):
    """Two dense layers at every position: activation(x W1 + b1) W2 + b2, back to the size of the input.

    The gated forms "swiglu" and "geglu" have a second projection of the input, the gate, beside the first:
    (silu(x Wg + bg) * (x W1 + b1)) W2 + b2, and the same with gelu. At equal cost they want two thirds of the
    `intermediate_dim`.

    Masking: the mask of the input is passed on.

    Args:
        intermediate_dim: int, the size between the two.
        activation: name or function, as in `keras.layers.Dense`; or "swiglu" or "geglu", the gated forms.
        dropout: float in [0, 1), the share of intermediate values dropped in training.
        kernel_initializer, bias_initializer: initializers of all dense layers.
        seed: int, for the dropout.
        use_bias: bool, whether the dense layers have a bias.

    Call arguments:
        inputs: float [B, T, D].
        training: bool, whether dropout is on.

    Returns:
        float [B, T, D].

    Raises:
        ValueError: if `intermediate_dim` is not a positive integer.

    Example:

    >>> import numpy as np
    >>> from keras_attention.layers import FeedForward
    >>> FeedForward(intermediate_dim=32, activation="relu")(np.zeros((2, 3, 8), "float32")).shape
    TensorShape([2, 3, 8])

    References: Vaswani et al. 2017, Attention Is All You Need, section 3.3 (page 5), https://arxiv.org/abs/1706.03762;
    Shazeer 2020, GLU Variants Improve Transformer, equation 6, https://arxiv.org/abs/2002.05202
    """

    def __init__(
        self,
        intermediate_dim,
        activation="gelu",
        dropout=0.0,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        seed=None,
        use_bias=True,
        **kwargs,
    ):
        if not isinstance(intermediate_dim, int) or intermediate_dim <= 0:
            raise ValueError(
                f"`intermediate_dim` must be a positive integer. Received: intermediate_dim={intermediate_dim!r}"
            )
        super().__init__(**kwargs)
        self.supports_masking = True
        self.intermediate_dim = intermediate_dim
        self.activation = get_activation(activation)
        self.dropout = dropout
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.seed = seed
        self.use_bias = use_bias

    def build(self, inputs_shape):
        is_gated = _is_gated(self.activation)
        activation = None if is_gated else self.activation
        self.intermediate_dense = self._dense("intermediate", inputs_shape, self.intermediate_dim, activation)
        self.gate_dense = None
        if is_gated:
            self.gate_dense = self._dense("gate", inputs_shape, self.intermediate_dim, _GATED[self.activation])
        hidden_shape = (*inputs_shape[:-1], self.intermediate_dim)
        self.dropout_layer = keras.layers.Dropout(self.dropout, seed=self.seed, dtype=self.dtype_policy)
        self.output_dense = self._dense("output", hidden_shape, inputs_shape[-1], None)

    def _dense(self, name, shape, units, activation):
        dense = keras.layers.Dense(
            units,
            activation=activation,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            bias_initializer=self.bias_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )
        dense.build(shape)
        return dense

    def call(self, inputs, training=None):
        # As one matrix, whose product TensorFlow computes together with bias and activation.
        rows = ops.reshape(inputs, (-1, inputs.shape[-1]))
        hidden = self.intermediate_dense(rows)
        if self.gate_dense is not None:
            hidden = self.gate_dense(rows) * hidden
        output = self.output_dense(self.dropout_layer(hidden, training=training))
        return ops.reshape(output, ops.shape(inputs))

    def compute_output_shape(self, inputs_shape):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "activation": serialize_activation(self.activation),
            "dropout": self.dropout,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "seed": self.seed,
            "use_bias": self.use_bias,
        }
