"""The folder is the registry: kind `ppo` of family `optimizers` *is* ``trueup/optimizers/ppo.py``.

A dotted kind (``mypackage.mymodule``) names an outside module that follows the same rule: exactly one concrete subclass of the
family's base configuration.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

from trueup.core.errors import UserError, did_you_mean

T = TypeVar("T")


@cache
def kinds(package: str) -> tuple[str, ...]:
    """Names available in a component folder, sorted. Files that start with ``_`` are private."""
    path = importlib.import_module(package).__path__
    return tuple(sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_") and not m.ispkg))


def component_module(package: str, kind: str, known: tuple[str, ...] | None = None) -> ModuleType:
    """The module behind a kind.

    Args:
        package: the family's package, such as ``trueup.optimizers``.
        kind: a file of that folder, or a dotted name of an outside module.
        known: the names to offer when there is no such kind; all files of the folder if left out.

    Raises:
        UserError: no such kind; the nearest names are given.
    """
    if "." in kind:
        try:
            return importlib.import_module(kind)
        except ModuleNotFoundError as error:
            raise UserError(f"no module '{kind}' ({error}). A dotted kind names a module that Python can import.") from error
    names = known if known is not None else kinds(package)
    if kind not in names:
        family = package.rsplit(".", 1)[-1]
        raise UserError(f"no kind '{kind}' in {family}.{did_you_mean(kind, names)} Available: {', '.join(names)}, or a dotted module name.")
    return importlib.import_module(f"{package}.{kind}")


def config_class(package: str, kind: str, base: type[T]) -> type[T]:
    """The one subclass of ``base`` that the module behind ``kind`` defines."""
    if "." not in kind and kind in kinds(package):
        module = importlib.import_module(f"{package}.{kind}")
        if not _defined(module, base):
            kind = f"{kind}?"  # a file of the folder that is no component: answer like an unknown kind
    module = component_module(package, kind, offered(package, base) if "." not in kind and kind not in kinds(package) else None)
    found = _defined(module, base)
    if len(found) != 1:
        raise UserError(f"module '{module.__name__}' must define exactly one {base.__name__}, found {[c.__name__ for c in found]}.")
    return found[0]


def offered(package: str, base: type[Any]) -> tuple[str, ...]:
    """The files of a folder that define a component of this family."""
    return tuple(k for k in kinds(package) if _defined(importlib.import_module(f"{package}.{k}"), base))


def _defined(module: ModuleType, base: type[T]) -> list[type[T]]:
    return [
        c
        for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, base) and c is not base and c.__module__ == module.__name__ and not inspect.isabstract(c)
    ]
