"""Generated code, scored by unit tests in confinement (`trueup.rewards.confined`).

Code and tests share one process, so code that means to cheat can: it may look for the token below. What it cannot do is harm.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences
from trueup.rewards.confined import Limits, run_confined
from trueup.rewards.known import known_of

_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


class UnitTests:
    """1 where the tests pass after the reply's code, else 0.

    Args:
        tests: prompt -> Python code that raises where something is wrong, such as ``assert add(1, 2) == 3``.
        limits: of each run.
        jobs: runs at one time.
    """

    def __init__(self, tests: Mapping[str, str], limits: Limits | None = None, jobs: int = 1) -> None:
        self.tests, self.limits, self.jobs = tests, limits or Limits(), jobs

    def score(self, prompts: Sequence[Conversation], replies: Sequence[Reply], sequences: Sequences | None = None) -> Tensor:
        """[B] 1 or 0; see `Reward.score`.

        Raises:
            UserError: a prompt without tests, or a machine without confinement.
        """
        work = [(code_of(r.text), known_of(self.tests, p, "test")) for p, r in zip(prompts, replies, strict=True)]
        with ThreadPoolExecutor(self.jobs) as pool:
            return torch.tensor(list(pool.map(lambda w: self._passes(*w), work)), dtype=torch.float32)

    def _passes(self, code: str, tests: str) -> bool:
        # a reply that ends the process early never comes to the token
        token = secrets.token_hex(16)
        outcome = run_confined({"main.py": f"{code}\n\n{tests}\n\nprint('\\n{token}')\n"}, self.limits)
        return outcome.ending == "passed" and outcome.output.rstrip().endswith(token)


def code_of(text: str) -> str:
    """The code of a reply: its last fenced block, or all of it where there is none."""
    blocks = _FENCE.findall(text)
    return blocks[-1] if blocks else text
