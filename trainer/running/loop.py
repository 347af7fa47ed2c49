"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.errors import NotFiniteError
from trainer.graph import LoopGraph, TrainGraph
from trainer.tf1 import tf

MOST_MISSED = 1000  # steps of others, that a worker looks back
LOOP_SECONDS = 0.25  # of the steps in one run: signals and stalls are only seen between runs


@dataclass
class LoopState:
    """Where the training stands, also after an error."""

    step: int  # finished updates
    skipped: int = 0  # steps that were not finite and not applied
    overflows: int = 0  # steps of float16 that were not applied, and made the loss scale smaller
    loss: float | None = None  # of the last update; None where there was none
    asked: int = field(init=False)  # step for which hooks were asked last; other workers may make steps in between

    def __post_init__(self) -> None:
        self.asked = self.step

    def finish(self, step: int, loss: float, asked: int) -> int:
        """Takes over where a run of so many steps has come to; returns how many updates were made meanwhile."""
        updates, self.asked = step - self.step, self.step + asked
        if updates:
            self.step, self.loss = step, loss
        return updates


def run_steps(
    session: tf.Session,
    graph: TrainGraph,
    hooks: Sequence[tf.train.SessionRunHook],
    state: LoopState,
    *,
    last_step: int,
    max_skips: int,
    should_stop: Callable[[], bool],
    steps_per_loop: int,
    after_steps: Callable[[int], None],
    say: Callable[[str], None],
) -> None:
    """Trains from `state.step` finished updates to `last_step`, or until `should_stop`.

    Args:
      hooks: are run with the steps at which they are due.
      state: is kept up to date.
      max_skips: steps that may be not finite.
      should_stop: asked before each run.
      steps_per_loop: most steps of one run, where the graph has a loop; fewer where they take long.
      after_steps: is told how many steps a run has made.
      say: is told what is skipped.

    Raises:
      NotFiniteError: more than `max_skips` steps were not finite; none of them was applied, nor have their hooks run.
    """
    pace = LOOP_SECONDS  # seconds of a step in the last loop; the first is short
    targets = [graph.train_op, graph.step, graph.loss, graph.not_finite]
    fast = session.make_callable(targets)
    while state.step < last_step and not should_stop():
        most = min(steps_per_loop, last_step - state.step, max(2, int(LOOP_SECONDS / pace)))
        free = steps_before_due(hooks, state.step, most) if graph.loop else 0
        run_hooks, made = None, 1
        if graph.loop and free > 1:
            begin, made = time.monotonic(), free
            step_v, loss_v, not_finite_v = _run_loop(session, graph, graph.loop, state, made)
            pace = (time.monotonic() - begin) / made
        elif due := [hook for hook in hooks if is_due_since(hook, state)]:
            (_, step_v, loss_v, not_finite_v), run_hooks = _run_with_hooks(session, targets, due)
        else:
            _, step_v, loss_v, not_finite_v = fast()
        updates = state.finish(int(step_v), float(loss_v), made)
        if len(not_finite_v):
            _skip(graph, state, not_finite_v, max_skips, say)
        elif updates and run_hooks:
            run_hooks()
        # A loop that has ended early leaves open how many of its steps overflowed.
        state.overflows += 0 if len(not_finite_v) else max(0, made - updates)
        after_steps(updates + bool(len(not_finite_v)))


def is_due(hook: tf.train.SessionRunHook, step: int) -> bool:
    return bool(hook.due(step)) if hasattr(hook, "due") else True


def is_due_since(hook: tf.train.SessionRunHook, state: LoopState) -> bool:
    """Is a hook due at the next step, or was it at one that other workers have made?"""
    first = min(max(state.asked, state.step - MOST_MISSED), state.step) + 1
    return any(is_due(hook, step) for step in range(first, state.step + 2))


def steps_before_due(hooks: Sequence[tf.train.SessionRunHook], step: int, most: int) -> int:
    """Counts the steps after `step` at which no hook is due, up to `most` and up to the first at which one is."""
    for free in range(most):
        if any(is_due(hook, step + free + 1) for hook in hooks):
            return free
    return most


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


def _run_with_hooks(
    session: tf.Session, targets: list[Any], hooks: Sequence[tf.train.SessionRunHook]
) -> tuple[list[Any], Callable[[], None]]:
    """Runs one step with what the hooks want fetched, traced or fed, as a MonitoredSession does.

    Returns:
      The targets' values, and what calls the hooks with theirs.
    """
    fetches: dict[Any, Any] = {"targets": targets}
    feeds: dict[Any, Any] = {}
    options, metadata = tf.RunOptions(), tf.RunMetadata()
    context = tf.train.SessionRunContext(tf.train.SessionRunArgs(targets), session)
    for number, hook in enumerate(hooks):
        request = hook.before_run(context)
        if request is None:
            continue
        if request.fetches is not None:
            fetches[number] = request.fetches
        feeds.update(request.feed_dict or {})
        if request.options is not None:
            options.MergeFrom(request.options)
    values = session.run(fetches, feeds, options, metadata)

    def after_run() -> None:
        for number, hook in enumerate(hooks):
            hook.after_run(context, tf.train.SessionRunValues(values.get(number), options, metadata))

    return values["targets"], after_run


def _skip(graph: TrainGraph, state: LoopState, not_finite_v: Any, max_skips: int, say: Callable[[str], None]) -> None:
    """Counts a step that was not applied, and says why it was not."""
    line = f"step {state.step + 1} is not finite and not applied: {describe(not_finite_v, graph.checked)}"
    if state.skipped >= max_skips:
        after = f"; {state.skipped} were skipped before it" if state.skipped else ""
        more = f"a larger --max_skips than {max_skips}" if max_skips else "--nonfinite=skip"
        raise NotFiniteError(f"{line}{after}; a lower --learning_rate or --clip may help, or {more}")
    state.skipped += 1
    say(f"{line}; skipped ({state.skipped} of at most --max_skips={max_skips})")


def describe(not_finite_v: Any, checked: tuple[list[str], list[str]], most: int = 3) -> str:
    """Names the tensors of each tower: `the loss, the gradient of fc1/weights and 4 more in tower 1`."""
    rows, columns = checked
    parts = []
    for row in sorted({int(row) for row, _ in not_finite_v}):
        names = [columns[column] for other, column in not_finite_v if other == row]
        more = f" and {len(names) - most} more" if len(names) > most else ""
        parts.append(f"{', '.join(names[:most])}{more} in {rows[row]}")
    # What is wrong in a tower is wrong in the mean too, which is last.
    return "; ".join(parts[:-1] or parts)
