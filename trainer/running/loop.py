"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from trainer.errors import NotFiniteError
from trainer.graph.step import Checked
from trainer.graph.training import LoopGraph, TrainGraph
from trainer.running import lifecycle
from trainer.tf1 import tf

LOOP_SECONDS = 0.25  # of the steps in one run: signals and stalls are only seen between runs


@dataclass
class LoopState:
    """Where the training stands, also after an error."""

    step: int  # finished updates
    skipped: int = 0  # steps that were not finite and not applied
    overflows: int = 0  # steps of float16 that were not applied, and made the loss scale smaller
    loss: float | None = None  # of the last update; None where there was none
    in_step: bool = False  # does TensorFlow run a step at this moment
    stop_requested: bool = False  # by a hook, as `SessionRunContext.request_stop` does it
    beats: int = 0  # grows with each thing that has been finished

    def beat(self) -> None:
        """Is called after each run of steps, and after each batch of an evaluation."""
        self.beats += 1

    def finish(self, step: int, loss: float) -> int:
        """Takes over where a run has come to; returns how many updates were made meanwhile."""
        updates = step - self.step
        if updates:
            self.step, self.loss = step, loss
        return updates

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Marks the block as one in which steps run."""
        self.in_step = True
        try:
            yield
        finally:
            self.in_step = False


class LoopLimits(NamedTuple):
    """How far a training goes, and how much of it in one run."""

    last_step: int
    max_skips: int = 0  # steps that may be not finite
    max_outliers: int = 0  # steps that may be skipped in all, of which the last has gradients that are too large
    steps_per_loop: int = 1  # most steps of one run, where the graph has a loop; fewer where they take long


def run_steps(
    session: tf.Session,
    graph: TrainGraph,
    hooks: Sequence[tf.train.SessionRunHook],
    state: LoopState,
    limits: LoopLimits,
    *,
    should_stop: Callable[[], bool],
    after_steps: Callable[[int], None],
    say: Callable[[str], None],
) -> None:
    """Trains from `state.step` finished updates to the last step, or until `should_stop`.

    Args:
      session: with the variables' values.
      graph: of the training.
      hooks: are run with the steps at which they are due.
      state: is kept up to date.
      limits: of the training.
      should_stop: asked before each run.
      after_steps: is told how many steps a run has made.
      say: is told what is skipped.

    Raises:
      NotFiniteError: more steps were not finite than may be; none of them was applied, nor have their hooks run.
    """
    targets = [graph.train_op, graph.step, graph.loss, graph.not_finite]
    fast, pace = session.make_callable(targets), Pace(limits.steps_per_loop if graph.loop else 1)
    while state.step < limits.last_step and not should_stop():
        made = lifecycle.steps_before_due(hooks, state.step, pace.most(limits.last_step - state.step))
        after_run = None
        with state.stepping():
            if graph.loop and made > 1:
                with pace.measured(made):
                    step_v, loss_v, not_finite_v = _run_loop(session, graph, graph.loop, state, made)
            elif due := [hook for hook in hooks if lifecycle.is_due(hook, state.step + 1)]:
                (_, step_v, loss_v, not_finite_v), after_run = lifecycle.run_with_hooks(session, targets, due)
            else:
                _, step_v, loss_v, not_finite_v = fast()
        updates = state.finish(int(step_v), float(loss_v))
        if len(not_finite_v):
            _skip(graph.checked, state, not_finite_v, limits, say)
        else:
            # A loop that has ended early leaves open how many of its steps overflowed.
            state.overflows += max(0, max(1, made) - updates)
            if updates and after_run:
                state.stop_requested |= after_run()
        after_steps(updates + bool(len(not_finite_v)))
        state.beat()


class Pace:
    """Chooses how many steps TensorFlow makes by itself, so that they take no longer than LOOP_SECONDS."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._seconds = LOOP_SECONDS  # of a step in the last loop; the first loop is short

    def most(self, left: int) -> int:
        """Returns how many, of those that are left; 0 where there is no loop."""
        return min(self._largest, left, max(2, int(LOOP_SECONDS / self._seconds))) if self._largest > 1 else 0

    @contextmanager
    def measured(self, steps: int) -> Iterator[None]:
        """Measures so many steps."""
        begin = time.monotonic()
        yield
        self._seconds = (time.monotonic() - begin) / steps


def _run_loop(
    session: tf.Session, graph: TrainGraph, loop: LoopGraph, state: LoopState, num_steps: int
) -> tuple[Any, Any, Any]:
    """Makes so many steps in one run; returns step, loss and what is not finite.

    Where the run fails in the middle, `state` knows the steps that were finished before.
    """
    try:
        step_v, loss_v, not_finite_v = session.run([loop.step, loop.loss, loop.not_finite], {loop.num_steps: num_steps})
        return step_v, loss_v, not_finite_v
    except tf.errors.OpError:
        state.step = int(session.run(graph.finished))
        raise


def _skip(
    checked: Checked, state: LoopState, not_finite_v: Any, limits: LoopLimits, say: Callable[[str], None]
) -> None:
    """Counts a step that was not applied, and says why it was not."""
    is_outlier = checked.outlier and all(column == len(checked.columns) for _, column in not_finite_v)
    if is_outlier:
        what, most = f"not applied: {checked.outlier}", limits.max_outliers
    else:
        what, most = f"not finite and not applied: {describe(not_finite_v, checked)}", limits.max_skips
    line = f"step {state.step + 1} is {what}"
    if state.skipped >= most:
        after = f"; {state.skipped} were skipped before it" if state.skipped else ""
        more = f"a larger --max_skips than {most}" if most else "--nonfinite=skip"
        raise NotFiniteError(f"{line}{after}; a lower --learning_rate or --clip may help, or {more}")
    state.skipped += 1
    say(f"{line}; skipped ({state.skipped} of at most --max_skips={most})")


def describe(not_finite_v: Any, checked: Checked, most: int = 3) -> str:
    """Names the tensors of each tower: `the loss, the gradient of fc1/weights and 4 more in tower 1`."""
    described = []
    for row in sorted({int(row) for row, _ in not_finite_v}):
        names = [
            checked.columns[column]
            for other, column in not_finite_v
            if other == row and column < len(checked.columns)  # Its norm is another sight of a gradient.
        ]
        more = f" and {len(names) - most} more" if len(names) > most else ""
        described.append(f"{', '.join(names[:most])}{more} in {checked.rows[row]}")
    # What is wrong in a tower is wrong in the mean too, which is last.
    return "; ".join(described[:-1] or described)
