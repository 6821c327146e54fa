"""Training of WordPiece vocabularies from texts."""

import itertools
from collections import Counter

import keras

_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_word_piece_vocabulary(
    texts,
    vocabulary_size,
    lowercase=True,
    strip_accents=None,
    special_tokens=_SPECIAL_TOKENS,
    min_frequency=2,
    show_progress=True,
):
    """Learns a vocabulary for `WordPieceTokenizer` from texts.

    The vocabulary starts with the special tokens and the characters of the texts, the most frequent characters if not
    all fit. It grows by joining the two pieces that stand side by side most often, until it is full or every pair is
    rarer than `min_frequency`. The same texts always give the same vocabulary.

    Args:
        texts: Iterable of strings, read once.
        vocabulary_size: Most tokens that the vocabulary may hold.
        lowercase: As in the `WordPieceTokenizer` that will use the vocabulary.
        strip_accents: As in the `WordPieceTokenizer` that will use the vocabulary.
        special_tokens: Tokens that take the first ids, whatever the texts hold.
        min_frequency: How often two pieces must stand side by side to be joined.
        show_progress: Whether to show the number of texts read, and on a terminal the progress of the joining.

    Returns:
        List of str, the tokens in the order of their ids.

    Raises:
        ValueError: `texts` is a single string, holds something that is not a string, or holds no words; a special token
            is given twice, or there are more of them than `vocabulary_size`.

    Example:
        >>> vocabulary = train_word_piece_vocabulary(["low", "lower", "low lows"], 18, show_progress=False)
        >>> vocabulary[:5]
        ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
        >>> vocabulary[5:]
        ['e', 'l', 'o', 'r', 's', 'w', '##e', '##o', '##r', '##s', '##w', 'lo', 'low']

    References:
        Sennrich et al., 2016, "Neural Machine Translation of Rare Words with Subword Units",
        https://arxiv.org/abs/1508.07909. BERT's own trainer was not published; this one, of the `tokenizers` library,
        is what its successors were trained with.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    special_tokens = list(special_tokens)
    if len(set(special_tokens)) < len(special_tokens):
        raise ValueError(f"A special token is given twice. Received: special_tokens={special_tokens}")
    if len(special_tokens) > vocabulary_size:
        raise ValueError(
            "`vocabulary_size` must leave room for the special tokens. "
            f"Received: vocabulary_size={vocabulary_size}, special_tokens={special_tokens}"
        )
    if isinstance(texts, str):
        raise ValueError(f"`texts` must be an iterable of strings, not one string. Received: texts={texts[:80]!r}")

    words = _count_words(texts, lowercase, strip_accents, show_progress)
    if not words:
        raise ValueError("`texts` must hold at least one word. Received: texts without any")
    characters, continuations = _choose_alphabet(words, vocabulary_size - len(special_tokens))

    # The trainer numbers the pieces of one character in the order of a hash map that differs from run to run, and
    # breaks ties between pairs by those numbers. It numbers special tokens first and in order, so handing it the whole
    # alphabet as special tokens is what makes its result repeatable.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        min_frequency=min_frequency,
        special_tokens=[*special_tokens, *characters, *continuations],
        show_progress=show_progress,
    )
    tokenizer = Tokenizer(models.WordPiece())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # A word with a character outside the alphabet is unknown to the tokenizer, so its other pieces teach nothing.
    alphabet = set(characters)
    spelled = (itertools.repeat(word, count) for word, count in words.items() if alphabet.issuperset(word))
    tokenizer.train_from_iterator(itertools.chain.from_iterable(spelled), trainer)
    ids = tokenizer.get_vocab()
    return sorted(ids, key=ids.get)


def _count_words(texts, lowercase, strip_accents, show_progress):
    """Counts the words that the tokenizer will see in the texts."""
    from tokenizers import normalizers, pre_tokenizers

    normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    splitter = pre_tokenizers.BertPreTokenizer()
    progress = keras.utils.Progbar(None, verbose=int(show_progress), unit_name="text")
    words = Counter()
    read = 0
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"`texts` must hold strings. Received: {text!r} at position {read}")
        # A lone surrogate, which no UTF-8 can hold, is dropped as in the tokenizer.
        text = normalizer.normalize_str(text.encode("utf-8", "ignore").decode())
        words.update(word for word, _ in splitter.pre_tokenize_str(text))
        read += 1
        progress.update(read)
    progress.update(read, finalize=True)
    return words


def _choose_alphabet(words, room):
    """Chooses the most frequent characters whose pieces fit into the room.

    Returns:
        The characters, sorted, and the pieces `##c` of those of them that stand inside a word, sorted.
    """
    counts = Counter()
    inside = set()
    for word, count in words.items():
        inside.update(word[1:])
        for character in word:
            counts[character] += count
    chosen = []
    for character, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        room -= 1 + (character in inside)
        if room < 0:
            break
        chosen.append(character)
    chosen.sort()
    return chosen, [f"##{character}" for character in chosen if character in inside]
