"""Event files for TensorBoard, each event on disk when its call returns.

TensorFlow's `FileWriter` writes from a thread that does not tell when the disk is full or the directory gone.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from types import TracebackType

from trainer.data.framing import frame
from trainer.reporting.failures import Failures
from trainer.tf1 import tf

VERSION = "brain.Event:2"


def scalar_summary(tag: str, value: float) -> tf.Summary:
    """Makes the summary of one number."""
    return tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value)])


def _newest_stamp(folder: Path) -> int:
    """Returns the newest time that a folder's event files tell of, by name or content, seconds since 1970; 0: none."""
    times = [0]
    for path in folder.glob("events.out.tfevents.*"):
        stamp = path.name.split(".")[3]
        times += [int(stamp) if stamp.isdecimal() else 0, int(path.stat().st_mtime)]
    return max(times)


class EventFile:
    """Appends events to one file of a directory; an event that cannot be written is dropped whole."""

    def __init__(self, folder: Path, *, suffix: str, failures: Failures) -> None:
        """Chooses the file's name; the first event creates it.

        Args:
          folder: is made where it does not exist.
          suffix: of the file's name: two runs that begin within a second must not take the same file.
          failures: is told what could not be written.
        """
        # TensorBoard reads files in the order of their names: where the clock was set back, the new one comes last too.
        now, newest = int(time.time()), _newest_stamp(folder)
        self._ahead = newest + 1 - now if newest > now else 0  # seconds
        self._path = folder / f"events.out.tfevents.{now + self._ahead:010d}.{socket.gethostname()}{suffix}"
        self._failures = failures
        self._file: int | None = None
        self._size = 0  # bytes of whole events

    def add_summary(self, summary: tf.Summary | bytes, step: int) -> None:
        value = summary if isinstance(summary, tf.Summary) else tf.Summary.FromString(summary)
        self._append(tf.Event(summary=value, step=step))

    def add_graph(self, graph: tf.Graph) -> None:
        self._append(tf.Event(graph_def=graph.as_graph_def(add_shapes=True).SerializeToString()))

    def add_run_metadata(self, metadata: tf.RunMetadata, tag: str, step: int) -> None:
        tagged = tf.summary.TaggedRunMetadata(tag=tag, run_metadata=metadata.SerializeToString())
        self._append(tf.Event(tagged_run_metadata=tagged, step=step))

    def add_session_start(self, step: int) -> None:
        """Makes TensorBoard drop the points from `step` on, which an earlier run wrote after its last checkpoint."""
        self._append(tf.Event(session_log=tf.SessionLog(status=tf.SessionLog.START), step=step))

    def _append(self, event: tf.Event) -> None:
        with self._failures.tolerated("the event file"):
            if self._file is None or not self._size or not self._path.exists():
                self._open()
            self._write(event)

    def _open(self) -> None:
        """Creates the file, also once more after its directory has gone."""
        self.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)  # less the umask
        self._size = self._path.stat().st_size
        if not self._size:
            self._write(tf.Event(file_version=VERSION))

    def _write(self, event: tf.Event) -> None:
        assert self._file is not None
        event.wall_time = time.time() + self._ahead
        data = frame(event.SerializeToString())
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError:
            os.ftruncate(self._file, self._size)  # Half an event would hide those that follow.
            raise
        self._size += len(data)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> EventFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
