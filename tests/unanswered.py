"""The trainer, for which no port of another task answers any more once the file $UNANSWERED exists."""

import os
import runpy
from pathlib import Path

from trainer.cluster import peer_watcher

really, unanswered = peer_watcher.answers, Path(os.environ["UNANSWERED"])
peer_watcher.refuses = lambda address: unanswered.exists()
peer_watcher.answers = lambda address: not unanswered.exists() and really(address)
runpy.run_module("trainer", run_name="__main__")
