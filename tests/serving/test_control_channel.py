"""Calls between two processes of one server, here between the two ends of a channel in one process."""

import asyncio
import os
import socket

import grpc
import pytest

from keras_attention.serving.control_channel import ChannelClosedError, ControlChannel
from keras_attention.serving.errors import ServingError, not_found


async def _pair(methods, other_methods=None) -> tuple[ControlChannel, ControlChannel]:
    ends = [ControlChannel(end, m or {}) for end, m in zip(socket.socketpair(), (other_methods, methods), strict=True)]
    for end in ends:
        await end.open()
    return tuple(ends)


def test_both_ends_call_each_other_at_the_same_time():
    async def main():
        async def double(number):
            return 2 * number

        async def quadruple(number):
            return 2 * await there.call("double", number)

        here, there = await _pair({"quadruple": quadruple}, {"double": double})
        large = os.urandom(3_000_000)
        assert await here.call("quadruple", large) == 4 * large
        assert await asyncio.gather(*(here.call("quadruple", n) for n in range(100))) == list(range(0, 400, 4))

    asyncio.run(main())


def test_errors_arrive_as_they_were_raised_and_others_are_internal():
    async def main():
        async def refuse():
            raise not_found("nothing here")

        async def fail():
            raise KeyError("secret")

        here, _ = await _pair({"refuse": refuse, "fail": fail})
        with pytest.raises(ServingError, match="NOT_FOUND: nothing here"):
            await here.call("refuse")
        for method in ("fail", "unknown"):
            with pytest.raises(ServingError, match=f"{method} failed with KeyError") as caught:
                await here.call(method)
            assert caught.value.code is grpc.StatusCode.INTERNAL

    asyncio.run(main())


def test_calls_fail_when_the_other_end_closes():
    async def main():
        async def never():
            await asyncio.Event().wait()

        here, there = await _pair({"never": never})
        waiting = [asyncio.create_task(here.call("never")) for _ in range(3)]
        await asyncio.sleep(0.05)
        there.close()
        for call in waiting:
            with pytest.raises(ChannelClosedError):
                await call
        await here.wait_closed()
        with pytest.raises(ChannelClosedError):
            await here.call("never")

    asyncio.run(main())


def test_what_arrives_is_begun_in_order():
    async def main():
        begun = []

        async def begin(number):
            begun.append(number)
            await asyncio.sleep(0.01)

        here, _ = await _pair({"begin": begin})
        await asyncio.gather(*(here.call("begin", number) for number in range(50)))
        assert begun == list(range(50))

    asyncio.run(main())


def test_a_caller_that_waits_no_more_disturbs_nobody():
    async def main():
        go = asyncio.Event()

        async def wait():
            await go.wait()
            return "done"

        here, _ = await _pair({"wait": wait})
        first, second = (asyncio.create_task(here.call("wait")) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        go.set()
        assert await second == "done"

    asyncio.run(main())
