"""Timing of competitors one after the other, again and again, so that all of them meet the same noise."""

import statistics
import time


def median_seconds(runs, rounds, warm_up=2):
    """The median time of each of several functions, called in turn.

    Args:
        runs: dict of name -> function without arguments that returns when its work is done.
        rounds: int, how often each is called.
        warm_up: int, calls before that are not counted: they trace and compile.

    Returns:
        dict of name -> (median, first): seconds; `first` is that of the very first call.
    """
    first = {name: seconds(run) for name, run in runs.items()}
    for _ in range(warm_up - 1):
        for run in runs.values():
            run()
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return {name: (statistics.median(values), first[name]) for name, values in times.items()}


def seconds(run):
    """How long one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
