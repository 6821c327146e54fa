"""What the encoder and the decoder have in common: blocks, one after another."""

import keras

from keras_attention.layers.seeds import derive_seed
from keras_attention.layers.transformer_block import TransformerBlock, check_attention_options, make_normalization


class TransformerStack(keras.layers.Layer):
    """`num_layers` blocks and, with `norm="pre"`, a normalisation after the last.

    Args:
        num_layers: int, the number of blocks.
        causal, cross_attention: bool, as in `TransformerBlock`; the subclasses fix them.
        seed: int, for the dropout; each block gets its own.
        name, dtype, trainable: as in `keras.layers.Layer`.
        **block_arguments: of every block. Each option of the block is an attribute of the stack and in its config.
    """

    def __init__(
        self,
        num_layers,
        causal,
        cross_attention,
        seed=None,
        name=None,
        dtype=None,
        trainable=True,
        **block_arguments,
    ):
        if not isinstance(num_layers, int) or isinstance(num_layers, bool) or num_layers <= 0:
            raise ValueError(f"`num_layers` must be a positive integer. Received: num_layers={num_layers!r}")
        options = check_attention_options(block_arguments.pop("attention_options", None))
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.supports_masking = True
        self.num_layers = num_layers
        self.seed = seed
        self.blocks = [
            TransformerBlock(
                causal=causal,
                cross_attention=cross_attention,
                seed=derive_seed(seed, "block", i),
                dtype=self.dtype_policy,
                name=f"block_{i}",
                attention_options=self._options_of_block(options),
                **block_arguments,
            )
            for i in range(num_layers)
        ]
        for option in self._block_options():
            setattr(self, option, getattr(self.blocks[0], option))
        self.output_norm = None
        if self.norm == "pre":
            self.output_norm = make_normalization(
                self.normalization, self.layer_norm_epsilon, dtype=self.dtype_policy, name="output_norm"
            )

    def _options_of_block(self, attention_options):
        """The `attention_options` of the next block, from those of the stack."""
        return attention_options

    def _block_options(self):
        """The part of a block's config that is the same for all blocks and chosen by the user."""
        block = self.blocks[0]
        own = {*keras.layers.Layer.get_config(block), "causal", "cross_attention", "seed"}
        return {option: value for option, value in block.get_config().items() if option not in own}

    def _build_blocks(self, x_shape, *context_shape):
        for block in self.blocks:
            block.build(x_shape, *context_shape)
        if self.output_norm is not None:
            self.output_norm.build(x_shape)

    def _apply_blocks(self, x, *arguments, return_attention_scores, training, cache=None, **masks):
        scores, caches = [], []
        for i, block in enumerate(self.blocks):
            results = block(
                x,
                *arguments,
                return_attention_scores=return_attention_scores,
                training=training,
                cache=None if cache is None else cache[i],
                **masks,
            )
            if return_attention_scores:
                scores.append(results[1])
            if cache is not None:
                caches.append(results[-1])
            x = results[0] if isinstance(results, tuple) else results
        if self.output_norm is not None:
            x = self.output_norm(x)
        rest = [scores] if return_attention_scores else []
        if cache is not None:
            rest.append(tuple(caches))
        return (x, *rest) if rest else x

    def get_config(self):
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "seed": self.seed,
            **self._block_options(),
        }
