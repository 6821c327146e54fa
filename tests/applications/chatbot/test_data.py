"""Reading questions and answers: what people's files hold, and what is wrong with them, by file and line."""

import csv
import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from applications.chatbot.data import DataError, Entry, merge, read_entries

# Line ends of every kind are among them, those too that only str.splitlines takes for line ends.
CHARACTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], include_characters="\n\r\v\f\x1c\x85")
TEXT = st.text(CHARACTERS, min_size=1).map(str.strip)
FILLED = TEXT.filter(bool)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(Entry, FILLED, FILLED, TEXT), min_size=1), st.sampled_from(",;\t"))
def test_what_was_written_as_csv_is_read(tmp_path_factory, entries, delimiter):
    path = tmp_path_factory.mktemp("csv") / "faq.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["Question", " ANSWER ", "intent"])
        writer.writerows(dataclasses.astuple(entry) for entry in entries)
    assert read_entries(path) == entries


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(Entry, FILLED, FILLED, TEXT), min_size=1))
def test_what_was_written_as_json_lines_is_read(tmp_path_factory, entries):
    path = tmp_path_factory.mktemp("jsonl") / "faq.jsonl"
    lines = [json.dumps(dataclasses.asdict(entry), ensure_ascii=False) for entry in entries]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    assert read_entries(path) == entries


def test_a_field_may_span_lines_and_further_columns_and_blank_rows_are_ignored(tmp_path):
    path = tmp_path / "faq.csv"
    path.write_text('id,question,answer\n1,"Two\nlines?","Yes, ""two"""\n\n , \n2,Next?,Good\n,,\n')
    assert read_entries(path) == [Entry("Two\nlines?", 'Yes, "two"'), Entry("Next?", "Good")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("faq.csv", b"", "faq.csv is empty"),
        ("faq.csv", b" \n\n", "faq.csv is empty"),
        ("faq.csv", b"question,answer\n", "holds no questions"),
        ("faq.csv", b"question,reply\nHi?,Hello\n", "line 1: no column 'answer'.*Received: question, reply"),
        ("faq.csv", b"Hi?,Hello\n", "line 1: no column 'question'"),
        ("faq.csv", b"question,answer\nHi?,Hello\nWho?,\nWhy?,  \n", "line 3: no answer.\n.*line 4: no answer"),
        ("faq.csv", b'question,answer\n"Two\nlines?",Yes\n,None\n', "line 4: no question"),
        ("faq.csv", b"question,answer\nHi?,Hello,there\n", "line 2: 3 fields where the header has 2"),
        ("faq.csv", b"question,answer\nHi?\n", "line 2: 1 fields where the header has 2"),
        ("faq.csv", b'question,answer\nHi?,"Hello\n', "line 2: unexpected end of data"),
        ("faq.csv", b"question,answer\nHi?,Gr\xfc\xdfe\n", "line 2: not UTF-8 .byte 0xfc"),
        ("faq.jsonl", b'{"question": "Hi?", "answer": "Hello"}\n{"question": }\n', "line 2: not JSON"),
        ("faq.jsonl", b'{"question": "Hi?"}\n', "line 1: no answer"),
        ("faq.jsonl", b'["Hi?", "Hello"]\n', "line 1: not a JSON object"),
        ("faq.jsonl", b'{"question": 7, "answer": "Hello"}\n', "line 1: question is not a string"),
        ("faq.jsonl", b'\n{"question": "Hi?", "answer": "\\ud800"}\n', "line 2: answer is not a string of Unicode"),
        ("faq.jsonl", b'\n{"question": ' + b"[" * 200_000 + b"\n", "line 2: not JSON"),
    ],
)
def test_a_file_with_faults_is_refused_with_its_name_and_the_lines(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"(?s){message}") as error:
        read_entries(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"conversations:\n",
        b"conversations: 7\n",
        b"conversations:\n- - When?\n  - 2020-13-45\n",
        b'conversations:\n- - When?\n  - "\\ud800"\n',
        b"conversations: " + b"[" * 5000,
        b"- Hi\n",
    ],
    ids=lambda content: content[:60].decode(),
)
def test_a_corpus_file_with_faults_is_refused_with_its_name(content, tmp_path):
    (tmp_path / "talk.yml").write_bytes(content)
    with pytest.raises(DataError, match=r"talk\.yml is not a chatterbot-corpus file: ."):
        read_entries(tmp_path)


def test_only_the_first_of_many_faults_are_listed(tmp_path):
    path = tmp_path / "faq.csv"
    path.write_text("question,answer\n" + "Hi?,\n" * 30)
    with pytest.raises(DataError, match=r"line 11: no answer\.\n\.\.\. and 20 more\.") as error:
        read_entries(path)
    assert "line 12" not in str(error.value)


def test_a_test_file_may_leave_answers_out(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("question,answer\nHi?,\n")
    assert read_entries(path, answers_required=False) == [Entry("Hi?", "")]


def test_what_is_neither_file_nor_public_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no file or folder '.*nowhere.csv'"):
        read_entries(str(tmp_path / "nowhere.csv"))


def test_a_corpus_folder_gives_every_turn_with_the_turn_before(tmp_path, caplog):
    (tmp_path / "english").mkdir()
    (tmp_path / "english" / "talk.yml").write_text(
        "categories:\n- talk\nconversations:\n- - Hi\n  - Hello\n  - How are you?\n"
        "- - Alone\n- not a list\n- - Bye\n  - So long\n"
    )
    expected = [Entry("Hi", "Hello", "talk"), Entry("Hello", "How are you?", "talk"), Entry("Bye", "So long", "talk")]
    assert read_entries(tmp_path) == expected
    assert read_entries(tmp_path / "english") == expected
    assert "conversation 2" in caplog.text
    assert "conversation 3" in caplog.text
    with pytest.raises(DataError, match=r"no language 'german'\. It has: english"):
        read_entries(tmp_path, language="german")
    (tmp_path / "english" / "talk.yml").write_text("conversations: [")
    with pytest.raises(DataError, match=r"talk.yml is not a chatterbot-corpus file"):
        read_entries(tmp_path)


@pytest.mark.parametrize(("language", "least"), [("english", 900), ("chinese", 300), ("german", 1)])
def test_the_public_corpus_is_read_in_several_languages(corpus_folder, language, least):
    entries = merge(read_entries(corpus_folder, language))
    assert len(entries) >= least
    assert all(entry.question and entry.answer and entry.intent for entry in entries)


def test_merging_keeps_one_entry_a_question_with_its_most_frequent_answer():
    entries = [Entry("Hi", "A"), Entry("Who?", "Me"), Entry(" hI ", "B"), Entry("hi", "B"), Entry("Who?", "You")]
    assert merge(entries) == [Entry(" hI ", "B"), Entry("Who?", "Me")]
    assert merge(entries, key=len) == [Entry("Hi", "A"), Entry("Who?", "Me")]
