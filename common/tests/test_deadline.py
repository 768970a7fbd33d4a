"""A connection is shut down when its time is over, also where its socket was handed over to TLS."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from common.deadline import cut_off

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_whoever_waits_sees_the_end(pair: Pair) -> None:
    ours, theirs = pair
    with cut_off(ours, after=0):
        assert (ours.recv(1), theirs.recv(1)) == (b"", b"")


def test_it_reaches_a_socket_that_has_lost_its_descriptor(pair: Pair) -> None:
    ours, _ = pair
    with cut_off(ours, after=0), socket.socket(fileno=ours.detach()) as wrapped:  # as `SSLContext.wrap_socket` does
        assert wrapped.recv(1) == b""


def test_what_ends_in_time_is_left_as_it_was(pair: Pair) -> None:
    ours, theirs = pair
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with cut_off(ours, after=3600):
        pass
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, descriptors)
    theirs.sendall(b"x")
    assert ours.recv(1) == b"x"


def test_what_has_ended_already_is_no_error(pair: Pair) -> None:
    ours, _ = pair
    with cut_off(ours, after=0):
        ours.close()


def test_what_the_other_side_has_ended_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[object] = []
    monkeypatch.setattr(threading, "excepthook", errors.append)
    others = set(threading.enumerate())
    with socket.socket() as ended, cut_off(ended, after=0):  # which is not connected any more
        for timer in set(threading.enumerate()) - others:
            timer.join()
    assert not errors
