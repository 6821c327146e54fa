"""Checkpoints of the BERT family: the states they were published with, what is refused, and the way back."""

import json
import logging

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers.implementations import BertWordPieceTokenizer

from keras_attention.layers import gelu_tanh
from keras_attention.models import TextEncoder
from keras_attention.pretrained import CheckpointError, load_bert, save_bert
from tests.pretrained.reference_bert import states, write_checkpoint

FAMILIES = ["bert", "roberta", "distilbert"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "how", "old", "are", "you", "##s", "?"]


def padded_ids(pad_id):
    ids = np.random.default_rng(1).integers(4, 30, size=(3, 9))
    ids[1, 5:] = pad_id
    ids[2, 2:] = pad_id
    return ids


def assert_states(encoder, tensors, family, ids, token_type_ids=None):
    expected = states(tensors, family, ids, 2, 4, encoder.pad_id, token_type_ids)
    got = np.asarray(encoder(ids) if token_type_ids is None else encoder(ids, token_type_ids=token_type_ids))
    real = ids != encoder.pad_id
    np.testing.assert_allclose(got[real], expected[real], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_at_real_positions_equal_the_reference(family, tmp_path):
    tensors = write_checkpoint(tmp_path, family)
    encoder, tokenizer = load_bert(tmp_path)
    assert tokenizer is None
    assert encoder.pad_id == (1 if family == "roberta" else 0)
    assert encoder.sequence_length == (18 if family == "roberta" else 20)
    assert_states(encoder, tensors, family, padded_ids(encoder.pad_id))


def test_token_types_are_used(tmp_path):
    tensors = write_checkpoint(tmp_path, "bert")
    encoder, _ = load_bert(tmp_path)
    ids = padded_ids(0)
    types = np.random.default_rng(2).integers(0, 2, size=ids.shape)
    assert_states(encoder, tensors, "bert", ids, types)
    write_checkpoint(tmp_path / "other", "distilbert")
    with pytest.raises(ValueError, match="takes no `token_type_ids`"):
        load_bert(tmp_path / "other")[0](ids, token_type_ids=types)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_with_a_tasks_head_and_old_norm_names_is_read_and_the_rest_is_named(family, tmp_path, caplog):
    tensors = write_checkpoint(tmp_path, family)
    dressed = {
        f"{family}.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for name, t in tensors.items()
    }
    save_file({**dressed, "classifier.weight": np.zeros((2, 2), "float32")}, tmp_path / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        encoder, _ = load_bert(tmp_path)
    assert "no place for classifier.weight" in caplog.text
    assert_states(encoder, tensors, family, padded_ids(encoder.pad_id))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_loads_with_the_same_states(family, tmp_path):
    write_checkpoint(tmp_path / "from", family)
    encoder, _ = load_bert(tmp_path / "from")
    save_bert(tmp_path / "to", encoder)
    again, _ = load_bert(tmp_path / "to")
    ids = padded_ids(encoder.pad_id)
    np.testing.assert_allclose(np.asarray(again(ids)), np.asarray(encoder(ids)), atol=1e-6)
    assert not list((tmp_path / "to").glob(".*"))


def test_a_saved_bert_folder_holds_the_published_tensors_and_settings(tmp_path):
    tensors = write_checkpoint(tmp_path / "from", "bert")
    encoder, _ = load_bert(tmp_path / "from")
    save_bert(tmp_path / "to", encoder)
    written = load_file(tmp_path / "to" / "model.safetensors")
    assert set(written) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(written[name], tensor)
    before, after = (json.loads((tmp_path / f / "config.json").read_text()) for f in ("from", "to"))
    assert {key: after[key] for key in before} == before


def test_an_encoder_of_this_package_is_written_with_its_tokenizer(tmp_path):
    from keras_attention.text import WordPieceTokenizer

    encoder = TextEncoder(len(WORDS), 12, 1, 2, 8, 16, activation=gelu_tanh, layer_norm_epsilon=1e-5)
    encoder.build((None, None))
    save_bert(tmp_path, encoder, WordPieceTokenizer(WORDS, lowercase=False))
    again, tokenizer = load_bert(tmp_path)
    ids = tokenizer(["how olds are you?"])
    assert tokenizer.lowercase is False
    assert tokenizer.sequence_length == 12
    assert ids.numpy().tolist() == [[2, 4, 5, 8, 6, 7, 9, 3]]
    np.testing.assert_allclose(np.asarray(again(ids)), np.asarray(encoder(ids)), atol=1e-6)
    assert again.activation is gelu_tanh


def test_a_roberta_that_does_not_say_its_padding_pads_with_1(tmp_path):
    tensors = write_checkpoint(tmp_path, "roberta")
    _configure(tmp_path, pad_token_id=None)
    encoder, _ = load_bert(tmp_path)
    assert encoder.pad_id == 1
    assert_states(encoder, tensors, "roberta", padded_ids(1))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_in_half_precision_are_read(dtype, tmp_path):
    import ml_dtypes

    tensors = write_checkpoint(tmp_path, "bert")
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else "float16")
    half = {name: tensor.astype(kind) for name, tensor in tensors.items()}
    save_file(half, tmp_path / "model.safetensors")
    encoder, _ = load_bert(tmp_path)
    assert_states(encoder, {name: t.astype("float32") for name, t in half.items()}, "bert", padded_ids(0))


def test_an_unknown_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no encoder folder at .*nowhere"):
        load_bert(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object"),
        (lambda f: _configure(f, model_type="t5"), "model_type 't5' cannot be read"),
        (lambda f: _configure(f, hidden_size=None), "lacks 'hidden_size'"),
        (lambda f: _configure(f, hidden_act="quick_gelu"), "activation 'quick_gelu'"),
        (lambda f: _configure(f, num_attention_heads=5), "`num_heads` must divide `hidden_dim`"),
        (lambda f: _configure(f, position_embedding_type="relative_key"), "position_embedding_type 'relative_key'"),
        (lambda f: _configure(f, is_decoder=True), "is_decoder"),
        (lambda f: _configure(f, num_attention_heads=0), "num_attention_heads 0"),
        (lambda f: _configure(f, num_hidden_layers=0), "num_hidden_layers 0"),
        (lambda f: _configure(f, model_type=[]), r"model_type \[\] cannot be read"),
        (lambda f: _configure(f, pad_token_id="x"), "pad_token_id 'x'"),
        (lambda f: _configure(f, pad_token_id=30), "pad_token_id 30"),
        (lambda f: (f / "vocab.txt").write_text("a\n[UNK]\n[CLS]\n[SEP]\n[PAD]\n"), "'.PAD.' in line 5"),
        (lambda f: (f / "model.safetensors").unlink(), "read from safetensors only"),
        (lambda f: (f / "model.safetensors").write_bytes(b"not weights"), "not a readable safetensors file"),
        (lambda f: _tensors(f, drop="encoder.layer.1.output.dense.bias"), "layer.1.output.dense.bias is missing"),
        (
            lambda f: _tensors(f, reshape="encoder.layer.0.attention.self.query.weight"),
            r"query.weight has shape \(8, 32\) where config.json says \(16, 16\)",
        ),
        (lambda f: (f / "vocab.txt").write_text("\n".join([*WORDS, *map(str, range(50))])), "has 60 tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_folder_is_refused_with_the_file_and_the_reason(change, message, tmp_path):
    write_checkpoint(tmp_path, "bert")
    change(tmp_path)
    with pytest.raises(CheckpointError, match=message) as error:
        load_bert(tmp_path)
    assert str(tmp_path) in str(error.value)


def _configure(folder, **changes):
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def _tensors(folder, drop=None, reshape=None):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(drop, None)
    if reshape:
        tensors[reshape] = tensors[reshape].reshape(8, -1)
    save_file(tensors, folder / "model.safetensors")


def test_a_vocabulary_that_cannot_run_gives_no_tokenizer_and_a_reason(tmp_path, caplog):
    write_checkpoint(tmp_path, "bert")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with caplog.at_level(logging.WARNING):
        encoder, tokenizer = load_bert(tmp_path)
    assert encoder.built
    assert tokenizer is None
    assert "[UNK]" in caplog.text


def test_an_encoder_that_the_layout_cannot_say_is_not_written(tmp_path):
    pre = TextEncoder(10, 8, 1, 2, 4, 8, norm="pre")
    pre.build((None, None))
    with pytest.raises(ValueError, match="post-norm encoders only"):
        save_bert(tmp_path / "x", pre)
    with pytest.raises(ValueError, match="no weights yet"):
        save_bert(tmp_path / "x", TextEncoder(10, 8, 1, 2, 4, 8))
    odd = TextEncoder(10, 8, 1, 2, 4, 8, activation="tanh")
    odd.build((None, None))
    with pytest.raises(ValueError, match="cannot say the activation 'tanh'"):
        save_bert(tmp_path / "x", odd)
    assert not (tmp_path / "x").exists()


SENTENCES = [
    "Where can I see my last three bank statements?",
    "The parcel arrived DAMAGED, naïvely packed; what now??",
    "请问你们周末营业吗?",
    "ok",
    "",
    "Rückerstattung 50% e-mail@example.org #2 (übermorgen) 👍",
]


def test_the_published_minilm_gives_the_references_ids_and_states(minilm_folder):
    encoder, tokenizer = load_bert(minilm_folder)
    reference = BertWordPieceTokenizer(str(minilm_folder / "vocab.txt"), lowercase=True)
    expected_ids = [encoding.ids for encoding in reference.encode_batch(SENTENCES)]
    ids = tokenizer(SENTENCES).numpy()
    assert [row[row != tokenizer.pad_id].tolist() for row in ids] == expected_ids
    tensors = load_file(minilm_folder / "model.safetensors")
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.dtype == np.float32}
    expected = states(tensors, "bert", ids, 6, 12, 0)
    real = ids != 0
    np.testing.assert_allclose(np.asarray(encoder(ids))[real], expected[real], atol=2e-5)
