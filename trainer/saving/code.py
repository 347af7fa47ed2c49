"""The user's code in a run directory: copies of what the run was begun with, and who has run them before."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainer.errors import UsageError
from trainer.rundir import RunDir, replace_bytes, replace_text
from trainer.saving.files import has_files
from trainer.settings.config import Config, load_config
from trainer.settings.importing import Place, root_of
from trainer.settings.plugins import UserCode, UserFile

CODE_SETTINGS = {field.name for field in dataclasses.fields(Config) if field.metadata["code"]}


def save_code(code: UserCode, config: Config, rundir: RunDir, say: Callable[[str], None]) -> None:
    """Keeps copies of the user's files in the run directory, and notes that this user has run them.

    `code/code.json` tells the directory of the copies, which is named by their content, so that it never holds half of
    what it should; those of earlier starts stay.
    """
    files = code.files()
    roots = list(dict.fromkeys(file.place.root for file in files))
    contents = {f"{roots.index(file.place.root)}/{file.place.file}": file.content for file in files}
    references = {path: (str(roots.index(place.root)), place.file) for path, place in sorted(code.places.items())}
    digest = _digest(config, references, contents)
    if not contents:
        rundir.code_index.unlink(missing_ok=True)
        if _named_code(config):  # Of installed packages alone.
            _note(digest, say)
        return
    name = digest[:16]
    for file, content in contents.items():
        path = rundir.code / name / file
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_bytes(path, content)
    index = {
        "directory": name,
        "references": references,
        "sha256": {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()},
    }
    replace_text(rundir.code_index, json.dumps(index, indent=2) + "\n")
    _note(digest, say)


class Kept(NamedTuple):
    """The copies in a run directory."""

    folder: Path
    references: dict[str, tuple[str, str]]  # where each lies in the folder, by the path in a reference: root and file

    @property
    def places(self) -> dict[str, Place]:
        return {path: Place((self.folder / root).absolute(), file) for path, (root, file) in self.references.items()}

    def contents(self) -> dict[str, bytes]:
        """Reads all files, whatever they are for: each can be imported.

        Raises:
          UsageError: there is a link, or something else than a file.
        """
        found: dict[str, Path] = {}
        for folder, folders, names in os.walk(self.folder) if self.references else ():
            for path in (Path(folder) / name for name in (*folders, *names)):
                if path.is_symlink() or not (path.is_file() or path.is_dir()):
                    raise UsageError(f"{path} is a link, or no file: a run directory's copies of code are plain files")
            found |= {str((Path(folder) / name).relative_to(self.folder)): (Path(folder) / name) for name in names}
        return {name: path.read_bytes() for name, path in sorted(found.items())}


def load_kept(rundir: RunDir) -> Kept:
    """Finds the copies in a run directory.

    Raises:
      UsageError: what stands there is damaged, or leads out of the directory.
    """
    if not rundir.code_index.is_file():
        return Kept(rundir.code, {})
    try:
        index = json.loads(rundir.code_index.read_text())
        folder, references = str(index["directory"]), index["references"]
        for root, file in references.values():
            if not re.fullmatch(r"\d+", root) or Path(file).is_absolute() or ".." in Path(file).parts:
                raise ValueError(f"{root}/{file} is no file below its directory")
        if not re.fullmatch(r"[0-9a-f]+", folder) or (rundir.code / folder).is_symlink():
            raise ValueError(f"{folder} is no directory of copies")
        return Kept(rundir.code / folder, {path: (root, file) for path, (root, file) in references.items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{rundir.code_index} cannot be read: {error}") from error


def open_kept(
    rundir: RunDir, *, trust: bool, say: Callable[[str], None], given: Mapping[str, Callable[..., Any]] | None = None
) -> UserCode:
    """Makes the user code of a run directory, all of it copies, which runs only what this user has run before.

    Args:
      rundir: of the run.
      trust: run it also where it came from elsewhere, and note that.
      say: is told where that cannot be noted.
      given: functions that Python gives.

    Raises:
      UsageError: the directory is damaged; or, when code is loaded, this user has not run it yet.
    """
    kept = load_kept(rundir)
    check = functools.partial(_check, rundir, kept, trust=trust, say=say)
    return UserCode(kept.places, only_kept=True, given=given, before_run=check)


def open_current(
    config: Config, rundir: RunDir, say: Callable[[str], None], given: Mapping[str, Callable[..., Any]] | None = None
) -> UserCode:
    """Makes the user code of a training: the files that its settings name, and copies of those that have changed.

    Files that are as the run keeps them are taken from where the settings say, and need nobody's trust.

    Args:
      config: of the run.
      rundir: of the run, perhaps one that goes on.
      say: is told where it cannot be noted that this code was run.
      given: functions that Python gives.
    """
    if config.code == "current" or config.resume == "never" or not has_files(rundir):
        return UserCode(given=given)
    kept = load_kept(rundir)
    changed = changed_files(kept)
    check = functools.partial(_check, rundir, kept, trust=config.trust_code, say=say)
    return UserCode(changed, given=given, before_run=check if changed else lambda: None)


def say_changed_code(code: UserCode, config: Config, rundir: RunDir, say: Callable[[str], None]) -> None:
    """Says which files of the user's are others than when the run began."""
    for path in changed_files(load_kept(rundir)):
        if path in code.places and config.code == "current":
            say(f"changed since the last start: {path}, which is taken as it is now")
        elif path in code.places:
            say(
                f"{path} has changed or gone since this run began, which goes on with its own copy of it in "
                f"{rundir.code}; --code=current takes the file as it is"
            )


def _check(rundir: RunDir, kept: Kept, *, trust: bool, say: Callable[[str], None]) -> None:
    """Refuses code that this user has not run before.

    Raises:
      UsageError: it is such.
    """
    config, contents = load_config(rundir.config), kept.contents()
    digest = _digest(config, kept.references, contents)
    if trust:
        _note(digest, say)
    elif digest not in _noted():
        named = " ".join(f"--{name}={getattr(config, name)}" for name in _named_code(config))
        where = f", which lies in {kept.folder} ({', '.join(contents)})" if contents else ""
        raise UsageError(
            f"{rundir.path} would run code that you have not run before: {named}{where}; read it, then allow it with "
            "--trust_code"
        )


def changed_files(kept: Kept) -> dict[str, Place]:
    """Finds the copies of files of the user's that are others now, or have gone, or import others from beside them."""

    def is_changed(path: str, copy: Place) -> bool:
        try:
            root = root_of(path)
            files = [file.relative_to(copy.root) for file in copy.root.rglob("*") if file.is_file()]
            return any((copy.root / file).read_bytes() != (root / file).read_bytes() for file in files)
        except (OSError, UsageError):
            return True

    return {path: copy for path, copy in sorted(kept.places.items()) if is_changed(path, copy)}


def digest_of_files(files: list[UserFile]) -> str:
    """Returns what two workers compare."""
    return hashlib.sha256(repr([(file.place.file, file.content) for file in files]).encode()).hexdigest()


def _named_code(config: Config) -> list[str]:
    """Lists the settings that name functions of the user's."""
    texts = {name: getattr(config, name) for name in sorted(CODE_SETTINGS)}
    return [name for name, text in texts.items() if ":" in text or ".py" in text]


def _digest(config: Config, references: Mapping[str, tuple[str, str]], contents: Mapping[str, bytes]) -> str:
    """Hashes the code and what it is asked for: an installed module, named with arguments, can do anything too."""
    asked = [getattr(config, name) for name in sorted(CODE_SETTINGS)] + [
        *config.model_args,
        *config.loss_args,
        *config.input_args,
    ]
    places = sorted((path, *place) for path, place in references.items())
    files = sorted((name, hashlib.sha256(content).hexdigest()) for name, content in contents.items())
    return hashlib.sha256(json.dumps([asked, places, files]).encode()).hexdigest()


def _notes() -> Path:
    """Is where the hashes of what this user has run stand, one a line.

    Raises:
      OSError: the user has no home directory, as in a container under a number that has no name.
    """
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise OSError("there is no home directory") from error
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
