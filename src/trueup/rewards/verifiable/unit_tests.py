"""Generated code, scored by unit tests in confinement (`trueup.rewards.confined`).

Code and tests share one process, so code that means to cheat can: it may look for the token below. What it cannot do is harm.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trueup.core.errors import UserError
from trueup.data.rows import Conversation, Reply
from trueup.data.tokens import Sequences
from trueup.rewards.config import RewardConfig, RewardSources
from trueup.rewards.confined import Limits, run_confined, unavailable
from trueup.rewards.known import known_of

_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


class UnitTestsConfig(RewardConfig):
    """1 where the tests that the world knows of a prompt pass after the reply's code."""

    kind: Literal["unit_tests"] = "unit_tests"
    """This file."""
    tag: str = "tests"
    """Tag of the prompts that holds Python code which raises where something is wrong."""
    jobs: int = Field(default=1, ge=1)
    """Runs at one time."""
    cpu_s: int = Field(default=5, ge=1)
    """Processor seconds of each process."""
    wall_s: float = Field(default=10.0, gt=0)
    """Seconds until everything is killed."""
    memory_mb: int = Field(default=512, ge=64)
    """Address space of each process, MiB."""
    processes: int = Field(default=8, ge=1)
    """Processes and threads at one time."""

    def tags(self) -> tuple[str, ...]:
        """That of the tests."""
        return (self.tag,)

    def build(self, sources: RewardSources) -> UnitTests:
        """The check.

        Raises:
            UserError: this machine offers no confinement.
        """
        reason = unavailable()
        if reason is not None:
            raise UserError(f"generated code is not run here: {reason}. It is never run unconfined.", where="reward unit_tests")
        limits = Limits(cpu_s=self.cpu_s, wall_s=self.wall_s, memory_bytes=self.memory_mb << 20, processes=self.processes)
        return UnitTests(sources.known(self.tag), limits, self.jobs)


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
