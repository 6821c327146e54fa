"""One device, two replicas and two workers train alike."""

import numpy as np
import pytest

from tests.training.runs import Run

STRATEGIES = ("one_device", "mirrored", "multi_worker")
OPTIMIZER = {"learning_rate": 0.01, "schedule": "inverse_square_root", "warmup_steps": 10, "global_clipnorm": 0.5}
# A bias of the keys has a gradient of nothing but rounding errors, which Adam's usual epsilon would blow up.
OPTIMIZER["epsilon"] = 1e-3
SMALL = {"model": {"layers": 1}, "validation": False}
# 43 examples make six batches, the last of three: less than two replicas' two parts need.
EXACT = {"optimizer": OPTIMIZER, "config": {"epochs": 9, "gradient_accumulation_steps": 2, "log_gradient_norm": True}}
UNEVEN = {"data": {"counts": [27, 16], "own": True}, "optimizer": OPTIMIZER, "config": {"epochs": 2}, **SMALL}

# What the second worker is given in the place of what the chief has, and what both are told.
DIFFERENT = {
    "another batch size": {**SMALL, "others": {"data": {"batch": 4}}},
    "another seed of the data": {**SMALL, "data": {"shuffle": True}, "others": {"data": {"shuffle": False}}},
    "more rows": {**SMALL, "others": {"data": {"repeat": 2}}},
    "more epochs": {**SMALL, "others": {"config": {"epochs": 2}}},
}
TOLD = {
    "another batch size": "the first batch of `train` must be the same on all workers. Received: another one on ",
    "another seed of the data": "the first batch of `train` must be the same on all workers. Received: another one on ",
    "more rows": "`train` must give the same batches on all workers",
    "more epochs": "`epochs` of the config must be the same on all workers. Received: another one on ",
}


def _fits(strategy):
    # Both replicas have what the one device has.
    dropout = {**SMALL, "config": {"epochs": 2}, "data": {"repeat": 1 if strategy == "one_device" else 2, "count": 4}}
    fits = {
        "exact": EXACT,
        "heads": {**SMALL, "model": {"layers": 1, "heads": 2}, "config": {"gradient_accumulation_steps": 2}},
        "dropout": {**dropout, "model": {"layers": 1, "dropout": 0.5}},
        "no dropout": dropout,
        "recomputed": {**dropout, "model": {"layers": 1, "dropout": 0.5, "rematerialize": True}},
        "xla": {"config": {"jit_compile": True}, **SMALL},
    }
    for precision in ("float32", "mixed_bfloat16", "mixed_float16"):
        for parts in (1, 2):
            config = {"epochs": 2, "mixed_precision": precision, "gradient_accumulation_steps": parts}
            optimizer = {**OPTIMIZER, "ema_momentum": 0.9}
            fits[f"{precision}-{parts}"] = {"config": config, "optimizer": optimizer, **SMALL}
    if strategy == "multi_worker":
        fits |= DIFFERENT
    if strategy != "mirrored":
        alone = {**UNEVEN, "data": {"counts": UNEVEN["data"]["counts"]}}
        fits["uneven"] = UNEVEN if strategy == "multi_worker" else alone
    return fits


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What came of the fits under each strategy; two processes at a time."""
    folder = tmp_path_factory.mktemp("strategies")
    together = {name: Run(folder / name, name, _fits(name)) for name in STRATEGIES[:2]}
    try:
        for run in together.values():
            run.succeed()
    finally:
        for run in together.values():
            run.kill()
    return {**together, STRATEGIES[2]: Run(folder / STRATEGIES[2], STRATEGIES[2], _fits(STRATEGIES[2])).succeed()}


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_losses_and_weights_are_those_of_one_device(runs, strategy):
    expected, run = runs["one_device"], runs[strategy]
    assert len(expected.losses("exact")) == 54
    np.testing.assert_allclose(run.losses("exact"), expected.losses("exact"), atol=1e-5)
    for weight, other in zip(run.weights("exact"), expected.weights("exact"), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)
    for name, values in expected.history("exact").items():
        np.testing.assert_allclose(run.history("exact")[name], values, atol=1e-4, err_msg=name)


def test_the_workers_end_with_the_same_weights_and_history(runs):
    run = runs["multi_worker"]
    assert run.history("exact", 0) == run.history("exact", 1)
    for weight, other in zip(run.weights("exact", 0), run.weights("exact", 1), strict=True):
        np.testing.assert_array_equal(weight, other)


def test_workers_with_different_numbers_of_batches_train_on_what_they_have_together(runs):
    expected, run = runs["one_device"], runs["multi_worker"]
    assert len(run.losses("uneven")) == 14
    np.testing.assert_allclose(run.losses("uneven"), expected.losses("uneven"), atol=1e-5)
    for weight, other in zip(run.weights("uneven"), expected.weights("uneven"), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_accumulation_changes_no_number_in_any_precision(runs, strategy, precision):
    run = runs[strategy]
    whole, parts = run.losses(f"{precision}-1"), run.losses(f"{precision}-2")
    assert whole.shape == parts.shape == (12,)
    assert np.isfinite(whole).all()
    assert whole[-1] < whole[0]
    np.testing.assert_allclose(parts, whole, atol=1e-5 if precision == "float32" else 0.02)
    np.testing.assert_allclose(whole, runs["one_device"].losses(f"{precision}-1"), atol=0.02)


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_several_outputs_with_weighted_losses_train_as_on_one_device(runs, strategy):
    for step, expected in zip(runs[strategy].steps("heads"), runs["one_device"].steps("heads"), strict=True):
        assert {"head_0_loss", "head_1_loss", "loss"} <= set(step)
        assert step == pytest.approx(expected, abs=1e-5)
        assert step["loss"] == pytest.approx(step["head_0_loss"] + 2 * step["head_1_loss"], abs=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_dropout_differs_between_replicas_with_the_same_rows(runs, strategy):
    for name, differs in (("no dropout", False), ("dropout", True)):
        difference = abs(runs["one_device"].losses(name) - runs[strategy].losses(name))
        assert (difference > 1e-4).all() if differs else (difference < 1e-5).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_recomputation_changes_nothing_with_dropout_on(runs, strategy):
    np.testing.assert_allclose(runs[strategy].losses("recomputed"), runs[strategy].losses("dropout"), atol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_xla_trains_alike(runs, strategy):
    np.testing.assert_allclose(runs[strategy].losses("xla"), runs["one_device"].losses("xla"), atol=1e-5)


@pytest.mark.parametrize("name", DIFFERENT)
def test_workers_that_were_given_different_things_are_all_told_so(runs, name):
    for index in range(2):
        assert runs["multi_worker"].error(name, index).startswith(f"ValueError: {TOLD[name]}")
