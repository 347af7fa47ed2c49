"""The training of a worker that is not the chief: the same steps, and nothing of what the chief writes."""

from __future__ import annotations

from trainer.cluster.member import Member
from trainer.cluster.peer_watcher import peers_watched
from trainer.cluster.ps_rendezvous import wait_for_ended
from trainer.cluster.rendezvous import wait_at_barrier
from trainer.cluster.server import describe_silent
from trainer.running.hooks.votes import VoteHook
from trainer.running.loop import LoopState, run_steps
from trainer.running.session import OpenSession
from trainer.running.stalls import StallWatcher
from trainer.signals import Signals
from trainer.training.graphs import Graphs
from trainer.training.job import Job


def train_worker(job: Job, member: Member, graphs: Graphs, opened: OpenSession, signals: Signals) -> int:
    """Trains to the last step, or to the one at which the workers agree to stop; returns the last step.

    Raises:
      NotFiniteError: a step was not finite, which all workers find.
      PeerLostError: another worker has gone.
    """
    config, state = job.config, LoopState(job.start.step, job.start.skipped)
    votes = VoteHook(graphs.votes(), signals, is_chief=False)
    watcher = StallWatcher(
        opened,
        seconds=config.stall_seconds,
        fatal=False,  # It may wait for the chief, which evaluates.
        say=job.console.say,
        should_stop=votes.should_wake,
        state=state,
        others=lambda: describe_silent(member.other_tasks()),
    )
    peers = peers_watched(
        member,
        graphs.rendezvous,
        opened,
        state=state,
        join_seconds=config.join_seconds,
        say=job.console.say,
        hurry=signals.should_stop,
    )
    signals.defer()
    with watcher:
        state.beat()
        with peers:
            opened.session.run(graphs.train.stage_first)
            run_steps(
                opened.session,
                graphs.train,
                [votes],
                state,
                job.limits(),
                should_stop=votes.should_stop,
                after_steps=lambda count: None,
                say=job.console.say,
            )
        wait_at_barrier(opened.session, graphs.barrier)
        if graphs.rendezvous:
            wait_for_ended(opened.session, member, graphs.rendezvous)
    return state.step
