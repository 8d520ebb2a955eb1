"""Put off the two imports of others that cost the most and that a command seldom needs. torch's optimizers and diffusers
import torch._dynamo, the compiler, to tell it what not to compile; diffusers imports all its transformers for what a U-Net
has of them. Each is a module whose code runs when something else of it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType, SimpleNamespace
from typing import Any

StandIns = Callable[[ModuleType], Mapping[str, Any]]


def put_off_imports() -> None:
    """Let this process import torch._dynamo and diffusers' transformers when they are used. For a command's process: a
    library leaves its user's imports as they are."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _of_compiler(module: ModuleType) -> dict[str, Any]:
    """Return what torch and diffusers ask of torch._dynamo in passing. Nothing is compiled before its code runs, so there is
    nothing to leave out yet; what is marked till then is marked when it runs."""
    whole: list[Any] = []  # what is to be in a graph unseen

    def disable(function: Callable[..., Any] | None = None, recursive: bool = True, **options: Any) -> Callable[..., Any]:
        if function is None:
            return partial(disable, recursive=recursive, **options)
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
        whole.append(function)
        return function

    def marked() -> None:
        for function in whole:
            module.allow_in_graph(function)

    return {
        "disable": disable,
        "allow_in_graph": allow_in_graph,
        "graph_break": lambda *_: None,
        "eval_frame": SimpleNamespace(OptimizedModule=type("OptimizedModule", (), {})),  # no module is one yet
        AFTERWARDS: marked,
    }


AFTERWARDS = "__afterwards__"
LATER: Mapping[str, StandIns | None] = {
    "torch._dynamo": _of_compiler,
    "scipy.stats": None,
    "diffusers.models.transformers": None,
    "diffusers.models.unets": None,
}
"""Modules to put off, with what stands in for some of their names."""
OF_PARTS = ("diffusers.models.transformers", "diffusers.models.unets")
"""Packages that only list what their submodules have, which can be imported without the list."""
_LOCK = RLock()


class _Finder(MetaPathFinder):
    """Finds the modules of LATER as others are found, and has them loaded by `_Loader`."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        parent = sys.modules.get(name.rpartition(".")[0])
        if isinstance(parent, _Later) and parent.__name__ not in OF_PARTS:
            parent.run()
            return ModuleSpec(name, _There(sys.modules[name])) if name in sys.modules else None
        if name not in LATER:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec and spec.loader:
            spec.loader = _Loader(spec.loader, LATER[name])
        return spec


class _Loader(Loader):
    """Loads a module without running its code, which `run` does."""

    def __init__(self, real: Loader, stand_ins: StandIns | None) -> None:
        self._real, self._stand_ins = real, stand_ins
        self._afterwards: Callable[[], None] = lambda: None
        self._running = False

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if self._stand_ins:
            module.__dict__.update(self._stand_ins(module))
            self._afterwards = module.__dict__.pop(AFTERWARDS)
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
        self._afterwards()


class _Later(ModuleType):
    """Module whose own code has not run."""

    def run(self) -> None:
        """Run it now."""
        with _LOCK:
            if (spec := self.__spec__) and isinstance(spec.loader, _Loader):
                spec.loader.run(self, spec)

    def __getattr__(self, name: str) -> Any:
        """Run the module's code, and return what it has by that name."""
        if not name.startswith("__") or name == "__all__":  # others only ask what kind of thing this is
            self.run()
            if self.__class__ is not _Later:
                return getattr(self, name)
            if name in vars(self):
                return vars(self)[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class _There(Loader):
    """Loader of a submodule that its package, run by the question for it, has imported."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
