"""What the tasks of a cluster with parameter servers tell each other, in a few variables on the servers.

The chief writes what its start is of once all variables have their values; workers wait for that, also those that come
back in the middle of a training. A server ends when the chief has told it that the work is done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trainer.placing.ps_exchange import ps_device
from trainer.placing.strategy import NUM_VOTES
from trainer.tf1 import tf

DONE, AGAIN = 1, 2  # of a server: the job has ended; the chief has, but may start again


def _make(name: str, value: Any, server: int = 0) -> tf.Variable:
    with tf.device(ps_device(server)):
        initial = tf.constant(value)
        return tf.get_variable(f"cluster/{name}", initializer=initial, trainable=False, collections=[])


class RendezvousVariables:
    """The variables and what reads and writes them, in the default graph."""

    def __init__(self, *, num_workers: int, num_servers: int) -> None:
        self._notice = _make("notice", "")
        self._ended = _make("ended", np.zeros(num_workers, np.int64))
        self.all_votes = _make("all_votes", np.zeros([num_workers, NUM_VOTES], np.float32))
        self._done = [_make(f"done_{server}", np.int64(0), server) for server in range(num_servers)]
        every = [self._notice, self._ended, self.all_votes, *self._done]
        self._clear = tf.group(*(variable.initializer for variable in every))
        self._is_there = tf.is_variable_initialized(self._notice)
        self._read = self._notice.read_value()
        self._text = tf.placeholder(tf.string, [], name="notice_text")
        self._write = self._notice.assign(self._text).op
        self._index = tf.placeholder(tf.int64, [], name="who_ended")
        self._mark_ended = tf.raw_ops.ResourceScatterUpdate(
            resource=self._ended.handle, indices=self._index, updates=tf.ones([], tf.int64)
        )
        self._all_ended = self._ended.read_value()
        self._code = tf.placeholder(tf.int64, [], name="done_code")
        self._finish = [variable.assign(self._code).op for variable in self._done]

    def clear(self, session: tf.Session) -> None:
        """Takes down what an earlier chief has left."""
        session.run(self._clear)

    def publish(self, session: tf.Session, notice: Mapping[str, Any]) -> None:
        """Lets the workers begin."""
        session.run(self._write, {self._text: json.dumps(notice)})

    def read(self, session: tf.Session) -> dict[str, Any] | None:
        """Reads what the chief has published; None where there is nothing yet."""
        options = tf.RunOptions(timeout_in_ms=5000)
        if not session.run(self._is_there, options=options):
            return None
        text = session.run(self._read, options=options)
        return dict(json.loads(text)) if text else None

    def mark_ended(self, session: tf.Session, worker: int) -> None:
        """Says that this worker needs the servers no longer."""
        session.run(self._mark_ended, {self._index: worker})

    def ended_workers(self, session: tf.Session) -> set[int]:
        """Reads which workers need the servers no longer."""
        return set(np.flatnonzero(session.run(self._all_ended)).tolist())

    def finish(self, session: tf.Session, *, again: bool) -> None:
        """Lets the servers end; `again`: the chief may start again, and needs them anew."""
        for operation in self._finish:
            session.run(operation, {self._code: AGAIN if again else DONE})


def make_done_reader(server: int) -> Callable[[tf.Session], int]:
    """Makes what tells a parameter server whether it may end: 0, DONE or AGAIN."""
    done = _make(f"done_{server}", np.int64(0), server)
    is_there, value = tf.is_variable_initialized(done), done.read_value()

    def read(session: tf.Session) -> int:
        return int(session.run(value)) if session.run(is_there) else 0

    return read
