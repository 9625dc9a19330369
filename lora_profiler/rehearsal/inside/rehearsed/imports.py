"""Something to do as soon as a module has been imported, and nothing before: a script that needs no
torch gets none."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


class _Watched(Loader):
    def __init__(self, loader: Loader, then: Callable[[], None]) -> None:
        self._loader, self._then = loader, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None:
            # importlib.resources and inspect ask for it
            spec.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._then()


class _Watch(MetaPathFinder):
    """Modules are also looked for without being imported, so that an action stays until its module
    has been run."""

    def __init__(self) -> None:
        self.actions: dict[str, Callable[[], None]] = {}
        self._looking_for: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.actions or name in self._looking_for:
            return None
        self._looking_for.add(name)
        try:
            spec = find_spec(name)
        finally:
            self._looking_for.discard(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Watched(spec.loader, lambda: self._imported(name))
        return spec

    def _imported(self, name: str) -> None:
        then = self.actions.pop(name, None)
        if then is not None:
            then()


_watch = _Watch()
sys.meta_path.insert(0, _watch)


def after_import(name: str, then: Callable[[], None]) -> None:
    _watch.actions[name] = then
