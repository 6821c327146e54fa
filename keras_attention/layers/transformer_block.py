"""One transformer block: attention, feed-forward, residuals and normalisation."""

import keras
from keras import initializers

from keras_attention.layers.feed_forward import FeedForward, get_activation, serialize_activation
from keras_attention.layers.keras_mask import get_keras_mask
from keras_attention.layers.multi_head_attention import MultiHeadAttention
from keras_attention.layers.rematerialize import rematerialize
from keras_attention.layers.seeds import derive_seed

_NORMALIZATIONS = {"layer": keras.layers.LayerNormalization, "rms": keras.layers.RMSNormalization}


def make_normalization(kind, epsilon, **kwargs):
    """The Keras layer for `normalization="layer"` or "rms", one that passes masks on."""
    normalization = _NORMALIZATIONS[kind](epsilon=epsilon, **kwargs)
    normalization.supports_masking = True  # Keras's RMSNormalization loses the mask.
    return normalization


@keras.saving.register_keras_serializable("keras_attention")
class TransformerBlock(keras.layers.Layer):
    """An encoder block, or with `causal` and `cross_attention` a decoder block.

    Every sublayer f (self-attention, cross-attention if asked for, feed-forward) has a residual connection:
    norm(x + f(x)) with `norm="post"`, as in the paper and in BERT, and x + f(norm(x)) with `norm="pre"`, which trains
    deep stacks without warm-up and wants one more normalisation after the last block.

    Masking: padding is taken from the masks that `x` and `context` carry; the output carries the mask of `x`.

    Args:
        num_heads: int, N. Must divide D.
        intermediate_dim: int, the inner size of the feed-forward network.
        causal: bool. A position attends to itself and those before it.
        cross_attention: bool. Also attend to a `context`, between the self-attention and the feed-forward network.
        dropout: float in [0, 1), for the attention weights and every sublayer's output.
        activation: name or function, of the feed-forward network, or its gated forms "swiglu" and "geglu".
        norm: "post" or "pre".
        layer_norm_epsilon: float, added to the variance, or with "rms" to the mean square, in the normalisations.
        kernel_initializer, bias_initializer: initializers of all projections.
        seed: int, for the dropout.
        normalization: "layer", or "rms" for root mean square normalisation, which does not subtract the mean and has no
            offset.
        use_bias: bool, whether the projections have a bias.
        rematerialize: bool. In training, keep only the inputs of the block and compute the rest again in the backward
            pass: less memory for a third to a half more time.

    Call arguments:
        x: float [B, T, D].
        context: float [B, S, D_c], what the cross-attention attends to.
        attention_mask: bool or 0/1 numbers, [T, T], [B, T, T] or [B, N, T, T], for the self-attention.
        context_mask: bool [B, S], True at real positions of the context. Defaults to the mask that `context` carries.
        return_attention_scores: bool. Also return the attention weights.
        training: bool, whether dropout is on.

    Returns:
        float [B, T, D]; with `return_attention_scores`, also a dict: "self" [B, N, T, T] and, with cross-attention,
        "cross" [B, N, T, S].

    Raises:
        ValueError: if D is not a multiple of `num_heads`, if `context` is missing or not wanted, or if an argument is
            out of range.

    Example:

    >>> import numpy as np
    >>> from keras_attention.layers import TransformerBlock
    >>> x, context = np.zeros((2, 5, 16), "float32"), np.zeros((2, 7, 16), "float32")
    >>> TransformerBlock(num_heads=4, intermediate_dim=32)(x).shape
    TensorShape([2, 5, 16])
    >>> TransformerBlock(num_heads=4, intermediate_dim=32, causal=True, cross_attention=True)(x, context).shape
    TensorShape([2, 5, 16])

    References: Vaswani et al. 2017, Attention Is All You Need, section 3.1, https://arxiv.org/abs/1706.03762;
    Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, figure 1,
    https://arxiv.org/abs/2002.04745; Zhang & Sennrich 2019, Root Mean Square Layer Normalization, equation 4,
    https://arxiv.org/abs/1910.07467
    """

    def __init__(
        self,
        num_heads,
        intermediate_dim,
        causal=False,
        cross_attention=False,
        dropout=0.0,
        activation="gelu",
        norm="post",
        layer_norm_epsilon=1e-5,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        seed=None,
        normalization="layer",
        use_bias=True,
        rematerialize=False,
        **kwargs,
    ):
        for name, value in (("num_heads", num_heads), ("intermediate_dim", intermediate_dim)):
            if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
        if norm not in ("pre", "post"):
            raise ValueError(f"`norm` must be 'pre' or 'post'. Received: norm={norm!r}")
        if normalization not in _NORMALIZATIONS:
            raise ValueError(f"`normalization` must be 'layer' or 'rms'. Received: normalization={normalization!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be at least 0 and below 1. Received: dropout={dropout!r}")
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.causal = causal
        self.cross_attention = cross_attention
        self.dropout = dropout
        self.activation = get_activation(activation)
        self.norm = norm
        self.layer_norm_epsilon = layer_norm_epsilon
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.seed = seed
        self.normalization = normalization
        self.use_bias = use_bias
        self.rematerialize = rematerialize

    def build(self, x_shape, context_shape=None):
        size = x_shape[-1]
        if size % self.num_heads:
            raise ValueError(
                f"the size of `x` must be a multiple of `num_heads`. Received: x of shape {tuple(x_shape)} with "
                f"num_heads={self.num_heads}"
            )
        if self.cross_attention and context_shape is None:
            raise ValueError("a block with `cross_attention=True` needs a `context`. Received: context=None")
        self.self_attention = self._attention("self_attention", x_shape, x_shape)
        self.self_attention_norm = self._normalization("self_attention_norm", x_shape)
        if self.cross_attention:
            self.context_attention = self._attention("context_attention", x_shape, context_shape)
            self.context_attention_norm = self._normalization("context_attention_norm", x_shape)
        self.feed_forward = FeedForward(
            self.intermediate_dim,
            activation=self.activation,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            bias_initializer=self.bias_initializer.clone(),
            dtype=self.dtype_policy,
            name="feed_forward",
        )
        self.feed_forward.build(x_shape)
        self.feed_forward_norm = self._normalization("feed_forward_norm", x_shape)
        self.residual_dropout = keras.layers.Dropout(
            self.dropout, seed=derive_seed(self.seed, "residual"), dtype=self.dtype_policy
        )

    def _attention(self, name, query_shape, value_shape):
        attention = MultiHeadAttention(
            self.num_heads,
            key_dim=query_shape[-1] // self.num_heads,
            dropout=self.dropout,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            bias_initializer=self.bias_initializer.clone(),
            seed=derive_seed(self.seed, name),
            dtype=self.dtype_policy,
            name=name,
        )
        attention.build(query_shape, value_shape)
        return attention

    def _normalization(self, name, shape):
        normalization = make_normalization(
            self.normalization, self.layer_norm_epsilon, dtype=self.dtype_policy, name=name
        )
        normalization.build(shape)
        return normalization

    def call(
        self,
        x,
        context=None,
        attention_mask=None,
        context_mask=None,
        return_attention_scores=False,
        training=None,
    ):
        if (context is not None) != self.cross_attention:
            raise ValueError(
                f"`context` must be given if and only if `cross_attention` is True. Received: context={context!r} with "
                f"cross_attention={self.cross_attention}"
            )
        # Additions carry no mask in Keras, so the block hands the masks on itself.
        x_mask = get_keras_mask(x)

        def forward(x, context=None):
            return self._forward(
                x, context, x_mask, context_mask, attention_mask, return_attention_scores, training=training
            )

        if self.rematerialize and training:
            forward = rematerialize(forward, self._seed_generators_in_use())
        x, scores = forward(x) if context is None else forward(x, context)
        return (x, scores) if return_attention_scores else x

    def _seed_generators_in_use(self):
        layers = [self.self_attention, self.residual_dropout]
        if self.cross_attention:
            layers.append(self.context_attention)
        generators = [getattr(layer, "seed_generator", None) for layer in layers]
        return [generator for generator in generators if generator is not None]

    def _forward(self, x, context, x_mask, context_mask, attention_mask, return_attention_scores, training):
        scores = {}

        def attend(name, attention, y, source, **arguments):
            y = attention(
                y,
                source,
                query_mask=x_mask,
                return_attention_scores=return_attention_scores,
                training=training,
                **arguments,
            )
            if return_attention_scores:
                y, scores[name] = y
            return y

        def attend_to_self(y):
            masks = {"value_mask": x_mask, "attention_mask": attention_mask, "use_causal_mask": self.causal}
            return attend("self", self.self_attention, y, y, **masks)

        def attend_to_context(y):
            return attend("cross", self.context_attention, y, context, value_mask=context_mask)

        x = self._residual(x, attend_to_self, self.self_attention_norm, training)
        if self.cross_attention:
            x = self._residual(x, attend_to_context, self.context_attention_norm, training)
        x = self._residual(x, self.feed_forward, self.feed_forward_norm, training)
        return x, scores

    def _residual(self, x, sublayer, normalization, training):
        if self.norm == "pre":
            return x + self.residual_dropout(sublayer(normalization(x)), training=training)
        return normalization(x + self.residual_dropout(sublayer(x), training=training))

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "causal": self.causal,
            "cross_attention": self.cross_attention,
            "dropout": self.dropout,
            "activation": serialize_activation(self.activation),
            "norm": self.norm,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "seed": self.seed,
            "normalization": self.normalization,
            "use_bias": self.use_bias,
            "rematerialize": self.rematerialize,
        }
