"""The loop over stretches of the corpus, and what is written while it goes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from corpus import Corpus
from model import Step

from trainer.console import Console, progress
from trainer.errors import OK, NotFiniteError
from trainer.reporting.event_file import EventFile, scalar_summary
from trainer.reporting.failures import Failures
from trainer.reporting.metrics_file import MetricsFile
from trainer.rundir import RunDir, replace_text
from trainer.saving import checkpoints
from trainer.signals import Signals
from trainer.tf1 import tf

KEPT = 3  # checkpoints
PROJECTOR = 'embeddings {{ tensor_name: "w_in" metadata_path: "{0}" }}\n'  # of TensorBoard


class Run(NamedTuple):
    """What a run needs."""

    settings: Any  # train.Settings
    rundir: RunDir
    corpus: Corpus
    step: Step
    ops: checkpoints.CheckpointOps
    session: tf.Session
    console: Console
    signals: Signals

    @property
    def total(self) -> int:
        """Returns how many words all epochs have, with the ends of lines."""
        return int(self.settings.epochs * self.corpus.ids.size)


class Now(NamedTuple):
    """Where a run is."""

    step: int
    position: int  # of the next word, in all epochs
    loss: float  # of the last step; NaN before the first


class Clock:
    """Tells when something is due."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def is_due(self) -> bool:
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True


def run_steps(run: Run, position: int) -> int:
    """Trains from a position, of all epochs, to the end; returns the exit code.

    Raises:
      NotFiniteError: the vectors are not.
      Stopped: by a signal, once all that was trained is saved.
    """
    failures = Failures(run.console.say)
    replace_text(run.rundir.path / "projector_config.pbtxt", PROJECTOR.format("vocabulary.tsv"))
    first_step, begin = int(run.session.run(run.step.counters.step)), time.monotonic()
    with (
        MetricsFile(run.rundir.metrics, first_step, failures) as metrics,
        EventFile(run.rundir.path, suffix=f".{first_step}", failures=failures) as events,
        progress(run.console, "training", run.total) as advance,
    ):
        events.add_session_start(first_step + 1)
        advance(position)
        now = _train(run, Now(first_step, position, math.nan), metrics, events, advance, failures)
    checkpoints.save(run.ops, run.session, run.rundir, now.step, KEPT)
    run.signals.saved_step = now.step
    seconds = time.monotonic() - begin
    values = {
        "step": now.step,
        "position": now.position,
        "loss": None if math.isnan(now.loss) else now.loss,
        "words_per_second": (now.position - position) / seconds,
        "seconds": seconds,
        "failed_writes": failures.counts,
        "status": "done" if now.position == run.total else "stopped",
    }
    replace_text(run.rundir.result, json.dumps(values, indent=2) + "\n")
    run.console.say(
        f"{values['status']} at word {now.position:,} of {run.total:,}; saved as "
        f"{run.rundir.checkpoint_prefix}-{now.step}"
    )
    if now.position < run.total:
        run.signals.check()
    return OK


def _train(
    run: Run,
    now: Now,
    metrics: MetricsFile,
    events: EventFile,
    advance: Callable[[int], None],
    failures: Failures,
) -> Now:
    """Trains until the end, or a signal; returns where that is."""
    saves, logs = Clock(run.settings.checkpoint_seconds), Clock(run.settings.log_seconds)
    begin, first = time.monotonic(), now.position
    call = run.session.make_callable([run.step.step, run.step.loss], [run.step.ids, run.step.position, run.step.rates])
    while now.position < run.total and not run.signals.should_stop():
        ids = _stretch(run, now.position)
        rates = np.float32([_rate(run, now.position), _rate(run, now.position + len(ids))])
        step_v, loss_v = call(ids, now.position, rates)
        now = Now(int(step_v), now.position + len(ids), float(loss_v))
        if not math.isfinite(now.loss):
            raise NotFiniteError(f"step {now.step}: the vectors are NaN or infinite; a lower --learning_rate may help")
        advance(len(ids))
        if logs.is_due() or now.position == run.total:
            _log(run, now, (now.position - first) / (time.monotonic() - begin), metrics, events)
        if run.signals.save or saves.is_due():
            run.signals.save = False
            with failures.tolerated("a checkpoint"):
                checkpoints.save(run.ops, run.session, run.rundir, now.step, KEPT)
    return now


def _log(run: Run, now: Now, speed: float, metrics: MetricsFile, events: EventFile) -> None:
    values = {"loss": now.loss, "learning_rate": _rate(run, now.position), "words_per_second": speed}
    metrics.write(step=now.step, position=now.position, **values)
    for name, value in values.items():
        events.add_summary(scalar_summary(name, value), now.step)
    run.console.say(
        f"{now.position / run.total:.1%} of {run.settings.epochs} epochs  loss {now.loss:.4f}  "
        f"rate {values['learning_rate']:.2e}  {speed:,.0f} words/s"
    )


def _stretch(run: Run, position: int) -> np.ndarray:
    """Takes what the next step trains, within an epoch: int32 [n]."""
    ids = run.corpus.ids
    return ids.stretch(position % ids.size, run.settings.words_per_step)


def _rate(run: Run, position: int) -> float:
    """Computes the learning rate at a position: it falls to zero at the end of the last epoch."""
    return float(run.settings.learning_rate * (1 - position / run.total))
