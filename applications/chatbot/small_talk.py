"""What is said in a conversation without asking or answering anything: greetings, thanks, "one moment please"."""

import configparser
import dataclasses
import re
from pathlib import Path

from applications.chatbot.data import DataError

PHRASES = Path(__file__).with_name("small_talk.ini")
_SECTIONS = ("courtesies", "holding", "asking")
_SHORT = 15  # words; a longer sentence says more than the phrase in it

# In writing without spaces every character counts as a word: kana, Han, Thai, Lao, Burmese and Khmer.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])[^\W_])+")
_SENTENCE = re.compile(r"(?<=[.!?\u2026])\s+|(?<=[\u3002\uff01\uff1f])\s*|\n+")
_CLAUSE = re.compile(
    r"[^,.!?;:\u2026\u3002\uff01\uff1f\uff0c\u3001\uff1b\uff1a\n]*(?:[,.!?;:\u2026\u3002\uff01\uff1f\uff0c\u3001\uff1b\uff1a\n]+\s*|$)"
)
_QUESTION_END = re.compile(r"[?\uff1f\u061f\u037e][\s\W]*$")
_LOOSE_START = " \t\n,\uff0c\u3001"
_LOOSE_END = " \t\n,;:\uff0c\u3001\uff1b\uff1a-\u2013\u2014"


def count_words(text):
    """How many words a text has; in writing without spaces every character is one, and a masked name is none."""
    return len(_WORD.findall(text.replace("<name>", " ")))


@dataclasses.dataclass(frozen=True)
class SmallTalk:
    """Tells what belongs to a question or an answer from what does not.

    Attributes:
        courtesies: pattern of phrases; what consists of them alone says nothing.
        holding: pattern of phrases; a short sentence with one of them asks to wait.
        asking: pattern of phrases; a short sentence with one of them asks something.

    Example:

    >>> from applications.chatbot.small_talk import read_small_talk
    >>> small_talk = read_small_talk()
    >>> small_talk.trim("Hi there! How do I reset my password? Thanks")
    'How do I reset my password?'
    >>> small_talk.says_nothing("One moment please, let me check.")
    True
    >>> small_talk.only_asks("I see. What is your order number?")
    True
    """

    courtesies: re.Pattern
    holding: re.Pattern
    asking: re.Pattern

    def says_nothing(self, text):
        """Whether a text consists of courtesies and sentences that ask to wait."""
        return all(self._is_empty(sentence) for sentence in _SENTENCE.split(text))

    def only_asks(self, text):
        """Whether every sentence that says anything asks something."""
        sentences = [sentence for sentence in _SENTENCE.split(text) if not self._is_empty(sentence)]
        return bool(sentences) and all(
            _QUESTION_END.search(sentence) or self._is_short_with(self.asking, sentence) for sentence in sentences
        )

    def trim(self, text):
        """A text without the courtesies, and the sentences that ask to wait, at its beginning and end."""
        sentences = _strip([*_pieces(_SENTENCE, text)], self._is_empty)
        clauses = _strip(_CLAUSE.findall("".join(sentences)), self._is_courtesy)
        trimmed = re.sub(r"^(?:<name>[\s,:\uff0c\uff1a]*)+", "", "".join(clauses).strip())
        return trimmed.lstrip(_LOOSE_START).rstrip(_LOOSE_END)

    def _is_empty(self, sentence):
        return self._is_courtesy(sentence) or self._is_short_with(self.holding, sentence)

    def _is_courtesy(self, text):
        return not count_words(self.courtesies.sub(" ", _plain(text)))

    def _is_short_with(self, pattern, sentence):
        return bool(pattern.search(_plain(sentence))) and count_words(sentence) <= _SHORT


def read_small_talk(path=None):
    """Reads the phrases.

    Args:
        path: path of a file with the sections [courtesies], [holding] and [asking] and one phrase a line; None for the
            English and Chinese ones in `small_talk.ini` beside this module.

    Returns:
        `SmallTalk`.

    Raises:
        DataError: with the file, if it is no such file.
    """
    path = Path(path or PHRASES)
    parser = configparser.ConfigParser(
        allow_no_value=True, delimiters=("=",), strict=False, interpolation=None, default_section=""
    )
    try:
        parser.read_string(path.read_text("utf-8-sig"), source=str(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a file of phrases: {error}") from None
    if strange := sorted(set(parser.sections()) - set(_SECTIONS)):
        raise DataError(f"{path} has a section [{strange[0]}]; the sections are [{'], ['.join(_SECTIONS)}].")
    return SmallTalk(*(_pattern(list(parser[name]) if parser.has_section(name) else []) for name in _SECTIONS))


def _pattern(phrases):
    """Matches the longest phrase that stands at a place: between word boundaries, where the writing has spaces."""
    spaced, unspaced = [], []
    for phrase in sorted(map(_plain, phrases), key=len, reverse=True):
        kind = unspaced if re.search(f"[{UNSPACED}]", phrase) else spaced
        kind.append(r"\s+".join(map(re.escape, phrase.split())))
    edge = rf"[^\W{UNSPACED}]"
    patterns = [rf"(?<!{edge})(?:{'|'.join(spaced)})(?!{edge})"] if spaced else []
    return re.compile("|".join([*patterns, *unspaced]) or r"(?!)")


def _plain(text):
    return text.lower().replace("\u2019", "'")


def _pieces(separator, text):
    """The text, cut behind each separator."""
    start = 0
    for match in separator.finditer(text):
        if match.end() > start:
            yield text[start : match.end()]
            start = match.end()
    yield text[start:]


def _strip(pieces, is_empty):
    first, last = 0, len(pieces)
    while first < last and is_empty(pieces[first]):
        first += 1
    while last > first and is_empty(pieces[last - 1]):
        last -= 1
    return pieces[first:last]
