"""The way from a blocking call to the event loop's thread and back."""

import asyncio
import random
import signal
import statistics
import time

import pytest

from controller.library.blocking import loop_thread
from tests.library.conftest import eventually


@pytest.mark.timeout(60, method="thread")  # the other method needs the alarm itself
def test_whenever_a_signal_strikes_the_call_ends_on_the_loop_too() -> None:
    running: set[int] = set()

    async def endless(number: int) -> None:
        running.add(number)
        try:
            await asyncio.Event().wait()
        finally:
            running.discard(number)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    chance = random.Random(7)
    try:
        for number in range(150):
            with pytest.raises(KeyboardInterrupt):
                # Python may lose an exception that a signal raises in a destructor: the next one comes 0.2 s later.
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 1.5e-3), 0.2)
                loop_thread().call(endless(number))
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert eventually(lambda: not running)


def test_errors_come_over_as_they_are() -> None:
    async def fails() -> None:
        raise ZeroDivisionError("as it was")

    with pytest.raises(ZeroDivisionError, match="as it was"):
        loop_thread().call(fails())


def test_a_call_costs_less_than_a_tenth_of_an_execution() -> None:
    async def nothing() -> None: ...

    def once() -> float:
        began = time.perf_counter()
        loop_thread().call(nothing())
        return time.perf_counter() - began

    assert eventually(lambda: statistics.median(once() for _ in range(200)) < 0.0003)
