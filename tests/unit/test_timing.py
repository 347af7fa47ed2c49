from trainer.grammars import Period
from trainer.timing import Every, Throughput, format_seconds


class FakeClock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_every_so_many_steps():
    every, due = Every(every_steps=3, clock=FakeClock()), []
    for step in range(1, 10):
        if every.due(step) and every.due(step):  # Asking changes nothing.
            due.append(step)
            every.done(step)
    assert due == [3, 6, 9]


def test_a_multiple_that_was_passed_is_due_until_it_is_done():
    """As where other workers make steps in between: 5 to 7, and 7 to 10."""
    every = Every(every_steps=3, first_step=5, clock=FakeClock())
    assert not every.due(5) and every.due(7) and every.due(8)
    every.done(7)
    assert not every.due(8) and every.due(10)


def test_never():
    every = Every.from_period(Period(0, "steps"), 10.0, 0, FakeClock())
    assert every.is_never
    assert not any(every.due(step) for step in range(1, 100))
    assert not Every.from_period(Period(0, "seconds"), 10.0, 0, FakeClock()).due(5)


def test_every_so_many_seconds_counts_from_the_last_time():
    clock = FakeClock()
    every = Every.from_period(Period(60, "seconds"), 10.0, 0, clock)
    clock.now += 59.9
    assert not every.due(1)
    clock.now += 0.2
    assert every.due(2) and every.due(3)
    every.done(3)
    assert not every.due(4)
    clock.now += 60
    assert every.due(5)


def test_throughput_leaves_out_the_warm_up_and_pauses():
    clock = FakeClock()
    throughput = Throughput(50, clock)
    for _ in range(10):
        clock.now += 0.1  # the first steps
        throughput.steps(1)
    assert throughput.average() is None and throughput.recent() is None
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
    clock.now += 60.25  # of which the process was stopped for a minute
    throughput.leave_out(60)
    throughput.steps(1)
    assert throughput.recent() == 200.0


def test_the_rate_of_a_slow_model_is_known_after_its_second_step():
    clock = FakeClock()
    throughput = Throughput(8, clock)
    clock.now += 5
    throughput.steps(1)
    assert throughput.average() is None
    clock.now += 4
    throughput.steps(1)
    assert throughput.average() == 2.0


def test_seconds_are_written_as_hours_minutes_seconds():
    assert [format_seconds(s) for s in (0, 59.4, 59.6, 3661)] == ["0:00:00", "0:00:59", "0:01:00", "1:01:01"]
