"""The devices that a run trains on, from a name and the environment."""

import collections
import dataclasses
import functools
import json
import os
import typing
import zlib

import numpy as np
import tensorflow as tf

from keras_attention.training.config import Strategy


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run, from TF_CONFIG.

    Attributes:
        workers: tuple of "host:port", the chief first.
        index: int, which of them this process is.
    """

    workers: tuple[str, ...] = ("localhost:0",)
    index: int = 0

    @property
    def is_chief(self):
        """Whether this is the worker that writes files."""
        return self.index == 0


def read_cluster(tf_config):
    """The cluster that a TF_CONFIG describes.

    Args:
        tf_config: str, or None or "" where it is not set.

    Returns:
        `Cluster`; one worker where it is not set or has no cluster.

    Raises:
        ValueError: if it does not parse or does not say who this process is, with what is wrong.

    Example:

    >>> from keras_attention.training import read_cluster
    >>> read_cluster('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}').index
    1

    Reference: https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable
    """
    if not tf_config:
        return Cluster()

    def refuse(reason):
        raise ValueError(f"the environment variable `TF_CONFIG` {reason}. Received: TF_CONFIG={tf_config!r}")

    try:
        parsed = json.loads(tf_config)
    except json.JSONDecodeError as error:
        refuse(f"must be JSON: {error}")
    if not isinstance(parsed, dict):
        refuse("must be a JSON object")
    cluster, task = parsed.get("cluster", {}), parsed.get("task", {})
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        refuse("must have objects as `cluster` and `task`")
    if not cluster:
        return Cluster()
    for kind, addresses in cluster.items():
        if kind not in ("chief", "worker"):
            refuse(f"may name a chief and workers, and names {kind!r}")
        if not isinstance(addresses, list) or not addresses or not all(map(_is_address, addresses)):
            refuse(f'must give `{kind}` as a list of "host:port"')
    kind, index = task.get("type"), task.get("index")
    if kind not in cluster:
        refuse(f"must have a task whose type is among {', '.join(cluster)}")
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(cluster[kind]):
        refuse(f"must have a task whose index is from 0 to {len(cluster[kind]) - 1}")
    chiefs, workers = cluster.get("chief", []), cluster.get("worker", [])
    if len(chiefs) > 1:
        refuse("may name one chief")
    twice = [address for address, count in collections.Counter(chiefs + workers).items() if count > 1]
    if twice:
        refuse(f"must give every worker an address of its own, and gives {', '.join(twice)} to several")
    return Cluster((*chiefs, *workers), index + (len(chiefs) if kind == "worker" else 0))


def _is_address(value):
    if not isinstance(value, str):
        return False
    host, _, port = value.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and int(port) < 2**16


def make_strategy(name="auto"):
    """The distribution strategy of a name, one a process: the second call returns what the first made.

    With "multi_worker" TensorFlow wants it before anything else: call this first in the program, or make the data
    inside of the functions that `fit` is given.

    Args:
        name: "auto", "one_device", "mirrored", "multi_worker" or "tpu", as in `TrainingConfig.strategy`.

    Returns:
        `tf.distribute.Strategy`.

    Raises:
        ValueError: if TF_CONFIG makes no sense, if it is missing for "multi_worker", or if TensorFlow was used before.

    Example:

    >>> from keras_attention.training import make_strategy
    >>> make_strategy("one_device").num_replicas_in_sync
    1
    """
    if name not in typing.get_args(Strategy):
        raise ValueError(
            f"`strategy` must be among {', '.join(typing.get_args(Strategy))}. Received: strategy={name!r}"
        )
    cluster = this_cluster()
    if name == "auto":
        name = "multi_worker" if len(cluster.workers) > 1 else "mirrored" if _count("GPU") > 1 else "one_device"
    if name != "multi_worker" and len(cluster.workers) > 1:
        raise ValueError(
            f"`strategy` must be 'multi_worker' or 'auto' where TF_CONFIG names several workers, or each would train "
            f"alone and write the same files. Received: strategy={name!r} with TF_CONFIG={os.environ['TF_CONFIG']!r}"
        )
    return _make(name)


def this_cluster():
    """The cluster in this process's environment."""
    return read_cluster(os.environ.get("TF_CONFIG"))


@functools.cache
def _make(name):
    if name == "one_device":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        if _count("GPU"):
            return tf.distribute.MirroredStrategy()
        # Several CPU devices stand in for GPUs in tests; there one device may as well do the sum.
        devices = [device.name for device in tf.config.list_logical_devices("CPU")]
        return tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice())
    if name == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    if not os.environ.get("TF_CONFIG"):
        raise ValueError(
            "`strategy='multi_worker'` needs the environment variable TF_CONFIG: the addresses of all workers and "
            "which of them is this. Received: strategy='multi_worker' without TF_CONFIG"
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        if "program startup" not in str(error):
            raise
        raise ValueError(
            "`strategy='multi_worker'` must come before anything else of TensorFlow: call "
            "keras_attention.training.make_strategy('multi_worker') first, or give `train` and `validation` as "
            "functions that make the data. Received: strategy='multi_worker' after TensorFlow was used"
        ) from error


def _count(kind):
    return len(tf.config.list_physical_devices(kind))


def checksums(config):
    """What the workers of a run compare of their configs, for `Agreement.require_same`.

    Args:
        config: `TrainingConfig`.

    Returns:
        dict of int by the name of the option. Of a folder it says only whether there is one: it may be another on each
        host.
    """
    return {
        f"`{name}` of the config": zlib.crc32(repr(bool(value) if name.endswith("_folder") else value).encode())
        for name, value in dataclasses.asdict(config).items()
        if name not in ("keep_checkpoints", "progress", "resume")
    }


class Agreement:
    """What the workers of a run decide together, so that none waits for one that has left.

    Args:
        strategy: `tf.distribute.Strategy`.
        cluster: `Cluster`.
    """

    def __init__(self, strategy, cluster):
        self._alone = len(cluster.workers) == 1
        self._cluster = cluster
        self._strategy = strategy

        here = max(strategy.num_replicas_in_sync // len(cluster.workers), 1)

        def sum_over_replicas(values):
            context = tf.distribute.get_replica_context()
            # Once for every worker, whatever its replicas are.
            first = tf.equal(context.replica_id_in_sync_group % here, 0)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(first, values, tf.zeros_like(values)))

        @functools.cache
        def total(dtype):
            signature = [tf.TensorSpec([None], dtype)]  # of any length, or each would be traced
            return tf.function(lambda values: strategy.run(sum_over_replicas, args=(values,)), signature)

        self._total = total

    def any(self, *flags):
        """Whether each of some conditions holds on any worker; a list of bool, the same on all workers."""
        if self._alone:
            return [bool(flag) for flag in flags]
        return [bool(count) for count in self.total(tf.constant([int(flag) for flag in flags]))]

    def total(self, values):
        """The sum over workers of a tensor [N] of numbers, as a numpy array."""
        if self._alone:
            return values.numpy()
        return self._strategy.experimental_local_results(self._total(values.dtype)(values))[0].numpy()

    def require_same(self, numbers):
        """Refuses a run whose workers differ in what must be the same on all.

        Args:
            numbers: dict of int from 0 to 2**32 - 1 by what they stand for, such as a checksum of it.

        Raises:
            ValueError: on all workers, if a number is not that of the chief on one of them.
        """
        table = np.zeros([len(self._cluster.workers), len(numbers)], np.int64)
        table[self._cluster.index] = list(numbers.values())
        table = self.total(tf.constant(table.reshape(-1))).reshape(table.shape)
        for name, column in zip(numbers, table.T, strict=True):
            others = [self._cluster.workers[index] for index in np.flatnonzero(column != column[0])]
            if others:
                raise ValueError(
                    f"{name} must be the same on all workers. Received: another one on {', '.join(others)} than on the "
                    f"chief, {self._cluster.workers[0]}"
                )
