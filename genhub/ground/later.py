"""Put off imports of others that cost the most and that a command seldom needs. torch's optimizers and diffusers import
torch._dynamo, the compiler, to tell it what not to compile; diffusers imports all its transformers and U-Nets for one of
each; its schedulers import scipy's statistics for one schedule; datasets looks whether its readers use scipy's reader of
Matlab's files. Here each is a module whose code runs when something is asked of it that is not in it yet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial, wraps
from importlib import _bootstrap
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import FunctionType, ModuleType
from typing import Any

StandIns = Callable[[ModuleType], Mapping[str, Any]]


def put_off_imports() -> None:
    """Let this process import torch._dynamo, and diffusers' lists of transformers and of U-Nets, when they are used. For a
    command's own process: a library leaves its user's imports as they are."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _of_compiler(module: ModuleType) -> dict[str, Any]:
    """Return what torch and diffusers ask of torch._dynamo in passing. Before its code has run nothing is compiled, so that
    `disable` calls a function as it is; once it has run, `disable` hands it to the real one. What `allow_in_graph` got
    meanwhile is handed on then."""
    whole: list[Any] = []

    def disable(function: Any = None, recursive: bool = True, **options: Any) -> Any:
        if function is None:
            return partial(disable, recursive=recursive, **options)
        if not isinstance(module, _Later) or not isinstance(function, FunctionType):  # a class, or a network, stays one
            return _whole(module).disable(function, recursive, **options)
        left_out: list[Callable[..., Any]] = []

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if isinstance(module, _Later):
                return function(*args, **kwargs)
            if not left_out:
                left_out.append(module.disable(function, recursive, **options))
            return left_out[0](*args, **kwargs)

        return call

    def allow_in_graph(function: Any) -> Any:
        if not isinstance(module, _Later):
            return module.allow_in_graph(function)
        whole.append(function)
        return function

    def graph_break(*args: Any, **kwargs: Any) -> None:
        if not isinstance(module, _Later):
            module.graph_break(*args, **kwargs)

    def hand_on() -> None:
        for function in whole:
            module.allow_in_graph(function)

    return {"disable": disable, "allow_in_graph": allow_in_graph, "graph_break": graph_break, HAND_ON: hand_on}


def _of_files(module: ModuleType) -> dict[str, Any]:
    """Return what datasets asks of scipy.io when it makes a builder: `loadmat`, to see who has it."""

    def loadmat(*args: Any, **kwargs: Any) -> Any:
        return _whole(module).loadmat(*args, **kwargs)

    return {"loadmat": loadmat, HAND_ON: lambda: None}


def _of_nothing(_: ModuleType) -> dict[str, Any]:
    """Return no stand-ins: whatever is asked for, submodules too, runs the module first."""
    return {HAND_ON: lambda: None}


def _look_up_when_asked() -> None:
    from importlib import metadata

    if not isinstance(metadata.packages_distributions, partial):
        metadata.packages_distributions = partial(_Installed, metadata.packages_distributions)


class _Installed(Mapping[str, list[str]]):
    """The distributions that bring each module, for which the lists of files of all are read when somebody asks. diffusers
    gets them when it is imported, and asks for a few that are seldom there."""

    def __init__(self, read: Callable[[], Mapping[str, list[str]]]) -> None:
        self._read = cache(read)

    def __getitem__(self, module: str) -> list[str]:
        return self._read()[module]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


HAND_ON = "__hand_on__"
LATER: Mapping[str, StandIns | None] = {
    "torch._dynamo": _of_compiler,
    "diffusers.models.transformers": None,
    "diffusers.models.unets": None,
    "scipy.io": _of_files,
    "scipy.stats": _of_nothing,
}
"""Modules to put off, with what stands in for some of their names. Those with nothing are packages that only list what their
submodules have, which can be imported without the list."""


class _Finder(MetaPathFinder):
    """Finds what is put off, and the compiler's submodules, as others are found, with loaders of its own."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        package = sys.modules.get(name.rpartition(".")[0])
        behind = package if isinstance(package, _Later) and LATER[package.__name__] is not None else None
        if name == "diffusers":
            _look_up_when_asked()
        if behind is None and name not in LATER:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec and spec.loader:
            spec.loader = _Behind(spec.loader, behind) if behind else _LaterLoader(spec.loader, LATER[name])
        return spec


class _LaterLoader(Loader):
    """Loads a module without running its code, which `run` does."""

    def __init__(self, real: Loader, stand_ins: StandIns | None) -> None:
        self._real, self._stand_ins = real, stand_ins
        self._hand_on: Callable[[], None] = lambda: None
        self._running = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if self._stand_ins:
            module.__dict__.update(self._stand_ins(module))
            self._hand_on = module.__dict__.pop(HAND_ON)
        module.__class__ = _Later

    def run(self, module: ModuleType, spec: ModuleSpec) -> None:
        """Run the module's own code, unless it is what asks."""
        if self._running:
            return
        self._running = True
        try:
            self._real.exec_module(module)
        finally:
            self._running = False
        module.__class__ = ModuleType
        spec.loader = module.__loader__ = self._real
        self._hand_on()


class _Later(ModuleType):
    """Module whose own code has not run."""

    def __getattr__(self, name: str) -> Any:
        """Run the module's code, and return what it has by that name."""
        if not name.startswith("__") or name == "__all__":  # others only ask what kind of thing this is
            if type(_whole(self)) is not _Later:
                return getattr(self, name)
            if name in vars(self):
                return vars(self)[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted(vars(_whole(self)))


def _whole(module: ModuleType) -> Any:
    """Return the module, its code run; as far as it has come, where it is that code which asks."""
    with _bootstrap._ModuleLockManager(module.__name__):  # type: ignore[attr-defined]  # import's own: another would deadlock
        if (spec := module.__spec__) and isinstance(spec.loader, _LaterLoader):
            spec.loader.run(module, spec)
    return module


class _Behind(Loader):
    """Loads a submodule of a package that has to run first, and may import it then."""

    def __init__(self, real: Loader, package: ModuleType) -> None:
        self._real, self._package = real, package
        self._there: ModuleType | None = None
        self._spec: ModuleSpec | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        _whole(self._package)
        self._there = sys.modules.get(spec.name)
        self._spec = self._there.__spec__ if self._there else None
        return self._there or self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if self._there:  # and import has given it this one's spec
            if module.__spec__ is not self._spec:
                module.__spec__ = self._spec
            return
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._real
        self._real.exec_module(module)
