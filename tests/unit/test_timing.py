from trainer.grammars import Period
from trainer.timing import Every, Throughput, format_seconds


class FakeClock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_every_so_many_steps():
    every = Every(every_steps=3, clock=FakeClock())
    assert [step for step in range(1, 10) if every.due(step)] == [3, 6, 9]


def test_never():
    every = Every.from_period(Period(0, "steps"), 10.0, FakeClock())
    assert not any(every.due(step) for step in range(1, 100))
    assert not Every.from_period(Period(0, "seconds"), 10.0, FakeClock()).due(5)


def test_every_so_many_seconds_counts_from_the_last_time():
    clock = FakeClock()
    every = Every.from_period(Period(60, "seconds"), 10.0, clock)
    clock.now += 59.9
    assert not every.due(1)
    clock.now += 0.2
    assert every.due(2) and every.due(3)
    every.restart()
    assert not every.due(4)
    clock.now += 60
    assert every.due(5)


def test_throughput_leaves_out_the_warm_up_and_pauses():
    clock = FakeClock()
    throughput = Throughput(50, clock, warmup_steps=2)
    for _ in range(2):
        clock.now += 10  # the slow first steps
        throughput.steps(1)
    assert throughput.average() == 0.0
    for _ in range(4):
        clock.now += 0.5
        throughput.steps(1)
    assert throughput.average() == 100.0
    clock.now += 30  # an evaluation
    throughput.resume()
    clock.now += 0.25
    throughput.steps(1)
    assert throughput.recent() == 5 * 50 / 2.25
    clock.now += 0.25
    throughput.steps(1)
    assert throughput.recent() == 200.0


def test_seconds_are_written_as_hours_minutes_seconds():
    assert [format_seconds(s) for s in (0, 59.4, 59.6, 3661)] == ["0:00:00", "0:00:59", "0:01:00", "1:01:01"]
