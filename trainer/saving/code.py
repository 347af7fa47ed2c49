"""The user's code in a run directory: copies of what the run was begun with, and who has run them before."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from trainer.errors import UsageError
from trainer.rundir import RunDir, replace_bytes, replace_text
from trainer.settings.config import Config, load_config
from trainer.settings.plugins import Place, UserCode, UserFile, root_of

CODE_SETTINGS = ("preprocess", "eval_preprocess")  # that may name functions of the user's


def save_code(code: UserCode, config: Config, rundir: RunDir, say: Callable[[str], None]) -> None:
    """Keeps copies of the user's files in the run directory, and notes that this user has run them.

    `code/code.json` tells the directory of the copies, which is named by their content, so that it never holds half of
    what it should; those of earlier starts stay.
    """
    files = code.files()
    roots = list(dict.fromkeys(file.place.root for file in files))
    contents = {f"{roots.index(file.place.root)}/{file.place.file}": file.content for file in files}
    if not contents:
        rundir.code_index.unlink(missing_ok=True)
        _note(_digest(config, contents), say) if _names_code(config) else None
        return
    name = _digest(config, contents)[:16]
    for file, content in contents.items():
        path = rundir.code / name / file
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_bytes(path, content)
    index = {
        "directory": name,
        "references": {path: [str(roots.index(place.root)), place.file] for path, place in sorted(code.places.items())},
        "sha256": {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()},
    }
    replace_text(rundir.code_index, json.dumps(index, indent=2) + "\n")
    _note(_digest(config, contents), say)


def load_kept(rundir: RunDir) -> dict[str, Place]:
    """Finds the copies in a run directory: where they lie, by the path in a reference.

    Raises:
      UsageError: what stands there is damaged.
    """
    if not rundir.code_index.is_file():
        return {}
    try:
        index = json.loads(rundir.code_index.read_text())
        folder = rundir.code / str(index["directory"])
        return {path: Place((folder / root).absolute(), file) for path, (root, file) in index["references"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{rundir.code_index} cannot be read: {error!r}") from error


def open_kept(
    rundir: RunDir,
    kept: Mapping[str, Place] | None = None,
    *,
    trust: bool,
    say: Callable[[str], None],
    only_kept: bool = True,
) -> UserCode:
    """Makes the user code of a run directory, which runs only what this user has run before.

    Args:
      rundir: of the run.
      kept: its copies that are run; None: all.
      trust: run it also where it came from elsewhere, and note that.
      say: is told where that cannot be noted.
      only_kept: is code of which the run has no copy missing, or taken from where its reference says.

    Raises:
      UsageError: when code is loaded: this user has not run it yet.
    """
    places = load_kept(rundir) if kept is None else kept

    def check() -> None:
        config = load_config(rundir.config)
        folders = sorted({place.root.parent for place in places.values()})
        contents = {
            str(path.relative_to(folder)): path.read_bytes()
            for folder in folders
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        digest = _digest(config, contents)
        if trust:
            _note(digest, say)
        elif digest not in _noted():
            named = [f"--{name}={getattr(config, name)}" for name in CODE_SETTINGS if ":" in getattr(config, name)]
            where = f", which lies in {folders[0]} ({', '.join(contents)})" if folders else ""
            raise UsageError(
                f"{rundir.path} would run code that you have not run before: {' '.join(named)}{where}; read it, then "
                "allow it with --trust_code"
            )

    return UserCode(places, only_kept=only_kept, before_run=check if only_kept or places else lambda: None)


def changed_files(kept: Mapping[str, Place]) -> dict[str, Place]:
    """Finds the copies of files of the user's that are others now, or have gone, or import others from beside them."""

    def is_changed(path: str, copy: Place) -> bool:
        try:
            root = root_of(path)
            files = [file.relative_to(copy.root) for file in copy.root.rglob("*.py")]
            return any((copy.root / file).read_bytes() != (root / file).read_bytes() for file in files)
        except (OSError, UsageError):
            return True

    return {path: copy for path, copy in sorted(kept.items()) if is_changed(path, copy)}


def digest_of_files(files: list[UserFile]) -> str:
    """Returns what two workers compare."""
    return hashlib.sha256(repr([(file.place.file, file.content) for file in files]).encode()).hexdigest()


def _names_code(config: Config) -> bool:
    return any(":" in getattr(config, name) for name in CODE_SETTINGS)


def _digest(config: Config, contents: Mapping[str, bytes]) -> str:
    """Hashes the code and what it is asked for: an installed module, named with arguments, can do anything too."""
    asked = [getattr(config, name) for name in CODE_SETTINGS]
    files = sorted((name, hashlib.sha256(content).hexdigest()) for name, content in contents.items())
    return hashlib.sha256(json.dumps([asked, files]).encode()).hexdigest()


def _notes() -> Path:
    """Is where the hashes of what this user has run stand, one a line."""
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(state) / "tower-trainer" / "trusted_code"


def _noted() -> set[str]:
    try:
        return set(_notes().read_text().split())
    except OSError:
        return set()


def _note(digest: str, say: Callable[[str], None]) -> None:
    if digest in _noted():
        return
    try:
        _notes().parent.mkdir(parents=True, exist_ok=True)
        with _notes().open("a") as file:
            file.write(f"{digest}\n")
    except OSError as error:
        say(f"that you have run this code could not be noted ({error}): other programs will ask for --trust_code")
