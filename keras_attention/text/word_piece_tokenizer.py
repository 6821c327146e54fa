"""Text to BERT token ids inside the TensorFlow graph, with the ids that published BERT tokenizers give."""

import os
from pathlib import Path

import keras
import tensorflow as tf
import tensorflow_text as tf_text

from keras_attention.text.unicode_classes import CONTROL, IDEOGRAPH, NONSPACING_MARK, PUNCTUATION, WHITESPACE

# A longer word is unknown as a whole, as in BERT. A character of UTF-8 takes up to four bytes.
_MAX_WORD_CHARACTERS = 100
_MAX_WORD_BYTES = 4 * _MAX_WORD_CHARACTERS

# Capitals that TensorFlow's lower-casing treats by their context or by the locale of the process (final sigma; Turkish
# and Lithuanian i), so that an answer would depend on the server's environment. They are lowered by hand before it.
_SIGMA = (("\u03a3", "\u03c3"),)
_ACCENTED_I = (("İ", "i\u0307"), ("Ì", "ì"), ("Í", "í"), ("Ĩ", "ĩ"), ("Į", "į"))


@keras.saving.register_keras_serializable(package="keras_attention")
class WordPieceTokenizer(keras.layers.Layer):
    """Turns texts into token ids as BERT does, in the graph, so that an exported model takes strings.

    A text is cleaned (control characters removed), lower-cased and stripped of accents if so asked, split at white
    space, around every punctuation character and around every ideograph. Each word is then split into the longest
    pieces of the vocabulary from left to right; pieces inside a word carry the prefix `##`. A word that cannot be split
    so, or is longer than 100 characters, becomes `unknown_token`.

    No text raises: invalid UTF-8 is dropped with the control characters (it decodes to U+FFFD, which the reference
    removes), and an empty text gives the start and the end token. The ids of a row do not depend on the other rows,
    apart from the padding.

    The layer has no weights and no lookup tables. Its vocabulary is saved in a `.keras` file as part of its config, and
    in a SavedModel as a constant, so nothing needs to be tracked for an export.

    Ids equal those of the `tokenizers` library's `BertWordPieceTokenizer` except for:

    - Special tokens inside a text. The reference finds `"[SEP]"` in a text and gives its id. Here it is text like any
      other (`[`, `sep`, `]`), because whoever writes the text could otherwise forge the borders of segments.
    - 95 capitals newer than Unicode 13, such as U+10570 VITHKUQI CAPITAL LETTER A: TensorFlow does not lower-case them.
    - Accent stripping decomposes 21 letters newer than Unicode 12, such as U+105C9 TODHRI LETTER EI, and puts
      neighbouring marks newer than Unicode 8, such as U+1AC1 and U+07FD, into their canonical order. The reference
      leaves both alone.

    Args:
        vocabulary: The tokens, in the order of their ids, or the path of a `vocab.txt` with one token a line.
        lowercase: Whether texts are lower-cased.
        strip_accents: Whether accents are removed. None means the same as `lowercase`.
        sequence_length: Most tokens a text may give, start and end token included; what goes beyond is cut before the
            end token. None means no limit.
        unknown_token: Token for a word that the vocabulary cannot spell.
        pad_token: Token that fills the shorter texts of a batch.
        start_token: First token of every text.
        end_token: Last token of every text.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Attributes:
        vocabulary: Tuple of str, the tokens in the order of their ids; `vocabulary.index("[MASK]")` is a token's id.
        vocabulary_size: Number of tokens.
        unknown_id, pad_id, start_id, end_id: Ids of the four special tokens.

    Raises:
        ValueError: The vocabulary is empty, is not a file that can be read, has a token twice, lacks a special token or
            holds something that is not a token; or `sequence_length` is below 2.

    Example:
        >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##want", "##ed", "run", "!"])
        >>> tokenizer(["Unwanted run!", "run"]).numpy().tolist()
        [[2, 4, 5, 6, 7, 8, 3], [2, 7, 3, 0, 0, 0, 0]]
        >>> tokenizer.tokenize(["Unwanted"]).to_list()
        [[b'un', b'##want', b'##ed']]
        >>> tokenizer.detokenize([[2, 4, 5, 6, 7, 3, 0]]).numpy().tolist()
        [b'unwanted run']

    References:
        Devlin et al., 2019, "BERT", https://arxiv.org/abs/1810.04805, whose code defines the splitting:
        https://github.com/google-research/bert/blob/master/tokenization.py. The search for the longest pieces in linear
        time is Song et al., 2021, "Fast WordPiece Tokenization", https://arxiv.org/abs/2012.15524.
    """

    def __init__(
        self,
        vocabulary,
        lowercase=True,
        strip_accents=None,
        sequence_length=None,
        unknown_token="[UNK]",
        pad_token="[PAD]",
        start_token="[CLS]",
        end_token="[SEP]",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if sequence_length is not None and sequence_length < 2:
            raise ValueError(
                "`sequence_length` must be at least 2, to hold the start and the end token. "
                f"Received: sequence_length={sequence_length}"
            )
        # A tuple, because Keras and TensorFlow would each wrap a list for tracking.
        self.vocabulary = tuple(_read(vocabulary) if isinstance(vocabulary, str | os.PathLike) else vocabulary)
        self.vocabulary_size = len(self.vocabulary)
        self.lowercase = lowercase
        self.strip_accents = lowercase if strip_accents is None else strip_accents
        self.sequence_length = sequence_length
        self.unknown_token = unknown_token
        self.pad_token = pad_token
        self.start_token = start_token
        self.end_token = end_token

        ids = _token_ids(self.vocabulary)
        for argument in ("unknown_token", "pad_token", "start_token", "end_token"):
            if getattr(self, argument) not in ids:
                raise ValueError(
                    f"The vocabulary of {len(ids)} tokens lacks the special token of the argument `{argument}`. "
                    f"Received: {argument}={getattr(self, argument)!r}"
                )
        self.unknown_id = ids[unknown_token]
        self.pad_id = ids[pad_token]
        self.start_id = ids[start_token]
        self.end_id = ids[end_token]

        self._pieces = tf.constant(self.vocabulary)
        try:
            self._splitter = tf_text.FastWordpieceTokenizer(
                self.vocabulary,
                token_out_type=tf.int32,
                unknown_token=unknown_token,
                max_bytes_per_word=_MAX_WORD_BYTES,
                no_pretokenization=True,
            )
        except RuntimeError as error:
            raise ValueError(f"The vocabulary holds a token that cannot be matched. Received: {error}") from error

        # Texts come as Python strings too, which Keras would otherwise refuse or try to convert.
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        self.supports_jit = False
        self.built = True

    def call(self, texts):
        """Gives the ids of the texts between the start and the end token.

        Args:
            texts: List of B strings, or string tensor [B].

        Returns:
            int32 tensor [B, T], where T is the length of the longest row; `pad_id` fills the others.

        Raises:
            ValueError: `texts` does not hold strings or does not have rank 1.
        """
        words = self._words(_to_texts(texts))
        room = None
        if self.sequence_length is not None:
            # A word gives at least one piece, so cutting the words first saves splitting the tail of a long text.
            room = self.sequence_length - 2
            words = words[:, :room]
        pieces = self._split(words)
        ids = pieces.to_tensor(self.pad_id)[:, :room]
        width = tf.shape(ids)[1]
        lengths = tf.minimum(tf.cast(pieces.row_lengths(), tf.int32), width)
        ids = tf.pad(ids, [[0, 0], [1, 0]], constant_values=self.start_id)
        ids = tf.pad(ids, [[0, 0], [0, 1]], constant_values=self.pad_id)
        return tf.where(tf.range(width + 2) == lengths[:, tf.newaxis] + 1, self.end_id, ids)

    def tokenize(self, texts):
        """Gives the pieces of the texts as strings, neither cut nor padded, without start and end token.

        Args:
            texts: List of B strings, or string tensor [B].

        Returns:
            Ragged string tensor [B, (T)].

        Raises:
            ValueError: `texts` does not hold strings or does not have rank 1.
        """
        return tf.gather(self._pieces, self._split(self._words(_to_texts(texts))))

    def detokenize(self, ids):
        """Joins the pieces of ids into texts, with one space between two words.

        Padding, start and end tokens are dropped. `unknown_token` is kept, so that a reader sees that something stood
        there, and so shows an id that is not in the vocabulary. Capitals, accents and spacing that tokenizing took away
        do not come back.

        Args:
            ids: Integer tensor, ragged tensor or nested list [B, T].

        Returns:
            String tensor [B].

        Raises:
            ValueError: `ids` does not hold integers or does not have rank 2.
        """
        ids = ids if isinstance(ids, tf.RaggedTensor) else tf.convert_to_tensor(ids)
        if not ids.dtype.is_integer or ids.shape.rank != 2:
            raise ValueError(
                f"`ids` must be integers of rank 2, [B, T]. Received: dtype={ids.dtype.name}, shape={ids.shape}"
            )
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(ids)
        flat = ids.flat_values
        dropped = (flat == self.pad_id) | (flat == self.start_id) | (flat == self.end_id)
        known = (flat >= 0) & (flat < self.vocabulary_size)
        pieces = tf.gather(self._pieces, tf.where(known, flat, self.unknown_id))
        pieces = tf.ragged.boolean_mask(ids.with_flat_values(pieces), ids.with_flat_values(~dropped))
        return tf.strings.regex_replace(tf.strings.reduce_join(pieces, axis=1, separator=" "), " ##", "")

    def save_vocabulary(self, path):
        """Writes the vocabulary to a file with one token a line, in UTF-8, as the constructor reads it.

        Args:
            path: Path of the file, which is commonly named `vocab.txt`.
        """
        Path(path).write_bytes("".join(f"{token}\n" for token in self.vocabulary).encode())

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary": list(self.vocabulary),
            "lowercase": self.lowercase,
            "strip_accents": self.strip_accents,
            "sequence_length": self.sequence_length,
            "unknown_token": self.unknown_token,
            "pad_token": self.pad_token,
            "start_token": self.start_token,
            "end_token": self.end_token,
        }

    def _words(self, texts):
        """Splits texts [B] into words [B, (W)], cleaned and normalised in the order of the reference."""
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
        texts = tf.strings.regex_replace(texts, CONTROL, "")
        texts = tf.strings.regex_replace(texts, WHITESPACE, " ")
        if self.strip_accents:
            texts = tf_text.normalize_utf8(texts, "NFD")
            texts = tf.strings.regex_replace(texts, NONSPACING_MARK, "")
        if self.lowercase:
            # ASCII comes first: under a Turkish locale the lower case of "I" is not "i".
            texts = tf.strings.lower(texts)
            for capital, small in _SIGMA if self.strip_accents else _SIGMA + _ACCENTED_I:
                texts = tf.strings.regex_replace(texts, capital, small)
            texts = tf.strings.lower(texts, encoding="utf-8")
        texts = tf.strings.regex_replace(texts, f"{PUNCTUATION}|{IDEOGRAPH}", r" \0 ")
        return tf.strings.split(texts)

    def _split(self, words):
        """Splits words [B, (W)] into the ids of their pieces, int32 [B, (T)]."""
        flat = words.flat_values
        too_long = tf.strings.length(flat, unit="UTF8_CHAR") > _MAX_WORD_CHARACTERS
        pieces = self._splitter.tokenize(tf.where(too_long, self.unknown_token, flat))
        return tf.RaggedTensor.from_row_splits(
            pieces.values, tf.gather(pieces.row_splits, words.row_splits), validate=False
        )


def _to_texts(texts):
    """Converts texts to a string tensor [B], or says what they are instead."""
    if isinstance(texts, list | tuple):
        # A lone surrogate is a str that no UTF-8 can hold. It is dropped, as invalid UTF-8 is.
        texts = [text.encode("utf-8", "ignore") if isinstance(text, str) else text for text in texts]
    try:
        texts = tf.convert_to_tensor(texts, dtype=tf.string)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`texts` must be a list of strings or a string tensor [B]. Received: {texts!r}") from error
    if texts.shape.rank != 1:
        raise ValueError(f"`texts` must have rank 1, [B]; wrap a single text in a list. Received: shape={texts.shape}")
    return texts


def _read(path):
    """Reads the tokens of a vocab.txt."""
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The vocabulary file cannot be read: {error}. Received: vocabulary={str(path)!r}") from error
    # Not `splitlines`, which also splits at characters such as U+2028 that are tokens of some vocabularies.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def _token_ids(vocabulary):
    """Maps each token to its id, and raises for a vocabulary that has no such map."""
    if not vocabulary:
        raise ValueError("The vocabulary must hold at least the special tokens. Received: an empty vocabulary")
    ids = {}
    for index, token in enumerate(vocabulary):
        if not isinstance(token, str) or "\n" in token:
            raise ValueError(f"A token must be a string without a line break. Received: vocabulary[{index}]={token!r}")
        if token in ids:
            raise ValueError(
                f"The vocabulary holds a token twice. Received: {token!r} in lines {ids[token] + 1} and {index + 1}"
            )
        ids[token] = index
    return ids
