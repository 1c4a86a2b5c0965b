"""Lightning, imported without what it imports in vain: in one second instead of three, in 270 MB instead of 430.

torchmetrics imports scipy.signal and matplotlib where they are installed, for sounds and for plots; Lightning, and each
of PyTorch's optimizers, import its compiler, for modules that are compiled. So the first two are not to be found while
Lightning is imported, and the third is imported when somebody asks it for more than to leave a function as it is.
All three work as ever for who uses them.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError
from importlib.util import find_spec, module_from_spec, spec_from_loader
from types import ModuleType
from typing import Any

UNUSED = ("matplotlib", "scipy")
COMPILER = "torch._dynamo"


def import_lightning() -> None:
    """Imports ``lightning.pytorch``, and defers what it does not need."""
    if "lightning.pytorch" not in sys.modules:
        if COMPILER not in sys.modules:
            _defer_compiler()
        with _hidden():
            importlib.import_module("lightning.pytorch")
        _plot_later()


class _Hider(DistributionFinder):
    """Says of the packages that nothing here uses, and that nobody imported, that they are not installed."""

    def __init__(self) -> None:
        self.names = [name for name in UNUSED if name not in sys.modules]

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is not imported with Lightning", name=name)

    def find_distributions(self, context: Any = DistributionFinder.Context()) -> Iterator[Distribution]:  # noqa: B008
        if context.name in self.names:
            raise PackageNotFoundError(context.name)
        return iter(())


@contextmanager
def _hidden() -> Iterator[None]:
    hider = _Hider()
    sys.meta_path.insert(0, hider)
    try:
        yield
    finally:
        sys.meta_path.remove(hider)


def _plot_later() -> None:
    """Has torchmetrics forget what it could not find, and look for matplotlib when a metric is plotted."""
    from lightning_utilities.core import imports
    from torchmetrics.utilities import imports as flags
    from torchmetrics.utilities import plot

    imports.package_available.cache_clear()
    imports.module_available.cache_clear()
    for flag in vars(flags).values():
        if isinstance(flag, imports.RequirementCache):
            vars(flag).pop("available", None)
    plot._error_on_missing_matplotlib = lambda: importlib.reload(plot)._error_on_missing_matplotlib()


class _IsCompiled(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        real = sys.modules[COMPILER].OptimizedModule
        return real is not cls and isinstance(instance, real)


class _OptimizedModule(metaclass=_IsCompiled):
    """Stands for the class of compiled modules, of which there are none before the compiler is there."""


def _leave(function: Callable[..., Any], recursive: bool = True, **options: Any) -> Callable[..., Any]:
    """Stands for ``torch._dynamo.disable``, which has the compiler leave a function as it is, once there is one."""

    def left(*args: Any, **kwargs: Any) -> Any:
        disable = sys.modules[COMPILER].disable
        return (function if disable is _leave else disable(function, recursive, **options))(*args, **kwargs)

    return left


class _Deferred(ModuleType):
    """A module that is imported when it is asked for what it has not been given."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what tools ask of every module
            raise AttributeError(name)
        self.load()
        return getattr(self, name)

    def load(self) -> None:
        assert self.__spec__ and self.__spec__.loader
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__spec__.loader.exec_module(self)


class _Submodules(MetaPathFinder, Loader):
    """Imports a deferred module before the first of its submodules, most of which it then has imported itself."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parent = sys.modules.get(name.rpartition(".")[0])
        if not isinstance(parent, _Deferred):
            return None
        parent.load()
        return spec_from_loader(name, self) if name in sys.modules else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = sys.modules[spec.name]
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def _defer_compiler() -> None:
    spec = find_spec(COMPILER)
    assert spec is not None
    module = module_from_spec(spec)
    vars(module).update(disable=_leave, graph_break=lambda *_, **__: None, OptimizedModule=_OptimizedModule)
    module.__class__ = _Deferred
    sys.meta_path.insert(0, _Submodules())
    sys.modules[COMPILER] = module
    sys.modules["torch"]._dynamo = module  # type: ignore[attr-defined]
