import threading

import pytest

from common.circuit_breaker import CircuitBreaker, CircuitOpen, State


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return CircuitBreaker("bank", failures=(TimeoutError,), threshold=3, rest=10, clock=clock)


def fail(breaker, times=1):
    for _ in range(times):
        with pytest.raises(TimeoutError), breaker.attempt():
            raise TimeoutError


def succeed(breaker):
    with breaker.attempt():
        pass


class TestCircuitBreaker:
    def test_opens_after_failures_in_a_row(self, breaker):
        fail(breaker, 2)
        succeed(breaker)
        fail(breaker, 2)
        assert breaker.state == State.CLOSED
        fail(breaker)
        assert breaker.state == State.OPEN
        with pytest.raises(CircuitOpen), breaker.attempt():
            pytest.fail("called")

    def test_a_refusal_is_not_a_failure(self, breaker):
        fail(breaker, 2)
        with pytest.raises(ValueError), breaker.attempt():
            raise ValueError
        fail(breaker, 2)
        assert breaker.state == State.CLOSED

    def test_a_successful_probe_closes_it_and_a_failed_one_opens_it_again(self, breaker, clock):
        fail(breaker, 3)
        clock.now = 10
        assert breaker.state == State.HALF_OPEN
        fail(breaker)
        assert breaker.state == State.OPEN
        clock.now = 20
        succeed(breaker)
        assert breaker.state == State.CLOSED

    def test_after_an_interrupted_probe_another_may_follow(self, breaker, clock):
        fail(breaker, 3)
        clock.now = 10
        with pytest.raises(KeyboardInterrupt), breaker.attempt():
            raise KeyboardInterrupt
        succeed(breaker)
        assert breaker.state == State.CLOSED

    def test_a_slow_call_from_before_it_opened_changes_nothing(self, breaker):
        with breaker.attempt():
            fail(breaker, 3)
        assert breaker.state == State.OPEN

    def test_exactly_one_of_many_threads_probes(self, breaker, clock):
        fail(breaker, 3)
        clock.now = 10
        start, release, probes, refused = threading.Barrier(16), threading.Event(), [], []

        def call():
            start.wait()
            try:
                with breaker.attempt():
                    probes.append(1)
                    release.wait(120)
            except CircuitOpen:
                refused.append(1)
                if len(refused) == 15:
                    release.set()

        threads = [threading.Thread(target=call) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(probes), len(refused)) == (1, 15)
        assert breaker.state == State.CLOSED
