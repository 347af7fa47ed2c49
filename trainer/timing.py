"""When things are due and how fast they go; the clock is an argument everywhere."""

from __future__ import annotations

from collections.abc import Callable

from trainer.grammars import Period

Clock = Callable[[], float]  # seconds, from any fixed point
WARMUP_STEPS, WARMUP_SECONDS = 10, 2.0  # which of them is over first; the first step never counts


class Every:
    """Tells at which steps something is due: at each multiple of so many steps, or after so many seconds."""

    def __init__(self, *, every_steps: int = 0, every_seconds: float = 0.0, first_step: int = 0, clock: Clock) -> None:
        self._steps = every_steps
        self._seconds = every_seconds
        self._clock = clock
        self._done_step = first_step
        self._done_time = clock()

    @classmethod
    def from_period(cls, period: Period, steps_per_epoch: float, first_step: int, clock: Clock) -> Every:
        """Turns a flag's period into steps once; a period in seconds stays one."""
        if period.unit == "seconds":
            return cls(every_seconds=period.amount, clock=clock)
        return cls(every_steps=period.to_steps(steps_per_epoch), first_step=first_step, clock=clock)

    def due(self, step: int) -> bool:
        """Is it due at `step`, also for a multiple that was passed since it was done last? Asking changes nothing."""
        if self._seconds:
            return self._clock() - self._done_time >= self._seconds
        return self._steps > 0 and step // self._steps > self._done_step // self._steps

    def done(self, step: int) -> None:
        """Takes note that it was done at `step`."""
        self._done_step, self._done_time = step, self._clock()

    def done_before(self, seconds: float) -> None:
        """Takes note that it was done so long ago, where the period is one of seconds."""
        self._done_time = self._clock() - seconds

    @property
    def is_never(self) -> bool:
        return not self._steps and not self._seconds


class Throughput:
    """Images per second over the time spent in steps: pauses and the first steps do not count."""

    def __init__(self, batch_size: int, clock: Clock) -> None:
        self._batch_size = batch_size
        self._clock = clock
        self._begin = self._last = clock()
        self._warm_steps = 0
        self._steps = 0
        self._seconds = 0.0
        self._mark: tuple[int, float] = (0, 0.0)  # steps and seconds at the last `recent`

    def steps(self, count: int) -> None:
        """Counts steps since the last call, the last of which ended now."""
        now = self._clock()
        if self._warm_steps and (self._warm_steps >= WARMUP_STEPS or self._last - self._begin >= WARMUP_SECONDS):
            self._steps += count
            self._seconds += now - self._last
        else:
            self._warm_steps += count
        self._last = now

    def resume(self) -> None:
        """Ends a pause that does not count, as an evaluation."""
        self._last = self._clock()

    def leave_out(self, seconds: float) -> None:
        """Leaves out so much of the time since the last step, in which the process was stopped."""
        self._last = min(self._last + seconds, self._clock())

    def average(self) -> float | None:
        """Returns the images a second since the warm-up; None before."""
        return self._steps * self._batch_size / self._seconds if self._seconds else None

    def recent(self) -> float | None:
        """Returns the images a second since the last call; None where no step ended in between."""
        steps, seconds = self._steps - self._mark[0], self._seconds - self._mark[1]
        self._mark = (self._steps, self._seconds)
        return steps * self._batch_size / seconds if seconds else None


def format_seconds(seconds: float) -> str:
    """Writes a duration as h:mm:ss."""
    minutes, secs = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}"
