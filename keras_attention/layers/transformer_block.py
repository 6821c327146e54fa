"""One transformer block: attention, feed-forward, residuals and normalisation."""

import inspect

import keras
from keras import initializers

from keras_attention.layers.caches import BlockCache
from keras_attention.layers.feed_forward import FeedForward, get_activation, serialize_activation
from keras_attention.layers.keras_mask import get_keras_mask
from keras_attention.layers.multi_head_attention import MultiHeadAttention
from keras_attention.layers.rematerialize import rematerialize
from keras_attention.layers.seeds import derive_seed

# What the block itself says to its attention layers.
_OWN_OPTIONS = ("num_heads", "key_dim", "dropout", "use_bias", "kernel_initializer", "bias_initializer", "seed")
# What has no meaning between two sequences.
_POSITIONAL_OPTIONS = ("position", "sliding_window")

_NORMALIZATIONS = {"layer": keras.layers.LayerNormalization, "rms": keras.layers.RMSNormalization}


def check_attention_options(options):
    """The further arguments of the attention layers, from their config if they are one.

    Args:
        options: dict or None.

    Returns:
        dict.

    Raises:
        ValueError: if one of them is no argument of `MultiHeadAttention`, or one that the block itself gives.
    """
    options = dict(options or {})
    known = [
        name for name in inspect.signature(MultiHeadAttention.__init__).parameters if name not in ("self", "kwargs")
    ]
    known = [name for name in known if name not in (*_OWN_OPTIONS, "output_shape", "attention_axes", "value_dim")]
    for name in options:
        if name not in known:
            raise ValueError(
                f"`attention_options` must be among {', '.join(known)}. Received: attention_options with {name!r}"
            )
    if isinstance(options.get("position"), dict):
        # Here, once: blocks of a stack share what they are given.
        options["position"] = keras.saving.deserialize_keras_object(options["position"])
    return options


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
        attention_options: dict, further arguments of the attention layers by name, such as {"num_kv_heads": 2,
            "position": RotaryPosition(), "sliding_window": 256, "qk_norm": True}; `MultiHeadAttention` says what there
            is. The cross-attention has all of them but `position` and `sliding_window`.

    Call arguments:
        x: float [B, T, D].
        context: float [B, S, D_c], what the cross-attention attends to.
        attention_mask: bool or 0/1 numbers, [T, T], [B, T, T] or [B, N, T, T], for the self-attention.
        context_mask: bool [B, S], True at real positions of the context. Defaults to the mask that `context` carries.
        return_attention_scores: bool. Also return the attention weights.
        training: bool, whether dropout is on.
        cache: what `make_cache` made or the last call returned: `x` is the next positions, and what they attend to is
            in the cache, the context too, which is then not given.
        memory: float [B, M, D], what came in as `x` before: it is attended to as well, but gets no gradient.
            `memory_mask`: bool [B, M], True at real positions.

    Returns:
        float [B, T, D]; with `return_attention_scores`, also a dict: "self" [B, N, T, T] and, with cross-attention,
        "cross" [B, N, T, S]; with `cache`, also the cache for the next step.

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
        attention_options=None,
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
        attention_options = check_attention_options(attention_options)
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
        self.attention_options = attention_options

    def build(self, x_shape, context_shape=None):
        size = x_shape[-1]
        if size % self.num_heads:
            raise ValueError(
                f"the size of `x` must be a multiple of `num_heads`. Received: x of shape {tuple(x_shape)} with "
                f"num_heads={self.num_heads}"
            )
        if self.cross_attention and context_shape is None:
            raise ValueError("a block with `cross_attention=True` needs a `context`. Received: context=None")
        options = dict(self.attention_options)
        self.self_attention = self._attention("self_attention", x_shape, x_shape, options)
        self.self_attention_norm = self._normalization("self_attention_norm", x_shape)
        if self.cross_attention:
            options = {name: value for name, value in options.items() if name not in _POSITIONAL_OPTIONS}
            self.context_attention = self._attention("context_attention", x_shape, context_shape, options)
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

    def _attention(self, name, query_shape, value_shape, options):
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
            **options,
        )
        attention.build(query_shape, value_shape)
        return attention

    def _normalization(self, name, shape):
        normalization = make_normalization(
            self.normalization, self.layer_norm_epsilon, dtype=self.dtype_policy, name=name
        )
        normalization.build(shape)
        return normalization

    def make_cache(self, batch_size, max_length, context=None, context_mask=None):
        """An empty cache for this block, to go on step by step.

        Args:
            batch_size: int or int32 scalar, B.
            max_length: int, the most positions that the steps have together.
            context: float [B, S, D_c], with cross-attention: it is projected now, once.
            context_mask: bool [B, S], True at real positions. Defaults to the mask that `context` carries.

        Returns:
            `keras_attention.layers.caches.BlockCache`.

        Raises:
            ValueError: if the block has not been built, or if `context` is missing or not wanted.
        """
        if not self.built:
            raise ValueError("the block must be built before it makes a cache: call it once, or `build` it.")
        self._check_context(context)
        cache = self.self_attention.make_cache(batch_size, max_length)
        if context is None:
            return BlockCache(cache)
        return BlockCache(cache, self.context_attention.make_context_cache(context, value_mask=context_mask))

    def call(
        self,
        x,
        context=None,
        attention_mask=None,
        context_mask=None,
        return_attention_scores=False,
        training=None,
        *,
        cache=None,
        memory=None,
        memory_mask=None,
    ):
        if cache is None:
            self._check_context(context)
        # Additions carry no mask in Keras, so the block hands the masks on itself.
        x_mask = get_keras_mask(x)

        def forward(x, context=None):
            to_self = {
                "value_mask": x_mask,
                "attention_mask": attention_mask,
                "use_causal_mask": self.causal,
                "memory": memory,
                "memory_mask": memory_mask,
                "cache": None if cache is None else cache.self_attention,
            }
            to_context = {"value_mask": context_mask, "cache": None if cache is None else cache.context}
            always = {"query_mask": x_mask, "return_attention_scores": return_attention_scores, "training": training}
            return self._forward(x, context, {**always, **to_self}, {**always, **to_context}, training)

        if self.rematerialize and training:
            forward = rematerialize(forward, self._seed_generators_in_use())
        x, scores, caches = forward(x) if context is None else forward(x, context)
        results = [x]
        if return_attention_scores:
            results.append(scores)
        if cache is not None:
            results.append(BlockCache(**caches))
        return results[0] if len(results) == 1 else tuple(results)

    def _check_context(self, context):
        if (context is not None) != self.cross_attention:
            raise ValueError(
                f"`context` must be given if and only if `cross_attention` is True. Received: context={context!r} with "
                f"cross_attention={self.cross_attention}"
            )

    def _seed_generators_in_use(self):
        layers = [self.self_attention, self.residual_dropout]
        if self.cross_attention:
            layers.append(self.context_attention)
        generators = [getattr(layer, "seed_generator", None) for layer in layers]
        return [generator for generator in generators if generator is not None]

    def _forward(self, x, context, to_self, to_context, training):
        scores, caches = {}, {}

        def attend(attention, y, source, arguments, name, cache_name):
            results = attention(y, source, **arguments)
            if arguments["return_attention_scores"]:
                scores[name] = results[1]
            if arguments["cache"] is not None:
                caches[cache_name] = results[-1]
            return results[0] if isinstance(results, tuple) else results

        def attend_to_self(y):
            arguments = to_self
            if self.norm == "pre" and to_self["memory"] is not None:
                arguments = {**to_self, "memory": self.self_attention_norm(to_self["memory"])}
            return attend(self.self_attention, y, y, arguments, "self", "self_attention")

        def attend_to_context(y):
            return attend(self.context_attention, y, context, to_context, "cross", "context")

        x = self._residual(x, attend_to_self, self.self_attention_norm, training)
        if self.cross_attention:
            x = self._residual(x, attend_to_context, self.context_attention_norm, training)
        x = self._residual(x, self.feed_forward, self.feed_forward_norm, training)
        return x, scores, caches

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
            "attention_options": {
                name: keras.saving.serialize_keras_object(value) for name, value in self.attention_options.items()
            },
        }
