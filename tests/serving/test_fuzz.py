"""Requests that no client should send; `python -m benchmarks.serving_fuzz` sends many more of them."""

import asyncio
import random

import pytest

from benchmarks.serving_fuzz import Config, models_server
from benchmarks.serving_fuzz_requests import make_request


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    with models_server(tmp_path_factory.mktemp("fuzz")) as fuzzer:
        yield fuzzer


def test_bad_requests_get_a_proper_status_and_right_ones_beside_them_their_answers(fuzzer):
    report = asyncio.run(fuzzer.run(Config(requests=1600)))
    print(report)  # pytest shows it if the test fails
    assert not report.faults, "\n".join(report.faults)
    memory, files = report.growth
    assert memory < 1.25  # few as they are, the largest of them still make a difference
    assert files < 1.25


def test_a_seed_gives_the_same_requests_again():
    assert [str(make_request(random.Random(number))) for number in range(200)] == [
        str(make_request(random.Random(number))) for number in range(200)
    ]
