"""The configuration of a run: everything a result depends on, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from trueup.core.config import Config, resolve
from trueup.loop.config import LoopConfig
from trueup.optimizers.rloo import RLOOConfig
from trueup.pipeline.arm_config import AnyOptimizer, ArmConfig, check_arms
from trueup.pipeline.linear_config import LinearModels
from trueup.pipeline.variant_config import AnyVariant, check_variants
from trueup.rewards.objectives.bradley_terry import BradleyTerryConfig
from trueup.rewards.objectives.protocol import ObjectiveConfig
from trueup.sandbox.world import WorldConfig
from trueup.stats.recalibration import Method

AnyWorld = Annotated[SerializeAsAny[WorldConfig], BeforeValidator(lambda v: resolve("trueup.sandbox", WorldConfig, v))]
AnyObjective = Annotated[
    SerializeAsAny[ObjectiveConfig], BeforeValidator(lambda v: resolve("trueup.rewards.objectives", ObjectiveConfig, v))
]


class LoraConfig(Config):
    """A low-rank adapter instead of full weights; the reference is then the same model with its adapter off."""

    rank: int = Field(default=8, ge=1)
    """Rank of the update."""
    alpha: float = Field(default=16.0, gt=0)
    """The update is scaled by alpha / rank."""
    targets: tuple[str, ...] | None = None
    """Names of the layers to adapt; all linear ones if left out."""


class PolicyModelConfig(Config):
    """Which policy to start from."""

    path: str | None = None
    """Hugging Face folder (relative to this file) or hub name; left out, a small Llama is made on the world's own vocabulary."""
    lora: LoraConfig | None = None
    """Train an adapter instead of all weights."""
    gradient_checkpointing: bool = False
    """Compute activations again in the policy's backward pass instead of keeping them: less memory, a third more time (TRL's name)."""
    pad_token: str | None = None
    """Existing token to pad with, where the tokenizer has none."""
    hidden_size: int = Field(default=64, ge=8)
    """Width of the small Llama."""
    layers: int = Field(default=2, ge=1)
    """Layers of the small Llama."""
    heads: int = Field(default=4, ge=1)
    """Attention heads of the small Llama."""
    max_positions: int = Field(default=128, ge=8)
    """Context of the small Llama, tokens."""


class RewardModelConfig(Config):
    """Which reward model to train."""

    trunk: Literal["policy", "path", "embeddings"] = "policy"
    """A copy of the SFT policy's trunk; any trunk in a folder or hub name; or frozen sentence embeddings with a small head."""
    path: str | None = None
    """Folder or hub name, for ``path``."""
    lora: LoraConfig | None = None
    """Train an adapter and the head instead of all weights of a causal trunk; it is merged into the saved model."""
    pad_token: str | None = None
    """Existing token to pad with, for ``path``, where the tokenizer has none or pads with eos."""
    rendering: Literal["template", "roles"] = "template"
    """Messages become text by the tokenizer's chat template, or as ``Human: …`` and ``Assistant: …`` paragraphs where it has none."""
    max_length: int | None = Field(default=None, ge=8)
    """Longest prompt with reply, tokens (TRL's name); prompts are cut from the left. The trunk's context if left out."""
    cut_replies: bool = False
    """Cut replies that do not fit the trunk's context from the left, where they may be alike; else they are an error."""
    head_width: int = Field(default=64, ge=0)
    """Hidden units of the head on embeddings; 0 makes it linear."""
    features: Literal["reply", "joined", "both"] = "joined"
    """What the embeddings see: the reply alone, prompt and reply as one text, or both as two vectors side by side."""


class FitConfig(Config):
    """A supervised stage: SFT or a reward model's fit."""

    epochs: float = Field(default=4.0, gt=0)
    """Passes over the data."""
    batch_size: int = Field(default=32, ge=1)
    """Rows a step, over all processes."""
    loop: LoopConfig = LoopConfig()
    """How steps are taken."""


class RewardReportConfig(Config):
    """What only its makers know of a reward model; kept in its folder and shown on its card."""

    use: str | None = None
    """What it is meant for."""
    labelled_by: str | None = None
    """Who labelled the data."""
    known_failures: tuple[str, ...] = ()
    """Where it is known to fail, one sentence each."""


class RewardStageConfig(FitConfig):
    """Fitting the reward model."""

    model: RewardModelConfig = RewardModelConfig()
    """What is trained."""
    train: bool = True
    """False takes the model at ``model.path`` as it is: a reward model trained elsewhere."""
    objective: AnyObjective = BradleyTerryConfig()
    """The loss per pair."""
    reference_samples: int = Field(default=256, ge=8)
    """Replies of the SFT policy on which scores are rescaled to mean 0 and deviation 1, at the first fit and at every refit."""
    report: RewardReportConfig = RewardReportConfig()
    """Use, labellers and known failures, for the model's report."""
    calibration: Method | None = "temperature"
    """Map from score differences to chances, fitted to the held-out pairs (per domain where they name one) and kept with the model;
    scores and ranks do not change."""

    @model_validator(mode="after")
    def _possible(self) -> RewardStageConfig:
        if not self.train and (self.model.trunk != "path" or self.model.path is None):
            raise ValueError("'train: false' needs model: {trunk: path, path: ...}, a trained reward model")
        if self.model.lora is not None and (self.model.trunk == "embeddings" or not self.train):
            raise ValueError("'model.lora' adapts a trunk that is trained: not embeddings, and not with train: false")
        return self


class PreferenceFileConfig(Config):
    """A preference set in a file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Short name for tables."""
    path: str
    """The file (relative to this configuration), or a hub data set's name."""
    on_bad: Literal["error", "skip"] = "error"
    """What to do with rows that cannot be used: stop, or leave them out and count them."""
    agreement: float | None = Field(default=None, gt=0.5, le=1)
    """Chance that two annotators agree, where it is published: the low end of the ceiling of accuracy."""


class JudgedModelConfig(RewardStageConfig):
    """A reward model to judge by cross-validation."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Short name for tables."""

    @model_validator(mode="after")
    def _fitted(self) -> JudgedModelConfig:
        if not self.train:
            raise ValueError("cross-validation fits its models: remove 'train: false'. `trueup reward evaluate` examines trained ones")
        return self


class CrossValidateConfig(LinearModels):
    """Judging reward models on preference files, without any policy."""

    folds: int = Field(default=5, ge=2)
    """Parts of each set; no opening turn is in two of them."""
    sets: tuple[PreferenceFileConfig, ...] = Field(min_length=1)
    """Preference sets, each on its own."""
    models: tuple[JudgedModelConfig, ...] = ()
    """Reward models trained by steps, each fitted on each set."""

    @model_validator(mode="after")
    def _distinct_models(self) -> CrossValidateConfig:
        names = [*(m.name for m in self.linear), *(m.name for m in self.ensembles), *(m.name for m in self.models)]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"needs at least one of linear, ensembles, models, and distinct names; got {names}")
        if set(self.compare_with) - set(names):
            raise ValueError(f"compare_with names {sorted(set(self.compare_with) - set(names))}, but the models are {names}")
        return self


class SampledPreferencesConfig(Config):
    """Preference pairs sampled from the SFT policy and labelled by the world, for worlds without an offline set of their own."""

    pairs: int = Field(default=1000, ge=10)
    """Training pairs."""
    validation_pairs: int = Field(default=200, ge=10)
    """Held-out pairs."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the sampling."""


class PolicyStageConfig(Config):
    """Optimising the policy against the reward model."""

    optimizer: AnyOptimizer = RLOOConfig()
    """The algorithm."""
    steps: int = Field(default=200, ge=1)
    """Updates."""
    prompts_per_step: int = Field(default=16, ge=1)
    """Prompts a step, over all processes; pairs or demonstrations, where the optimizer learns from those."""
    loop: LoopConfig = LoopConfig(learning_rate=3e-4)
    """How steps are taken."""
    rollout_precision: Literal["float32", "bf16"] = "float32"
    """Precision of the sampler's copy of the policy."""


class ProbeConfig(Config):
    """What is measured at checkpoints."""

    every: int = Field(default=20, ge=1)
    """Policy steps between probes; step 0 and the last step are always probed."""
    prompts: int = Field(default=150, ge=4)
    """Test prompts; all of them where there are fewer."""
    samples_per_prompt: int = Field(default=4, ge=1)
    """Replies to each."""
    labels_per_prompt: int = Field(default=0, ge=0)
    """Fresh comparisons of the world's annotators a prompt and checkpoint."""
    keep_policies: Literal["all", "last"] = "all"
    """Which probed policies stay on disk."""
    variants: tuple[AnyVariant, ...] = ()
    """What else is measured; kinds are greedy, temperature, prompt, reworded, paraphrase, cut, demonstration and pair (docs/records.md)."""
    variants_at: Literal["all", "ends"] = "all"
    """At which checkpoints: all, or the first and the last."""

    @model_validator(mode="after")
    def _distinct_variants(self) -> ProbeConfig:
        check_variants(self.variants)
        return self


class RunConfig(Config):
    """A whole run: SFT, preferences, reward model, policy arms, report."""

    name: str = "run"
    """Name shown in the report."""
    seed: int = Field(default=0, ge=0)
    """Every random number of the run comes from it."""
    world: AnyWorld | None = None
    """Where prompts, preferences and (in a sandbox) truth come from; needed unless only ``cross_validate`` is asked for."""
    cross_validate: CrossValidateConfig | None = None
    """Judge reward models on preference files instead of running a policy; needs ``policy: null``."""
    policy_model: PolicyModelConfig = PolicyModelConfig()
    """Which policy to start from."""
    sft: FitConfig | None = FitConfig()
    """Supervised fine-tuning on the world's demonstrations; skipped if null or where there are none."""
    sampled_preferences: SampledPreferencesConfig = SampledPreferencesConfig()
    """Used only where the world has no preference set."""
    reward: RewardStageConfig | None = RewardStageConfig()
    """The reward model; null where no arm needs one, such as with rewards that check answers."""
    policy: PolicyStageConfig | None = PolicyStageConfig()
    """The policy phase; null ends the run after the reward model."""
    probe: ProbeConfig = ProbeConfig()
    """Measurements at checkpoints."""
    arms: tuple[ArmConfig, ...] = Field(default=(ArmConfig(name="static"),), min_length=1)
    """Treatments, side by side; the first is the report's main arm."""
    embeddings: str | None = None
    """Sentence embedder: folder or hub name; left out: the hub cache, else the extra [offline]."""
    checkpoint_every: int = Field(default=20, ge=1)
    """Steps between states a killed run resumes from, in every stage."""
    device: Literal["cpu", "auto"] = "cpu"
    """``auto`` takes an accelerator where there is one."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Precision of the update."""
    threads: int | None = Field(default=None, ge=1)
    """torch threads; torch's own choice if left out. Part of what makes a rerun bit-identical."""
    report_to: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Trackers beside metrics.jsonl, through accelerate."""

    @model_validator(mode="after")
    def _one_job(self) -> RunConfig:
        if self.cross_validate is None and self.world is None:
            raise ValueError("needs 'world', such as {kind: helpdesk}, or 'cross_validate'")
        if self.cross_validate is not None and (self.policy is not None or self.world is not None):
            raise ValueError("'cross_validate' judges reward models alone: set policy: null and leave out world, or remove cross_validate")
        return self

    @model_validator(mode="after")
    def _reward_models_that_are_needed(self) -> RunConfig:
        if self.policy is not None:
            trained = self.reward is not None and self.reward.train
            check_arms(self.arms, self.policy.optimizer, self.reward is not None, trained, self._adapts())
        return self

    def _adapts(self) -> bool:
        return self.reward is not None and self.reward.model.lora is not None

    def needs_pairs(self) -> bool:
        """Whether anything of the run learns from preferences."""
        fits = self.reward is not None and self.reward.train
        return fits or (self.policy is not None and any(arm.needs_pairs(self.policy.optimizer) for arm in self.arms))

    @model_validator(mode="after")
    def _distinct_arms(self) -> RunConfig:
        names = [a.name for a in self.arms]
        if len(set(names)) != len(names) or "offline" in names:
            raise ValueError(f"arms need distinct names other than 'offline', got {names}")
        return self


def resolve_path(path: str, base: Path) -> str:
    """A folder beside the configuration file where there is one, else the name as it is (a hub name)."""
    here = base / path
    return str(here) if here.exists() or path.startswith((".", "/")) else path
