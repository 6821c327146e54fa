"""A BERT-family encoder in numpy and float64, written from the paper, and tiny checkpoints with random weights."""

import json
import math

import numpy as np
from safetensors.numpy import save_file

_erf = np.vectorize(math.erf)

NAMES = {
    "bert": {
        "layer": "encoder.layer.{i}.",
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "out": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm2": "output.LayerNorm",
    },
    "distilbert": {
        "layer": "transformer.layer.{i}.",
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "out": "attention.out_lin",
        "norm1": "sa_layer_norm",
        "up": "ffn.lin1",
        "down": "ffn.lin2",
        "norm2": "output_layer_norm",
    },
}
NAMES["roberta"] = NAMES["bert"]


def states(tensors, family, ids, layers, heads, pad_id, token_type_ids=None, eps=1e-12):
    """The last hidden states, float64 [B, T, D]."""
    weights = {name: value.astype("float64") for name, value in tensors.items()}
    names = NAMES[family]
    ids = np.asarray(ids)
    positions = np.arange(ids.shape[1]) + (pad_id + 1 if family == "roberta" else 0)

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.position_embeddings.weight"][positions]
    if family != "distilbert":
        types = np.zeros_like(ids) if token_type_ids is None else np.asarray(token_type_ids)
        x = x + weights["embeddings.token_type_embeddings.weight"][types]
    x = norm(x, "embeddings.LayerNorm")
    hidden = np.where(ids != pad_id, 0.0, -np.inf)[:, None, None, :]
    for i in range(layers):
        layer = names["layer"].format(i=i)
        split = [linear(x, layer + names[part]).reshape(*ids.shape, heads, -1) for part in ("query", "key", "value")]
        query, key, value = (part.transpose(0, 2, 1, 3) for part in split)
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(query.shape[-1]) + hidden
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        attended = (scores / scores.sum(-1, keepdims=True)) @ value
        attended = attended.transpose(0, 2, 1, 3).reshape(x.shape)
        x = norm(x + linear(attended, layer + names["out"]), layer + names["norm1"])
        y = linear(x, layer + names["up"])
        y = 0.5 * y * (1 + _erf(y / math.sqrt(2)))
        x = norm(x + linear(y, layer + names["down"]), layer + names["norm2"])
    return x


def write_checkpoint(folder, family, layers=2, heads=4, width=16, inner=24, vocabulary=30, positions=20, seed=0):
    """A folder as published, with random weights; returns its tensors."""
    rng = np.random.default_rng(seed)
    names = NAMES[family]

    def matrix(*shape):
        return rng.normal(scale=0.3, size=shape).astype("float32")

    tensors = {
        "embeddings.word_embeddings.weight": matrix(vocabulary, width),
        "embeddings.position_embeddings.weight": matrix(positions, width),
    }
    if family != "distilbert":
        segments = 1 if family == "roberta" else 2
        tensors["embeddings.token_type_embeddings.weight"] = matrix(segments, width)
    sizes = {"query": (width, width), "key": (width, width), "value": (width, width), "out": (width, width)}
    sizes |= {"up": (inner, width), "down": (width, inner)}
    norms = ["embeddings.LayerNorm"]
    for i in range(layers):
        layer = names["layer"].format(i=i)
        norms += [layer + names["norm1"], layer + names["norm2"]]
        for part, shape in sizes.items():
            tensors[f"{layer}{names[part]}.weight"] = matrix(*shape)
            tensors[f"{layer}{names[part]}.bias"] = matrix(shape[0])
    for name in norms:
        tensors[f"{name}.weight"] = 1 + matrix(width)
        tensors[f"{name}.bias"] = matrix(width)
    config = {"model_type": family, "vocab_size": vocabulary, "max_position_embeddings": positions}
    if family == "distilbert":
        config |= {"dim": width, "hidden_dim": inner, "n_layers": layers, "n_heads": heads, "activation": "gelu"}
        config |= {"dropout": 0.1, "pad_token_id": 0}
    else:
        config |= {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
        config |= {"num_attention_heads": heads, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
        config |= {"type_vocab_size": segments, "pad_token_id": 1 if family == "roberta" else 0}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return tensors
