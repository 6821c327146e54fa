"""Multi-head attention that keeps its masks."""

import keras
from keras import constraints, initializers, ops, regularizers

from keras_attention import biases, masks
from keras_attention.layers.attention_axes import AttentionAxes
from keras_attention.layers.caches import Attended, ContextCache, KeyValueCache, empty_cache
from keras_attention.layers.keras_mask import get_keras_mask, set_keras_mask
from keras_attention.layers.positions_of_attention import check_position, rotate, with_position
from keras_attention.ops import TopScores, dot_product_attention
from keras_attention.ops.attention import IMPLEMENTATIONS
from keras_attention.ops.scores import SCORES, default_scale


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
        position: how queries and keys know their distance: a `RotaryPosition`; a `RelativePositionBias` or a
            `TransformerXLPosition`, whose weights become the layer's; or a bias such as
            `keras_attention.biases.ALiBi(num_heads)`. Defaults to not at all.
        score: "scaled_dot", "dot", "cosine", "additive" or "general", the score function; the table of
            `keras_attention.ops.dot_product_attention` has formulas and sources.
        qk_norm: bool. Normalise every query and key by its root mean square, with a learned scale for each feature of a
            head, which keeps the scores of large models in bounds (Henry et al. 2020, https://arxiv.org/abs/2010.04245;
            Dehghani et al. 2023, section 2, https://arxiv.org/abs/2302.05442).
        attention_sinks: bool. Each head has one more key, with a learned score and the value zero, so that a query may
            attend to nothing much (`sinks` of `keras_attention.ops.dot_product_attention`).
        implementation: "auto", "dense", "chunked", "windowed" or "linear", as in
            `keras_attention.ops.dot_product_attention`. "linear" is another function than the others.

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
        cache: what `make_cache` or `make_context_cache` made, or the last call returned. With the first, query and
            value are the next positions and attend to all that the cache holds and to themselves; masks and biases
            given as tensors then have S = `max_length`. With the second, `value` is None: the context is in the cache.
        memory: float [B, M, D_v], states of the positions before the first, which are attended to as well, but get no
            gradient. `memory_mask`: bool [B, M], True at real positions. S is then M + T.
        top_scores: int k. Also return the k largest attention weights of every query, where [T, S] would be too many.

    Returns:
        float [B, T, D]; with `return_attention_scores`, also the attention weights; with `top_scores`, also a
        `keras_attention.ops.TopScores`; with `cache`, also the cache for the next step.

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
        score="scaled_dot",
        qk_norm=False,
        attention_sinks=False,
        implementation="auto",
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
        for name, value, known in (("score", score, SCORES), ("implementation", implementation, IMPLEMENTATIONS)):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(map(repr, known))}. Received: {name}={value!r}")
        if implementation == "windowed" and sliding_window is None:
            raise ValueError("`implementation='windowed'` needs a `sliding_window`. Received: sliding_window=None")
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
        self.position = check_position(position, num_heads)
        self.score = score
        self.qk_norm = qk_norm
        self.attention_sinks = attention_sinks
        self.implementation = implementation
        self.seed_generator = keras.random.SeedGenerator(seed) if dropout else None
        self._window = None if sliding_window is None else masks.SlidingWindow(sliding_window)

    def build(self, query_shape, value_shape, key_shape=None):
        key_shape = value_shape if key_shape is None else key_shape
        self._check_key_shape(value_shape, key_shape)
        self._axes = AttentionAxes(len(query_shape), self.attention_axes)
        if isinstance(self.position, keras.layers.Layer) and not self.position.built:
            self.position.build((*query_shape[:-1], self.num_heads, self.key_dim))
        # Keras's order of weights: query, key, gate, value, output.
        self.query_dense = self._projection("query", query_shape, self.num_heads, self.key_dim)
        self.key_dense = self._projection("key", key_shape, self.num_kv_heads, self.key_dim)
        if self.use_gate:
            self.gate_dense = self._projection("gate", query_shape, self.num_heads, self.value_dim, "sigmoid")
        self.value_dense = self._projection("value", value_shape, self.num_kv_heads, self.value_dim)

        self.query_norm = self._head_norm("query_norm") if self.qk_norm else None
        self.key_norm = self._head_norm("key_norm") if self.qk_norm else None
        self.score_weights = self._make_score_weights()
        self.sinks = None
        if self.attention_sinks:
            self.sinks = self.add_weight(shape=(self.num_heads,), initializer="zeros", autocast=False, name="sinks")

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

    def _head_norm(self, name):
        norm = keras.layers.RMSNormalization(name=name, dtype=self.dtype_policy)
        norm.build((None, None, self.num_heads, self.key_dim))
        norm.supports_masking = True  # As with the projections.
        return norm

    def _make_score_weights(self):
        if self.score == "additive":
            return self.add_weight(
                shape=(self.num_heads, self.key_dim), initializer=self.kernel_initializer.clone(), name="score_vector"
            )
        if self.score == "general":
            # A matrix for each head: an initializer would take the heads for a part of its fan.
            return self.add_weight(
                shape=(self.num_heads, self.key_dim, self.key_dim),
                initializer=lambda shape, dtype: ops.stack(
                    [self.kernel_initializer.clone()(shape[1:], dtype) for _ in range(shape[0])]
                ),
                name="score_kernel",
            )
        return None

    def make_cache(self, batch_size, max_length):
        """An empty cache for self-attention step by step.

        Args:
            batch_size: int or int32 scalar, B.
            max_length: int, the most positions that the steps have together.

        Returns:
            `keras_attention.layers.caches.KeyValueCache`, or the smaller `RollingCache` if the layer has a
            `sliding_window` below `max_length`.

        Raises:
            ValueError: if the layer attends over other axes than the second, or linearly.

        Example:

        >>> import numpy as np
        >>> from keras_attention.layers import MultiHeadAttention
        >>> layer, x = MultiHeadAttention(num_heads=2, key_dim=4), np.ones((1, 3, 8), "float32")
        >>> cache = layer.make_cache(batch_size=1, max_length=3)
        >>> steps = []
        >>> for t in range(3):
        ...     y, cache = layer(x[:, t : t + 1], x[:, t : t + 1], use_causal_mask=True, cache=cache)
        ...     steps.append(y)
        >>> bool(np.allclose(np.concatenate(steps, axis=1), layer(x, x, use_causal_mask=True), atol=1e-6))
        True
        """
        self._check_plain("a cache")
        return empty_cache(
            batch_size,
            max_length,
            self.num_kv_heads,
            self.key_dim,
            self.value_dim,
            self.compute_dtype,
            self.sliding_window,
        )

    def make_context_cache(self, value, key=None, value_mask=None):
        """The cache of a context for cross-attention: its keys and values, projected once.

        Args:
            value: float [B, S, D_v].
            key: float [B, S, D_k]. Defaults to `value`.
            value_mask: bool [B, S], True at real positions. Defaults to the mask that `value` carries.

        Returns:
            `keras_attention.layers.caches.ContextCache`.

        Raises:
            ValueError: if the layer has not been built, or attends over other axes than the second, or linearly.
        """
        self._check_plain("a cache")
        if not self.built:
            raise ValueError("the layer must be built before it projects a context: call it once, or `build` it.")
        value_mask = get_keras_mask(value) if value_mask is None else value_mask
        key_heads, value_heads = self._project_source(value if key is None else key, value)
        key_heads = rotate(self.position, key_heads, 0)
        return ContextCache(key_heads, value_heads, _all_real(value, value_mask), ops.zeros((), "int32"))

    def _check_plain(self, what):
        is_plain = self._axes.is_plain if self.built else self.attention_axes in (None, (1,))
        if not is_plain or self.implementation == "linear":
            raise ValueError(
                f"{what} is for softmax attention over the second axis. Received: attention_axes="
                f"{self.attention_axes}, implementation={self.implementation!r}"
            )

    def _project_query(self, query):
        heads = self.query_dense(query)
        return self._axes.fold(self.query_norm(heads) if self.qk_norm else heads)

    def _project_source(self, key, value):
        keys = self.key_dense(key)
        return self._axes.fold(self.key_norm(keys) if self.qk_norm else keys), self._axes.fold(self.value_dense(value))

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
        cache=None,
        memory=None,
        memory_mask=None,
        top_scores=None,
    ):
        axes = self._axes
        if top_scores is not None:
            self._check_plain("`top_scores`")
        positional = masks.combine(mask, self._window, masks.Causal() if use_causal_mask else None)
        of_sources = [valid for valid in (value_mask, key_mask) if valid is not None]
        offset, key_positions = 0, None
        if cache is None and memory is None:
            keys, values = self._project_source(value if key is None else key, value)
            keys = rotate(self.position, keys, 0)
            of_sources = [masks.Padding(axes.fold(valid)) for valid in of_sources]
        else:
            source, offset, cache = self._earlier(query, key, value, of_sources, cache, memory, memory_mask)
            keys, values, valid, key_positions = source
            of_sources = [masks.Padding(valid)]
            positional = None if positional is None else masks.Shifted(positional, offset, key_positions)
            for name, tensor in (("attention_mask", attention_mask), ("bias", bias)):
                if key_positions is not None and not (tensor is None or isinstance(tensor, biases.Bias)):
                    raise ValueError(
                        f"`{name}` as a tensor cannot be given with a cache of a sliding window, whose slots change "
                        f"their positions. Received: {name} of shape {tuple(tensor.shape)}"
                    )
        allowed = masks.combine(
            positional,
            *of_sources,
            None if query_mask is None else masks.Padding(axes.fold(query_mask), axis="query"),
            None if attention_mask is None else masks.Explicit(axes.fold_mask(attention_mask, query, value)),
        )
        scale = default_scale(self.score, self.key_dim)
        queries = rotate(self.position, self._project_query(query), offset)
        queries, bias, scale = with_position(self.position, queries, bias, scale, offset, key_positions)
        results = dot_product_attention(
            queries,
            keys,
            values,
            bias=bias,
            mask=allowed,
            scale=scale,
            score=self.score,
            score_weights=self.score_weights,
            sinks=self.sinks,
            attn_logits_soft_cap=self.attn_logits_soft_cap,
            dropout=self.dropout if training else 0.0,
            seed=self.seed_generator,
            return_attention_scores=return_attention_scores,
            top_scores=top_scores,
            implementation=self._implementation(return_attention_scores, positional),
        )
        heads, *rest = results if isinstance(results, tuple) else (results,)
        heads = axes.unfold(heads, like=query)
        if self.use_gate:
            heads = heads * self.gate_dense(query)
        output = self.output_dense(heads)
        if query_mask is not None:
            set_keras_mask(output, query_mask)
        if return_attention_scores:
            rest[0] = axes.unfold_scores(rest[0], query, value if key is None else key)
        if cache is not None:
            rest.append(cache)
        return (output, *rest) if rest else output

    def _implementation(self, return_attention_scores, positional):
        if return_attention_scores:
            return "dense"
        # A step with a cache has few queries at positions of their own: no blocks of a window.
        stepping = isinstance(positional, masks.Shifted)
        return "auto" if self.implementation == "windowed" and stepping else self.implementation

    def _earlier(self, query, key, value, of_sources, cache, memory, memory_mask):
        """What is attended to besides this call's own positions: (Attended, the first query's position, next cache)."""
        self._check_plain("a cache or a memory")
        if isinstance(cache, ContextCache):
            if value is not None:
                raise ValueError(
                    "`value` must be None with the cache of a context, which holds all there is to attend to. "
                    f"Received: value of shape {tuple(value.shape)}"
                )
            attended = Attended(cache.key, cache.value, cache.valid)
            return attended, cache.length, cache.advance(ops.shape(query)[1])
        key = value if key is None else key
        valid = _all_real(value, *of_sources)
        if memory is None:
            keys, values = self._project_source(key, value)
            attended, following = cache.append(rotate(self.position, keys, cache.length), values, valid)
            return attended, cache.length, following
        if cache is not None or key is not value:
            own = "a cache" if cache is not None else f"key of shape {tuple(key.shape)}"
            raise ValueError(f"`memory` goes with neither a cache nor a key of its own. Received: memory and {own}")
        source = ops.concatenate([ops.cast(ops.stop_gradient(memory), value.dtype), value], axis=1)
        keys, values = self._project_source(source, source)
        valid = ops.concatenate([_all_real(memory, memory_mask), valid], axis=1)
        return Attended(rotate(self.position, keys, 0), values, valid), ops.shape(memory)[1], None

    def compute_mask(self, query, previous_mask):
        # Keras would take a specification given as `mask` for the previous mask: the query's own is meant.
        return get_keras_mask(query)

    def compute_output_shape(self, query_shape, value_shape, key_shape=None):
        self._check_key_shape(value_shape, key_shape or value_shape)
        return (*query_shape[:-1], *(self.output_shape or query_shape[-1:]))

    def compute_output_spec(
        self,
        query,
        value,
        key=None,
        *args,
        return_attention_scores=False,
        training=None,
        cache=None,
        memory=None,
        top_scores=None,
        **call_arguments,
    ):
        value = query if value is None else value  # the context is in the cache
        key = value if key is None else key
        output = keras.KerasTensor(
            self.compute_output_shape(query.shape, value.shape, key.shape), dtype=self.compute_dtype
        )
        axes = AttentionAxes(len(query.shape), self.attention_axes)
        key_axes = [key.shape[axis] for axis in axes.attended]
        if isinstance(cache, KeyValueCache | ContextCache):
            key_axes = [cache.key.shape[1]]
        elif cache is not None or memory is not None:
            before = cache.key.shape[1] if memory is None else memory.shape[1]
            key_axes = [None if None in (before, key_axes[0]) else before + key_axes[0]]
        weights = (
            *[query.shape[axis] for axis in (0, *axes.batch)],
            self.num_heads,
            *[query.shape[axis] for axis in axes.attended],
        )
        rest = []
        if return_attention_scores:
            rest.append(keras.KerasTensor((*weights, *key_axes), dtype=self.compute_dtype))
        if top_scores is not None:
            shape = (*weights, top_scores)
            rest.append(TopScores(keras.KerasTensor(shape, self.compute_dtype), keras.KerasTensor(shape, "int32")))
        if cache is not None:
            rest.append(keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape, x.dtype), cache))
        return (output, *rest) if rest else output

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
            "score": self.score,
            "qk_norm": self.qk_norm,
            "attention_sinks": self.attention_sinks,
            "implementation": self.implementation,
        }


def _all_real(x, *masks_of_x):
    """bool [B, T]: where all of the masks that are given say that x [B, T, D] is no padding."""
    valid = ops.ones(ops.shape(x)[:2], "bool")
    for mask in masks_of_x:
        if mask is not None:
            valid = ops.logical_and(valid, ops.cast(mask, "bool"))
    return valid
