"""What sync and async clients have in common: conversations with a server as generators, apart from how they are sent.

A conversation yields what is to be sent, gets the response back, and returns its result. `converse` and
`converse_async` are the two that send; everything else about a client is written once, as conversations.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import grpc

from keras_attention.serving.client_values import ModelVersion
from keras_attention.serving.errors import ServingError

T = TypeVar("T")
Conversation = Generator[Any, Any, T]

# Waits before the retries: doubled each time, up to the longest, give or take the jitter. gRPC's own are the same.
FIRST_WAIT = 0.2
WAIT_GROWTH = 2.0
LONGEST_WAIT = 2.0
_JITTER = 0.2
# gRPC makes five attempts at most, whatever it is asked for.
MOST_RETRIES = 4

_POLL_SECONDS = 0.1
# What a server, or the lack of one, answers before the model is in service.
_NOT_READY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True)
class Sleep:
    """A step in which nothing is sent.

    Attributes:
        seconds: how long.
    """

    seconds: float


class Transport(Protocol):
    """Sends one step of a conversation; an async one has coroutines in place of `send` and `close`."""

    address: str

    def send(self, step: Any, timeout: float) -> Any:
        """Sends what a conversation yielded, and gives the response.

        Args:
            step: what was yielded, but for a `Sleep`.
            timeout: seconds to wait at most.

        Returns:
            The response.

        Raises:
            ServingError: what the server, or the lack of one, answered.
            TimeoutError: if there was no answer in time.
        """

    def close(self) -> None:
        """Closes the connections."""


def converse(conversation: Conversation[T], transport: Transport, timeout: float) -> T:
    """Leads a conversation to its end.

    Args:
        conversation: what is to be sent.
        transport: who sends it.
        timeout: seconds for all of it.

    Returns:
        The conversation's result.

    Raises:
        ServingError: what the conversation makes of a failure; DEADLINE_EXCEEDED when the time is over.
    """
    deadline = time.monotonic() + timeout
    reply, error = None, None
    while True:
        try:
            step = conversation.send(reply) if error is None else conversation.throw(error)
        except StopIteration as end:
            return end.value
        reply, error = None, None
        try:
            left = _time_left(deadline)
            if isinstance(step, Sleep):
                time.sleep(min(step.seconds, left))
            else:
                reply = transport.send(step, left)
        except ServingError as raised:
            error = raised
        except TimeoutError:
            error = _deadline_exceeded(transport.address, timeout)


async def converse_async(conversation: Conversation[T], transport: Transport, timeout: float) -> T:
    """Leads a conversation to its end as `converse` does, with a transport whose methods are coroutines."""
    deadline = time.monotonic() + timeout
    reply, error = None, None
    while True:
        try:
            step = conversation.send(reply) if error is None else conversation.throw(error)
        except StopIteration as end:
            return end.value
        reply, error = None, None
        try:
            left = _time_left(deadline)
            if isinstance(step, Sleep):
                await asyncio.sleep(min(step.seconds, left))
            else:
                reply = await transport.send(step, left)
        except ServingError as raised:
            error = raised
        except TimeoutError:
            error = _deadline_exceeded(transport.address, timeout)


def _time_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _deadline_exceeded(address: str, timeout: float) -> ServingError:
    return ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer from {address} within {timeout:g} s")


def unreachable(address: str, reason: str) -> ServingError:
    """The error for a server that is not there."""
    return ServingError(grpc.StatusCode.UNAVAILABLE, f"no server answers at {address} ({reason})")


def retried(step: Any, retries: int) -> Conversation[Any]:
    """Sends a step again while the server is UNAVAILABLE, as gRPC does by its retry policy.

    Args:
        step: what is to be sent.
        retries: how often it is sent again.

    Returns:
        The conversation; its result is the response.
    """
    for wait in itertools.islice(_waits(), retries):
        try:
            return (yield step)
        except ServingError as error:
            if error.code != grpc.StatusCode.UNAVAILABLE:
                raise
        yield Sleep(wait)
    return (yield step)


def _waits() -> Iterator[float]:
    wait = FIRST_WAIT
    while True:
        yield wait * random.uniform(1 - _JITTER, 1 + _JITTER)
        wait = min(wait * WAIT_GROWTH, LONGEST_WAIT)


def readiness(
    status: Callable[[], Conversation[list[ModelVersion]]], model: str, address: str, timeout: float
) -> Conversation[None]:
    """Asks for a model's status until a version is in service.

    Args:
        status: starts a conversation about the status.
        model: the model's name, for the message.
        address: the server's address, for the message.
        timeout: the seconds that are given to this conversation, for the message.

    Returns:
        The conversation. It ends with DEADLINE_EXCEEDED, and with what stood in the way at last, when its time is over;
        with another error if the server refuses to answer at all.
    """
    reason = "it has not answered"
    while True:
        try:
            versions = yield from status()
            if any(version.state == "AVAILABLE" for version in versions):
                return
            reason = ", ".join(f"version {v.version} is {v.state} {v.error}".strip() for v in versions)
        except ServingError as error:
            if error.code not in _NOT_READY:
                raise
            # The end of the time says less than what came before it.
            if error.code != grpc.StatusCode.DEADLINE_EXCEEDED:
                reason = str(error)
        try:
            yield Sleep(_POLL_SECONDS)
        except ServingError:  # the time is over
            raise ServingError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"model {model} at {address} is not ready after {timeout:g} s: {reason}",
            ) from None
