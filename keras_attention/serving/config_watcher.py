"""Watches the model config file: what is written there comes into force, what makes no sense there is logged."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

from keras_attention.serving.errors import ServingError
from keras_attention.serving.protocol import ModelServerConfig
from keras_attention.serving.text_files import read_text_message

_log = logging.getLogger(__name__)


async def watch_model_config(
    reload: Callable[[ModelServerConfig], Awaitable[None]], path: Path, wait_seconds: float, current: ModelServerConfig
) -> None:
    """Reads the file again and again and puts in force what has changed; ends only when it is cancelled.

    A configuration that is refused is tried again at each look: a version label, for instance, may point to a version
    that is not in service yet.

    Args:
        reload: puts a configuration in force; its errors are those of `ModelManager.apply`.
        path: the model config file.
        wait_seconds: seconds between two looks.
        current: the configuration in force.
    """
    last_complaint = ""
    while True:
        await asyncio.sleep(wait_seconds)
        config = current
        try:
            config = await asyncio.to_thread(read_text_message, path, ModelServerConfig())
            if config != current:
                await reload(config)
                current = config
                _log.info("the configuration in %s is in force", path)
            last_complaint = ""
        except ServingError as error:
            if error.code is grpc.StatusCode.UNKNOWN:
                current = config  # it is in force, though a model could not be loaded
            if str(error) != last_complaint:
                _log.error("the configuration in %s: %s", path, error)
                last_complaint = str(error)
        except Exception:
            _log.exception("reading the configuration in %s failed", path)
