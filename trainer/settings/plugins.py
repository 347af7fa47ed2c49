"""`package.module:function` or `path/file.py:function` into the function: how what a run plugs together is named.

A user's file is imported as Python runs a script: what lies beside it can be imported, and is read anew by each
`UserCode`. Afterwards nothing of it is left in `sys.path` and `sys.modules`, so that two runs of one process, or the
copy of a file and the file, do not meet.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from trainer.errors import TrainerError, UsageError, reason, unknown_name
from trainer.settings.importing import (
    Finder,
    Loader,
    Place,
    allow_legacy_layers,
    find_file,
    find_module,
    is_below,
    keep_noted,
)

GIVEN = "given."  # in front of the path of a function that Python gives


class UserFile(NamedTuple):
    """A file of the user's that was run."""

    place: Place
    content: bytes


def given_reference(setting: str, function: Callable[..., Any]) -> tuple[str, str | None]:
    """Names a function that Python gives for a setting.

    Returns:
      The reference, and the path in it by which `UserCode` is given the function; None where it is that of a file,
      which the run keeps as any other.
    """
    name = getattr(function, "__name__", type(function).__name__).strip("<>")
    module = inspect.getmodule(function)
    file = getattr(module, "__file__", None)
    in_file = file and module and module.__name__ != "__main__" and getattr(module, name, None) is function
    if in_file and module and module.__package__:
        return f"{module.__name__}:{name}", None
    if in_file and Path(str(file)).suffix == ".py":
        return f"{Path(str(file)).absolute()}:{name}", None
    return f"{GIVEN}{setting}.{name}:{name}", f"{GIVEN}{setting}.{name}"


def folder_of(function: Callable[..., Any]) -> Path | None:
    """Finds the folder of the source of a function that Python gives; also of a notebook's cell."""
    while isinstance(function, functools.partial):
        function = function.func
    call = function if hasattr(function, "__code__") else vars(type(function)).get("__call__")
    code = getattr(call, "__code__", None)
    return Path(code.co_filename).parent if code else None


def load_function(path: str) -> Callable[..., Any]:
    """Imports a function of this package, `package.module:function`."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


class UserCode:
    """The functions of the user's that a run takes, and the files that they come from."""

    def __init__(
        self,
        kept: Mapping[str, Place] | None = None,
        *,
        only_kept: bool = False,
        given: Mapping[str, Callable[..., Any]] | None = None,
        before_run: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes where code lies that is not taken from where it says.

        Args:
          kept: places by the path in a reference, in front of the colon.
          only_kept: is a file that is not among them missing.
          given: functions that Python has given, by the path in a reference, see `given_reference`.
          before_run: is called before each import of code; raises where it must not be run.
        """
        self._kept, self._given = kept or {}, given or {}
        self._only_kept = only_kept
        self._before_run = before_run
        self._modules: dict[str, tuple[ModuleType, Path | None]] = {}  # by path: with its root, None for installed ones
        self._beside: dict[Path, dict[str, ModuleType]] = {}  # by root: what was imported from there, by name
        self._contents: dict[Path, bytes] = {}  # what was run, which may be another thing now
        self._noted: dict[Path, Path] = {}  # what else was read to be run, as C++ sources: the root of each
        self.places: dict[str, Place] = {}  # of what was loaded, by path

    def load(self, reference: str, *, default: str = "") -> Callable[..., Any]:
        """Imports the function that a reference names. Errors of its calls name the user's file and line.

        Args:
          reference: `path/file.py:function`, `package.module:function`, or the file alone.
          default: the function that is meant where the reference names none; else the file's only one.

        Raises:
          UsageError: there is no such file, module or function, or it fails when it is imported.
        """
        path, _, name = reference.rpartition(":") if ":" in reference else (reference, "", "")
        if path in self._given:
            return self._wrap(self._given[path], path, None, folder_of(self._given[path]))
        if path.startswith(GIVEN):
            raise UsageError(
                f"{reference} is a function that Python gave to trainer.api.train: give it again, or put it into a "
                "file, and name that"
            )
        if path not in self._modules:
            self._before_run()
            allow_legacy_layers()
            self._modules[path] = self._import(path)
        module, root = self._modules[path]
        found = getattr(module, name, None) if name else None
        if found is None and default and not name:
            own = _functions_of(module)
            name = default if default in own or len(own) != 1 else own[0]
            found = getattr(module, name, None)
        if not callable(found):
            own = _functions_of(module)
            if not own:
                raise UsageError(f"{path} defines no function; wanted {path}:{name or 'FUNCTION'}")
            if not name:
                raise UsageError(f"{path}: name the function, as {path}:{own[0]}; it defines {', '.join(own)}")
            raise unknown_name(f"{path}: function", name, own)
        return self._wrap(found, path, root, root)

    def _wrap(self, found: Callable[..., Any], path: str, root: Path | None, shown: Path | None) -> Callable[..., Any]:
        @functools.wraps(found)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._importing_from(root), errors_named(path, shown):
                return found(*args, **kwargs)

        return call

    def errors_of(self, reference: str) -> Callable[[], AbstractContextManager[None]]:
        """Makes what names the user's file in errors of what a loaded function has returned."""
        return self.contexts_of(reference)[0]

    def contexts_of(self, reference: str) -> tuple[Callable[[], AbstractContextManager[None]], ...]:
        """Makes what `errors_of` does, and the same where what was returned may import what lies beside its file."""
        path = reference.rpartition(":")[0] if ":" in reference else reference
        if path in self._given:
            return (functools.partial(errors_named, path, folder_of(self._given[path])),) * 2
        root = self._modules[path][1]

        @contextmanager
        def enter() -> Iterator[None]:
            with self._importing_from(root), errors_named(path, root):
                yield

        return functools.partial(errors_named, path, root), enter

    def files(self) -> list[UserFile]:
        """Lists the files that were run so far, in a fixed order; none of installed packages."""
        places = {place.root / place.file: place for place in self.places.values()}
        places |= {path: Place(root, str(path.relative_to(root))) for path, root in self._noted.items()}
        for root, modules in self._beside.items():
            packages = {path.partition(".")[0] for path, place in self.places.items() if place.root == root}
            # A package that the process had imported before was not imported here.
            earlier = [module for name, module in sys.modules.items() if name.partition(".")[0] in packages]
            for module in [*modules.values(), *(module for module in earlier if _is_of(module, root))]:
                path = Path(str(module.__file__))
                if path.suffix == ".py":
                    places[path] = Place(root, str(path.relative_to(root)))
        return [
            UserFile(place, self._contents.get(path) or path.read_bytes()) for path, place in sorted(places.items())
        ]

    def _import(self, path: str) -> tuple[ModuleType, Path | None]:
        is_file = path.endswith(".py")
        place = self._kept.get(path)
        if place is None and is_file:
            if self._only_kept:
                raise UsageError(f"{path}: the run has kept no copy of this file")
            place = find_file(path)
        root = place.root if place else find_module(path)
        with self._importing_from(root), errors_named(path, root):
            module = self._run_file(place) if place and is_file else importlib.import_module(path)
        if root:
            self.places[path] = place or Place(root, str(Path(str(module.__file__)).relative_to(root)))
        return module, root

    def _run_file(self, place: Place) -> ModuleType:
        """Runs a file as a module that nobody else imports."""
        file = place.root / place.file
        name = f"user_file_{file.stem}"
        loader = Loader(name, str(file), self._contents)
        spec = importlib.util.spec_from_file_location(name, file, loader=loader)
        assert spec
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # Dataclasses look themselves up there.
        try:
            loader.exec_module(module)
        finally:
            del sys.modules[name]
        return module

    @contextmanager
    def _importing_from(self, root: Path | None) -> Iterator[None]:
        """Lets a directory's modules be imported, and takes them out again."""
        if root is None:
            yield
            return
        beside, before = self._beside.setdefault(root, {}), set(sys.modules)
        finder = Finder(root, self._contents)
        sys.modules.update(beside)
        sys.path.insert(0, str(root))
        sys.meta_path.insert(0, finder)
        try:
            with keep_noted(root, self._contents, self._noted):
                yield
        finally:
            sys.meta_path.remove(finder)
            sys.path.remove(str(root))
            for name, module in list(sys.modules.items()):
                if name not in before and _is_of(module, root):
                    beside[name] = sys.modules.pop(name)


@contextmanager
def errors_named(path: str, root: Path | None) -> Iterator[None]:
    """Makes an error of user code one line, which begins with the user's file and line.

    Raises:
      UsageError: the code failed.
    """
    try:
        yield
    except TrainerError:
        raise
    except SystemExit as error:
        raise UsageError(
            f"{path} would end the program (exit {error.code}); what it does as a program belongs behind "
            "`if __name__ == '__main__':`"
        ) from error
    except Exception as error:
        where = path
        if isinstance(error, SyntaxError) and error.filename and root and Path(error.filename).is_relative_to(root):
            where = f"{error.filename}:{error.lineno}"
        else:
            frames = [
                frame
                for frame in traceback.extract_tb(error.__traceback__)
                if root and Path(frame.filename).is_relative_to(root)
            ]
            if frames:
                where = f"{frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name}"
        text = error.msg if isinstance(error, SyntaxError) else reason(error)
        raise UsageError(f"{where}: {type(error).__name__}: {text}") from error


def _functions_of(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]


def _is_of(module: ModuleType, root: Path) -> bool:
    file = getattr(module, "__file__", None)
    return bool(file) and is_below(Path(str(file)), root)
