"""A step that waits without end for a task that has gone, as TensorFlow left 2 of 68 (measured)."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from launch.plan import free_ports
from trainer.cluster import peer_watcher
from trainer.cluster.member import Member
from trainer.cluster.spec import Cluster
from trainer.placing.strategy import Workers
from trainer.running.loop import LoopState

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def watch(monkeypatch, capfd):
    """Watches for another worker beside a block of so many seconds; returns what happened, and what was written."""

    def run(other: str, *, in_step: bool, seconds: float) -> tuple[list[object], str]:
        happened: list[object] = []
        for name in ("POLL_SECONDS", "GONE_SECONDS", "FATAL_SECONDS"):
            monkeypatch.setattr(peer_watcher, name, 0.1)
        monkeypatch.setattr(peer_watcher.os, "_exit", happened.append)
        own = f"127.0.0.1:{free_ports(1)[0]}"
        member = Member(Cluster("worker", 0, {0: own, 1: other}, {}, "flags"), Workers(0, 2), "", None)
        state = LoopState(step=7)
        watcher = peer_watcher.PeerWatcher(
            member,
            None,
            None,
            state=state,
            join_seconds=600,
            say=print,
            wake=lambda error: happened.append("woken"),
            hurry=lambda: False,
            rescue=lambda: happened.append(f"saved {state.step}"),
        )
        with watcher, state.stepping() if in_step else contextlib.nullcontext():
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and 200 not in happened:
                time.sleep(0.05)
        return happened, capfd.readouterr().err

    return run


def test_a_step_that_waits_for_a_worker_that_has_gone_ends_the_process_after_saving(watch):
    other = f"127.0.0.1:{free_ports(1)[0]}"
    happened, err = watch(other, in_step=True, seconds=30)
    assert happened == ["woken", "saved 7", 200]
    assert err.endswith(f"error: worker 1 ({other}) of the cluster is lost: its port does not answer\n")


def test_between_two_steps_no_other_worker_is_needed(watch):
    happened, _ = watch(f"127.0.0.1:{free_ports(1)[0]}", in_step=False, seconds=1)
    assert not happened


def test_a_step_may_be_long_while_the_others_answer(watch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        happened, _ = watch(f"127.0.0.1:{server.getsockname()[1]}", in_step=True, seconds=1)
    assert not happened
