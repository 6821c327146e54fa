"""How the published BERT-family checkpoints name what a TextEncoder holds."""

import dataclasses
import math
import re
from typing import NamedTuple

import keras
from keras import activations

from keras_attention.layers import gelu_tanh

_ACTIVATIONS = {
    "gelu": activations.gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": activations.relu,
    "silu": activations.silu,
    "swish": activations.silu,
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where one family keeps its settings and its tensors.

    Attributes:
        settings: TextEncoder argument -> key of config.json.
        fixed: TextEncoder argument -> value, where the family has no key for it.
        prefix: what stands before every name when the checkpoint was saved with a task's head.
        tensors: part of a TextEncoder -> name, with {i} for the number of the block; `.weight` and `.bias` follow.
        positions_after_pad: whether positions are counted from `pad_id + 1`, so that the rows before are never used.
        pad_id: the id of padding where config.json does not say.
    """

    settings: dict
    fixed: dict
    prefix: str
    tensors: dict
    positions_after_pad: bool = False
    pad_id: int = 0


_BERT_SETTINGS = {
    "vocabulary_size": "vocab_size",
    "sequence_length": "max_position_embeddings",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_dim": "hidden_size",
    "intermediate_dim": "intermediate_size",
    "dropout": "hidden_dropout_prob",
    "activation": "hidden_act",
    "layer_norm_epsilon": "layer_norm_eps",
    "num_segments": "type_vocab_size",
    "pad_id": "pad_token_id",
}
_EMBEDDINGS = {
    "token_embeddings": "embeddings.word_embeddings",
    "position_embeddings": "embeddings.position_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
}
_BERT_TENSORS = {
    **_EMBEDDINGS,
    "segment_embedding": "embeddings.token_type_embeddings",
    "query": "encoder.layer.{i}.attention.self.query",
    "key": "encoder.layer.{i}.attention.self.key",
    "value": "encoder.layer.{i}.attention.self.value",
    "attention_output": "encoder.layer.{i}.attention.output.dense",
    "self_attention_norm": "encoder.layer.{i}.attention.output.LayerNorm",
    "intermediate": "encoder.layer.{i}.intermediate.dense",
    "output": "encoder.layer.{i}.output.dense",
    "feed_forward_norm": "encoder.layer.{i}.output.LayerNorm",
}
_DISTILBERT_TENSORS = {
    **_EMBEDDINGS,
    "query": "transformer.layer.{i}.attention.q_lin",
    "key": "transformer.layer.{i}.attention.k_lin",
    "value": "transformer.layer.{i}.attention.v_lin",
    "attention_output": "transformer.layer.{i}.attention.out_lin",
    "self_attention_norm": "transformer.layer.{i}.sa_layer_norm",
    "intermediate": "transformer.layer.{i}.ffn.lin1",
    "output": "transformer.layer.{i}.ffn.lin2",
    "feed_forward_norm": "transformer.layer.{i}.output_layer_norm",
}
_ROBERTA = Layout(_BERT_SETTINGS, {}, "roberta.", _BERT_TENSORS, positions_after_pad=True, pad_id=1)

LAYOUTS = {
    "bert": Layout(_BERT_SETTINGS, {}, "bert.", _BERT_TENSORS),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Layout(
        settings={
            "vocabulary_size": "vocab_size",
            "sequence_length": "max_position_embeddings",
            "num_layers": "n_layers",
            "num_heads": "n_heads",
            "hidden_dim": "dim",
            "intermediate_dim": "hidden_dim",
            "dropout": "dropout",
            "activation": "activation",
            "pad_id": "pad_token_id",
        },
        fixed={"layer_norm_epsilon": 1e-12, "num_segments": 0},
        prefix="distilbert.",
        tensors=_DISTILBERT_TENSORS,
    ),
}

# What the reference implementations assume where a config.json leaves a setting out.
_DEFAULTS = {
    "dropout": 0.1,
    "activation": "gelu",
    "layer_norm_epsilon": 1e-12,
    "num_segments": 2,
}


def encoder_arguments(layout, config):
    """The arguments of the TextEncoder that a config.json describes.

    Args:
        layout: `Layout`.
        config: dict, the content of config.json.

    Returns:
        dict, the keyword arguments of `TextEncoder`.

    Raises:
        KeyError: naming the setting that is missing.
        ValueError: naming the setting that no TextEncoder has.
    """
    arguments = dict(layout.fixed)
    for argument, key in layout.settings.items():
        value = config.get(key)
        if value is None:
            defaults = {**_DEFAULTS, "pad_id": layout.pad_id}
            if argument not in defaults:
                raise KeyError(key)
            value = defaults[argument]
        arguments[argument] = value
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError(f"position_embedding_type {config['position_embedding_type']!r} (only 'absolute' is read)")
    for argument in ("vocabulary_size", "sequence_length", "num_layers", "num_heads", "hidden_dim", "intermediate_dim"):
        if not isinstance(arguments[argument], int) or arguments[argument] <= 0:
            raise ValueError(f"{layout.settings[argument]} {arguments[argument]!r} (a positive whole number is needed)")
    pad_id = arguments["pad_id"]
    if not isinstance(pad_id, int) or not 0 <= pad_id < arguments["vocabulary_size"]:
        raise ValueError(f"pad_token_id {pad_id!r} (an id of the vocabulary is needed)")
    if config.get("is_decoder"):
        raise ValueError("is_decoder true (only encoders are read)")
    if arguments["activation"] not in _ACTIVATIONS:
        raise ValueError(f"activation {arguments['activation']!r} (read are: {', '.join(_ACTIVATIONS)})")
    arguments["activation"] = _ACTIVATIONS[arguments["activation"]]
    if layout.positions_after_pad:
        arguments["sequence_length"] -= arguments["pad_id"] + 1
    return arguments


def bert_config(encoder):
    """The config.json, in the bert layout, that describes a TextEncoder."""
    names = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
    config = encoder.get_config()
    if encoder.activation not in names:
        raise ValueError(
            f"a BERT folder cannot say the activation {config['activation']!r} (it can: {', '.join(_ACTIVATIONS)})."
        )
    settings = {key: config[argument] for argument, key in _BERT_SETTINGS.items()}
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        **settings,
        "hidden_act": names[encoder.activation],
        "attention_probs_dropout_prob": config["dropout"],
        "position_embedding_type": "absolute",
        # A reader of this layout adds a segment's embedding: one row of zeros changes nothing.
        "type_vocab_size": config["num_segments"] or 1,
    }


def plain_name(name, layout):
    """A tensor's name without the prefix of a task's checkpoint, with the layer norms' old names made new."""
    name = name.removeprefix(layout.prefix)
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: "LayerNorm." + {"gamma": "weight", "beta": "bias"}[m[1]], name)


class Place(NamedTuple):
    """Where one weight of a TextEncoder stands in a checkpoint: under `name`, in `shape`.

    A kernel is `transposed`: there [out, in], here [in, out] with the heads as axes of their own.
    """

    name: str
    variable: keras.Variable
    shape: tuple
    transposed: bool = False


def places(layout, encoder):
    """The `Place` of every weight of a built TextEncoder."""
    names = layout.tensors
    yield _place(f"{names['token_embeddings']}.weight", encoder.embedding.token_embeddings)
    yield _place(f"{names['position_embeddings']}.weight", encoder.embedding.position_embeddings)
    if encoder.num_segments:
        yield _place(f"{names['segment_embedding']}.weight", encoder.segment_embedding.embeddings)
    yield from _norm(names["embedding_norm"], encoder.embedding_norm)
    for i, block in enumerate(encoder.blocks):
        attention, feed_forward = block.self_attention, block.feed_forward
        yield from _dense(names["query"].format(i=i), attention.query_dense)
        yield from _dense(names["key"].format(i=i), attention.key_dense)
        yield from _dense(names["value"].format(i=i), attention.value_dense)
        yield from _dense(names["attention_output"].format(i=i), attention.output_dense)
        yield from _norm(names["self_attention_norm"].format(i=i), block.self_attention_norm)
        yield from _dense(names["intermediate"].format(i=i), feed_forward.intermediate_dense)
        yield from _dense(names["output"].format(i=i), feed_forward.output_dense)
        yield from _norm(names["feed_forward_norm"].format(i=i), block.feed_forward_norm)


def _place(name, variable):
    return Place(name, variable, tuple(variable.shape))


def _norm(name, normalization):
    yield _place(f"{name}.weight", normalization.gamma)
    yield _place(f"{name}.bias", normalization.beta)


def _dense(name, dense):
    outputs = math.prod(dense.bias.shape)
    yield Place(f"{name}.weight", dense.kernel, (outputs, math.prod(dense.kernel.shape) // outputs), transposed=True)
    yield Place(f"{name}.bias", dense.bias, (outputs,))
