"""The one exception of serving: an answer that is not OK, on the server's side and on the client's."""

import grpc


class ServingError(RuntimeError):
    """A gRPC status that is not OK.

    The server raises it to answer with that status; the client raises it for a status that it received.

    Args:
        code: the gRPC status code.
        message: what is wrong, in one sentence or line.

    Example:
        >>> str(ServingError(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(chatbot)"))
        'NOT_FOUND: Servable not found for request: Latest(chatbot)'
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


def invalid_argument(message: str) -> ServingError:
    """The request itself is at fault: `INVALID_ARGUMENT` with `message`."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def failed_precondition(message: str) -> ServingError:
    """The request does not fit what is served: `FAILED_PRECONDITION` with `message`."""
    return ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)


def not_found(message: str) -> ServingError:
    """The request names something that is not here: `NOT_FOUND` with `message`."""
    return ServingError(grpc.StatusCode.NOT_FOUND, message)


class StartupError(RuntimeError):
    """The server cannot start as configured; the message is one line for the person who started it."""
