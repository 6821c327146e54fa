"""Conversations, read from a log of turns in any order: CSV or JSON Lines, a turn a row."""

import array
import collections
import csv
import dataclasses
import datetime
import itertools
import json
import math
from pathlib import Path

import numpy as np

from applications.chatbot.data import DataError

# The names by which a column is known, the likeliest first; a name is compared without case, spaces and hyphens.
NAMES = {
    "conversation": "conversation_id conversation thread_id thread session_id session chat_id chat ticket_id ticket"
    " dialogue_id dialogue dialog_id dialog case_id 会话id 会话 对话id",
    "speaker": "speaker author author_name author_id sender_name sender sender_id from name user_name username user"
    " 说话人 发送者 发送人",
    "role": "role inbound is_customer sender_type speaker_type speaker_role author_type participant_role direction"
    " 角色",
    "time": "created_at timestamp time datetime date sent_at 时间 发送时间",
    "text": "text message body content utterance msg 内容 消息",
    "message": "tweet_id message_id id",
    "reply_to": "in_response_to_tweet_id in_reply_to reply_to parent_id",
}
NAMES = {wanted: tuple(names.split()) for wanted, names in NAMES.items()}
_TRUE = frozenset(("true", "1", "yes", "t", "y"))
_FALSE = frozenset(("false", "0", "no", "f", "n"))
_SIDES = {
    "customers": "customer client user visitor guest caller buyer consumer contact end_user enduser requester inbound"
    " incoming human 客户 用户 顾客 买家 访客 会员",
    "agents": "agent support assistant operator representative rep staff advisor adviser seller employee csr admin bot"
    " outbound outgoing 客服 坐席 人工客服 卖家 商家 店家 机器人 智能客服",
}
_CUSTOMERS, _AGENTS = (frozenset(words.split()) for words in _SIDES.values())
_SYSTEM = frozenset(("system", "系统", "系统消息"))
_OTHER_TIMES = ("%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%a %b %d %H:%M:%S %z %Y")
_SHOWN_PROBLEMS = 10
_SHOWN_SPEAKERS = 10


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one person said at once.

    Attributes:
        speaker: who it was, as the log names them.
        is_customer: whether it was the customer.
        time: seconds since 1970, UTC.
        text: what was said.
    """

    speaker: str
    is_customer: bool
    time: float
    text: str


class Log:
    """A log of conversations, held as compactly as columns can be.

    A turn takes its text in UTF-8 and some 70 bytes more. The columns are `conversation`, `speaker`, `time` (ISO 8601,
    taken for UTC where it names no zone, or seconds since 1970) and `text`; `role` says which side a speaker is on,
    where the speaker's name does not. A log without a conversation column may name each message and the one that it
    replies to, as the public sets of customer support on Twitter do.

    Args:
        path: path of the file; JSON Lines if it ends with .jsonl, .ndjson or .json, else CSV (comma, semicolon, tab).
        columns: dict of conversation, speaker, role, time, text -> the column's name; None or missing to find it.
        skip_malformed: bool, whether to leave out rows that cannot be read instead of refusing the file.

    Attributes:
        problems: list of str, the malformed rows, the first ten of them with file and line.
        malformed: int, how many there are.
        empty: int, the turns without a text.

    Raises:
        DataError: with the file and the lines.
    """

    def __init__(self, path, columns=None, skip_malformed=False):
        self.path = Path(path)
        self.problems, self.malformed, self.empty = [], 0, 0
        self._texts = []
        self._times = array.array("d")
        self._codes = {wanted: array.array("q") for wanted in ("conversation", "speaker", "role")}
        self._values = {wanted: {} for wanted in self._codes}
        self._replies = {}
        is_json = self.path.suffix.lower() in (".jsonl", ".ndjson", ".json")
        rows = _json_rows(self.path) if is_json else _csv_rows(self.path)
        self._read(rows, {wanted: name for wanted, name in (columns or {}).items() if name})
        if self.problems and not skip_malformed:
            more = self.malformed - len(self.problems)
            lines = self.problems + ([f"... and {more} more."] if more else [])
            raise DataError("\n".join([*lines, "Mend them, or leave them out with --skip_malformed."]))
        if not self._texts:
            raise DataError(f"{self.path} holds no turns.")
        if self._replies:
            self._join_replies()

    def __len__(self):
        return len(self._texts)

    def roles(self):
        """How many turns each value of the role column has, or of the speaker column if there is none: a `Counter`."""
        names = list(self._values["role"])
        counts = np.bincount(np.frombuffer(self._codes["role"], "int64"), minlength=len(names))
        return collections.Counter(dict(zip(names, counts.tolist(), strict=True)))

    def conversations(self, is_customer):
        """The conversations, each in the order of time; of turns at one time, in that of the file.

        Args:
            is_customer: dict of role -> bool, or None for turns that are left out.

        Yields:
            tuple of the conversation's id, its list of `Turn`, and the names of the people in it, a tuple of str. Where
            the role column says True and False, as in Twitter's, agents speak for a company and go by its name.
        """
        codes = {wanted: np.frombuffer(values, "int64") for wanted, values in self._codes.items()}
        order = np.lexsort((np.frombuffer(self._times, "float64"), codes["conversation"]))
        names = {wanted: list(values) for wanted, values in self._values.items()}
        sides = [is_customer[role] for role in names["role"]]
        agents_are_companies = {_fold(role) for role in names["role"]} <= _TRUE | _FALSE
        for conversation, rows in itertools.groupby(order.tolist(), codes["conversation"].item):
            turns = [
                Turn(names["speaker"][self._codes["speaker"][row]], side, self._times[row], self._texts[row].decode())
                for row in rows
                if (side := sides[self._codes["role"][row]]) is not None
            ]
            people = {turn.speaker for turn in turns if turn.is_customer or not agents_are_companies}
            people = (name for name in people if _fold(name) not in _CUSTOMERS | _AGENTS | _SYSTEM)
            yield names["conversation"][conversation], turns, tuple(sorted(people))

    def _read(self, rows, given):
        names = next(rows, None)
        if names is None:
            raise DataError(f"{self.path} is empty.")
        self.columns = _find_columns(self.path, names, given)
        for line, row, problem in rows:
            if problem is None:
                try:
                    self._add(row)
                    continue
                except ValueError as error:
                    problem = str(error)
            self.malformed += 1
            if len(self.problems) < _SHOWN_PROBLEMS:
                self.problems.append(f"{self.path}, line {line}: {problem}.")

    def _add(self, row):
        columns = self.columns
        text = row.get(columns["text"])
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{columns['text']} is not a text: {text!r:.60}")
        try:
            encoded = (text or "").strip().encode()
        except UnicodeEncodeError:
            raise ValueError(f"{columns['text']} is not UTF-8") from None
        moment = _seconds(row.get(columns["time"]), columns["time"])
        by_reply = "conversation" not in columns
        keys = {
            wanted: _key(row.get(columns[wanted]), columns[wanted])
            for wanted in ("speaker", "role", "message" if by_reply else "conversation")
        }
        if by_reply:
            keys["conversation"] = keys["message"]
            replied_to = row.get(columns["reply_to"])
            self._replies[keys["message"]] = str(replied_to).strip() if replied_to is not None else ""
        if not encoded:
            self.empty += 1
            return
        self._texts.append(encoded)
        self._times.append(moment)
        for wanted, codes in self._codes.items():
            values = self._values[wanted]
            codes.append(values.setdefault(keys[wanted], len(values)))

    def _join_replies(self):
        """Messages that reply to one another become a conversation, which is called as the first of them."""
        replies = self._replies
        for message in list(replies):
            seen, root = {message}, message
            while (parent := replies.get(root)) and parent not in seen:  # it would be, in a ring of replies
                seen.add(parent)
                root = parent
            replies |= dict.fromkeys(seen, root)
            replies[root] = ""
        roots = {}
        names = [replies.get(message) or message for message in self._values["conversation"]]
        codes = [roots.setdefault(name, len(roots)) for name in names]
        self._codes["conversation"] = array.array("q", (codes[code] for code in self._codes["conversation"]))
        self._values["conversation"] = roots
        self._replies = {}


def find_customers(roles, customers=(), agents=(), column="role"):
    """Which of the speakers are customers.

    Args:
        roles: `Counter` of the values of the role column.
        customers: tuple of str, the values that stand for customers; any case.
        agents: tuple of str, those that stand for agents. With one of both given, all others are on the other side;
            with neither, words such as customer, user, 客户 and agent, support, 客服 are known, and True and False in a
            column such as inbound.
        column: str, the column's name, for the message.

    Returns:
        dict of value -> bool; None for the system's own messages.

    Raises:
        DataError: if a given value is not among them, or if it cannot be told.
    """
    folded = {role: _fold(role) for role in roles}
    shown = ", ".join(f"{role} ({count})" for role, count in roles.most_common(_SHOWN_SPEAKERS))
    shown += f" and {len(roles) - _SHOWN_SPEAKERS} more" if len(roles) > _SHOWN_SPEAKERS else ""
    found = f"The column {column!r} holds, with the number of turns: {shown}."
    given = bool(customers or agents)
    customers, agents = ({_fold(value) for value in side} for side in (customers, agents))
    if missing := sorted((customers | agents) - set(folded.values())):
        raise DataError(f"no turn is by {missing[0]!r}. {found}")
    if both := sorted(customers & agents):
        raise DataError(f"{both[0]!r} is given as a customer and as an agent.")
    if not given:
        values = set(folded.values())
        if values <= _TRUE | _FALSE:
            customers, agents = values & _TRUE, values & _FALSE
        else:
            customers, agents = values & _CUSTOMERS, values & _AGENTS
    sides = {}
    for role, value in folded.items():
        if value in customers or value in agents:
            sides[role] = value in customers
        elif value in _SYSTEM:
            sides[role] = None
        elif bool(customers) != bool(agents):
            sides[role] = not customers
        else:
            sides[role] = "unknown"
    if "unknown" in sides.values() or not {True, False} <= set(sides.values()):
        raise DataError(f"cannot tell the customers from the agents. {found} Say who is who: --customers or --agents.")
    return sides


def _fold(name):
    return "_".join(name.casefold().replace("-", " ").split())


def _find_columns(path, names, given):
    folded = {_fold(name): name for name in reversed(names)}
    columns = {}
    for wanted, known in NAMES.items():
        if wanted in given:
            if given[wanted] not in names:
                raise DataError(f"{path}, line 1: no column {given[wanted]!r}. It has: {', '.join(names)}")
            columns[wanted] = given[wanted]
        elif name := next((folded[name] for name in known if name in folded), None):
            columns[wanted] = name
    if "role" not in columns and "speaker" in columns:
        columns["role"] = columns["speaker"]
    columns.setdefault("speaker", columns.get("role"))
    for wanted in ("conversation", "speaker", "time", "text"):
        by_reply = wanted == "conversation" and {"message", "reply_to"} <= columns.keys()
        if not columns.get(wanted) and not by_reply:
            raise DataError(
                f"{path}, line 1: no column for the {wanted}, such as {', '.join(NAMES[wanted][:4])}. Name it with "
                f"--{wanted}_column. It has: {', '.join(names)}"
            )
    return columns


def _csv_rows(path):
    """The names in the header, then every row as its line, its values by name, and what is wrong with it or None."""
    # What is not UTF-8 must not end the file: it becomes surrogates, which cannot be encoded again.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        delimiter = max(",;\t", key=file.readline().count)
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            names = next((row for row in reader if any(cell.strip() for cell in row)), None)
            if names is None:
                return
            names = [name.strip() for name in names]
            yield names
            last = reader.line_num
            for row in reader:
                line, last = last + 1, reader.line_num
                if any(cell.strip() for cell in row):
                    problem = f"{len(row)} fields where the header has {len(names)}"
                    yield line, dict(zip(names, row, strict=False)), problem if len(row) != len(names) else None
        except csv.Error as error:  # from here on rows can no longer be told apart
            raise DataError(f"{path}, line {reader.line_num}: {error}.") from None


def _json_rows(path):
    names = None
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for line, content in enumerate(file, start=1):
            if not content.strip():
                continue
            try:
                row, problem = json.loads(content), None
            except (ValueError, RecursionError) as error:
                row, problem = None, f"not JSON ({error})"
            if problem is None and not isinstance(row, dict):
                problem = f"not a JSON object ({type(row).__name__})"
            if names is None:
                if problem:
                    raise DataError(f"{path}, line {line}: {problem}.")
                names = list(row)
                yield names
            yield line, row, problem


def _key(value, column):
    text = str(value).strip() if value is not None else ""
    if not text:
        raise ValueError(f"no {column}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{column} is not UTF-8") from None
    return text


def _seconds(value, column):
    try:
        if value is None or (isinstance(value, str) and not value.strip()):
            raise ValueError(f"no {column}")
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        return _moment(value, column)
    number = number / 1000 if number > 1e11 else number  # milliseconds, as JavaScript counts
    if not 0 <= number < 1e11:
        raise ValueError(f"{column} is no time: {value!r:.60}")
    return number


def _moment(value, column):
    text = value.strip() if isinstance(value, str) else ""
    if not text:
        raise ValueError(
            f"no {column}" if value is None or isinstance(value, str) else f"{column} is no time: {value!r:.60}"
        )
    for form in (None, *_OTHER_TIMES):
        try:
            moment = datetime.datetime.strptime(text, form) if form else datetime.datetime.fromisoformat(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
        except (ValueError, OverflowError):
            continue
    raise ValueError(f"{column} is neither ISO 8601 nor seconds since 1970: {text!r:.60}")
