"""Masking: what must never survive does not, what is masked stays masked, and nothing else is touched."""

# ruff: noqa: RUF001  Chinese has punctuation of its own

import re
import time

import pytest
import stdnum.iban
import stdnum.luhn
from hypothesis import example, given, settings
from hypothesis import strategies as st

from applications.chatbot.masking import Masker

MASKER = Masker("US")
SEPARATOR = st.sampled_from(["", "", "", " ", "-", "\n", " - "])
ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


@st.composite
def card_numbers(draw):
    """13 to 19 digits with a right check digit, spaced at random."""
    digits = draw(st.text("0123456789", min_size=12, max_size=18))
    digits += stdnum.luhn.calc_check_digit(digits)
    return "".join(digit + draw(SEPARATOR) for digit in digits[:-1]) + digits[-1]


def cards_in(text):
    """What a reader would take for a card number, found in another way than the masker does."""
    for length in range(13, 20):
        for match in re.finditer(rf"(?=(?<!\d)(\d(?:[ -]?\d){{{length - 1}}})(?!\d))", text):
            digits = [int(digit) for digit in match[1] if digit.isdecimal()][::-1]
            doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(digits)]
            if sum(doubled) % 10 == 0:
                yield match[1]


@settings(deadline=None)
@given(ANY_TEXT, card_numbers(), st.sampled_from([" ", ": ", "，", "\n", " 12 "]), ANY_TEXT)
@example("", "4111 1111 1111 1111", " 12 ", "")
def test_no_card_number_survives(before, card, between, after):
    text = f"{before}{between}{card}{between}{after}"
    masked = MASKER(text)
    assert not list(cards_in(masked))
    assert re.sub(r"\D", "", card) not in re.sub(r"\D", "", masked) or card in before + after


@settings(deadline=None)
@given(st.text("0123456789 -\n.", max_size=80))
def test_no_card_number_survives_among_other_digits(text):
    assert not list(cards_in(MASKER(text)))


@settings(deadline=None)
@given(ANY_TEXT, st.emails(), st.sampled_from([" ", "，", "<", "(", "是", ";"]), ANY_TEXT)
def test_no_e_mail_address_survives(before, address, between, after):
    masked = MASKER(f"{before}{between}{address} {after}")
    assert address not in masked
    assert not re.search(r"[A-Za-z0-9_+-]@[A-Za-z0-9-]+\.[A-Za-z]{2}", masked)


@settings(deadline=None)
@given(st.sampled_from([("DE", 18), ("ES", 20)]), st.data(), st.sampled_from(["", " ", "-"]), st.booleans())
def test_no_iban_with_a_right_check_sum_survives(country, data, separator, lower):
    code, length = country
    account = data.draw(st.text("0123456789", min_size=length, max_size=length))
    iban = code + stdnum.iban.calc_check_digits(f"{code}00{account}") + account
    spaced = separator.join(iban[start : start + 4] for start in range(0, len(iban), 4))
    assert MASKER(f"from {spaced.lower() if lower else spaced} please") == "from <iban> please"


FRAGMENTS = [
    "4111 1111 1111 1111",
    "a@b.org",
    "Dear Ann Lee,",
    "我叫王小明",
    "(650) 253-0000",
    "@ann",
    "DE89370400440532013000",
]
PIECES = st.lists(
    st.sampled_from([*FRAGMENTS, " ", ", ", "\n", "7", "Best regards,\n", "Ann", "My name is ", "<name>"])
)


@settings(deadline=None)
@given(PIECES.map("".join) | ANY_TEXT)
@example("Dear a@b.org Ann, 4111 1111 1111 1111")
def test_masking_twice_is_masking_once(text):
    masked = MASKER(text, ("Ann Lee", "李雷"))
    assert MASKER(masked, ("Ann Lee", "李雷")) == masked


PLAIN = [
    "how do i pay",
    "in 2024",
    "12 months",
    "5 %",
    "iPhone 15",
    "Dear Customer,",
    "3.50 EUR",
    "at 10:30 @ home",
    "退款",
    "先生",
]
PLAIN += [
    "My name is spelled wrong",
    "Hello Team,",
    "Thanks",
    "on 2024-01-31",
    "我叫不到车",
    "HELP ME!",
    "Regards,",
    "a <b>",
    "Will",
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PLAIN), max_size=4).map("; ".join))
def test_a_text_without_personal_data_is_unchanged(text):
    assert MASKER(text) == text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("My name is Ann Lee, I am here", "My name is <name>, I am here"),
        ("my name is ann lee and i wait", "my name is <name> and i wait"),
        (
            "Hi Ann,\nit is done.\nBest regards,\nJohn O'Neil\nSupport",
            "Hi <name>,\nit is done.\nBest regards,\n<name>\nSupport",
        ),
        ("Dear Mr. Smith, hello Mrs Jones-Hill", "Dear Mr. <name>, hello Mrs <name>"),
        ("Ask Mr Smith Dr Jones Please", "Ask Mr <name> Dr <name> Please"),
        ("It ships today. Thanks! ^AB", "It ships today. Thanks! <name>"),
        ("This is Bob from billing", "This is <name> from billing"),
        ("@SomeShop my order 1234567 is late", "<name> my order <number> is late"),
        ("我叫王小明，王先生是我父亲，欧阳女士不是", "我叫<name>，<name>先生是我父亲，<name>女士不是"),
        ("call (650) 253-0000 or +44 20 7031 3000", "call <phone> or <phone>"),
        ("卡号４１１１１１１１１１１１１１１１。", "卡号<card>。"),
        ("我的邮箱是abc@qq.com", "我的邮箱是<email>"),
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),
    ],
)
def test_each_kind_is_found_and_named(text, masked):
    assert MASKER(text) == masked


def test_given_names_are_found_whole_in_any_case_and_in_words_where_capitalised():
    masker = Masker()
    assert masker("ann LEE, Ann and Lee; ann", ("Ann Lee",)) == "<name>, <name> and <name>; ann"
    assert masker("I will, Will", ("will",)) == "I will, <name>"
    assert masker("李雷在吗", ("李雷",)) == "<name>在吗"
    assert masker("annotate Annual", ("Ann",)) == "annotate Annual"
    assert masker("the support Team card", ("Support Team", "Card", "115712", "")) == "the support Team card"
    assert masker.counts == {"name": 5}


def test_the_region_says_which_numbers_are_phone_numbers():
    assert Masker("GB")("call 020 7031 3000") == "call <phone>"
    assert Masker("CN")("电话13812345678") == "电话<phone>"
    with pytest.raises(ValueError, match=r"region must be .* Received: 'XX'"):
        Masker("XX")


@pytest.mark.parametrize("piece", ["a", "a@", "a.", "Ann ", "Hi Ann ", "DE89", "name: "])
def test_a_very_long_text_is_masked_in_seconds(piece):
    start = time.process_time()
    MASKER((piece * 100_000)[:100_000])
    assert time.process_time() - start < 10  # what grows with the square of the length takes minutes
