"""Every optimizer against the fixed point its objective defines, by sampled gradients in a world where all replies are listed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from tests.oracle.enumerated import PROMPTS, every_logp, kl_to, make_world, share_of_optimum, trained
from trueup.data.tokens import decode_replies
from trueup.optimizers.advantage_model_ppo import AdvantageModelPPOConfig
from trueup.optimizers.grpo import GRPOConfig
from trueup.optimizers.p3o import P3OConfig
from trueup.optimizers.ppo import PPOConfig
from trueup.optimizers.protocol import OnlineConfig
from trueup.optimizers.reinforce import ReinforceConfig
from trueup.optimizers.remax import RemaxConfig
from trueup.optimizers.rloo import RLOOConfig
from trueup.sandbox.exact import expectation, objective

WORLD = make_world()
BETAS = (0.7, 1.0, 2.0)


@dataclass(frozen=True)
class Case:
    """An optimizer whose fixed point is the maximum of E r - beta KL(pi || ref)."""

    config: type[OnlineConfig]
    settings: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)


REGULARISED = {
    "rloo": Case(RLOOConfig, {"num_generations": 32}),
    "rloo, k2 in the loss": Case(RLOOConfig, {"num_generations": 32, "kl_penalty": "k2"}),
    "reinforce": Case(ReinforceConfig, {}),
    "remax": Case(RemaxConfig, {"num_generations": 32}),
    "grpo without deviation": Case(
        GRPOConfig, {"num_generations": 32, "kl_penalty": "reward", "scale_rewards": "none", "loss_type": "dr_grpo"}, {"steps": 200}
    ),
    "p3o": Case(P3OConfig, {"num_generations": 32}),
    "p3o, ratios apart": Case(P3OConfig, {"num_generations": 32, "clipping": "separate"}),
    "ppo": Case(PPOConfig, {"num_generations": 32, "lam": 1.0}),
    "advantage_model_ppo": Case(AdvantageModelPPOConfig, {"num_generations": 32, "lam": 1.0, "ptx_coef": 0.0}),
}


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("name", REGULARISED)
def test_the_regularised_optimum_is_reached(name: str, beta: float) -> None:
    case = REGULARISED[name]
    found = trained(WORLD, case.config(**WORLD.limits, **case.settings, beta=beta), **case.run)
    assert share_of_optimum(WORLD, found.logp, beta) >= 0.99


def test_the_enumeration_is_what_policies_write() -> None:
    # 1 + 5 finished replies of at most one word, and 25 of two words
    assert WORLD.logp_ref.shape == (2, 31)
    np.testing.assert_allclose(np.exp(WORLD.logp_ref).sum(1), 1.0, rtol=1e-5)
    seq = WORLD.sequences
    assert decode_replies(WORLD.reference.tokenizer, seq.replies, seq.mask) == list(WORLD.space.replies) * 2
    asked = [row[valid].tolist() for row, valid in zip(seq.tokens[:, : seq.prompt_width], seq.prompt_mask, strict=True)]
    assert asked == [list(ids) for ids in WORLD.ids for _ in range(31)]
    with torch.no_grad():
        assert every_logp(WORLD.reference, seq).shape == (len(PROMPTS), 31)


@pytest.mark.parametrize("beta", BETAS)
def test_what_falls_short_of_the_optimum_is_its_divergence(beta: float) -> None:
    # J(pi*) - J(pi) = beta KL(pi || pi*) for every policy (methods: the regret identity); at pi_ref it is the whole gain
    best = WORLD.best(beta)
    gain = float((objective(best, WORLD.logp_ref, WORLD.reward, beta) - expectation(WORLD.logp_ref, WORLD.reward)).mean())
    assert gain == pytest.approx(beta * kl_to(WORLD.logp_ref, best), rel=1e-5)
    assert share_of_optimum(WORLD, WORLD.logp_ref, beta) == pytest.approx(0.0, abs=1e-6)
    assert share_of_optimum(WORLD, best, beta) == pytest.approx(1.0, abs=1e-6)
