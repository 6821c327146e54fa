"""Noise on texts is what was asked for, and the same in each run."""

import collections
import doctest

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

import keras_attention.text.augmentation
from keras_attention.text import CharacterNoise, WordNoise, add_noise, augment

TEXTS = st.text(max_size=40)
# No white space, no marks, nothing whose other case has another length.
PLAIN = st.text(st.sampled_from("abcxyzABZ0189 ,.-?"), max_size=40)
CHARACTER_KINDS = ("swap", "delete", "insert", "substitute", "case")
NOISES = st.one_of(
    st.builds(CharacterNoise, st.floats(0, 1), st.lists(st.sampled_from(CHARACTER_KINDS), min_size=1).map(tuple)),
    st.builds(WordNoise, st.floats(0, 1), st.lists(st.sampled_from(("delete", "swap")), min_size=1).map(tuple)),
)


def _apply(noise, text, seed=0):
    return noise(text, np.random.default_rng(seed))


@hypothesis.settings(deadline=None)
@hypothesis.given(text=TEXTS)
@pytest.mark.parametrize("noise", [CharacterNoise(0, CHARACTER_KINDS), WordNoise(0.0)])
def test_a_rate_of_zero_changes_nothing(noise, text):
    assert _apply(noise, text) == text


@hypothesis.settings(deadline=None)
@hypothesis.given(text=TEXTS, noise=NOISES, seed=st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_text_and_never_an_empty_one(text, noise, seed):
    noised = _apply(noise, text, seed)
    assert noised == _apply(noise, text, seed)
    assert bool(noised.strip()) == bool(text.strip())
    assert bool(noised) == bool(text)


@hypothesis.settings(deadline=None)
@hypothesis.given(text=PLAIN, rate=st.floats(0, 1), seed=st.integers(0, 100))
def test_each_kind_changes_as_much_of_a_text_as_it_may(text, rate, seed):
    def noised(kind):
        return _apply(CharacterNoise(rate, (kind,)), text, seed)

    assert collections.Counter(noised("swap")) == collections.Counter(text)
    assert noised("case").lower() == text.lower()
    assert len(noised("substitute")) == len(text) <= len(noised("insert")) <= 2 * len(text)
    assert len(noised("delete")) <= len(text)
    assert not collections.Counter(noised("delete")) - collections.Counter(text)
    for kind in CHARACTER_KINDS:  # White space stays where it is, but for the words that have become empty.
        assert noised(kind).count(" ") == text.count(" ")


@hypothesis.settings(deadline=None)
@hypothesis.given(words=st.lists(st.text("abc", min_size=1, max_size=3), max_size=9), rate=st.floats(0, 1))
def test_words_are_swapped_and_lost_as_wholes(words, rate):
    text = " ".join(words)
    swapped = _apply(WordNoise(rate, ("swap",)), text).split()
    assert collections.Counter(swapped) == collections.Counter(words)
    left = _apply(WordNoise(rate, ("delete",)), text).split()
    assert not collections.Counter(left) - collections.Counter(words)


def test_as_many_characters_and_words_are_hit_as_the_rate_says():
    text = " ".join(["abcdefgh"] * 5000)
    changed = sum(a != b for a, b in zip(_apply(CharacterNoise(0.1, ("substitute",)), text), text, strict=True))
    assert changed / 40000 == pytest.approx(0.1, abs=0.01)
    assert len(_apply(CharacterNoise(0.1, ("delete",)), text).replace(" ", "")) / 40000 == pytest.approx(0.9, abs=0.01)
    assert len(_apply(WordNoise(0.3, ("delete",)), text).split()) / 5000 == pytest.approx(0.7, abs=0.03)


def test_a_typing_error_is_a_neighbour_on_the_keyboard_in_the_same_case():
    typed = {_apply(CharacterNoise(1.0, ("substitute",)), "g", seed) for seed in range(100)}
    assert typed == set("ftyhvb")
    assert {_apply(CharacterNoise(1.0, ("substitute",)), "G", seed) for seed in range(100)} == set("FTYHVB")


def test_scripts_without_a_keyboard_take_characters_of_the_same_text():
    noised = _apply(CharacterNoise(1.0, ("substitute",)), "我要退货")
    assert len(noised) == 4
    assert set(noised) <= set("我要退货")
    assert all(a != b for a, b in zip(noised, "我要退货", strict=True))


def test_marks_and_joined_emoji_stay_whole():
    assert _apply(CharacterNoise(1.0, ("swap",)), "e\N{COMBINING ACUTE ACCENT}a") == "ae\N{COMBINING ACUTE ACCENT}"
    family = "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}"
    assert _apply(CharacterNoise(1.0, ("swap",)), family + "a") == "a" + family


def test_the_noise_of_a_text_depends_on_its_position_and_on_no_other_text():
    noises = [CharacterNoise(0.5)]
    assert add_noise(["some", "other words"], noises, 3)[1] == add_noise(["", "other words"], noises, 3)[1]
    assert add_noise(["other words"] * 2, noises, 3)[0] != add_noise(["other words"] * 2, noises, 3)[1]
    assert add_noise(["other words"], noises, 3) != add_noise(["other words"], noises, 4)


def _passes(count=3, seed=0, batch=None):
    texts = [f"this is question number {i}, and a long one" for i in range(20)]
    data = tf.data.Dataset.from_tensor_slices((texts, list(range(20))))
    data = augment(data.batch(batch) if batch else data, [CharacterNoise(0.1), WordNoise(0.1)], seed)
    return [[(x.tolist() if batch else x, y.tolist()) for x, y in data.as_numpy_iterator()] for _ in range(count)]


@pytest.mark.parametrize("batch", [None, 8])
def test_a_dataset_has_other_noise_in_each_pass_and_the_same_in_each_run(batch):
    first, second, third = _passes(batch=batch)
    assert [y for _, y in first] == [y for _, y in second]
    assert len({str(texts) for texts in (first, second, third)}) == 3
    assert _passes(batch=batch) == [first, second, third]
    assert _passes(batch=batch, seed=1)[0] != first


def test_a_dataset_of_texts_alone_of_any_shape_and_of_broken_bytes_is_augmented():
    texts = tf.constant([[b"a b", b"\xff\xfe"], ["\u4e2d\u6587".encode(), b""]])
    data = augment(tf.data.Dataset.from_tensors(texts), [CharacterNoise(0.0)])
    assert data.element_spec == tf.TensorSpec([2, 2], tf.string)
    (result,) = data.as_numpy_iterator()
    assert result.tolist() == [[b"a b", "\ufffd\ufffd".encode()], ["\u4e2d\u6587".encode(), b""]]


@pytest.mark.parametrize("data", [tf.data.Dataset.range(3), tf.data.Dataset.from_tensors({"text": "a"})])
def test_a_dataset_without_texts_in_front_is_refused(data):
    with pytest.raises(ValueError, match=r"`dataset` must consist of string tensors.*Received: "):
        augment(data, [CharacterNoise(0.1)])


@pytest.mark.parametrize("kind", [CharacterNoise, WordNoise])
def test_rates_and_kinds_without_a_meaning_are_refused(kind):
    for rate in (-0.1, 1.1, float("nan"), "0.1"):
        with pytest.raises(ValueError, match=r"`rate` must be from 0 to 1\. Received: rate="):
            kind(rate)
    for kinds in ((), ("typo",)):
        with pytest.raises(ValueError, match=r"`kinds` must be among .*delete.*Received: kinds="):
            kind(0.1, kinds)


def test_the_examples_in_the_docstrings_run_as_shown():
    assert doctest.testmod(keras_attention.text.augmentation).failed == 0
