"""Clients for the embedded server and TensorFlow Serving alike, over gRPC or REST; they need no TensorFlow."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from keras_attention.serving.client_steps import MOST_RETRIES, converse, converse_async, readiness
from keras_attention.serving.client_tls import Tls
from keras_attention.serving.client_values import ModelVersion, ScoredClass
from keras_attention.serving.protocol import ModelServerConfig
from keras_attention.serving.text_files import read_text_message

__all__ = ["AsyncClient", "Client", "ModelVersion", "ScoredClass", "Tls"]


class _Settings:
    """What both clients are made with, and what they say in the protocol of their address."""

    _is_async = False

    def __init__(self, address: str, timeout: float = 30.0, *, retries: int = MOST_RETRIES, tls: Tls | None = None):
        if not 0 <= retries <= MOST_RETRIES:
            raise ValueError(f"retries must be from 0 to {MOST_RETRIES}. Received: {retries}")
        if address.startswith("http://") and tls is not None:
            raise ValueError(f"http does not encrypt: write https, or leave tls out. Received: {address}")
        self.address = address
        self.timeout = timeout
        self.retries = retries
        self.tls = tls
        self._say, self._transport = self._connect()

    def _connect(self) -> tuple[Any, Any]:
        if self.address.startswith(("http://", "https://")):
            from keras_attention.serving import client_rest as rest  # here, for who asks over gRPC has no use for it

            transport = rest.AsyncRestTransport if self._is_async else rest.RestTransport
            return rest.RestConversations(self.address, self.retries), transport(self.address, self.tls)
        from keras_attention.serving import client_grpc

        transport = client_grpc.AsyncGrpcTransport if self._is_async else client_grpc.GrpcTransport
        return client_grpc.GrpcConversations(), transport(self.address, self.tls, self.retries)

    def _seconds(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else timeout

    def _without_retries(self):
        """Another client like this one, for asking now and then whether a server is there."""
        return type(self)(self.address, self.timeout, retries=0, tls=self.tls)


class Client(_Settings):
    """Asks a server for predictions. It may be shared by threads; close it, or use it in a `with` block.

    Strings are UTF-8 in both directions. Bytes that are not UTF-8 come back as surrogate escapes, so that nothing is
    lost (``text.encode("utf-8", "surrogateescape")`` gives the bytes) and nothing raises. An output whose name ends in
    ``_bytes`` comes back as bytes, as it does in TensorFlow Serving's REST.

    A call is repeated, after waits that double from 0.2 s on, while the server is UNAVAILABLE.

    REST is asked in the same way and answers the same, as far as it can: it has one HTTP status, and so
    INVALID_ARGUMENT, for FAILED_PRECONDITION and OUT_OF_RANGE too, no `reload_config`, and no dtypes. They are taken
    from the metadata of the version that is asked; without a number that is the newest one's, of which the metadata is
    asked for again after five seconds.

    Args:
        address: host and port, such as `127.0.0.1:8500`, or `unix:/path/of/socket`, for gRPC;
            `http://127.0.0.1:8501` or `https://...` for REST.
        timeout: seconds that one call may take, its retries included.
        retries: how often a call is repeated, at most 4.
        tls: encrypt, and how. An `https` address is encrypted without it too.

    Raises:
        ValueError: if `retries` is out of range, or `tls` is given for an `http` address.
        OSError: if a file of `tls` cannot be read.

    Example:
        >>> with Client("127.0.0.1:8500") as client:
        ...     client.predict("chatbot", {"text": ["how do I open an account?"], "k": np.array([1], np.int32)})
        {'answer': array(['Choose ...'], dtype=object), 'score': array([0.93], dtype=float32)}
    """

    def predict(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        signature: str = "serving_default",
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs one signature of a model.

        Args:
            model: the model's name.
            inputs: a value for each input by name, [B, ...]: lists of str, bytes or numbers, or arrays. Python's
                numbers are taken as TensorFlow takes them, as int32 and float32; arrays keep their dtype.
            signature: the signature's name.
            version: the version to ask, by its number or its label; None for the newest.
            timeout: seconds that this call may take; None for the client's.

        Returns:
            The outputs by name: arrays of numbers, or object arrays of str.

        Raises:
            ServingError: with the server's status and message, or UNAVAILABLE if none can be reached, or
                DEADLINE_EXCEEDED if the answer takes longer than `timeout`.
            TypeError: if a value is nothing that a tensor can hold.
            ValueError: if a value is an empty list, which says nothing about its type.
        """
        return self._run(self._say.predict(model, inputs, signature, version), timeout)

    def classify(
        self,
        model: str,
        examples: Sequence[Mapping[str, ArrayLike]],
        signature: str = "serving_default",
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> list[list[ScoredClass]]:
        """Runs a signature of the method classify on tf.Examples.

        Args:
            model: the model's name.
            examples: for each example its features by name: a value or a list of values, str or bytes, integers or
                bools (int64 to TensorFlow), or floats.
            signature: the signature's name.
            version: as for `predict`.
            timeout: as for `predict`.

        Returns:
            For each example its classes, in the model's order.

        Raises:
            ServingError: as for `predict`.
            TypeError: if a value is nothing that a feature can hold.

        Example:
            >>> client.classify("flowers", [{"petal_length": 1.4, "colour": "blue"}])
            [[ScoredClass(label='iris', score=0.75), ScoredClass(label='rose', score=0.25)]]
        """
        return self._run(self._say.classify(model, examples, signature, version), timeout)

    def regress(
        self,
        model: str,
        examples: Sequence[Mapping[str, ArrayLike]],
        signature: str = "serving_default",
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> np.ndarray:
        """Runs a signature of the method regress on tf.Examples.

        Args:
            model: the model's name.
            examples: as for `classify`.
            signature: the signature's name.
            version: as for `predict`.
            timeout: as for `predict`.

        Returns:
            A number for each example, float32 [B].

        Raises:
            ServingError: as for `predict`.
            TypeError: if a value is nothing that a feature can hold.

        Example:
            >>> client.regress("prices", [{"rooms": 3}, {"rooms": 4}])
            array([210., 280.], dtype=float32)
        """
        return self._run(self._say.regress(model, examples, signature, version), timeout)

    def status(self, model: str, timeout: float | None = None) -> list[ModelVersion]:
        """Asks where the versions of a model stand.

        Args:
            model: the model's name.
            timeout: as for `predict`.

        Returns:
            The versions that the server knows, newest first.

        Raises:
            ServingError: NOT_FOUND if it knows none, or as for `predict`.
        """
        return self._run(self._say.status(model), timeout)

    def metadata(
        self, model: str, version: int | str | None = None, timeout: float | None = None
    ) -> dict[str, dict[str, Any]]:
        """Asks what the signatures of a model take and return.

        Args:
            model: the model's name.
            version: as for `predict`.
            timeout: as for `predict`.

        Returns:
            The signatures by name, in plain Python: the method, and the inputs and outputs with their dtype and shape
            (None for a size, or a whole shape, that is not fixed), and the default of an input that may be left out.

        Raises:
            ServingError: as for `predict`.

        Example:
            >>> client.metadata("shout")["serving_default"]
            {'method': 'predict',
             'inputs': {'text': {'dtype': 'string', 'shape': [None]}},
             'outputs': {'shout': {'dtype': 'string', 'shape': [None]}}}
        """
        return self._run(self._say.metadata(model, version), timeout)

    def reload_config(self, config: ModelServerConfig | str | os.PathLike, timeout: float | None = None) -> None:
        """Puts another configuration in force, and returns when everything that it asks for is loaded.

        Args:
            config: the whole new configuration: a message, or a file in protobuf's text format that this process reads;
                the base paths in it are the server's.
            timeout: as for `predict`.

        Raises:
            ServingError: INVALID_ARGUMENT or FAILED_PRECONDITION if it makes no sense to the server, UNIMPLEMENTED over
                REST, or as for `predict`.
        """
        return self._run(self._say.reload_config(_as_config(config)), timeout)

    def wait_until_ready(self, model: str, timeout: float = 60.0) -> None:
        """Waits until a version of a model is in service.

        Args:
            model: the model's name.
            timeout: seconds to wait at most.

        Raises:
            ServingError: DEADLINE_EXCEEDED, with what stood in the way at last; another one if the server refuses to
                answer at all.
        """
        with self._without_retries() as other:
            other._run(readiness(lambda: other._say.status(model), model, self.address, timeout), timeout)

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _run(self, conversation, timeout):
        return converse(conversation, self._transport, self._seconds(timeout))


class AsyncClient(_Settings):
    """`Client` for asyncio: the same arguments, and coroutines in place of its methods.

    It may be shared by the tasks of one event loop; close it, or use it in an `async with` block. To cancel a task that
    waits for an answer ends its call at once, and tells the server.

    Example:
        >>> async with AsyncClient("127.0.0.1:8500") as client:
        ...     first, second = await asyncio.gather(
        ...         client.predict("shout", {"text": ["hello"]}), client.predict("shout", {"text": ["good bye"]})
        ...     )
        >>> first
        {'shout': array(['HELLO'], dtype=object)}
    """

    _is_async = True

    async def predict(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        signature: str = "serving_default",
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """As `Client.predict`."""
        return await self._run(self._say.predict(model, inputs, signature, version), timeout)

    async def classify(
        self,
        model: str,
        examples: Sequence[Mapping[str, ArrayLike]],
        signature: str = "serving_default",
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> list[list[ScoredClass]]:
        """As `Client.classify`."""
        return await self._run(self._say.classify(model, examples, signature, version), timeout)

    async def regress(
        self,
        model: str,
        examples: Sequence[Mapping[str, ArrayLike]],
        signature: str = "serving_default",
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> np.ndarray:
        """As `Client.regress`."""
        return await self._run(self._say.regress(model, examples, signature, version), timeout)

    async def status(self, model: str, timeout: float | None = None) -> list[ModelVersion]:
        """As `Client.status`."""
        return await self._run(self._say.status(model), timeout)

    async def metadata(
        self, model: str, version: int | str | None = None, timeout: float | None = None
    ) -> dict[str, dict[str, Any]]:
        """As `Client.metadata`."""
        return await self._run(self._say.metadata(model, version), timeout)

    async def reload_config(self, config: ModelServerConfig | str | os.PathLike, timeout: float | None = None) -> None:
        """As `Client.reload_config`."""
        return await self._run(self._say.reload_config(_as_config(config)), timeout)

    async def wait_until_ready(self, model: str, timeout: float = 60.0) -> None:
        """As `Client.wait_until_ready`."""
        async with self._without_retries() as other:
            await other._run(readiness(lambda: other._say.status(model), model, self.address, timeout), timeout)

    async def close(self) -> None:
        """Closes the connection."""
        await self._transport.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *exception) -> None:
        await self.close()

    async def _run(self, conversation, timeout):
        return await converse_async(conversation, self._transport, self._seconds(timeout))


def _as_config(config: ModelServerConfig | str | os.PathLike) -> ModelServerConfig:
    if isinstance(config, ModelServerConfig):
        return config
    return read_text_message(Path(config), ModelServerConfig())
