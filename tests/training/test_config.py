"""What training can be told, and what it refuses."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tyro

from keras_attention.training import (
    OptimizerConfig,
    TrainingConfig,
    WarmupCosine,
    WarmupInverseSquareRoot,
    WarmupLinear,
    make_optimizer,
    make_strategy,
    read_cluster,
)

WORKERS = {"worker": ["a:1", "b:2"]}


def _tf_config(cluster=None, **task):
    return json.dumps({"cluster": WORKERS if cluster is None else cluster, "task": task})


def test_the_cluster_is_read_from_tf_config():
    assert read_cluster(None) == read_cluster("") == read_cluster("{}")
    assert read_cluster(None).is_chief
    cluster = read_cluster(_tf_config(type="worker", index=1))
    assert cluster.workers == ("a:1", "b:2")
    assert cluster.index == 1
    assert not cluster.is_chief
    assert read_cluster(_tf_config({"chief": ["c:3"], **WORKERS}, type="worker", index=0)).index == 1
    assert read_cluster(_tf_config({"chief": ["c:3"], **WORKERS}, type="chief", index=0)).is_chief


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{cluster", "must be JSON"),
        ("[]", "must be a JSON object"),
        ('{"cluster": []}', "must have objects"),
        (_tf_config({"ps": ["a:1"]}, type="ps", index=0), "names 'ps'"),
        (_tf_config({"worker": "a:1"}, type="worker", index=0), "as a list"),
        (_tf_config({"worker": ["a"]}, type="worker", index=0), "as a list"),
        (_tf_config({"worker": []}, type="worker", index=0), "as a list"),
        (_tf_config({"worker": [":1"]}, type="worker", index=0), "as a list"),
        (_tf_config({"worker": ["a:b"]}, type="worker", index=0), "as a list"),
        (_tf_config({"worker": ["a:65536"]}, type="worker", index=0), "as a list"),
        (_tf_config({"worker": ["a:1", "b:2", "a:1"]}, type="worker", index=0), "and gives a:1 to several"),
        (_tf_config({"chief": ["a:1"], **WORKERS}, type="chief", index=0), "and gives a:1 to several"),
        (_tf_config({"chief": ["c:1", "d:1"]}, type="chief", index=0), "one chief"),
        (_tf_config(), "task whose type"),
        (_tf_config(type="worker"), "task whose index is from 0 to 1"),
        (_tf_config(type="worker", index=2), "task whose index is from 0 to 1"),
        (_tf_config(type="worker", index="0"), "task whose index is from 0 to 1"),
    ],
)
def test_a_tf_config_that_makes_no_sense_is_refused(value, message):
    with pytest.raises(ValueError, match=rf"`TF_CONFIG` .*{message}[\s\S]*Received: TF_CONFIG="):
        read_cluster(value)


def test_strategies_that_do_not_fit_the_environment_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"`strategy` must be among .*Received: strategy='two'"):
        make_strategy("two")
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match=r"needs the environment variable TF_CONFIG.*Received"):
        make_strategy("multi_worker")
    monkeypatch.setenv("TF_CONFIG", "nonsense")
    with pytest.raises(ValueError, match="must be JSON"):
        make_strategy("auto")
    monkeypatch.setenv("TF_CONFIG", _tf_config(type="worker", index=0))
    with pytest.raises(ValueError, match=r"where TF_CONFIG names several workers.*Received: strategy='one_device'"):
        make_strategy("one_device")


def test_a_late_multi_worker_strategy_is_told_what_to_do():
    program = (
        "import tensorflow as tf; tf.zeros(1)\n"
        "from keras_attention.training import make_strategy\n"
        "make_strategy('multi_worker')"
    )
    alone = json.dumps({"cluster": {"worker": ["localhost:0"]}, "task": {"type": "worker", "index": 0}})
    environment = {**os.environ, "TF_CONFIG": alone, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert "ValueError: `strategy='multi_worker'` must come before anything else of TensorFlow" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "two"},
        {"mixed_precision": "float64"},
        {"epochs": 0},
        {"epochs": None},
        {"steps_per_epoch": 0},
        {"gradient_accumulation_steps": 1.5},
        {"keep_checkpoints": True},
        {"patience": 0},
        {"seed": -1},
        {"checkpoint_every_steps": 3},
    ],
)
def test_a_training_config_out_of_range_is_refused_by_name(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`.*Received: {next(iter(options))}="):
        TrainingConfig(**options)


def test_the_configs_are_command_lines():
    arguments = ["--epochs", "3", "--mixed-precision", "mixed_bfloat16", "--checkpoint-folder", "runs/x"]
    assert tyro.cli(TrainingConfig, args=arguments).checkpoint_folder.name == "x"
    assert tyro.cli(OptimizerConfig, args=["--schedule", "linear", "--total-steps", "9"]).total_steps == 9


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "step"},
        {"warmup_steps": 5},
        {"total_steps": 5},
        {"schedule": "linear"},
        {"clipnorm": 1.0, "global_clipnorm": 1.0},
    ],
)
def test_an_optimizer_config_that_does_not_go_together_is_refused(options):
    with pytest.raises(ValueError, match="Received: "):
        OptimizerConfig(**options)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (WarmupInverseSquareRoot(2.0, 4), [0.5, 1.0, 1.5, 2.0, 2.0 * (4 / 5) ** 0.5, 2.0 * (4 / 6) ** 0.5]),
        (WarmupLinear(2.0, 2, 6), [1.0, 2.0, 1.5, 1.0, 0.5, 0.0, 0.0]),
        (WarmupLinear(2.0, 0, 4, final=0.5), [1.75, 1.5, 1.25, 1.0, 1.0]),
        (WarmupCosine(2.0, 2, 6), [1.0, 2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5, 0.0, 0.0]),
    ],
)
def test_schedules_rise_and_fall_and_come_back_from_their_config(schedule, expected):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    for one in (schedule, again):
        np.testing.assert_allclose([float(one(step)) for step in range(len(expected))], expected, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WarmupLinear(0.0, 1, 2),
        lambda: WarmupLinear(1.0, -1, 2),
        lambda: WarmupCosine(1.0, 5, 5),
        lambda: WarmupCosine(1.0, 5, 9, final=2.0),
    ],
)
def test_schedules_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="Received: "):
        make()


def test_biases_and_normalisations_do_not_decay():
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, weight_decay=0.5))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, bias_initializer="ones")])
    optimizer.build(model.trainable_variables)
    kernel = model.get_weights()[0]
    optimizer.apply([np.zeros((2, 2), "float32"), np.zeros(2, "float32")], model.trainable_variables)
    np.testing.assert_allclose(model.get_weights()[0], kernel * 0.95, rtol=1e-6)
    np.testing.assert_array_equal(model.get_weights()[1], np.ones(2))
