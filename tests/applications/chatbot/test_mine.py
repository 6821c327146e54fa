"""Mining: from a log, by the command line, to a file of pairs that a person can review and train can read."""

# ruff: noqa: RUF001  Chinese has punctuation of its own

import csv
import re
import subprocess
import sys

import pytest

from applications.chatbot.config import MineConfig
from applications.chatbot.data import DataError, Entry, read_entries
from applications.chatbot.mine import COLUMNS, Exchanges, group, mine

RESET, SETTINGS = "How do I reset my password?", "Open Settings, Security, and choose 'New password'."


def write_log(path, *conversations):
    """Each conversation is a list of turns, "c" or "a" and the text, a second apart, a day after the one before."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["conversation", "speaker", "time", "text"])
        for number, turns in enumerate(conversations, start=1):
            for second, (side, text) in enumerate(turns):
                writer.writerow([f"c{number}", {"c": "customer", "a": "agent"}[side], 86400 * number + second, text])
    return path


def mined(tmp_path, *conversations, **options):
    """The rows that are mined from conversations, dicts of str, and the summary."""
    log = write_log(tmp_path / "log.csv", *conversations)
    summary = mine(MineConfig(log, tmp_path / "pairs.csv", **{"min_support": 1, "overwrite": True, **options}))
    with summary.output.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file)), summary


def test_a_question_gets_the_answer_of_most_conversations_with_its_support(tmp_path):
    rows, summary = mined(
        tmp_path,
        [("c", RESET), ("a", SETTINGS)],
        [("c", "how do i reset my password"), ("a", "You cannot.")],
        [("c", "Hello! How do I reset my pasword?"), ("a", "Open Settings, Security and choose 'New password'")],
        [("c", "Do you ship to Norway?"), ("a", "Yes, within a week.")],
    )
    assert rows == [
        {
            "question": RESET,
            "answer": "Open Settings, Security and choose 'New password'",
            "support": "3",
            "share": "0.67",
            "alternatives": "1",
            "first": "1970-01-02T00:00:00+00:00",
            "last": "1970-01-04T00:00:00+00:00",
            "conversation": "c3",
        },
        {
            "question": "Do you ship to Norway?",
            "answer": "Yes, within a week.",
            "support": "1",
            "share": "1.00",
            "alternatives": "0",
            "first": "1970-01-05T00:00:00+00:00",
            "last": "1970-01-05T00:00:00+00:00",
            "conversation": "c4",
        },
    ]
    assert summary.counts == {
        "conversations": 4,
        "turns": 8,
        "questions with an answer": 4,
        "different questions": 2,
        "pairs written": 2,
    }
    assert "train --data" in str(summary)


def test_of_answers_with_equal_support_the_latest_is_the_best_and_a_conversation_counts_once(tmp_path):
    ask = ("c", RESET)
    rows, _ = mined(tmp_path, [ask, ("a", "Old way."), ask, ("a", "Old way.")], [ask, ("a", "New way.")])
    assert [(row["answer"], row["support"], row["share"]) for row in rows] == [("New way.", "2", "0.50")]


def test_what_train_reads_is_what_was_mined(tmp_path):
    rows, summary = mined(
        tmp_path,
        [("c", "=1+1 is what, please"), ("a", "-2\n\nor, \"so\"; 'they' say")],
        [("c", "怎么重置密码？"), ("a", "打开设置，选择安全。")],
    )
    assert list(rows[0]) == list(COLUMNS)
    assert [(row["question"][:2], row["answer"][:2]) for row in rows] == [("怎么", "打开"), (" =", " -")]
    assert read_entries(summary.output) == [
        Entry("怎么重置密码？", "打开设置，选择安全。"),
        Entry("=1+1 is what, please", "-2\n\nor, \"so\"; 'they' say"),
    ]


@pytest.mark.parametrize(
    ("turns", "pairs"),
    [
        (
            "c:Where is it now? c:My parcel, I mean a:In town. a:At the depot.",
            {"Where is it now? My parcel, I mean": "In town.\nAt the depot."},
        ),
        ("c:Where is it now? a:One moment please c:ok a:In town.", {"Where is it now?": "In town."}),
        (
            "c:Hi a:Hello! How can I help you? c:Where is it now? a:Hi there, in town. Have a nice day!",
            {"Where is it now?": "in town."},
        ),
        ("c:Where is it now? a:In town. c:Thank you! a:Do buy our new lamp.", {"Where is it now?": "In town."}),
        (
            "a:Buy our lamp. c:Where is it now? a:What is the number? c:12345678 a:In town. c:Is it new? a:No.",
            {"Is it new?": "No."},
        ),
        ("c:Where? a:In town. c:Is it new? a:No. c:And so on", {"Is it new?": "No."}),
    ],
)
def test_questions_find_their_answers_over_small_talk(turns, pairs, tmp_path):
    said = re.findall(r"([ca]):(.*?)(?= [ca]:|$)", turns)
    rows, _ = mined(tmp_path, said)
    assert {row["question"]: row["answer"] for row in rows} == pairs


def test_what_was_left_out_is_counted_by_reason(tmp_path):
    _, summary = mined(
        tmp_path,
        [("c", "hi"), ("a", "Buy it."), ("c", "Refund?"), ("a", "Yes."), ("c", "Is it new?"), ("a", "Is what new?")],
        [("c", "Is it old?"), ("a", "No."), ("c", "And is it cheap?"), ("c", " ")],
        [("c", "Is it old?"), ("a", "No.")],
        min_support=2,
    )
    assert {reason: count for reason, count in summary.left_out.items() if count} == {
        "turns without a text": 1,
        "turns of courtesies or waiting alone": 1,
        "agents' turns that follow no question": 1,
        "questions of less than 2 words": 1,
        "questions answered by a question alone": 1,
        "questions without an answer": 1,
    }
    assert summary.counts["pairs written"] == 1


def test_nothing_personal_is_written(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(
        "thread,author,role,time,text\n"
        'ann@shop.org,Ann Lee,customer,1,"My name is Ann Lee, is 4111 1111"\n'
        "ann@shop.org,Ann Lee,customer,1,1111 1111 still my card?\n"
        "ann@shop.org,Bob Ray,agent,2,Yes ann@shop.org of DE89370400440532013000 has it. It is 4111 1111\n"
        'ann@shop.org,Bob Ray,agent,3,"1111 1111, so call (650) 253-0000 and ask for Bob."\n'
    )
    summary = mine(MineConfig(log, tmp_path / "pairs.csv", min_support=1))
    written = summary.output.read_text("utf-8-sig")
    assert "is <card> still my card?" in written
    assert "Yes <email> of <iban> has it. It is <card>, so call <phone> and ask for <name>." in written
    assert written.strip().endswith("<email>")
    assert summary.masked == {"email": 2, "iban": 1, "card": 2, "phone": 1, "number": 0, "name": 2}


def test_near_duplicates_are_merged_and_numbers_keep_questions_apart():
    exchanges = Exchanges()
    questions = [
        "Is my iPhone 11 screen under guarantee?",
        "is my iphone 11 screen under guarantee",
        "Is my iPhone 12 screen under guarantee?",
    ]
    questions += ["请问怎么重置我的登录密码", "请问怎么重置我的登录密码呢？", "请问怎么注销我的账户"]
    for question in questions:
        exchanges.conversations.append(question)
        exchanges.add(question, "Yes.", 0)
    found = {pair.question: pair.support for pair in group(exchanges, 0.8)}
    assert found == {questions[0]: 2, questions[2]: 1, questions[3]: 2, questions[5]: 1}
    assert len(group(exchanges, 1.0)) == 5  # case and punctuation never count


@pytest.mark.parametrize(
    ("one", "other", "merged"),
    [
        ("How do I cancel my gym membership?", "how do i cnacel my gym membership", True),
        ("How do I cancel my gym membership?", "How do I cancel my gym memberships", True),
        ("How do I cancel my gym membership?", "So how do I cancel my gym membership?", True),
        ("I want to open a savings account for my child", "I want to close a savings account for my child", False),
        ("How do I activate my new credit card?", "How do I deactivate my new credit card?", False),
        ("What is new in the terms of 2023?", "What is new in the terms of 2024?", False),
        ("When does the shop in Ulm open on Sundays?", "When does the shop in Ulm open on Mondays?", False),
        ("我怎么才能把我的会员卡注销掉", "我怎么才能把我的会员卡注销掉呢", True),
        ("我怎么才能把我的会员卡注销掉", "我怎么才能查到我的订单到哪里", False),
    ],
)
def test_slips_are_merged_and_other_words_are_not(one, other, merged):
    exchanges = Exchanges()
    exchanges.conversations.append("c1")
    for question in (one, other):
        exchanges.add(question, "Yes.", 0)
    assert len(group(exchanges, 0.7)) == (1 if merged else 2)


def test_a_file_that_someone_may_have_edited_is_not_replaced(tmp_path):
    mined(tmp_path, [("c", RESET), ("a", SETTINGS)])
    output = tmp_path / "pairs.csv"
    output.write_text("edited")
    config = MineConfig(tmp_path / "log.csv", output, min_support=1)
    with pytest.raises(FileExistsError, match=r"pairs\.csv exists, and someone may have edited it"):
        mine(config)
    assert output.read_text() == "edited"
    with pytest.raises(DataError, match="is the log itself"):
        mine(MineConfig(tmp_path / "log.csv", tmp_path / "log.csv", overwrite=True))
    with pytest.raises(DataError, match="is a folder"):
        mine(MineConfig(tmp_path / "log.csv", tmp_path))


def test_a_file_stays_as_it_was_if_nothing_is_found_or_writing_fails(tmp_path, monkeypatch):
    mined(tmp_path, [("c", RESET), ("a", SETTINGS)])
    before = (tmp_path / "pairs.csv").read_bytes()
    with pytest.raises(DataError, match=r"(?s)no question that is answered in 2 conversations.*1 different questions"):
        mined(tmp_path, [("c", RESET), ("a", SETTINGS)], min_support=2)
    monkeypatch.setattr("applications.chatbot.mine.datetime", None)  # the disk is full, say, after the header
    with pytest.raises(AttributeError):
        mined(tmp_path, [("c", "Is it new?"), ("a", "No.")])
    assert (tmp_path / "pairs.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "pairs.csv"]


def test_settings_out_of_range_and_a_missing_log_are_refused(tmp_path):
    for options in ({"min_support": 0}, {"similarity": 0}, {"similarity": 1.1}):
        with pytest.raises(ValueError, match="min_support must be at least 1, and similarity"):
            MineConfig(tmp_path / "log.csv", **options)
    with pytest.raises(DataError, match=r"no file .*nowhere\.csv"):
        mine(MineConfig(tmp_path / "nowhere.csv", tmp_path / "pairs.csv"))


def test_the_shell_mines_without_tensorflow_and_says_what_to_do_next(tmp_path):
    log = write_log(tmp_path / "log.csv", *[[("c", RESET), ("a", SETTINGS)]] * 2)
    program = "import sys; from applications.chatbot.__main__ import main; code = main(); "
    program += "sys.exit(code or 'tensorflow' in sys.modules)"
    command = [
        sys.executable,
        "-c",
        program,
        "mine",
        "--data",
        str(log),
        "--output",
        str(tmp_path / "new" / "pairs.csv"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1  pairs written" in done.stdout
    assert "python -m applications.chatbot train --data" in done.stdout
    assert "customers: customer" in done.stderr
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "or --overwrite" in again.stderr
    assert read_entries(tmp_path / "new" / "pairs.csv") == [Entry(RESET, SETTINGS)]
