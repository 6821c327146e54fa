"""Mining: logs of conversations become questions with their best answers, for a person to review before training."""

import array
import collections
import csv
import dataclasses
import datetime
import functools
import logging
import os
import re
import unicodedata
import zlib

from datasketch import MinHash, MinHashLSH

from applications.chatbot.conversations import Log, find_customers
from applications.chatbot.data import DataError
from applications.chatbot.masking import KINDS, PLACEHOLDER, Masker
from applications.chatbot.small_talk import UNSPACED, count_words, read_small_talk

logger = logging.getLogger(__name__)

COLUMNS = ("question", "answer", "support", "share", "alternatives", "first", "last", "conversation")
_LEAST_WORDS = 2  # of a question: a word alone means nothing without what was said before
_PERMUTATIONS = 64
_RECALL_FIRST = (0.1, 0.9)  # candidates are compared in full, so that false ones cost only time
_HIGHEST_THRESHOLD = 0.9  # so many permutations cannot tell more
_UNSPACED_CHARACTER = re.compile(f"[{UNSPACED}]")
_SPACED_WORD = re.compile(rf"(?:(?![{UNSPACED}])\w)+")
_SLIP_FROM = 4  # letters; one other letter makes another word of a shorter one


@dataclasses.dataclass(frozen=True)
class Summary:
    """What mining found.

    Attributes:
        output: the file that was written.
        counts: dict of what -> how many: conversations, turns, questions with an answer, different ones, pairs written.
        masked: dict of kind -> how many were masked.
        left_out: dict of why -> how many were left out.
    """

    output: object
    counts: dict
    masked: dict
    left_out: dict

    def __str__(self):
        parts = [("found", self.counts), ("masked", self.masked), ("left out", self.left_out)]
        lines = []
        for title, numbers in parts:
            lines += [f"{title}:"] + [f"{count:>10,}  {name}" for name, count in numbers.items() if count]
        return "\n".join(
            [
                *lines,
                f"Written to {self.output}. Read it before it is used: delete the rows that are wrong or name someone,",
                "mend the others (only question and answer are read), and then:",
                f"    python -m applications.chatbot train --data {self.output}",
            ]
        )


def mine(config):
    """Turns a log of conversations into a file of questions and answers to review.

    Consecutive turns of one side are joined; a question is what the customer says, its answer what the agent says next.
    Personal data is masked before anything else is done with a text.

    Args:
        config: `MineConfig`.

    Returns:
        `Summary`.

    Raises:
        DataError: for a log that cannot be used, with file and line, or if nothing is left to write.
        ValueError: for a region that does not exist.
        FileExistsError: if a file stands at the output and `overwrite` is not set.
    """
    _check_output(config)
    masker = Masker(config.region)
    small_talk = read_small_talk(config.small_talk)
    columns = {
        wanted: getattr(config, f"{wanted}_column") for wanted in ("conversation", "speaker", "role", "time", "text")
    }
    if not config.data.is_file():
        raise DataError(f"no file {str(config.data)!r}.")
    log = Log(config.data, columns, config.skip_malformed)
    logger.info("%d turns, from the columns %s", len(log), ", ".join(f"{k}={v}" for k, v in log.columns.items()))
    for problem in log.problems:
        logger.warning("left out: %s", problem)
    sides = find_customers(log.roles(), config.customers, config.agents, log.columns["role"])
    logger.info("customers: %s", _some(role for role, side in sides.items() if side))
    logger.info("agents: %s", _some(role for role, side in sides.items() if side is False))

    left_out = collections.Counter({"malformed rows": log.malformed, "turns without a text": log.empty})
    exchanges, conversations, turns = Exchanges(), 0, 0
    for name, said, people in log.conversations(sides):
        conversations += 1
        turns += len(said)
        exchanges.conversations.append(masker(name) if "@" in name else name)
        masked = [dataclasses.replace(turn, text=masker(turn.text, people)) for turn in said]
        for parts, replies, time in _exchanges(masked, small_talk, left_out):
            # Masked again, because what is joined may only now be a number.
            question = masker(" ".join(small_talk.trim(" ".join(parts)).split()), people)
            answer = masker("\n".join(filter(None, map(small_talk.trim, replies))), people)
            if count_words(PLACEHOLDER.sub(" ", question)) < _LEAST_WORDS:
                left_out[f"questions of less than {_LEAST_WORDS} words"] += 1
            elif not answer:
                left_out["questions without an answer"] += 1
            elif small_talk.only_asks(answer):
                left_out["questions answered by a question alone"] += 1
            else:
                exchanges.add(question, answer, time)
    left_out["turns of the system"] = len(log) - turns
    logger.info("%d questions with an answer; comparing them", len(exchanges))
    groups = group(exchanges, config.similarity)
    rows = [row for row in groups if row.support >= config.min_support]
    left_out[f"different questions in less than {config.min_support} conversations"] = len(groups) - len(rows)
    if not rows:
        reasons = "; ".join(f"{count} {name}" for name, count in left_out.items() if count)
        raise DataError(
            f"{config.data} has no question that is answered in {config.min_support} conversations or more. Left out: "
            f"{reasons}. Lower --min_support, or look whether customers and agents are told apart."
        )
    _check_output(config)
    _write(config.output, rows)
    counts = {
        "conversations": conversations,
        "turns": len(log),
        "questions with an answer": len(exchanges),
        "different questions": len(groups),
        "pairs written": len(rows),
    }
    return Summary(config.output, counts, {kind: masker.counts[kind] for kind in KINDS}, dict(left_out))


def _exchanges(turns, small_talk, left_out):
    """Yields what the customer said, what the agent said to it, lists of str, and when it was asked."""
    asked, said, answered = None, [], []
    for turn in turns:
        if small_talk.says_nothing(turn.text):
            left_out["turns of courtesies or waiting alone"] += 1
            if turn.is_customer and answered:  # thanks: what the agent says now is no longer the answer
                yield said, answered, asked
                said, answered = [], []
        elif turn.is_customer:
            if answered:
                yield said, answered, asked
                said, answered = [], []
            asked = asked if said else turn.time
            said.append(turn.text)
        elif said:
            answered.append(turn.text)
        else:
            left_out["agents' turns that follow no question"] += 1
    if said:
        yield said, answered, asked


class Exchanges:
    """Questions with their answers, each text held once.

    Attributes:
        conversations: list of str, the conversations' ids; what is added belongs to the last of them.
        questions: dict of text -> its number. So is `answers`.
    """

    def __init__(self):
        self.conversations, self.questions, self.answers = [], {}, {}
        self._question, self._answer, self._conversation = (array.array("q") for _ in range(3))
        self._time = array.array("d")

    def add(self, question, answer, time):
        """Adds a question with its answer, of this time in seconds since 1970."""
        self._question.append(self.questions.setdefault(question, len(self.questions)))
        self._answer.append(self.answers.setdefault(answer, len(self.answers)))
        self._conversation.append(len(self.conversations) - 1)
        self._time.append(time)

    def __len__(self):
        return len(self._time)

    def __iter__(self):
        """Yields the numbers of question, answer and conversation, and the time."""
        return zip(self._question, self._answer, self._conversation, self._time, strict=True)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A question with its best answer.

    Attributes:
        question: as most asked it, of equals the wording that came first in the log.
        answer: that of most conversations, of equals the latest.
        support: in how many conversations the question came up.
        share: in how many of them, of 1, the answer was given.
        alternatives: how many other answers were given.
        first: when it was first asked, in seconds since 1970.
        last: when it was last asked.
        conversation: the latest conversation in which it got this answer.
    """

    question: str
    answer: str
    support: int
    share: float
    alternatives: int
    first: float
    last: float
    conversation: str


def group(exchanges, similarity):
    """Merges questions that are nearly the same, and within them answers, and finds each question's best answer.

    Args:
        exchanges: `Exchanges`.
        similarity: float, from which on two texts are nearly the same.

    Returns:
        list of `Pair`, those of most conversations first, of equals the latest.
    """
    questions, answers = list(exchanges.questions), list(exchanges.answers)
    asked, told = collections.Counter(), collections.Counter()
    for question, answer, *_ in exchanges:
        asked[question] += 1
        told[answer] += 1
    group_of_question = _merge(questions, asked, similarity)
    group_of_answer = _merge(answers, told, similarity)
    groups = collections.defaultdict(list)
    for exchange in exchanges:
        groups[group_of_question[exchange[0]]].append(exchange)
    pairs = [_best(group, group_of_answer, questions, answers, exchanges.conversations) for group in groups.values()]
    return sorted(pairs, key=lambda pair: (-pair.support, -pair.last, pair.question))


def _best(exchanges, group_of_answer, questions, answers, conversations):
    by_answer = collections.defaultdict(list)
    for exchange in exchanges:
        by_answer[group_of_answer[exchange[1]]].append(exchange)

    def support(of):
        return len({conversation for _, _, conversation, _ in of})

    def latest(of):
        return max(time for *_, time in of)

    best = max(by_answer.values(), key=lambda of: (support(of), latest(of)))
    wordings = collections.Counter(question for question, *_ in exchanges)
    question = max(wordings, key=wordings.get)
    told = collections.defaultdict(list)
    for exchange in best:
        told[exchange[1]].append(exchange)
    answer = max(told, key=lambda each: (support(told[each]), latest(told[each])))
    example = max(told[answer], key=lambda exchange: exchange[3])
    return Pair(
        questions[question],
        answers[answer],
        support(exchanges),
        support(best) / support(exchanges),
        len(by_answer) - 1,
        min(time for *_, time in exchanges),
        latest(exchanges),
        conversations[example[2]],
    )


def _merge(texts, counts, similarity):
    """The group of each text: the form of the most frequent text that it is nearly the same as.

    Chains do not form: each text is compared with the heads of groups only.
    """
    forms = [_normal_form(text) for text in texts]
    totals = collections.Counter()
    for number, form in enumerate(forms):
        totals[form] += counts[number]
    index = MinHashLSH(threshold=min(similarity, _HIGHEST_THRESHOLD), num_perm=_PERMUTATIONS, weights=_RECALL_FIRST)
    empty = MinHash(num_perm=_PERMUTATIONS, hashfunc=zlib.crc32)
    head = {}
    for form, _ in totals.most_common():
        shingles = _shingles(form)
        sketch = empty.copy()
        sketch.update_batch([shingle.encode() for shingle in shingles])
        alike = {
            other: likeness
            for other in index.query(sketch)
            if (likeness := _jaccard(shingles, _shingles(other))) >= similarity and _is_worded_alike(form, other)
        }
        head[form] = max(alike, key=lambda other: (alike[other], totals[other], other)) if alike else form
        if not alike:
            index.insert(form, sketch, check_duplication=False)
    return [head[form] for form in forms]


def _normal_form(text):
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())) or text


@functools.lru_cache(maxsize=1 << 14)  # the heads of large groups are compared again and again
def _shingles(form):
    """The pieces of three characters, or of two in writing without spaces, where a character says more."""
    size = 2 if 2 * len(_UNSPACED_CHARACTER.findall(form)) > len(form) else 3
    padded = f" {form} "
    return frozenset(padded[start : start + size] for start in range(max(1, len(padded) - size + 1)))


def _jaccard(one, other):
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _is_worded_alike(one, other):
    """Whether two texts have the same numbers, and no word in the place of another but for slips of the pen.

    "iPhone 11" and "iPhone 12", "open" and "close" are two things however long the text around them is.
    """
    if re.findall(r"\d+", one) != re.findall(r"\d+", other):
        return False
    words, others = (collections.Counter(_SPACED_WORD.findall(form)) for form in (one, other))
    fewer, more = sorted(([*(words - others).elements()], [*(others - words).elements()]), key=len)
    return all(any(_is_slip(word, candidate) for candidate in more) for word in fewer)


def _is_slip(word, other):
    """Whether a letter is missing, too many or wrong, or two are swapped."""
    start = _shared_start(word, other)
    end = _shared_start(word[start:][::-1], other[start:][::-1])
    left, right = word[start : len(word) - end], other[start : len(other) - end]
    is_short = max(len(left), len(right)) <= 1 or (len(left) == 2 and left == right[::-1])
    return is_short and min(len(word), len(other)) >= _SLIP_FROM


def _shared_start(word, other):
    pairs = zip(word, other, strict=False)
    return next((place for place, (one, two) in enumerate(pairs) if one != two), min(len(word), len(other)))


def _check_output(config):
    if config.output.is_dir():
        raise DataError(f"{config.output} is a folder: name the CSV file that is to be written.")
    if config.output.exists():
        if config.data.exists() and config.output.samefile(config.data):
            raise DataError(f"{config.output} is the log itself: give another --output.")
        if not config.overwrite:
            raise FileExistsError(
                f"{config.output} exists, and someone may have edited it: give another --output, or --overwrite."
            )


def _write(path, pairs):
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8-sig", newline="") as file:  # spreadsheets need the mark to read Chinese
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for pair in pairs:
                first, last = (
                    datetime.datetime.fromtimestamp(time, datetime.UTC).isoformat(timespec="seconds")
                    for time in (pair.first, pair.last)
                )
                writer.writerow(
                    [
                        *(_as_text(text) for text in (pair.question, pair.answer)),
                        *(pair.support, f"{pair.share:.2f}", pair.alternatives, first, last),
                        _as_text(pair.conversation),
                    ]
                )
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _as_text(text):
    """What a spreadsheet would take for a formula gets a space before it, which train ignores."""
    return f" {text}" if text[:1] in "=+-@" else text


def _some(names):
    names = sorted(names)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
