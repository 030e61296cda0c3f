"""Train from human preferences, measure where reward model, policy and evaluation drift apart, and true the reward model up.

```python
import trueup

result = trueup.train("configs/smoke.yaml", "runs/smoke")
audit = trueup.audit("runs/smoke")
```
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Audit", "AuditReport", "Realigned", "TrueupCallback", "UserError", "__version__", "audit", "audit_models", "evaluate", "realign",
    "train",
]  # fmt: skip

if TYPE_CHECKING:
    from trueup.api import Audit, AuditReport, Realigned, audit, audit_models, evaluate, realign, train
    from trueup.core.errors import UserError
    from trueup.pipeline.callback import TrueupCallback


_ELSEWHERE = {"UserError": "trueup.core.errors", "TrueupCallback": "trueup.pipeline.callback"}


def __getattr__(name: str) -> Any:
    """Load an entry point when it is asked for (PEP 562)."""
    import importlib

    if name in __all__:
        return getattr(importlib.import_module(_ELSEWHERE.get(name, "trueup.api")), name)
    raise AttributeError(f"module 'trueup' has no attribute {name!r}; it has {', '.join(__all__)}")


class _Room(ModuleType):
    """The room `realign/`, which answers calls as the entry point of the same name does."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from importlib import import_module

        return import_module("trueup.api").realign(*args, **kwargs)


class _Package(ModuleType):
    """Importing anything in `realign/` binds that room to ``trueup.realign``, over the entry point; it stays callable."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "realign" and isinstance(value, ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
