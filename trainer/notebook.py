"""What a notebook shows: a bar that moves, and pictures. IPython is imported where it is there already."""

from __future__ import annotations

import html
import sys
from pathlib import Path
from typing import Any


def is_notebook() -> bool:
    """Does this process serve a notebook?"""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


class Bar:
    """A progress bar below the cell."""

    def __init__(self, total: int, done: int = 0) -> None:
        self._total, self._done, self._text = max(1, total), done, ""
        self._handle: Any = None

    def start(self) -> None:
        from IPython.display import display

        self._handle = display(self._html(), display_id=True)

    def update(self, done: int, text: str) -> None:
        """Moves it."""
        self._done, self._text = done, text
        if self._handle:
            self._handle.update(self._html())

    def stop(self) -> None:
        """Takes it away."""
        from IPython.display import HTML

        if self._handle:
            self._handle.update(HTML(""))

    def _html(self) -> Any:
        from IPython.display import HTML

        return HTML(
            f"<progress value='{self._done}' max='{self._total}' style='width: 20em'></progress> "
            f"{self._done:,}/{self._total:,} {html.escape(self._text)}"
        )


def show_picture(path: Path) -> None:
    """Shows a PNG file below the cell."""
    from IPython.display import Image, display

    display(Image(data=path.read_bytes()))
