"""How programs end."""

import os
import signal
import sys
import weakref

import pytest

from trainer.console import run_program
from trainer.errors import Stopped


def test_a_stop_that_a_loading_module_has_made_an_import_error_of_is_still_a_stop(monkeypatch, capsys):
    """As an extension module does that is interrupted while it loads."""
    monkeypatch.setattr("trainer.signals.Signals.install", lambda self: None)
    monkeypatch.setattr(os, "umask", lambda mask: None)

    def main(*_):
        try:
            raise Stopped(signal.SIGTERM)
        except Stopped as stop:
            raise ImportError("initialization failed") from stop

    assert run_program(main, ["x"]) == 143
    assert "stopped by SIGTERM" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["install", "defer"])
def test_a_signal_at_the_very_start_or_end_is_a_stop_and_no_traceback(monkeypatch, capsys, method):
    """The handler may run before `install` returns, and once more before `defer` has begun."""

    def stop(signals):
        raise Stopped(signal.SIGINT)

    if method == "defer":
        monkeypatch.setattr("trainer.signals.Signals.install", lambda self: None)
    monkeypatch.setattr(f"trainer.signals.Signals.{method}", stop)
    monkeypatch.setattr(os, "umask", lambda mask: None)
    assert run_program(lambda *_: 0, ["x"]) == 130
    assert capsys.readouterr().err == "stopped by SIGINT\n"


def test_a_stop_that_cannot_be_raised_is_no_traceback(monkeypatch, capsys):
    """As in a callback of a weak reference, which imports have."""
    monkeypatch.setattr("trainer.signals.Signals.install", lambda self: None)
    monkeypatch.setattr(os, "umask", lambda mask: None)
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    def callback(error):
        raise error

    def main(*_):
        for error in (Stopped(signal.SIGTERM), ValueError("another")):
            thing = type("Thing", (), {})()
            reference = weakref.ref(thing, lambda _, error=error: callback(error))
            del thing
            assert reference() is None
        return 0

    assert run_program(main, ["x"]) == 0
    assert [str(each.exc_value) for each in told] == ["another"] and capsys.readouterr().err == ""


@pytest.mark.timeout(10)
def test_the_search_ends_where_the_chain_of_an_error_is_a_circle(monkeypatch):
    """As TensorFlow's: an error of a session is the context of its own context."""
    monkeypatch.setattr("trainer.signals.Signals.install", lambda self: None)
    monkeypatch.setattr(os, "umask", lambda mask: None)

    def main(*_):
        one, other = KeyError("one"), ValueError("other")
        one.__context__, other.__context__ = other, one
        raise one

    with pytest.raises(KeyError):  # A bug of ours, which comes through.
        run_program(main, ["x"])
