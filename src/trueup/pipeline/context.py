"""What every stage of a run shares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from accelerate import Accelerator

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Demonstration
from trueup.models.embedding_cache import CachedEmbedder
from trueup.models.embeddings import load_embedder
from trueup.models.policy import Precision
from trueup.pipeline.config import RewardStageConfig, RunConfig, resolve_path
from trueup.pipeline.events import Event, Listener
from trueup.sandbox.world import World
from trueup.store.run import Run
from trueup.store.stage_cache import StageCache


@dataclass(frozen=True)
class Context:
    """A run in progress."""

    run: Run
    config: RunConfig
    given_world: World | None
    base: Path
    """Relative paths of the configuration are read from here."""
    accelerator: Accelerator
    listener: Listener

    @property
    def world(self) -> World:
        """Where prompts, preferences and truth come from."""
        if self.given_world is None:
            raise UserError("this run has no world. Set world, such as {kind: helpdesk}.", where="world")
        return self.given_world

    @property
    def reward_stage(self) -> RewardStageConfig:
        """Settings of the run's reward model."""
        if self.config.reward is None:
            raise UserError("this needs a reward model, but 'reward' is null.", where="reward")
        return self.config.reward

    @property
    def key(self) -> Key:
        """Root of the run's random streams."""
        return Key(self.config.seed)

    @property
    def precision(self) -> Precision:
        """Of matrix products in training and scoring."""
        return "bf16" if self.config.mixed_precision == "bf16" else "float32"

    @cached_property
    def embedder(self) -> CachedEmbedder:
        """Sentence embeddings, loaded when first asked for; their cache lies in the run, or is shared where ``TRUEUP_CACHE`` says so."""
        name, shared = self.config.embeddings, StageCache.from_environment()
        folder = self.run.root / "cache" / "embeddings" if shared is None else shared.embeddings
        return load_embedder(None if name is None else resolve_path(name, self.base), folder)

    @cached_property
    def demonstrations(self) -> tuple[Demonstration, ...]:
        """The world's demonstrations, made once."""
        return tuple(self.world.demonstrations())

    def tell(self, event: Event) -> None:
        """Pass an event on, from the main process only."""
        if self.accelerator.is_main_process:
            self.listener(event)

    def note(self, stage: str, text: str, arm: str | None = None) -> None:
        """Say something in passing."""
        self.tell(Event(kind="note", stage=stage, arm=arm, text=text))
