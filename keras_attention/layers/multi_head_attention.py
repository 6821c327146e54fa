"""Multi-head attention that keeps its masks."""

import math

import keras
from keras import constraints, initializers, ops, regularizers

from keras_attention import biases, masks
from keras_attention.layers.attention_axes import AttentionAxes
from keras_attention.layers.keras_mask import get_keras_mask, set_keras_mask
from keras_attention.layers.relative_position_bias import RelativePositionBias
from keras_attention.layers.rotary_position import RotaryPosition
from keras_attention.ops import dot_product_attention


def _letters(shape):
    # Written out: an ellipsis would make TensorFlow copy the kernel for every position of the sequence.
    return "abcefgijklm"[: len(shape) - 1]


@keras.saving.register_keras_serializable("keras_attention")
class MultiHeadAttention(keras.layers.Layer):
    """Multi-head attention: self-attention, cross-attention, causal, masked; the scores on request.

    It means what `keras.layers.MultiHeadAttention` means and has the same weights in the same order, so that one can be
    put in the other's place and `set_weights` moves the weights across.

    Masking: the masks of `query`, `value` and `key` are taken from the tensors (`Embedding(mask_zero=True)` sets them)
    unless they are given. They are left where they are, so that a second layer that attends to the same tensor sees
    them too, and the output carries the query's mask. A query that may attend to nothing, a padded one for instance,
    gets zeros before the output projection. A residual written `x + attention(x, x)` loses the mask in Keras itself,
    where `+` carries none: write `keras.layers.Add()([x, attention(x, x)])`, or use `TransformerBlock`.

    Args:
        num_heads: int, N, the number of heads.
        key_dim: int, H, the size of a head for query and key.
        value_dim: int, the size of a head for value. Defaults to `key_dim`.
        dropout: float in [0, 1), the share of attention weights that are dropped in training.
        use_bias: bool, whether the projections have a bias.
        output_shape: int or tuple of int, the shape of the output's features. Defaults to the query's.
        attention_axes: int or tuple of int, the axes attended over. Defaults to all but batch and features.
        sliding_window: int. A query attends to keys fewer than so many positions away. Defaults to no window.
        flash_attention: None or False. No fused kernel is in use; True raises an error instead of being ignored.
        use_gate: bool. Multiply the heads' outputs by a sigmoid projection of the query before the output projection.
        kernel_initializer, bias_initializer: initializers of the projections.
        kernel_regularizer, bias_regularizer, activity_regularizer: regularizers of the projections.
        kernel_constraint, bias_constraint: constraints of the projections.
        seed: int, for the dropout.
        num_kv_heads: int, K, a divisor of `num_heads`: so many heads for key and value, each shared by N / K query
            heads (grouped-query attention; 1 is multi-query attention). Defaults to `num_heads`.
        attn_logits_soft_cap: float c, positive: scaled scores become c tanh(score / c). Defaults to no cap.
        position: how queries and keys know their distance: a `RotaryPosition`, a `RelativePositionBias` (its weights
            become the layer's), or a bias such as `keras_attention.biases.ALiBi(num_heads)`. Defaults to not at all.

    Call arguments:
        query: float [B, T, D].
        value: float [B, S, D_v].
        key: float [B, S, D_k]. Defaults to `value`.
        query_mask: bool [B, T]; value_mask, key_mask: bool [B, S]. True at real positions.
        attention_mask: bool or 0/1 numbers, [T, S], [B, T, S] or [B, N, T, S]. True where query t may attend to key s.
        return_attention_scores: bool. Also return the attention weights, [B, N, T, S].
        training: bool, whether dropout is on.
        use_causal_mask: bool. Forbid keys after the query.
        mask: a static `keras_attention.masks.Mask`, such as `Causal() & SlidingWindow(256)`.
        bias: float [T, S], [B, T, S] or [B, N, T, S], added to the scaled scores; or a static
            `keras_attention.biases.Bias`, such as `ALiBi(num_heads)`.

    Returns:
        float [B, T, D]; with `return_attention_scores`, also the attention weights.

    Raises:
        ValueError: for arguments out of range, at construction, and for shapes that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_attention.layers import MultiHeadAttention
    >>> layer = MultiHeadAttention(num_heads=4, key_dim=16)
    >>> x = np.random.default_rng(0).normal(size=(2, 5, 64)).astype("float32")
    >>> y, scores = layer(x, x, use_causal_mask=True, return_attention_scores=True)
    >>> y.shape, scores.shape
    (TensorShape([2, 5, 64]), TensorShape([2, 4, 5, 5]))

    Reference: Vaswani et al. 2017, Attention Is All You Need, section 3.2.2, https://arxiv.org/abs/1706.03762
    """

    def __init__(
        self,
        num_heads,
        key_dim,
        value_dim=None,
        dropout=0.0,
        use_bias=True,
        output_shape=None,
        attention_axes=None,
        sliding_window=None,
        flash_attention=None,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        use_gate=False,
        seed=None,
        num_kv_heads=None,
        attn_logits_soft_cap=None,
        position=None,
        **kwargs,
    ):
        for name, value in (("num_heads", num_heads), ("key_dim", key_dim), ("value_dim", value_dim)):
            if name == "value_dim" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
        if num_kv_heads is not None and (num_kv_heads < 1 or num_heads % num_kv_heads):
            raise ValueError(
                f"`num_kv_heads` must divide `num_heads`. Received: num_kv_heads={num_kv_heads}, num_heads={num_heads}"
            )
        if attn_logits_soft_cap is not None and not attn_logits_soft_cap > 0:
            raise ValueError(
                f"`attn_logits_soft_cap` must be positive. Received: attn_logits_soft_cap={attn_logits_soft_cap!r}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be at least 0 and below 1. Received: dropout={dropout!r}")
        if flash_attention:
            raise ValueError(
                "`flash_attention=True` asks for a fused kernel, and this layer has none on the "
                f"{keras.backend.backend()} backend. Leave it None. Received: flash_attention={flash_attention!r}"
            )
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.value_dim = key_dim if value_dim is None else value_dim
        self.dropout = dropout
        self.use_bias = use_bias
        self.output_shape = (output_shape,) if isinstance(output_shape, int) else output_shape and tuple(output_shape)
        self.attention_axes = (attention_axes,) if isinstance(attention_axes, int) else attention_axes
        self.sliding_window = sliding_window
        self.flash_attention = flash_attention
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.activity_regularizer = regularizers.get(activity_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.use_gate = use_gate
        self.seed = seed
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.attn_logits_soft_cap = attn_logits_soft_cap
        self.position = self._check_position(position)
        self.seed_generator = keras.random.SeedGenerator(seed) if dropout else None
        self._window = None if sliding_window is None else masks.SlidingWindow(sliding_window)

    def build(self, query_shape, value_shape, key_shape=None):
        key_shape = value_shape if key_shape is None else key_shape
        self._check_key_shape(value_shape, key_shape)
        self._axes = AttentionAxes(len(query_shape), self.attention_axes)
        if isinstance(self.position, RelativePositionBias) and not self.position.built:
            self.position.build()
        # Keras's order of weights: query, key, gate, value, output.
        self.query_dense = self._projection("query", query_shape, self.num_heads, self.key_dim)
        self.key_dense = self._projection("key", key_shape, self.num_kv_heads, self.key_dim)
        if self.use_gate:
            self.gate_dense = self._projection("gate", query_shape, self.num_heads, self.value_dim, "sigmoid")
        self.value_dense = self._projection("value", value_shape, self.num_kv_heads, self.value_dim)

        features = self.output_shape or (query_shape[-1],)
        letters = "xyzuvw"[: len(features)]
        free = _letters(query_shape)
        self.output_dense = keras.layers.EinsumDense(
            f"{free}nh,nh{letters}->{free}{letters}",
            output_shape=(*query_shape[1:-1], *features),
            bias_axes=letters if self.use_bias else None,
            name="attention_output",
            **self._dense_arguments(),
        )
        self.output_dense.build((*query_shape[:-1], self.num_heads, self.value_dim))

    def _projection(self, name, shape, heads, head_size, activation=None):
        free = _letters(shape)
        dense = keras.layers.EinsumDense(
            f"{free}d,dnh->{free}nh",
            output_shape=(*shape[1:-1], heads, head_size),
            bias_axes="nh" if self.use_bias else None,
            activation=activation,
            name=name,
            **self._dense_arguments(),
        )
        dense.build(shape)
        dense.supports_masking = True  # Keras would warn that the projection loses the mask, which is read before it.
        return dense

    def _dense_arguments(self):
        return {
            # A seeded initializer gives the same values each time it is asked: every projection has its own.
            "kernel_initializer": self.kernel_initializer.clone(),
            "bias_initializer": self.bias_initializer.clone(),
            "kernel_regularizer": self.kernel_regularizer,
            "bias_regularizer": self.bias_regularizer,
            "activity_regularizer": self.activity_regularizer,
            "kernel_constraint": self.kernel_constraint,
            "bias_constraint": self.bias_constraint,
            "dtype": self.dtype_policy,
        }

    def call(
        self,
        query,
        value,
        key=None,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
        *,
        mask=None,
        bias=None,
    ):
        axes = self._axes
        key = value if key is None else key
        allowed = masks.combine(
            mask,
            self._window,
            masks.Causal() if use_causal_mask else None,
            None if value_mask is None else masks.Padding(axes.fold(value_mask)),
            None if key_mask is None else masks.Padding(axes.fold(key_mask)),
            None if query_mask is None else masks.Padding(axes.fold(query_mask), axis="query"),
            None if attention_mask is None else masks.Explicit(axes.fold_mask(attention_mask, query, key)),
        )
        query_heads, key_heads = axes.fold(self.query_dense(query)), axes.fold(self.key_dense(key))
        scale = 1 / math.sqrt(self.key_dim)
        if isinstance(self.position, RotaryPosition):
            query_heads, key_heads = (
                self.position.rotate(heads, ops.arange(ops.shape(heads)[1], dtype="int32"))
                for heads in (query_heads, key_heads)
            )
            scale *= self.position.attention_scale
        attended = dot_product_attention(
            query_heads,
            key_heads,
            axes.fold(self.value_dense(value)),
            bias=self._bias(bias),
            mask=allowed,
            scale=scale,
            attn_logits_soft_cap=self.attn_logits_soft_cap,
            dropout=self.dropout if training else 0.0,
            seed=self.seed_generator,
            return_attention_scores=return_attention_scores,
        )
        heads, scores = attended if return_attention_scores else (attended, None)
        heads = axes.unfold(heads, like=query)
        if self.use_gate:
            heads = heads * self.gate_dense(query)
        output = self.output_dense(heads)
        if query_mask is not None:
            set_keras_mask(output, query_mask)
        if return_attention_scores:
            return output, axes.unfold_scores(scores, query, key)
        return output

    def _bias(self, bias):
        """The bias of this call and that of the position, added."""
        own = self.position.as_bias() if isinstance(self.position, RelativePositionBias) else self.position
        if not isinstance(own, biases.Bias):
            return bias
        if bias is None:
            return own
        return own + (bias if isinstance(bias, biases.Bias) else biases.ExplicitBias(bias))

    def _check_position(self, position):
        if isinstance(position, dict):
            position = keras.saving.deserialize_keras_object(position)
        if position is not None and not isinstance(position, (RotaryPosition, RelativePositionBias, biases.Bias)):
            raise ValueError(
                "`position` must be a RotaryPosition, a RelativePositionBias or a keras_attention.biases.Bias. "
                f"Received: position={position!r}"
            )
        heads = getattr(position, "num_heads", self.num_heads)
        if heads != self.num_heads:
            raise ValueError(
                f"`position` must be for as many heads as the layer has. Received: position.num_heads={heads} with "
                f"num_heads={self.num_heads}"
            )
        return position

    def compute_mask(self, query, previous_mask):
        # Keras would take a specification given as `mask` for the previous mask: the query's own is meant.
        return get_keras_mask(query)

    def compute_output_shape(self, query_shape, value_shape, key_shape=None):
        self._check_key_shape(value_shape, key_shape or value_shape)
        return (*query_shape[:-1], *(self.output_shape or query_shape[-1:]))

    def compute_output_spec(
        self, query, value, key=None, *args, return_attention_scores=False, training=None, **call_arguments
    ):
        key = value if key is None else key
        output = keras.KerasTensor(
            self.compute_output_shape(query.shape, value.shape, key.shape), dtype=self.compute_dtype
        )
        if not return_attention_scores:
            return output
        axes = AttentionAxes(len(query.shape), self.attention_axes)
        shape = (
            *[query.shape[axis] for axis in (0, *axes.batch)],
            self.num_heads,
            *[query.shape[axis] for axis in axes.attended],
            *[key.shape[axis] for axis in axes.attended],
        )
        return output, keras.KerasTensor(shape, dtype=self.compute_dtype)

    @staticmethod
    def _check_key_shape(value_shape, key_shape):
        if tuple(value_shape[1:-1]) != tuple(key_shape[1:-1]):
            raise ValueError(
                "`value` and `key` must have the same shape up to the features. "
                f"Received: value of shape {tuple(value_shape)}, key of shape {tuple(key_shape)}"
            )

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "output_shape": self.output_shape,
            "attention_axes": self.attention_axes,
            "sliding_window": self.sliding_window,
            "flash_attention": self.flash_attention,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": constraints.serialize(self.kernel_constraint),
            "bias_constraint": constraints.serialize(self.bias_constraint),
            "use_gate": self.use_gate,
            "seed": self.seed,
            "num_kv_heads": self.num_kv_heads,
            "attn_logits_soft_cap": self.attn_logits_soft_cap,
            "position": keras.saving.serialize_keras_object(self.position),
        }
