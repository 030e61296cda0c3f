"""Train from human preferences, measure where reward model, policy and evaluation drift apart, and true the reward model up.

```python
import trueup

result = trueup.train("configs/smoke.yaml", "runs/smoke")
audit = trueup.audit("runs/smoke")
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Audit", "Realigned", "UserError", "__version__", "audit", "evaluate", "realign", "train"]

if TYPE_CHECKING:
    from trueup.api import Audit, Realigned, audit, evaluate, realign, train
    from trueup.core.errors import UserError


def __getattr__(name: str) -> Any:
    """Load an entry point when it is asked for (PEP 562)."""
    import importlib

    if name in __all__:
        return getattr(importlib.import_module("trueup.core.errors" if name == "UserError" else "trueup.api"), name)
    raise AttributeError(f"module 'trueup' has no attribute {name!r}; it has {', '.join(__all__)}")
