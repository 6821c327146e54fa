"""Personal data in texts, replaced by what kind of thing it was: `<card>`, `<iban>`, `<phone>`, `<email>`, `<name>`."""

import collections
import functools
import re

import phonenumbers
import stdnum.iban
import stdnum.luhn

KINDS = ("email", "iban", "card", "phone", "number", "name")
PLACEHOLDER = re.compile(f"<(?:{'|'.join(KINDS)})>")

_ADDRESS_LETTER = "A-Za-z0-9\u00c0-\u024f\u0370-\u04ff"  # no Han: Chinese has no space before an address
_LOCAL = rf"[{_ADDRESS_LETTER}.!#$%&'*+/=?^_`{{|}}~-]"
_EMAIL = re.compile(
    rf"(?<!{_LOCAL})(?:{_LOCAL}++|\"[^\"\n]{{1,64}}\")[@\uff20]"
    rf"[{_ADDRESS_LETTER}][{_ADDRESS_LETTER}-]*+(?:\.[{_ADDRESS_LETTER}-]++)+"
)
_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?=[ -]?[A-Za-z0-9])")
_IBAN_LENGTHS = range(34, 14, -1)
_GROUPED_DIGITS = re.compile(r"\d+(?:[\s\u2010-\u2015.-]{1,3}\d+)*")
_CARD_LENGTHS = range(13, 20)
_LONG_NUMBER = re.compile(r"\d{6,}")
_HAN = "\u3400-\u9fff"
_HANDLE = re.compile(r"(?<![\w.>])@[A-Za-z0-9_]{2,30}\b")

_LETTER = r"[^\W\d_\u3040-\u9fff\uac00-\ud7af]"
_WORD = rf"{_LETTER}(?:{_LETTER}|['\u2019-](?={_LETTER}))*+"
_NAME = rf"({_WORD}(?:[ ]{_WORD}){{0,2}})"
_TITLE = r"(?:(?:Mr|Mrs|Ms|Mx|Miss|Dr|Prof|Herr|Frau|Monsieur|Madame|Se\u00f1or|Se\u00f1ora)\b\.?\s+)"
_INTRODUCTION = re.compile(rf"(?i:\bmy (?:full )?name(?:\s+is|['\u2019]s)|\bname\s?:)\s+{_NAME}")
_TITLED = re.compile(rf"\b{_TITLE}{_NAME}")
# What goes before a name, and what comes after it; the name is group 1.
_ENCLOSED_NAMES = (
    re.compile(
        rf"(?i:\b(?:dear|hi|hello|hey|good (?:morning|afternoon|evening|day)))\s+{_TITLE}?"
        rf"{_NAME}(?=\s*(?:[,!.:;\uff0c\uff01\u3002\uff1a\n\u2013\u2014-]|$))"
    ),
    re.compile(rf"(?i:\bthis is)\s+{_NAME}(?=\s+(?:speaking|calling|from|with|here)\b)"),
    re.compile(
        r"(?i:\b(?:regards|sincerely|faithfully|wishes|cheers|thanks|thank you|yours))[,.!]?\s+"
        rf"{_NAME}(?=\s*(?:[.!]?\s*$|\n))"
    ),
    re.compile(rf"(?:[.!?]\s+[\u2013\u2014-]|\s[~*])\s?{_NAME}(?=\s*$)"),
)
_INITIALS = re.compile(r"(?<=\s)\^[A-Z][A-Za-z]{0,12}(?=\s*$)")
_SURNAMES = (
    "(?:欧阳|司马|上官|诸葛|东方|皇甫|尉迟|公孙|慕容|司徒|"
    "[王李张刘陈杨黄赵吴周徐孙马朱胡郭何林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范"
    "石廖贾韦付邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔汤])"
)
_CHINESE_NAMES = (
    re.compile(rf"({_SURNAMES}[{_HAN}]{{0,2}}?)(?=先生|女士|小姐|太太)"),
    re.compile(rf"(?:我叫|名字叫|名字是|姓名[:\uff1a是]\s?)({_SURNAMES}[{_HAN}]{{1,2}})"),
    re.compile(rf"(?:我姓|免贵姓)({_SURNAMES})"),
)
# What stands where a name would stand and is none.
_NO_NAMES = (
    "mr mrs ms mx miss dr prof herr frau monsieur sir madam madame customer customers client clients user users team "
    "support service services care help helpdesk desk all everyone everybody folks guys friend friends there again "
    "agent operator staff bot system admin valued and or but i i'm im my me we you he she it they the a an is was are "
    "not no in on at of from with for to please can could would how what why when where who which do does did have "
    "has hi hello hey good morning afternoon evening day thanks thank regards spelled spelt misspelled wrong "
    "incorrect still missing being as shown different company bank card iban phone email name number yes ok okay "
    "sorry this that so very much"
)
_NOT_NAMES = frozenset(_NO_NAMES.split())


class Masker:
    """Replaces personal data by placeholders, and counts what it replaced.

    Masked are e-mail addresses, IBANs with a right check sum, numbers of 13 to 19 digits that Luhn's check takes for a
    card's, however they are spaced; phone numbers that are valid in the region, or anywhere with a +; other runs of
    six digits and more; and names: the given ones, @handles, and what follows "my name is", "Dear", "Mr", a closing
    such as "Regards," or 我叫, or goes before 先生 and 女士. A name that stands anywhere else is not seen.

    What is masked stays as it is when it is masked again.

    Args:
        region: str, the two letters of the country whose phone numbers are written without a + (ISO 3166).

    Raises:
        ValueError: if no such region has phone numbers.

    Example:

    >>> from applications.chatbot.masking import Masker
    >>> masker = Masker("US")
    >>> masker("My name is Ann Lee, card 4111-1111 1111-1111, call (650) 253-0000.")
    'My name is <name>, card <card>, call <phone>.'
    >>> masker.counts["card"]
    1
    """

    def __init__(self, region="US"):
        if region not in phonenumbers.SUPPORTED_REGIONS:
            raise ValueError(f"region must be the two letters of a country, such as US, GB or CN. Received: {region!r}")
        self.region = region
        self.counts = collections.Counter()

    def __call__(self, text, names=()):
        """Masks a text.

        Args:
            text: str.
            names: tuple of str, of people: looked for as a whole in any case, and word by word where capitalised.

        Returns:
            str.
        """
        while True:  # a name may hide the next one from the same pattern; each pass leaves less to mask
            masked = self._once(text, names)
            if masked == text:
                return text
            text = masked

    def _once(self, text, names):
        if "@" in text or "\uff20" in text:
            text = self._replace("email", _EMAIL, text)
            text = self._replace("name", _HANDLE, text)
        if re.search(r"\d", text):
            text = self._mask_ibans(text)
            text = _GROUPED_DIGITS.sub(lambda match: self._mask_cards(match[0]), text)
            text = self._mask_phones(text)
            text = self._replace("number", _LONG_NUMBER, text)
        if pattern := _pattern_of_names(tuple(names)):
            text = self._replace("name", pattern, text)
        text = _INTRODUCTION.sub(lambda match: self._mask_name(match, any_case=True), text)
        text = _TITLED.sub(self._mask_name, text)
        for pattern in _ENCLOSED_NAMES:
            text = pattern.sub(lambda match: self._mask_name(match, whole=True), text)
        text = self._replace("name", _INITIALS, text)
        for pattern in _CHINESE_NAMES:
            text = pattern.sub(lambda match: self._put("name", match, match.end(1)), text)
        return text

    def _replace(self, kind, pattern, text):
        text, count = pattern.subn(f"<{kind}>", text)
        self.counts[kind] += count
        return text

    def _put(self, kind, match, end):
        """The match with its group 1, or as much of it as ends at `end`, replaced."""
        self.counts[kind] += 1
        start = match.start(0)
        return f"{match[0][: match.start(1) - start]}<{kind}>{match[0][end - start :]}"

    def _mask_name(self, match, any_case=False, whole=False):
        words = list(re.finditer(r"\S+", match[1]))
        anyhow = any_case and not _is_capitalised(words[0][0])
        end = None
        for word in words[: 2 if anyhow else 3]:
            if word[0].casefold().replace("\u2019", "'") in _NOT_NAMES or not (anyhow or _is_capitalised(word[0])):
                break
            end = match.start(1) + word.end()
        is_name = end == match.end(1) if whole else end is not None
        return self._put("name", match, end) if is_name else match[0]

    def _mask_ibans(self, text):
        done, parts = 0, []
        for start in _IBAN_START.finditer(text):
            if start.start() >= done and (end := _end_of_iban(text, start.start())):
                parts += [text[done : start.start()], "<iban>"]
                self.counts["iban"] += 1
                done = end
        return "".join([*parts, text[done:]])

    def _mask_cards(self, digits):
        groups = list(re.finditer(r"\d+", digits))
        done, parts, first = 0, [], 0
        while first < len(groups):
            if last := _last_of_card(groups, first):
                parts += [digits[done : groups[first].start()], "<card>"]
                self.counts["card"] += 1
                done, first = groups[last - 1].end(), last
            else:
                first += 1
        return "".join([*parts, digits[done:]])

    def _mask_phones(self, text):
        if sum(map(str.isdecimal, text)) < 7:  # a matcher costs a hundred times as much as this
            return text
        done, parts = 0, []
        for match in phonenumbers.PhoneNumberMatcher(text, self.region):
            parts += [text[done : match.start], "<phone>"]
            self.counts["phone"] += 1
            done = match.end
        return "".join([*parts, text[done:]])


def _last_of_card(groups, first):
    """Where the longest card number ends that begins with this group: the index of the group after it, or None."""
    number, found = "", None
    for index in range(first, len(groups)):
        number += "".join(str(int(digit)) for digit in groups[index][0][:20])  # \d takes the digits of every script
        if len(number) > _CARD_LENGTHS[-1]:
            break
        if len(number) in _CARD_LENGTHS and stdnum.luhn.is_valid(number):
            found = index + 1
    return found


def _end_of_iban(text, start):
    ends = []
    for match in re.finditer(r"[ -]?([A-Za-z0-9])", text[start : start + 70]):
        if ends and match.start() != ends[-1] - start:
            break
        ends.append(start + match.end())
    for length in _IBAN_LENGTHS:
        if length <= len(ends):
            end = ends[length - 1]
            is_cut = end < len(text) and text[end].isascii() and text[end].isalnum()
            if not is_cut and stdnum.iban.is_valid(text[start:end], check_country=False):
                return end
    return None


def _is_capitalised(word):
    return word[0].isupper() and not (word.isupper() and len(word) > 1)


@functools.lru_cache(maxsize=4096)
def _pattern_of_names(names):
    """A pattern that finds these people's names; None if they have none that can be looked for."""
    wanted = set()
    for name in names:
        name = name.strip().lstrip("@")
        if re.fullmatch(rf"[{_HAN}]{{2,8}}", name):
            wanted.add(re.escape(name))
            continue
        words = re.findall(rf"{_LETTER}+", name)
        if re.search(r"\d", name):  # an account's name; what it is made of says little
            wanted |= {rf"(?<!\w){re.escape(name)}(?!\w)"} if words and len(name) >= 5 else set()
            continue
        known = [word for word in words if len(word) >= 3 and word.casefold() not in _NOT_NAMES]
        if len(words) > 1 and known:
            wanted.add(rf"(?<!\w)(?i:{'[ ._-]+'.join(map(re.escape, words))})(?!\w)")
        for word in known:
            spellings = {word.capitalize(), word if word[0].isupper() else word.capitalize()}
            wanted.add(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(spellings)))})(?!\w)")
    return re.compile("|".join(sorted(wanted, key=len, reverse=True))) if wanted else None
