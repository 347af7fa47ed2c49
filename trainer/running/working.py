"""The training of a worker that is not the chief: the same steps, and nothing of what the chief writes."""

from __future__ import annotations

from trainer.running.gathering import take_leave
from trainer.running.hooks.agreeing import AgreementHook
from trainer.running.job import Graphs, Job
from trainer.running.joining import Member, part
from trainer.running.loop import LoopState, run_steps
from trainer.running.peers import peers_watched
from trainer.running.session import OpenSession
from trainer.running.stalls import StallWatcher
from trainer.signals import Signals


def work(job: Job, member: Member, graphs: Graphs, opened: OpenSession, signals: Signals) -> int:
    """Trains to the last step, or to the one at which the workers agree to stop; returns the last step.

    Raises:
      NotFiniteError: a step was not finite, which all workers find.
      PeerLostError: another worker has gone.
    """
    config, state = job.config, LoopState(job.start.step, job.start.skipped)
    agreement = AgreementHook(graphs.wishes(), signals, is_chief=False)
    watcher = StallWatcher(
        opened,
        seconds=config.stall_seconds,
        fatal=False,  # It may wait for the chief, which evaluates.
        say=job.console.say,
        should_stop=agreement.should_wake,
        in_cluster=True,
    )
    signals.defer()
    with watcher:
        watcher.beat()
        with peers_watched(job, graphs, opened, signals.should_stop):
            opened.session.run(graphs.train.stage_first)
            run_steps(
                opened.session,
                graphs.train,
                [agreement],
                state,
                last_step=job.last_step,
                max_skips=config.max_skips if config.nonfinite == "skip" else 0,
                should_stop=agreement.should_stop,
                steps_per_loop=1,
                after_steps=lambda count: watcher.beat(),
                say=job.console.say,
            )
        part(opened.session, graphs.farewell)
        if graphs.meeting:
            take_leave(opened.session, member, graphs.meeting)
    return state.step
