"""When things are due and how fast they go; the clock is an argument everywhere."""

from __future__ import annotations

from collections.abc import Callable

from trainer.grammars import Period

Clock = Callable[[], float]  # seconds, from any fixed point


class Every:
    """Tells at which steps something is due: every so many steps, or after so many seconds."""

    def __init__(self, *, every_steps: int = 0, every_seconds: float = 0.0, clock: Clock) -> None:
        self._steps = every_steps
        self._seconds = every_seconds
        self._clock = clock
        self._last = clock()

    @classmethod
    def from_period(cls, period: Period, steps_per_epoch: float, clock: Clock) -> Every:
        """Turns a flag's period into steps once; a period in seconds stays one."""
        if period.unit == "seconds":
            return cls(every_seconds=period.amount, clock=clock)
        return cls(every_steps=period.to_steps(steps_per_epoch), clock=clock)

    def due(self, step: int) -> bool:
        """Is it due at `step`? Asking changes nothing."""
        if self._seconds:
            return self._clock() - self._last >= self._seconds
        return self._steps > 0 and step % self._steps == 0

    def restart(self) -> None:
        """Begins the wait in seconds again, after the thing was done."""
        self._last = self._clock()


class Throughput:
    """Images per second over the time spent in steps: pauses and the first steps do not count."""

    def __init__(self, batch_size: int, clock: Clock, warmup_steps: int = 10) -> None:
        self._batch_size = batch_size
        self._clock = clock
        self._skip = warmup_steps
        self._steps = 0
        self._seconds = 0.0
        self._mark: tuple[int, float] = (0, 0.0)  # steps and seconds at the last `recent`
        self._last = clock()

    def steps(self, count: int) -> None:
        """Counts steps since the last call, the last of which ended now."""
        now = self._clock()
        if self._skip:
            self._skip = max(0, self._skip - count)
        else:
            self._steps += count
            self._seconds += now - self._last
        self._last = now

    def resume(self) -> None:
        """Ends a pause that does not count, as an evaluation."""
        self._last = self._clock()

    def average(self) -> float:
        """Images a second since the warm-up, 0 before."""
        return self._steps * self._batch_size / self._seconds if self._seconds else 0.0

    def recent(self) -> float:
        """Images a second since the last call, 0 where no step ended in between."""
        steps, seconds = self._steps - self._mark[0], self._seconds - self._mark[1]
        self._mark = (self._steps, self._seconds)
        return steps * self._batch_size / seconds if seconds else 0.0


def format_seconds(seconds: float) -> str:
    """Writes a duration as h:mm:ss."""
    minutes, secs = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}"
