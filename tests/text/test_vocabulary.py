"""The training of WordPiece vocabularies."""

import os
import random
import subprocess
import sys

import pytest

from keras_attention.text import WordPieceTokenizer, train_word_piece_vocabulary

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train(texts, vocabulary_size=1000, **arguments):
    return train_word_piece_vocabulary(texts, vocabulary_size, show_progress=False, **arguments)


def many_texts():
    """Texts full of pairs that are equally frequent, where the order of a hash map would decide."""
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 8))) for _ in range(500)]
    return [" ".join(generator.choices(words, k=10)) for _ in range(300)]


def test_the_special_tokens_come_first_then_the_characters_then_the_joined_pieces():
    vocabulary = train(["low lower low slow"] * 2)
    assert vocabulary[:5] == SPECIAL_TOKENS
    assert vocabulary[5:11] == list("elorsw")
    assert vocabulary[11:16] == ["##e", "##l", "##o", "##r", "##w"]
    assert {"low", "lower", "slow"} <= set(vocabulary[16:])
    assert len(set(vocabulary)) == len(vocabulary)


def test_the_same_texts_give_the_same_vocabulary():
    assert train(many_texts(), 600) == train(iter(many_texts()), 600)


def test_another_process_gives_the_same_vocabulary():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_vocabulary as t; print(t.train(t.many_texts(), 600))"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, os.path.dirname(__file__)], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == str(train(many_texts(), 600))


def test_the_vocabulary_spells_every_word_of_its_texts():
    texts = ["Crème brûlée costs 3.50 €!", "一二三 in 2024", *many_texts()]
    tokenizer = WordPieceTokenizer(train(texts))
    assert not (tokenizer(texts).numpy() == tokenizer.unknown_id).any()


@pytest.mark.parametrize("vocabulary_size", [5, 6, 7, 20, 60, 200])
def test_the_vocabulary_is_never_larger_than_asked(vocabulary_size):
    vocabulary = train(many_texts(), vocabulary_size)
    assert len(vocabulary) <= vocabulary_size
    assert vocabulary[:5] == SPECIAL_TOKENS


def test_where_not_all_characters_fit_the_most_frequent_ones_stay():
    assert train(["a a a b b c", "d"], 7) == [*SPECIAL_TOKENS, "a", "b"]


def test_case_and_accents_are_kept_or_removed_as_asked():
    texts = ["Élan Élan Élan"]
    assert "elan" in train(texts)
    assert "élan" in train(texts, strip_accents=False)
    assert "Élan" in train(texts, lowercase=False)
    assert "Elan" in train(texts, lowercase=False, strip_accents=True)


def test_a_pair_rarer_than_min_frequency_is_not_joined():
    texts = ["ab ab cd"]
    assert {"ab", "cd"} & set(train(texts)) == {"ab"}
    assert {"ab", "cd"} & set(train(texts, min_frequency=1)) == {"ab", "cd"}


def test_special_tokens_can_be_chosen():
    assert train(["a"], special_tokens=["<pad>", "<unk>"]) == ["<pad>", "<unk>", "a"]


def test_progress_is_shown(capfd):
    train_word_piece_vocabulary(["one", "two"], 50)
    assert "2/Unknown" in capfd.readouterr().out


def test_no_progress_is_shown_when_not_asked(capfd):
    train(["one", "two"])
    assert capfd.readouterr().out == ""


def test_a_lone_surrogate_is_dropped():
    assert train(["ru\ud800n"]) == train(["run"])


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"not one string. Received: texts='a text'"):
        train("a text")
    with pytest.raises(ValueError, match=r"Received: 7 at position 1"):
        train(["a", 7])
    with pytest.raises(ValueError, match=r"at least one word. Received: "):
        train(["", " "])
    with pytest.raises(ValueError, match=r"Received: vocabulary_size=4"):
        train(["a"], 4)
    with pytest.raises(ValueError, match=r"twice. Received: special_tokens="):
        train(["a"], special_tokens=["x", "x"])
