"""Reads the configuration files that `tensorflow_model_server` reads: messages in protobuf's text format."""

from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import Message

from keras_attention.serving.errors import ServingError, invalid_argument, not_found


def read_text_message(path: Path, message: Message) -> Message:
    """Reads a message from a file in protobuf's text format.

    Args:
        path: the file.
        message: an empty message of the expected type, which is filled.

    Returns:
        The message.

    Raises:
        ServingError: NOT_FOUND if the file cannot be read, INVALID_ARGUMENT if it holds no such message; in one line,
            with the place in the file.

    Example:
        >>> read_text_message(Path("models.config"), ModelServerConfig()).model_config_list.config[0].name
        'chatbot'
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise not_found(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _invalid(path, message, "it is not UTF-8 text") from None
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise _invalid(path, message, " ".join(str(error).split())) from None


def _invalid(path: Path, message: Message, reason: str) -> ServingError:
    return invalid_argument(f"Invalid protobuf file: '{path}' is no {message.DESCRIPTOR.name}: {reason}")
