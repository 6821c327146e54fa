"""The WordPiece tokenizer against the `tokenizers` library, and through every way of saving it."""

import os
import subprocess
import sys
import time

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from hypothesis import strategies as st

from keras_attention.text import WordPieceTokenizer

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
PAD, UNK, CLS, SEP = range(4)
VOCABULARY = [*SPECIAL_TOKENS, "un", "##want", "##ed", "run", "##ning", "!", "中", "国", "a", "##b", "b"]


def small_tokenizer(**arguments):
    return WordPieceTokenizer(VOCABULARY, **arguments)


def reference_tokenizer(vocabulary, lowercase, strip_accents):
    """The reference without its search for special tokens inside the text, which is a documented difference."""
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    return tokenizer


def rows(ids):
    """The rows of a padded batch without their padding."""
    return [[token for token in row if token != PAD] for row in np.asarray(ids).tolist()]


def in_graph(tokenizer):
    return tf.function(lambda texts: tokenizer(texts), input_signature=[tf.TensorSpec([None], tf.string)])


# Splitting


def test_a_batch_is_padded_to_its_longest_text():
    ids = small_tokenizer()(["Unwanted running!", "run"])
    assert ids.dtype == tf.int32
    assert ids.numpy().tolist() == [[CLS, 4, 5, 6, 7, 8, 9, SEP], [CLS, 7, SEP, PAD, PAD, PAD, PAD, PAD]]


def test_a_string_tensor_and_an_array_give_what_a_list_gives():
    tokenizer = small_tokenizer()
    texts = ["unwanted", "中国!"]
    expected = tokenizer(texts).numpy().tolist()
    assert tokenizer(tf.constant(texts)).numpy().tolist() == expected
    assert tokenizer(np.array(texts)).numpy().tolist() == expected
    assert tokenizer(np.array(texts, dtype=object)).numpy().tolist() == expected
    assert in_graph(tokenizer)(tf.constant(texts)).numpy().tolist() == expected


def test_an_empty_text_gives_only_the_start_and_the_end_token():
    assert small_tokenizer()(["", "  \n\t", "\u200b"]).numpy().tolist() == [[CLS, SEP]] * 3


def test_a_batch_without_texts_gives_no_rows():
    tokenizer = small_tokenizer(sequence_length=8)
    assert tokenizer([]).shape[0] == 0
    ids = in_graph(tokenizer)(tf.zeros([0], tf.string))
    assert ids.dtype == tf.int32
    assert ids.shape[0] == 0


def test_ideographs_are_words_of_their_own():
    assert small_tokenizer()(["中国run国"]).numpy().tolist() == [[CLS, 10, 11, 7, 11, SEP]]


def test_a_word_that_the_vocabulary_cannot_spell_is_one_unknown_token():
    assert small_tokenizer()(["runx run"]).numpy().tolist() == [[CLS, UNK, 7, SEP]]


@pytest.mark.parametrize("letter", ["a", "é", "𐐨"])
def test_a_word_of_more_than_100_characters_is_unknown_whatever_its_bytes(letter):
    tokenizer = WordPieceTokenizer([*SPECIAL_TOKENS, letter, f"##{letter}"], strip_accents=False)
    assert tokenizer([letter * 100]).numpy().tolist() == [[CLS, 4, *[5] * 99, SEP]]
    assert tokenizer([letter * 101]).numpy().tolist() == [[CLS, UNK, SEP]]


def test_case_and_accents_are_kept_or_removed_as_asked():
    vocabulary = [*SPECIAL_TOKENS, "Élan", "élan", "elan", "Elan"]
    ids = {
        (lowercase, strip_accents): WordPieceTokenizer(vocabulary, lowercase, strip_accents)(["Élan"]).numpy()[0, 1]
        for lowercase in (True, False)
        for strip_accents in (True, False, None)
    }
    assert ids == {
        (True, True): 6,
        (True, False): 5,
        (True, None): 6,
        (False, True): 7,
        (False, False): 4,
        (False, None): 4,
    }


# Length


def test_a_long_text_is_cut_and_keeps_its_end_token():
    tokenizer = small_tokenizer(sequence_length=5)
    assert tokenizer(["Unwanted running!", "run"]).numpy().tolist() == [
        [CLS, 4, 5, 6, SEP],
        [CLS, 7, SEP, PAD, PAD],
    ]


@pytest.mark.parametrize("sequence_length", range(2, 12))
def test_cutting_gives_the_beginning_of_the_whole(sequence_length):
    text = "run unwanted, 中 running! ab"
    (whole,) = small_tokenizer()([text]).numpy().tolist()
    (cut,) = small_tokenizer(sequence_length=sequence_length)([text]).numpy().tolist()
    assert cut == (whole if len(whole) <= sequence_length else [*whole[: sequence_length - 1], SEP])


@pytest.mark.parametrize("text", ["run " * 25_000, "a" * 100_000, "é," * 33_000, "中" * 33_000, "\x01" * 100_000])
def test_a_text_of_100_kilobytes_is_cut_in_less_than_a_second(text):
    tokenize = in_graph(small_tokenizer(sequence_length=128))
    tokenize(tf.constant(["run"]))
    start = time.perf_counter()
    ids = tokenize(tf.constant([text]))
    assert time.perf_counter() - start < 1
    assert ids.shape[1] <= 128


# Any text


def test_invalid_utf_8_is_dropped_like_the_replacement_character():
    texts = [b"run\xff", b"\xe4run", b"ru\xed\xa0\x80n", b"\xc3", b"\x00run", b"\xf0\x9f\x98run", b"run\xe4\xb8"]
    tokenizer = small_tokenizer()
    expected = tokenizer([text.decode(errors="replace") for text in texts]).numpy().tolist()
    assert tokenizer(texts).numpy().tolist() == expected
    assert expected[0] == [CLS, 7, SEP]
    assert expected[3] == [CLS, SEP, PAD]


def test_a_lone_surrogate_in_a_python_string_is_dropped():
    assert small_tokenizer()(["ru\ud800n"]).numpy().tolist() == [[CLS, 7, SEP]]


def test_no_bytes_raise_in_the_graph():
    tokenize = in_graph(small_tokenizer(sequence_length=16))

    @hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
    @hypothesis.given(texts=st.lists(st.binary(max_size=60), min_size=1, max_size=4))
    def check(texts):
        ids = tokenize(tf.constant(texts)).numpy()
        assert (ids[:, 0] == CLS).all()
        assert ((ids == SEP).sum(axis=1) == 1).all()

    check()


def test_a_row_does_not_depend_on_its_neighbours():
    texts = ["Unwanted", "", "a" * 5000, "中国", b"\xffrun", "run run run", "\u0301", "b"]
    tokenizer = small_tokenizer(sequence_length=9)
    alone = [rows(tokenizer([text]))[0] for text in texts]
    assert rows(tokenizer(texts)) == alone
    assert rows(tokenizer(texts[::-1])) == alone[::-1]


# The reference

# Every character here is a piece, so that a wrong one shows; with an unknown one the whole word would be [UNK].
ALPHABET = [
    chr(point)
    for first, last in ((0x21, 0x2FFF), (0x3001, 0x33FF), (0x4E00, 0x4E20), (0xAC00, 0xAC40), (0xFE00, 0xFFFF))
    for point in range(first, last)
]
CHARACTERS = [*SPECIAL_TOKENS, *ALPHABET, *(f"##{character}" for character in ALPHABET)]
TRICKY = (
    "\x00\t\n\r\x0b\x85\xa0\xad\u200d\u2028\u3000\ufeff\ufffd"  # white space, controls and what looks like them
    "\u03a3\u03c3\u03c2İ\u0131IÌßẞÅÉ\u0301\u0307\u0345\u302e\u0f71"  # sigmas, the letter i, accents, marks
    "한글が$^`|~\uff0c。"
)
TEXTS = st.lists(
    st.text(
        st.characters(exclude_categories=["Cs"])
        | st.sampled_from(ALPHABET)
        | st.sampled_from(TRICKY)
        | st.sampled_from("aB .,"),
        max_size=30,
    ),
    min_size=1,
    max_size=8,
)

# Letters that TensorFlow's ICU does not know to be capitals, as the docstring lists them.
CAPITALS_OF_NEWER_UNICODE = frozenset(
    chr(point)
    for first, last in (
        *((0x1C89, 0x1C89), (0x2C2F, 0x2C2F), (0xA7C0, 0xA7C0), (0xA7CB, 0xA7DC), (0x10570, 0x10595)),
        *((0x10D50, 0x10D65), (0x16EA0, 0x16EB8)),
    )
    for point in range(first, last + 1)
)
# Letters that ICU knows to decompose and the reference does not.
COMPOSED_OF_NEWER_UNICODE = frozenset(
    chr(point)
    for first, last in (
        *((0x105C9, 0x105C9), (0x105E4, 0x105E4), (0x11383, 0x11385), (0x1138E, 0x11391), (0x113C5, 0x113C8)),
        *((0x11938, 0x11938), (0x16121, 0x16128), (0x16D68, 0x16D6A)),
    )
    for point in range(first, last + 1)
)


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False])
def test_ids_equal_those_of_the_reference(lowercase, strip_accents):
    tokenize = in_graph(WordPieceTokenizer(CHARACTERS, lowercase, strip_accents))
    reference = reference_tokenizer(CHARACTERS, lowercase, strip_accents)
    documented = CAPITALS_OF_NEWER_UNICODE | COMPOSED_OF_NEWER_UNICODE

    @hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
    @hypothesis.given(texts=TEXTS)
    def check(texts):
        hypothesis.assume(documented.isdisjoint("".join(texts)))
        assert rows(tokenize(tf.constant(texts))) == [encoding.ids for encoding in reference.encode_batch(texts)]

    check()


def test_every_character_is_removed_split_at_or_kept_as_in_the_reference():
    vocabulary = [*SPECIAL_TOKENS, "a", "b", "##b"]
    tokenize = in_graph(WordPieceTokenizer(vocabulary))
    reference = reference_tokenizer(vocabulary, lowercase=True, strip_accents=True)
    # Beyond these lies nothing but unassigned code points and private use.
    points = [*range(0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE1000), 0xF0000, 0x10FFFD, 0x10FFFF]
    size = 0x8000
    for chunk in (points[start : start + size] for start in range(0, len(points), size)):
        texts = [f"a{chr(point)}b" for point in chunk]
        expected = [encoding.ids for encoding in reference.encode_batch(texts)]
        got = rows(tokenize(tf.constant(texts)))
        assert [hex(point) for point, left, right in zip(chunk, got, expected, strict=True) if left != right] == []


def test_a_special_token_in_a_text_is_text():
    vocabulary = [*SPECIAL_TOKENS, "[", "]", "sep", "run"]
    assert WordPieceTokenizer(vocabulary)(["run [SEP]"]).numpy().tolist() == [[CLS, 7, 4, 6, 5, SEP]]


def test_capitals_newer_than_unicode_13_stay_capitals_unlike_in_the_reference():
    capital, small = "\U00010570", "\U00010597"
    vocabulary = [*SPECIAL_TOKENS, small]
    assert WordPieceTokenizer(vocabulary)([capital]).numpy().tolist() == [[CLS, UNK, SEP]]
    assert reference_tokenizer(vocabulary, lowercase=True, strip_accents=True).encode(capital).ids == [CLS, 4, SEP]


@pytest.mark.parametrize(("text", "canonical"), [("\U000105c9", "\U000105d2"), ("\u1ac1\u07fd", "\u07fd\u1ac1")])
def test_newer_letters_and_marks_take_their_canonical_form_unlike_in_the_reference(text, canonical):
    vocabulary = [*SPECIAL_TOKENS, text, canonical]
    assert WordPieceTokenizer(vocabulary)([text]).numpy().tolist() == [[CLS, 5, SEP]]
    assert reference_tokenizer(vocabulary, lowercase=True, strip_accents=True).encode(text).ids == [CLS, 4, SEP]


def test_the_vocabulary_of_minilm_gives_the_published_ids(minilm_folder):
    tokenizer = WordPieceTokenizer(minilm_folder / "vocab.txt", sequence_length=24)
    assert tokenizer.vocabulary_size == 30_522
    assert (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id, tokenizer.end_id) == (0, 100, 101, 102)
    expected = {
        "The ferry leaves at 7:45, doesn't it?": [
            *(101, 1996, 7115, 3727, 2012, 1021, 1024, 3429, 1010, 2987, 1005, 1056, 2009, 1029, 102)
        ],
        "Crème brûlée — £3.50 at Zoë's CAFÉ": [
            *(101, 13675, 21382, 7987, 9307, 2063, 1517, 28182, 1012, 2753, 2012, 11199, 1005, 1055, 7668, 102)
        ],
        "東京タワーは333m": [101, 1879, 1755, 1709, 30262, 30265, 30198, 22394, 2509, 2213, 102],
        "electroencephalographically speaking…": [101, 16175, 10127, 21890, 21197, 20721, 3973, 4092, 1529, 102],
        "naïve\u00a0co\u00adoperation 🙂": [101, 15743, 6792, 100, 102],
        "run " * 30: [101, *[2448] * 22, 102],
    }
    assert rows(tokenizer(list(expected))) == list(expected.values())


# Pieces and back


def test_tokenize_gives_the_pieces_as_strings():
    tokenizer = small_tokenizer(sequence_length=3)
    assert tokenizer.tokenize(["Unwanted run?", ""]).to_list() == [[b"un", b"##want", b"##ed", b"run", b"[UNK]"], []]


def test_simple_text_survives_the_round_trip():
    tokenizer = small_tokenizer()
    texts = ["unwanted running run", "", "ab 中 !"]
    assert [text.decode() for text in tokenizer.detokenize(tokenizer(texts)).numpy()] == texts


def test_detokenize_takes_ragged_ids_and_lists_and_shows_unknown_ids():
    tokenizer = small_tokenizer()
    assert tokenizer.detokenize([[CLS, 7, 99, -1, UNK, SEP]]).numpy().tolist() == [b"run [UNK] [UNK] [UNK]"]
    assert tokenizer.detokenize(tf.ragged.constant([[7, 8], [], [9]])).numpy().tolist() == [b"running", b"", b"!"]
    assert tokenizer.detokenize(tf.zeros([0, 4], tf.int64)).shape == [0]


# Saving


def test_a_model_that_holds_the_tokenizer_saves_and_loads(tmp_path):
    texts = keras.Input(shape=(), dtype="string")
    ids = small_tokenizer(sequence_length=8, name="tokenizer")(texts)
    assert ids.shape == (None, None)
    assert ids.dtype == "int32"
    model = keras.Model(texts, keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(len(VOCABULARY), 4)(ids)))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    batch = tf.constant(["Unwanted", "run 中国"])
    np.testing.assert_array_equal(loaded.predict(batch, verbose=0), model.predict(batch, verbose=0))
    assert loaded.get_layer("tokenizer").vocabulary == tuple(VOCABULARY)


def test_the_config_makes_an_equal_tokenizer():
    tokenizer = WordPieceTokenizer(
        ["<pad>", "<unk>", "<s>", "</s>", "Run"],
        lowercase=False,
        strip_accents=True,
        sequence_length=7,
        unknown_token="<unk>",
        pad_token="<pad>",
        start_token="<s>",
        end_token="</s>",
    )
    copy = WordPieceTokenizer.from_config(tokenizer.get_config())
    assert copy.get_config() == tokenizer.get_config()
    assert copy(["Rún x"]).numpy().tolist() == [[2, 4, 1, 3]]


LOAD_AND_RUN = """
import sys
import tensorflow.compat.v1 as tf
import tensorflow_text

with tf.Session(graph=tf.Graph()) as session:
    signature = tf.saved_model.load(session, ["serve"], sys.argv[1]).signature_def["serving_default"]
    text, ids = signature.inputs["text"].name, signature.outputs["ids"].name
    print(session.run(ids, {text: ["TITLE Unwanted", "", b"\\xffrun"]}).tolist())
assert "keras_attention" not in sys.modules
"""


def test_a_saved_model_runs_in_a_process_that_knows_only_tensorflow_under_any_locale(tmp_path):
    tokenizer = WordPieceTokenizer([*VOCABULARY, "title"], sequence_length=6)
    holder = tf.Module()
    holder.tokenizer = tokenizer
    signature = tf.function(
        lambda text: {"ids": tokenizer(text)}, input_signature=[tf.TensorSpec([None], tf.string, name="text")]
    )
    tf.saved_model.save(holder, str(tmp_path), signatures={"serving_default": signature})
    # Lower case is where a process under a Turkish locale would differ.
    environment = {**os.environ, "LC_ALL": "tr_TR.UTF-8", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(
        [sys.executable, "-c", LOAD_AND_RUN, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    expected = [[CLS, 15, 4, 5, 6, SEP], [CLS, SEP, PAD, PAD, PAD, PAD], [CLS, 7, SEP, PAD, PAD, PAD]]
    assert tokenizer(["TITLE Unwanted", "", b"\xffrun"]).numpy().tolist() == expected
    assert process.stdout.strip() == str(expected)


def test_a_saved_vocabulary_is_read_back(tmp_path):
    vocabulary = [*VOCABULARY, "\u2028", "\x85", "é"]
    WordPieceTokenizer(vocabulary).save_vocabulary(tmp_path / "vocab.txt")
    assert (tmp_path / "vocab.txt").read_bytes().decode() == "\n".join(vocabulary) + "\n"
    assert WordPieceTokenizer(tmp_path / "vocab.txt").vocabulary == tuple(vocabulary)
    assert WordPieceTokenizer(str(tmp_path / "vocab.txt")).vocabulary == tuple(vocabulary)


def test_a_vocabulary_file_may_have_windows_line_ends_and_no_last_one(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(VOCABULARY).encode())
    assert WordPieceTokenizer(tmp_path / "vocab.txt").vocabulary == tuple(VOCABULARY)


# Errors


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_a_vocabulary_without_a_special_token_is_refused(token):
    with pytest.raises(ValueError, match=rf"_token`. Received: \w+_token='\[{token[1:-1]}\]'"):
        WordPieceTokenizer([other for other in VOCABULARY if other != token])


def test_a_token_given_twice_is_named_with_both_lines():
    with pytest.raises(ValueError, match="Received: 'run' in lines 8 and 16"):
        WordPieceTokenizer([*VOCABULARY, "run"])


def test_an_empty_vocabulary_is_refused(tmp_path):
    (tmp_path / "vocab.txt").touch()
    for vocabulary in ([], tmp_path / "vocab.txt"):
        with pytest.raises(ValueError, match="Received: an empty vocabulary"):
            WordPieceTokenizer(vocabulary)


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff")
    for name in ("missing", "binary"):
        with pytest.raises(ValueError, match=f"cannot be read.*Received: vocabulary='.*{name}'"):
            WordPieceTokenizer(tmp_path / name)


@pytest.mark.parametrize("token", [7, None, b"run", "two\nlines"])
def test_what_is_not_a_token_is_refused(token):
    with pytest.raises(ValueError, match=r"Received: vocabulary\[15\]="):
        WordPieceTokenizer([*VOCABULARY, token])


def test_a_token_too_long_to_match_is_refused():
    with pytest.raises(ValueError, match=r"cannot be matched. Received: "):
        WordPieceTokenizer([*VOCABULARY, "x" * 300])


@pytest.mark.parametrize("sequence_length", [1, 0, -3])
def test_a_sequence_length_without_room_for_start_and_end_is_refused(sequence_length):
    with pytest.raises(ValueError, match=f"Received: sequence_length={sequence_length}"):
        small_tokenizer(sequence_length=sequence_length)


@pytest.mark.parametrize("texts", [[1, 2], tf.constant([1.0]), np.zeros(3), None, ["run", 3]])
def test_texts_that_are_not_strings_are_refused(texts):
    for method in (small_tokenizer(), small_tokenizer().tokenize):
        with pytest.raises(ValueError, match="Received: "):
            method(texts)


@pytest.mark.parametrize("texts", ["run", tf.constant("run"), [["run"]], tf.constant([["run"]])])
def test_texts_of_another_rank_are_refused(texts):
    with pytest.raises(ValueError, match="Received: shape="):
        small_tokenizer()(texts)


def test_ids_of_another_type_or_rank_are_refused():
    with pytest.raises(ValueError, match="Received: dtype=float32, shape=\\(1, 1\\)"):
        small_tokenizer().detokenize([[1.0]])
    with pytest.raises(ValueError, match="Received: dtype=int32, shape=\\(2,\\)"):
        small_tokenizer().detokenize([1, 2])
