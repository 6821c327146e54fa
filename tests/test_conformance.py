"""Every public layer goes through the conformance suite, and the suite finds the faults that it is for."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_attention import conformance, layers, models
from keras_attention.biases import ALiBi
from keras_attention.conformance import CHECKS, Case
from keras_attention.layers.keras_mask import set_keras_mask
from keras_attention.masks import Causal, SlidingWindow
from tests.backend import not_on_torch, tensorflow_only

D, V = 8, 12


def states(rng, batch, length):
    return {"inputs": rng.normal(size=(batch, length, D))}


def block_states(rng, batch, length):
    return {"x": rng.normal(size=(batch, length, D))}


def with_context(rng, batch, length):
    return {**block_states(rng, batch, length), "context": rng.normal(size=(batch, length + 2, 6))}


def with_segments(rng, batch, length):
    return {**states(rng, batch, length), "segment_ids": rng.integers(0, 3, (batch, length))}


def token_ids(rng, batch, length):
    return {"ids": rng.integers(1, V, (batch, length))}


def token_ids_of_types(rng, batch, length):
    return {**token_ids(rng, batch, length), "token_type_ids": rng.integers(0, 2, (batch, length))}


def self_attention(cached=False, **options):
    def inputs(rng, batch, length):
        x = rng.normal(size=(batch, length, D))
        return {"query": x, "value": x}

    call = {name: options.pop(name) for name in ("use_causal_mask", "mask") if name in options}
    position = options.pop("position", lambda **arguments: None)

    def make(**arguments):
        return layers.MultiHeadAttention(
            **{"num_heads": 2, "key_dim": 4, **options}, position=position(**arguments), **arguments
        )

    return Case(make, inputs, call=call, cached=cached)


def rotary(**arguments):
    return layers.RotaryPosition()


def relative(**arguments):
    return layers.RelativePositionBias(2, 4, 3, **arguments)


def transformer_xl(**arguments):
    return layers.TransformerXLPosition(**arguments)


def alibi(**arguments):
    return ALiBi(2)


def cross_attention(rng, batch, length):
    return {
        "query": rng.normal(size=(batch, length, D)),
        "value": rng.normal(size=(batch, length + 2, 6)),
        "key": rng.normal(size=(batch, length + 2, 7)),
    }


def block(inputs=block_states, **options):
    cached = options.get("causal", False)
    return Case(lambda **arguments: layers.TransformerBlock(2, 12, **options, **arguments), inputs, cached=cached)


CASES = {
    "attention": self_attention(),
    "cross attention": Case(
        lambda **arguments: layers.MultiHeadAttention(2, 4, value_dim=3, use_gate=True, **arguments), cross_attention
    ),
    "attention with shared keys, causal": self_attention(
        num_heads=4, num_kv_heads=2, use_causal_mask=True, cached=True
    ),
    "attention with rotary positions": self_attention(position=rotary, use_causal_mask=True, cached=True),
    "attention with positions of Transformer-XL": self_attention(position=transformer_xl, use_causal_mask=True),
    "attention with a relative bias": self_attention(position=relative),
    "attention with ALiBi and a soft cap": self_attention(position=alibi, attn_logits_soft_cap=2.0),
    "attention in a window": self_attention(sliding_window=2),
    "attention with a static mask": self_attention(mask=Causal() & SlidingWindow(3), cached=True),
    "post-norm block": block(),
    "pre-norm causal block": block(norm="pre", causal=True),
    "block of rms and swiglu": block(norm="pre", normalization="rms", activation="swiglu", use_bias=False),
    "decoder block": block(with_context, causal=True, cross_attention=True),
    "encoder": Case(lambda **arguments: layers.TransformerEncoder(2, 2, 12, norm="pre", **arguments), block_states),
    "decoder": Case(
        lambda **arguments: layers.TransformerDecoder(1, 2, 12, cross_attention=True, **arguments),
        with_context,
        cached=True,
    ),
    "Transformer-XL": Case(lambda **arguments: layers.TransformerXL(1, 2, 12, 4, **arguments), block_states),
    "sinusoids": Case(lambda **arguments: layers.PositionalEncoding(**arguments), states),
    "learned positions": Case(lambda **arguments: layers.PositionEmbedding(16, **arguments), states),
    "segments": Case(lambda **arguments: layers.SegmentEmbedding(3, **arguments), with_segments),
    "tokens and positions": Case(
        lambda **arguments: layers.TokenAndPositionEmbedding(V, 16, D, **arguments), token_ids
    ),
    "feed-forward": Case(lambda **arguments: layers.FeedForward(12, **arguments), states),
    "gated feed-forward": Case(lambda **arguments: layers.FeedForward(12, activation="geglu", **arguments), states),
    "pooling": Case(lambda **arguments: layers.AttentionPooling(2, 4, **arguments), states),
    "pooling to three": Case(lambda **arguments: layers.AttentionPooling(2, 4, num_queries=3, **arguments), states),
    "text encoder": Case(
        lambda **arguments: models.TextEncoder(V, 16, 2, 2, D, 12, dropout=0.0, **arguments), token_ids_of_types
    ),
}


# An export traces, saves and loads: these four have what the others are made of.
EXPORTED = ("attention with a relative bias", "decoder block", "pooling", "text encoder")


@pytest.mark.parametrize("check", [check for check in CHECKS if check != "export"])
@pytest.mark.parametrize("case", CASES)
def test_every_layer_conforms(case, check):
    CHECKS[check](CASES[case])


@tensorflow_only("a SavedModel is TensorFlow's")
def test_layers_with_what_all_are_made_of_are_exported_and_verified(tmp_path):
    version = conformance.check_export({name: CASES[name] for name in EXPORTED}, tmp_path / "layers")
    assert (version / "saved_model.pb").is_file()


def test_every_public_layer_has_a_case():
    made = {type(case.make(dtype="float32")) for case in CASES.values()}
    # What the attention takes as its position has a case there.
    of_attention = {layers.RelativePositionBias, layers.RotaryPosition, layers.TransformerXLPosition}
    public = {getattr(layers, name) for name in layers.__all__ if isinstance(getattr(layers, name), type)}
    assert public - of_attention <= made


class Plain(keras.layers.Layer):
    """A layer without a fault that attends to the mean of all real positions; the broken ones change one thing."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.factor = factor

    def build(self, x_shape):
        self.kernel = self.add_weight(shape=(x_shape[-1], x_shape[-1]), name="kernel")

    def call(self, x, mask=None):
        weights = ops.ones(ops.shape(x)[:2], x.dtype) if mask is None else ops.cast(mask, x.dtype)
        total = ops.sum(weights, axis=1, keepdims=True)
        weights = weights / ops.where(total > 0, total, ops.ones_like(total))
        mean = ops.sum(x * weights[..., None], axis=1, keepdims=True)
        return x + self.factor * ops.matmul(mean, ops.cast(self.kernel, x.dtype))

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


class LosesTheMask(Plain):
    def compute_mask(self, x, previous_mask=None):
        return None


class IgnoresTheMask(Plain):
    def call(self, x, mask=None):
        return super().call(x)


class ChangesTheMask(Plain):
    def compute_mask(self, x, previous_mask=None):
        return None if previous_mask is None else ops.ones_like(previous_mask)


class SaysAnotherShape(Plain):
    def compute_output_spec(self, x, mask=None):
        return keras.KerasTensor((*x.shape[:2], 2 * x.shape[2]), dtype=self.compute_dtype)


class SaysAnotherType(Plain):
    def compute_output_spec(self, x, mask=None):
        return keras.KerasTensor(x.shape, dtype="float64")


class ForgetsAnArgument(Plain):
    def get_config(self):
        return keras.layers.Layer.get_config(self)


class LoadsAnotherArgument(Plain):
    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "factor": config["factor"] + 1})


class LoadsOtherWeights(Plain):
    def load_own_variables(self, store):
        self.kernel.assign(2 * store["0"][...])


class IsNotFiniteInHalfPrecision(Plain):
    def call(self, x, mask=None):
        return super().call(x, mask) + 0 * ops.square(1e3 * x)


class DividesByTheNumberOfPositions(Plain):
    def call(self, x, mask=None):
        mask = ops.ones(ops.shape(x)[:2]) if mask is None else mask
        return super().call(x) / ops.sum(ops.cast(mask, x.dtype), axis=1)[:, None, None]


class ReturnsFloat32(Plain):
    def call(self, x, mask=None):
        return ops.cast(super().call(x, mask), "float32")


class HasAWrongGradient(Plain):
    def call(self, x, mask=None):
        return super().call(x, mask) + ops.stop_gradient(ops.sin(x))


class HasAWeightWithoutAGradient(Plain):
    def call(self, x, mask=None):
        return x * ops.cast(ops.sum(ops.stop_gradient(self.kernel)), x.dtype)


class MixesTheBatch(Plain):
    def call(self, x, mask=None):
        return super().call(x, mask) + ops.mean(ops.sum(x, axis=(1, 2)))


class FailsOnAnEmptyBatch(Plain):
    def call(self, x, mask=None):
        return super().call(x, mask) if x.shape[0] != 0 else ops.zeros((1, *x.shape[1:]))


class Cumulative(Plain):
    """The sum up to each position, with a cache as the package's layers have it: right where `keep` is 1."""

    def __init__(self, keep=1.0, **kwargs):
        super().__init__(**kwargs)
        self.keep = keep

    def make_cache(self, batch_size, max_length):
        return ops.zeros((batch_size, 1, D))

    def call(self, x, mask=None, cache=None):
        x = ops.matmul(x, ops.cast(self.kernel, x.dtype))
        if cache is None:
            return ops.cumsum(x, axis=1)
        total = cache + ops.cumsum(x, axis=1)
        return total, self.keep * total[:, -1:]


for broken in [*Plain.__subclasses__(), Plain]:
    keras.saving.register_keras_serializable("test_conformance")(broken)


def plain(layer, **options):
    return Case(layer, block_states, **options)


@pytest.mark.parametrize("check", [check for check in CHECKS if check not in ("cached", "export")])
def test_a_layer_without_a_fault_passes(check):
    CHECKS[check](plain(Plain))


@pytest.mark.parametrize(
    ("layer", "check", "message"),
    [
        (LosesTheMask, "padding invariance", "the output carries no mask"),
        (IgnoresTheMask, "padding invariance", "at a depth of 1 padding changes the output by"),
        (ChangesTheMask, "padding invariance", "the output carries another mask than the input"),
        (MixesTheBatch, "padding invariance", "padding changes the output|rest of its batch changes the output"),
        (SaysAnotherShape, "shapes", r"symbolic shape is \(2, 5, 16\), that of the model \(2, 5, 8\)"),
        (SaysAnotherType, "shapes", "the symbolic type is float64, the real one float32"),
        (ForgetsAnArgument, "saving", "`get_config` of ForgetsAnArgument lacks the constructor's factor"),
        (LoadsAnotherArgument, "saving", "the config differs in factor"),
        (LoadsOtherWeights, "saving", "after saving and loading the output differs by"),
        (IsNotFiniteInHalfPrecision, "precisions", "under mixed_float16 the output is not finite"),
        (DividesByTheNumberOfPositions, "precisions", "under float32 the output is not finite beside"),
        (ReturnsFloat32, "precisions", "under mixed_bfloat16 the output has type float32, not bfloat16"),
        (HasAWrongGradient, "gradients", "the gradient of x along a random direction"),
        (HasAWeightWithoutAGradient, "training", "kernel (has no gradient|does not move)"),
        (MixesTheBatch, "small", "the output of a batch of one differs by"),
        (FailsOnAnEmptyBatch, "small", r"batch of zero differs: its shape is \(1, 5, 8\), not \(0, 5, 8\)"),
    ],
)
def test_a_fault_is_found_by_its_check_and_named(layer, check, message):
    with pytest.raises(AssertionError, match=message):
        CHECKS[check](plain(layer))


def test_a_mask_that_is_lost_between_layers_shows_at_a_depth_of_two():
    class LosesItSilently(Plain):
        def __call__(self, x, *args, **kwargs):
            output = super().__call__(x, *args, **kwargs)
            set_keras_mask(output, None)
            return output

    case = plain(lambda **arguments: keras.Sequential([Plain(**arguments), LosesItSilently(**arguments)]))
    with pytest.raises(AssertionError, match="the output carries no mask"):
        CHECKS["padding invariance"](case)


@not_on_torch("nothing is compiled there")
def test_an_output_that_is_another_when_compiled_is_found():
    class KnowsThatItIsTraced(Plain):
        def call(self, x, mask=None):
            return super().call(x, mask) + (0.0 if _is_eager(x) else 1.0)

    with pytest.raises(AssertionError, match=r"the (traced|compiled) output differs from the eager one by"):
        CHECKS["compiled"](plain(KnowsThatItIsTraced))


def _is_eager(x):
    try:
        np.asarray(x)
    except Exception:
        return False
    return True


def test_a_cache_is_compared_with_the_whole_sequence():
    CHECKS["cached"](plain(Cumulative, cached=True))
    with pytest.raises(AssertionError, match=r"the cached output of the positions 3 to 3 differs .* by"):
        CHECKS["cached"](plain(lambda **arguments: Cumulative(keep=0.9, **arguments), cached=True))


def test_what_does_not_apply_is_skipped_with_the_reason():
    for check, case, reason in [
        ("cached", plain(Plain), "no cache"),
        ("padding invariance", plain(Plain, masked=False), "no padding"),
        ("training", CASES["sinusoids"], "no trainable weights"),
    ]:
        with pytest.raises(conformance.NotApplicable, match=reason):
            CHECKS[check](case)
    reason = "does not ask" if keras.backend.backend() == "tensorflow" else "from TensorFlow"
    with pytest.raises(conformance.NotApplicable, match=reason):
        CHECKS["export"](plain(Plain))
