"""The JSON that the REST API takes: parsed fast, and what is wrong with it said in TensorFlow Serving's words."""

import json
import re
from typing import Any

import orjson

from keras_attention.serving.errors import ServingError, invalid_argument

_ENCODER = json.JSONEncoder(indent=4, ensure_ascii=False)
_LONGEST_VALUE = 1024  # characters of a value that are quoted in a message
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_INT64, _UINT64 = -(2**63), 2**64 - 1

# TensorFlow Serving parses with RapidJSON; Python's parser finds the same faults under other names.
_FAULTS = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
    "Illegal trailing comma before end of array": "Invalid value.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Extra data": "The document root must not be followed by other values.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
    "Invalid control character at": "Invalid encoding in string.",
}
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_TYPE_NAMES = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number", type(None): "Null"}


def parse_document(body: bytes) -> dict[str, Any]:
    """Parses the body of a request.

    Args:
        body: a JSON object in UTF-8; NaN, Infinity and -Infinity are numbers.

    Returns:
        The object. As in TensorFlow Serving, a whole number that fits no 64-bit integer is a float.

    Raises:
        ServingError: INVALID_ARGUMENT, if the body is no JSON or no object.

    Example:
        >>> parse_document(b'{"instances": [1, NaN]}')
        {'instances': [1, nan]}
    """
    body = body.removeprefix(_BYTE_ORDER_MARK)
    if not body:
        raise _parse_error("The document is empty")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = _parse_slowly(body)
    if type(document) is not dict:
        raise invalid_argument(f"JSON Value: {describe(document)} Is not object")
    return document


def describe(value: Any) -> str:
    """A value as messages quote it: indented as TensorFlow Serving does, and cut if it is long."""
    text = ""
    for piece in _ENCODER.iterencode(value):
        text += piece
        if len(text) > _LONGEST_VALUE:
            return text[:_LONGEST_VALUE] + "...TRUNCATED"
    return text


def type_name(value: Any) -> str:
    """The name of a value's type in messages, such as ``String``."""
    return str(value) if isinstance(value, bool) else _TYPE_NAMES[type(value)]


def _parse_slowly(body: bytes) -> Any:
    """Parses what orjson refuses: documents with NaN or infinities, and such as have a fault to be told."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _parse_error("Invalid encoding in string.", error.start) from None
    if not text.strip():
        raise _parse_error("The document is empty.", len(body))
    try:
        document = json.loads(text, parse_int=_number, parse_float=_finite)
        json.dumps(document, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise _parse_error(_fault(error), len(text[: error.pos].encode())) from None
    except UnicodeEncodeError:
        raise _parse_error("The surrogate pair in string is invalid.") from None
    except RecursionError:
        raise _parse_error("The document is nested too deeply.") from None
    return document


def _fault(error: json.JSONDecodeError) -> str:
    if error.msg != "Expecting ',' delimiter":
        return _FAULTS.get(error.msg, error.msg)
    openings = []
    for bracket in re.findall(r"[\[\]{}]", _STRING.sub("", error.doc[: error.pos])):
        if bracket in "[{":
            openings.append(bracket)
        else:
            openings.pop()
    if openings[-1] == "{":
        return "Missing a comma or } after an object member."
    return "Missing a comma or ] after an array element."


def _number(digits: str) -> int | float:
    if len(digits) <= 20 and _INT64 <= int(digits) <= _UINT64:
        return int(digits)
    return _finite(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise _parse_error("Number too big to be stored in double.")
    return number


def _parse_error(fault: str, offset: int | None = None) -> ServingError:
    return invalid_argument(f"JSON Parse error: {fault}" + ("" if offset is None else f" at offset: {offset}"))
