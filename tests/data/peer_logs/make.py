"""How the files beside this one were made: by the peers' own code, on one machine without a GPU.

    python tests/data/peer_logs/make.py trl OUT        # needs trl==1.16.0 and tensorboard
    python tests/data/peer_logs/make.py verl OUT       # needs verl==0.9.1 (pip install --no-deps), ray, tensordict, omegaconf, orjson
    python tests/data/peer_logs/make.py openrlhf OUT   # needs openrlhf==0.11.2 (pip install --no-deps), ray, torchdata, pylatexenc

trl: a whole run of RLOOTrainer on a tiny random model. verl and openrlhf train on GPUs only, so no run of theirs can be had here: their
own functions compute the metrics of random batches (verl: `apply_kl_penalty`, `compute_data_metrics`, `_val_metrics_update`; openrlhf:
`_compute_rollout_stats`, `compute_eval_metrics`) and their own loggers write the files. Metrics of their update steps are missing there,
and nothing is learned.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np

STEPS = 20


def make_trl(out: Path) -> None:
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    from trueup.core.rng import Key
    from trueup.models.tiny import tiny_llama, tiny_tokenizer

    words = [f"w{i}" for i in range(12)]
    tokenizer = tiny_tokenizer(words)
    tokenizer.padding_side = "left"
    tiny_llama(len(tokenizer), 16, 1, 2, 64, key=Key(3)).save_pretrained(out / "model")
    rows = Dataset.from_dict({"prompt": [f"w{i % 12} w{(5 * i) % 12}" for i in range(24)]})

    def early_words(completions: list[str], **_: Any) -> list[float]:
        return [float(sum(w in words[:4] for w in c.split())) for c in completions]

    os.environ["TENSORBOARD_LOGGING_DIR"] = str(out / "tensorboard")
    settings = RLOOConfig(
        output_dir=str(out / "run"),
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=8,
        max_steps=STEPS,
        logging_steps=1,
        learning_rate=2e-2,
        beta=0.02,
        report_to="tensorboard",
        eval_strategy="steps",
        eval_steps=5,
        per_device_eval_batch_size=8,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    trainer = RLOOTrainer(
        model=str(out / "model"),
        processing_class=tokenizer,
        reward_funcs=early_words,
        args=settings,
        train_dataset=rows,
        eval_dataset=rows.select(range(8)),
    )
    trainer.train()
    trainer.save_state()
    shutil.copy(out / "run" / "trainer_state.json", out / "trainer_state.json")


class LeftOut(MetaPathFinder, Loader):
    """Stands for a package that wants a cluster's libraries when it is imported, and for all below it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        ours = fullname == self.name or fullname.startswith(f"{self.name}.")
        return ModuleSpec(fullname, self, is_package=True) if ours else None

    def create_module(self, spec: ModuleSpec) -> Any:
        return MagicMock()

    def exec_module(self, module: Any) -> None:
        module.__path__ = []


def make_verl(out: Path) -> None:
    import torch

    draws = np.random.default_rng(0)
    from verl import DataProto
    from verl.trainer.ppo import core_algos
    from verl.trainer.ppo.metric_utils import compute_data_metrics
    from verl.utils.tracking import Tracking

    for name in ("verl.experimental", "verl.workers.rollout", "verl.single_controller", "verl.workers.engine", "verl.checkpoint_engine"):
        sys.meta_path.insert(0, LeftOut(name))
    ray_trainer = import_module("verl.trainer.ppo.ray_trainer")
    os.environ["VERL_FILE_LOGGER_PATH"] = str(out / "verl.jsonl")
    os.environ["TENSORBOARD_DIR"] = str(out / "tensorboard")
    tracking = Tracking("project", "run", default_backend=["file", "tensorboard", "console"])
    controller = core_algos.FixedKLController(0.05)
    judge = ray_trainer.RayPPOTrainer.__new__(ray_trainer.RayPPOTrainer)
    with open(out / "console.log", "w") as console, contextlib.redirect_stdout(console):
        for step in range(1, STEPS + 1):
            rows, wide = 16, 12
            lengths = torch.from_numpy(draws.integers(4, wide + 1, rows))
            mask = (torch.arange(wide)[None] < lengths[:, None]).long()
            scores = torch.zeros(rows, wide)
            scores[torch.arange(rows), lengths - 1] = torch.from_numpy(draws.normal(0.05 * step, 1.0, rows)).float()
            old = torch.from_numpy(draws.normal(-2.0, 0.3, (rows, wide))).float()
            batch = {
                "prompts": torch.ones(rows, 5, dtype=torch.long),
                "responses": torch.ones(rows, wide, dtype=torch.long),
                "response_mask": mask,
                "attention_mask": torch.cat([torch.ones(rows, 5, dtype=torch.long), mask], 1),
                "token_level_scores": scores,
                "old_log_probs": old,
                "ref_log_prob": old - 0.01 * step * torch.from_numpy(draws.normal(1.0, 0.3, (rows, wide))).float(),
            }
            data, metrics = ray_trainer.apply_kl_penalty(DataProto.from_single_dict(batch), controller)
            data.batch["advantages"] = data.batch["returns"] = data.batch["token_level_rewards"]
            metrics |= compute_data_metrics(data, use_critic=False)
            metrics |= {"training/global_step": step, "training/epoch": 0}
            if step % 5 == 0:
                names = np.array(["math"] * 8)
                found = {"reward": draws.normal(0.05 * step, 1, 8).tolist(), "acc": (draws.random(8) < 0.5).astype(float).tolist()}
                metrics |= judge._val_metrics_update(names, [str(i // 2) for i in range(8)], found, [])
            tracking.log(data=metrics, step=step)
    tracking.finish()


def make_openrlhf(out: Path) -> None:
    import torch

    # what asks for a GPU's libraries when it is imported, as openrlhf's own tests leave it out
    parts = ("datasets", "datasets.utils", "utils.deepspeed", "utils.utils", "trainer.ray.launcher", "trainer.ray.vllm_engine")
    parts += tuple(f"trainer.ppo_utils.{name}" for name in ("experience", "experience_maker", "kl_controller", "samples_generator"))
    for name in parts:
        sys.modules[f"openrlhf.{name}"] = MagicMock()
    trainer = import_module("openrlhf.trainer.ppo_trainer")
    from openrlhf.utils.logging_utils import TensorboardLogger

    draws = np.random.default_rng(0)
    logger = TensorboardLogger(SimpleNamespace(logger=SimpleNamespace(tensorboard_dir=str(out), wandb=SimpleNamespace(run_name="run"))))
    for step in range(1, STEPS + 1):
        batch = [
            SimpleNamespace(
                info={"reward": torch.from_numpy(draws.normal(0.05 * step, 1.0, 1))},
                response_length=torch.tensor([float(draws.integers(4, 13))]),
                truncated=torch.tensor([float(draws.random() < 0.2)]),
                prompts=[f"p{i // 2}"],
                rewards=float(draws.normal(0.05 * step, 1.0)),
            )
            for i in range(16)
        ]
        logger.log_train(step, trainer.BasePPOTrainer._compute_rollout_stats(SimpleNamespace(), batch))
        if step % 5 == 0:
            logger.log_eval(step, trainer.compute_eval_metrics([(["math"] * 8, [f"p{i}" for i in range(8)], None, None)], batch, 2))
    logger.close()


if __name__ == "__main__":
    target = Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    {"trl": make_trl, "verl": make_verl, "openrlhf": make_openrlhf}[sys.argv[1]](target)
