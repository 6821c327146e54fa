"""Noise on texts: typing errors, letter case, words lost and swapped, to train with and to test against."""

import dataclasses
import re
import unicodedata
from typing import Literal

import numpy as np
import tensorflow as tf

CharacterKind = Literal["swap", "delete", "insert", "substitute", "case"]
WordKind = Literal["delete", "swap"]


@dataclasses.dataclass(frozen=True)
class CharacterNoise:
    """Errors of typing.

    Every character that is no white space is hit with probability `rate`, by one of `kinds`, each as likely: "swap"
    with the next character of the word, "delete", "insert" a neighbour on the keyboard after it, "substitute" a
    neighbour for it, "case" from small to capital or back. A character that is on no QWERTY keyboard has others of the
    same text as its neighbours. Marks stay with the letter that they combine with. A text is never left without
    characters: one that would be comes back as it was.

    Attributes:
        rate: float from 0 to 1.
        kinds: tuple of str.

    Call arguments:
        text: str.
        rng: `numpy.random.Generator`.

    Returns:
        str.

    Raises:
        ValueError: if `rate` or `kinds` make no sense.

    Example:

    >>> import numpy as np
    >>> from keras_attention.text import CharacterNoise
    >>> CharacterNoise(0.2)("where is my new card", np.random.default_rng(1))
    'whree is jy new ard'

    Reference: Belinkov and Bisk 2018, Synthetic and Natural Noise Both Break Neural Machine Translation,
    https://arxiv.org/abs/1711.02173
    """

    rate: float
    kinds: tuple[CharacterKind, ...] = ("swap", "delete", "insert", "substitute")

    def __post_init__(self):
        _check(self, CharacterKind)

    def __call__(self, text, rng):
        characters = _characters(text)
        hits = rng.random(len(characters)) < self.rate
        if not hits.any():
            return text
        alphabet = sorted({character for character in characters if not character.isspace()})
        result, position = [], 0
        while position < len(characters):
            character, following = characters[position], characters[position + 1 : position + 2]
            position += 1
            if not hits[position - 1] or character.isspace():
                result.append(character)
                continue
            kind = self.kinds[rng.integers(len(self.kinds))]
            if kind == "swap":
                if following and not following[0].isspace():
                    result += following
                    position += 1
                result.append(character)
            elif kind == "case":
                result.append(character.swapcase())
            elif kind == "insert":
                result += [character, _neighbour(character, alphabet, rng)]
            elif kind == "substitute":
                result.append(_neighbour(character, alphabet, rng))
        result = "".join(result)
        return result if result.strip() else text


@dataclasses.dataclass(frozen=True)
class WordNoise:
    """Words that are lost or change places.

    Words are what white space separates. Each is hit with probability `rate`, by one of `kinds`, each as likely:
    "delete" with the white space after it, "swap" with the next word. A text is never left without words: one that
    would be comes back as it was.

    Attributes:
        rate: float from 0 to 1.
        kinds: tuple of str.

    Call arguments:
        text: str.
        rng: `numpy.random.Generator`.

    Returns:
        str.

    Raises:
        ValueError: if `rate` or `kinds` make no sense.

    Example:

    >>> import numpy as np
    >>> from keras_attention.text import WordNoise
    >>> WordNoise(0.3, kinds=("delete",))("where is my new card", np.random.default_rng(1))
    'where is new card'

    Reference: Wei and Zou 2019, EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification
    Tasks, https://arxiv.org/abs/1901.11196
    """

    rate: float
    kinds: tuple[WordKind, ...] = ("delete", "swap")

    def __post_init__(self):
        _check(self, WordKind)

    def __call__(self, text, rng):
        pieces = re.split(r"(\s+)", text)
        words, spaces = pieces[0::2], [*pieces[1::2], ""]
        hits = rng.random(len(words)) < self.rate
        if not hits.any():
            return text
        kept, position = [], 0
        while position < len(words):
            kind = self.kinds[rng.integers(len(self.kinds))] if hits[position] and words[position] else None
            if kind == "swap" and position + 1 < len(words) and words[position + 1]:
                kept += [words[position + 1], spaces[position], words[position], spaces[position + 1]]
                position += 2
                continue
            if kind != "delete":
                kept += [words[position], spaces[position]]
            position += 1
        result = "".join(kept)
        return result if result.strip() else text


def add_noise(texts, noises, seed=0):
    """Texts with noise, the same for the same seed.

    Args:
        texts: list of str.
        noises: list of `CharacterNoise`, `WordNoise` and other functions of a str and a `numpy.random.Generator`, which
            are applied one after the other.
        seed: int of at least 0, or list of them.

    Returns:
        list of str. A text's noise depends on its position, and not on the other texts.

    Example:

    >>> from keras_attention.text import CharacterNoise, add_noise
    >>> add_noise(["hello"], [CharacterNoise(1.0, kinds=("case",))])
    ['HELLO']
    """
    seeds = [seed] if isinstance(seed, int | np.integer) else list(seed)
    result = []
    for position, text in enumerate(texts):
        rng = np.random.default_rng([*seeds, position])
        for noise in noises:
            text = noise(text, rng)
        result.append(text)
    return result


def augment(dataset, noises, seed=0):
    """A dataset whose texts have noise, another one in each pass, and the same in each run.

    Before tokenization: the texts are strings in UTF-8 (what is not comes back with U+FFFD for it).

    Args:
        dataset: `tf.data.Dataset` of string tensors of any shape, or of tuples that begin with one.
        noises: list of `CharacterNoise`, `WordNoise` and other functions of a str and a `numpy.random.Generator`.
        seed: int.

    Returns:
        `tf.data.Dataset` of the same structure.

    Raises:
        ValueError: if the dataset's elements do not begin with a string tensor.

    Example:

    >>> import tensorflow as tf
    >>> from keras_attention.text import CharacterNoise, augment
    >>> data = tf.data.Dataset.from_tensors((["hello", "world"], [0, 1]))
    >>> texts, labels = next(iter(augment(data, [CharacterNoise(1.0, kinds=("case",))])))
    >>> texts.numpy().tolist()
    [b'HELLO', b'WORLD']
    """
    spec = dataset.element_spec
    texts = spec[0] if isinstance(spec, tuple) else spec
    if not isinstance(texts, tf.TensorSpec) or texts.dtype != tf.string:
        raise ValueError(
            f"`dataset` must consist of string tensors or of tuples that begin with one. Received: dataset of {spec}"
        )

    def with_noise(texts, number):
        texts = np.asarray(texts, object)
        decoded = [text.decode("utf-8", "replace") for text in texts.reshape(-1)]
        noised = add_noise(decoded, noises, seed=int(number))
        encoded = [text.encode("utf-8", "replace") for text in noised]
        return np.array(encoded, object).reshape(texts.shape)

    def apply(element, number):
        texts = element[0] if isinstance(element, tuple) else element
        noised = tf.ensure_shape(tf.numpy_function(with_noise, [texts, number], tf.string, stateful=False), texts.shape)
        return (noised, *element[1:]) if isinstance(element, tuple) else noised

    numbers = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    # Each element has a number of its own, so the order in which threads come to them does not matter.
    return tf.data.Dataset.zip(dataset, numbers).map(apply, num_parallel_calls=tf.data.AUTOTUNE)


def _check(noise, kind):
    if not isinstance(noise.rate, int | float) or not 0 <= noise.rate <= 1:
        raise ValueError(f"`rate` must be from 0 to 1. Received: rate={noise.rate!r}")
    if not noise.kinds or set(noise.kinds) - set(kind.__args__):
        raise ValueError(f"`kinds` must be among {', '.join(kind.__args__)}. Received: kinds={noise.kinds!r}")


_JOINER = "\N{ZERO WIDTH JOINER}"


def _characters(text):
    """What a reader takes for characters: letters with the marks that follow them, joined emoji."""
    characters = []
    for character in text:
        is_mark = unicodedata.category(character).startswith("M") or character == _JOINER
        if characters and not characters[-1].isspace() and (is_mark or characters[-1].endswith(_JOINER)):
            characters[-1] += character
        else:
            characters.append(character)
    return characters


def _neighbours():
    rows = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
    # Each row stands half a key to the right of the one above.
    places = {key: (column + 0.5 * row, row) for row, keys in enumerate(rows) for column, key in enumerate(keys)}
    return {
        key: [other for other, (s, t) in places.items() if other != key and abs(s - x) <= 1 and abs(t - y) <= 1]
        for key, (x, y) in places.items()
    }


_NEIGHBOURS = _neighbours()


def _neighbour(character, alphabet, rng):
    near = _NEIGHBOURS.get(character.lower()) or [other for other in alphabet if other != character] or [character]
    other = near[rng.integers(len(near))]
    return other.upper() if character.isupper() else other
