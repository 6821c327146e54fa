"""Small talk: what says nothing, what only asks, and what is left of a text without it."""

# ruff: noqa: RUF001  Chinese has punctuation of its own

import pytest
from hypothesis import given
from hypothesis import strategies as st

from applications.chatbot.data import DataError
from applications.chatbot.small_talk import count_words, read_small_talk

SMALL_TALK = read_small_talk()


@pytest.mark.parametrize(
    "text",
    [
        "Hi",
        "Hello <name>!",
        "Thank you very much.",
        "One moment please, let me check.",
        "您好",
        "好的，谢谢！",
        "稍等，帮您查一下",
        "🙂",
    ],
)
def test_greetings_thanks_and_requests_to_wait_say_nothing(text):
    assert SMALL_TALK.says_nothing(text)
    assert SMALL_TALK.trim(text) == ""


@pytest.mark.parametrize(
    "text", ["Refund please", "<number>", "你好吗", "Yes", "可以", "Please wait 5 days. One moment."]
)
def test_what_may_be_a_question_or_an_answer_says_something(text):
    assert not SMALL_TALK.says_nothing(text)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Hi <name>, how do I pay? Thanks, <name>", "how do I pay?"),
        ("您好，我想退款，谢谢", "我想退款"),
        ("<name> <name> my phone broke", "my phone broke"),
        (
            "One moment. It takes 3.5 days, thanks to you. Have a nice day!\nBest regards,\n<name>",
            "It takes 3.5 days, thanks to you.",
        ),
        ("- first\n- second", "- first\n- second"),
    ],
)
def test_courtesies_go_from_both_ends_and_nothing_from_the_middle(text, left):
    assert SMALL_TALK.trim(text) == left


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("What is your order number?", True),
        ("I see. What is it? And where?", True),
        ("请问您的订单号是多少", True),
        ("Please provide your order number.", True),
        ("It takes a day. Is there more?", False),
        ("It takes a day.", False),
        ("", False),
    ],
)
def test_an_answer_of_questions_alone_is_told_from_one_that_also_answers(text, asks):
    assert SMALL_TALK.only_asks(text) == asks


@given(st.text(max_size=60))
def test_trimming_twice_is_trimming_once_and_leaves_a_part_of_the_text(text):
    trimmed = SMALL_TALK.trim(text)
    assert trimmed in text
    assert bool(trimmed) or SMALL_TALK.says_nothing(text) or not count_words(text)


def test_every_character_is_a_word_where_writing_has_no_spaces():
    assert count_words("reset it") == 2
    assert count_words("重置密码 now") == 5
    assert count_words("<name>, ...") == 0


def test_the_phrases_can_be_replaced_by_a_file(tmp_path):
    path = tmp_path / "phrases.ini"
    path.write_text("[courtesies]\nMoin\n[holding]\nMoment bitte\n", "utf-8")
    german = read_small_talk(path)
    assert german.says_nothing("Moin! Moment bitte.")
    assert not german.says_nothing("Hello")
    path.write_text("Moin\n", "utf-8")
    with pytest.raises(DataError, match=r"phrases\.ini is not a file of phrases"):
        read_small_talk(path)
    path.write_text("[greetings]\nMoin\n", "utf-8")
    with pytest.raises(DataError, match=r"phrases\.ini has a section \[greetings\]; the sections are \[courtesies\]"):
        read_small_talk(path)
