"""Calls in both directions between two processes of one server, over a socket that they share.

A frame is its length, in eight bytes, and a pickle, which only processes of one server ever exchange.
"""

import asyncio
import itertools
import logging
import pickle
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from keras_attention.serving.errors import ServingError

_log = logging.getLogger(__name__)

_LENGTH = struct.Struct("!Q")


class ChannelClosedError(ConnectionError):
    """The process at the other end has gone."""


class ControlChannel:
    """One end of a control channel. It belongs to one event loop.

    Args:
        end: one of a connected pair of stream sockets.
        methods: what the other end may call, by name. They may change later: `methods` is a public attribute.

    Example:
        With the other end of the pair in another process, whose methods have one called `double`::

            channel = ControlChannel(end, {})
            await channel.open()
            await channel.call("double", 21)  # 42
    """

    def __init__(self, end: socket.socket, methods: Mapping[str, Callable[..., Awaitable[Any]]]):
        self.methods = dict(methods)
        self._end = end
        self._calls = itertools.count()
        self._answers: dict[int, asyncio.Future] = {}
        self._tasks: set[asyncio.Task] = set()
        self._closed = asyncio.Event()

    async def open(self) -> None:
        """Begins to take calls. Nothing may be called before."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._end)
        self._in_background(self._read())

    async def call(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the other end.

        Args:
            method: its name.
            *arguments: what it takes; anything that can be pickled.

        Returns:
            What it returns.

        Raises:
            ChannelClosedError: if the other process goes before it has answered.
            ServingError: if the method raises it; INTERNAL for any other exception, which is logged over there.
        """
        if self._closed.is_set():
            raise ChannelClosedError(f"the other process is gone: it cannot be asked to {method}")
        number = next(self._calls)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self._send((number, method, arguments))
            return await answer
        finally:
            del self._answers[number]

    async def wait_closed(self) -> None:
        """Waits until the other process has gone or closed its end."""
        await self._closed.wait()

    def close(self) -> None:
        """Closes this end."""
        self._writer.close()

    def _send(self, content: tuple) -> None:
        frame = pickle.dumps(content)
        self._writer.write(_LENGTH.pack(len(frame)) + frame)

    async def _read(self) -> None:
        try:
            while True:
                (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
                self._receive(*pickle.loads(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._closed.set()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(ChannelClosedError("the other process has gone"))

    def _receive(self, number: int, method: str | None, content: Any) -> None:
        if method is not None:
            self._in_background(self._answer(number, method, content))
            return
        answer = self._answers.get(number)
        if answer is None or answer.done():
            return  # whoever asked waits no more
        result, error = content
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    async def _answer(self, number: int, method: str, arguments: tuple) -> None:
        result, error = None, None
        try:
            result = await self.methods[method](*arguments)
        except ServingError as raised:
            error = raised
        except ChannelClosedError:
            if self._closed.is_set():
                return  # the other process has gone, and the method needed it
            error = ServingError(grpc.StatusCode.UNAVAILABLE, f"{method} needs a process that has gone")
        except Exception as raised:
            _log.exception("%s failed", method)
            error = ServingError(grpc.StatusCode.INTERNAL, f"{method} failed with {type(raised).__name__}")
        if not self._closed.is_set():
            self._send((number, None, (result, error)))

    def _in_background(self, work) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
