"""The load generator's connection with the client that people use: grpcio's, on asyncio, a channel for each client."""

import asyncio

import grpc


class GrpcioConnection:
    """As `benchmarks.serving_connections.Connection`."""

    def __init__(self, address, target):
        # Channels of one process to one address share a connection unless they are told not to.
        self._channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._method = self._channel.unary_unary(target)
        self.answered = None

    def ask(self, body):
        """Sends a request, a serialized message."""
        self._call = asyncio.ensure_future(self._ask(body))

    async def _ask(self, body):
        try:
            await self._method(body)
            good = True
        except grpc.aio.AioRpcError:
            good = False
        if self.answered:
            self.answered(good)

    def close(self):
        """Closes it; no answer is told any more."""
        self.answered = None
        self._call.cancel()


async def connect_grpcio(protocol, host, port, target):
    """As `benchmarks.serving_connections.connect`."""
    return GrpcioConnection(f"{host}:{port}", target)
