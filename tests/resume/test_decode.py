"""`trueup decode` killed (SIGKILL) while it trains its scorer of prefixes and while it writes; it must end as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests_support import tiny_policy, tiny_reward

CHILD = Path(__file__).with_name("decode_child.py")
ENV = {**{k: v for k, v in os.environ.items() if k != "TRUEUP_CACHE"}, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
ARMS = ("best_of_n", "controlled", "tree_search_mcts")
KILLS = (3, 2, 2, 3)
"""At which rename of its own each process dies: with the fit's state, then its model, then among records."""


def start(config: Path, out: Path, *more: str) -> int:
    done = subprocess.run([sys.executable, str(CHILD), str(config), str(out), *more], env=ENV, capture_output=True, timeout=300)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    tiny_policy(spread=1.5).save(tmp_path / "policy")
    tiny_reward().save(tmp_path / "reward")
    (tmp_path / "prompts.txt").write_text("good bad\ndull\nask tell\ntell\n")
    config = tmp_path / "decode.yaml"
    arms = "".join(f"  - {{name: {kind.replace('_', '-')}, decoding: {kind}}}\n" for kind in ARMS)
    config.write_text(
        "policy: policy\nreward_models: [reward]\nprompts: prompts.txt\nmax_completion_length: 6\nsamples_per_prompt: 2\n"
        f"prompts_at_once: 1\nthreads: 1\n"
        f"fit_prefix: {{objective: fudge, samples_per_prompt: 100, batch_size: 16, epochs: 3}}\narms:\n{arms}"
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(config, whole) == 0
    for count in KILLS:
        assert start(config, broken, str(count)) == -signal.SIGKILL
        assert not (broken / "replies.jsonl").exists()
    assert start(config, broken) == 0
    same = ["replies.jsonl", "checkpoints/prefix/model.safetensors", *(f"records/{p.name}" for p in (whole / "records").iterdir())]
    assert len(same) == 2 + 3 * 4
    for name in same:
        assert (whole / name).read_bytes() == (broken / name).read_bytes(), name
