"""Distances to training data and learning curves: numbers worked out on paper, and no leak between parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Judged, Prompt, Reply
from trueup.data.splits import groups_of
from trueup.mismatch.reward_model import labels
from trueup.mismatch.reward_model.question import CardSettings, Evidence
from trueup.models.embedding_reward import new_embedding_reward
from trueup.models.embeddings import Vectors
from trueup.pipeline.config import RewardStageConfig
from trueup.pipeline.training_data import distances, learning_curve, refit_head, with_distances

KEY = Key(0)


class Angles:
    """A text is its own angle in degrees."""

    name, dimension = "angles", 2

    def embed(self, texts: Sequence[str]) -> Vectors:
        turned = np.radians([float(t) for t in texts])
        return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)


def group(turn: int, number: int = 0, ratings: tuple[float, ...] = (1.0, 0.0), texts: tuple[str, ...] = ("a", "b")) -> Judged:
    text = str(turn)
    return Judged(
        id=f"{turn}-{number}", prompt=Prompt(id=f"{turn}-{number}", text=text), replies=tuple(Reply(text=t) for t in texts), ratings=ratings
    )


def test_distances_in_units_of_the_training_data() -> None:
    # known at 0, 60 and 120 degrees: each has another at 60, a distance of 1 - cos 60 = 1/2, which is the unit
    known = ["0", "60", "120", "60"]
    found = distances(["0", "90", "180", "240", "0"], known, Angles(), KEY)
    # 90 is 30 from the nearest, 180 is 60, 240 is 120
    assert found == pytest.approx([0, 2 - math.sqrt(3), 1, 3, 0], abs=1e-6)
    with pytest.raises(UserError, match="fewer than two different texts"):
        distances(["0"], ["60", "60"], Angles(), KEY)


def test_prompts_and_replies_have_distances_of_their_own() -> None:
    samples = pd.DataFrame({"prompt": ["0", "20"], "reply": ["10", "90"]})
    training = [group(0, texts=("10", "100")), group(60, texts=("10", "100"))]
    found = with_distances(samples, training, Angles(), KEY)
    # prompts 0 and 60: unit 1 - cos 60 = 1/2; 20 is 20 away from 0. Replies 10 and 100: unit 1 - cos 90 = 1; 90 is 10 away from 100
    assert found["context_distance"].tolist() == pytest.approx([0, 2 * (1 - math.cos(math.radians(20)))], abs=1e-6)
    assert found["output_distance"].tolist() == pytest.approx([0, 1 - math.cos(math.radians(10))], abs=1e-6)
    with pytest.raises(UserError, match="without the columns 'prompt' and 'reply'"):
        with_distances(samples.drop(columns="reply"), training, Angles(), KEY)


def test_a_learning_curve_learns_from_other_turns_only() -> None:
    groups = [group(t, n) for t in range(20) for n in range(2)] + [
        group(99, ratings=(1.0, 1.0)),
        group(98, ratings=(2.0, 1.0, 0.0), texts=("a", "b", "c")),
    ]
    seen: dict[tuple[int, ...], list[set[str]]] = {}

    def refit(kept: Sequence[Judged], key: Key) -> Callable[[Sequence[Judged]], Sequence[float]]:
        turns = set(groups_of(list(kept)))

        def judge(asked: Sequence[Judged]) -> Sequence[float]:
            held = tuple(sorted(int(t) for t in groups_of(list(asked))))
            assert not turns & set(groups_of(list(asked)))
            seen.setdefault(held, []).append(turns)
            # right once it has seen more than 8 turns; undecided before
            return [float(len(turns) > 8)] * len(asked)

        return judge

    curve = learning_curve(groups, refit, KEY, shares=(1.0, 0.5, 0.25))
    # 20 turns in 5 parts: 16 to learn from, so 4, 8 and 16 of them, with 2 pairs each; the tie and the group of three do not count
    assert curve.groupby("share")["labels"].first().tolist() == [8, 16, 32]
    assert curve.groupby("share")["right"].mean().tolist() == [0.5, 0.5, 1.0]
    assert curve.groupby("share").size().tolist() == [40, 40, 40]
    assert len(seen) == 5
    for fewest, more, most in seen.values():
        assert fewest < more < most
    with pytest.raises(UserError, match="are too few for a learning curve"):
        learning_curve(groups[:4], refit, KEY)


def test_the_question_about_labels() -> None:
    # ten prompts: right from the first share on, or only at the last, or never
    def evidence(early: int, late: int, prompts: int = 40) -> Evidence:
        rows = [
            {"model": "m", "share": share, "labels": n, "prompt_id": f"p{i:02d}", "right": float(i < early or (share == 1.0 and i < late))}
            for share, n in ((0.5, 50), (1.0, 100))
            for i in range(prompts)
        ]
        return Evidence(model="m", rows=pd.DataFrame(), curve=pd.DataFrame(rows), settings=CardSettings(), key=KEY)

    found = labels.answer(evidence(20, 36))
    values = {e.name: e.value for e in found.estimates}
    assert values == {"accuracy_at_50": pytest.approx(0.5), "accuracy_at_100": pytest.approx(0.9), "last_rise": pytest.approx(0.4)}
    assert found.series["labels"] == [50, 100]
    assert found.verdict == "alarm"
    assert labels.answer(evidence(30, 31)).verdict == "quiet"
    assert labels.answer(evidence(5, 9, prompts=10)).verdict == "not enough data"


def test_a_head_is_fitted_afresh() -> None:
    class Words(Angles):
        def embed(self, texts: Sequence[str]) -> Vectors:
            return super().embed(["0" if "good" in t else "90" for t in texts])

    model = new_embedding_reward(Words(), Key(1), features="reply")
    before = model.head[-1].weight.detach().clone()
    groups = [group(t, texts=("good", "bad")) for t in range(16)]
    judge = refit_head(model, RewardStageConfig(epochs=40, batch_size=8))(groups, KEY)
    asked = [group(50, texts=("good", "bad")), group(51, texts=("bad", "good"))]
    first, second = judge(asked)
    assert first > 0 > second
    assert first == pytest.approx(-second)
    # the model that was examined stays as it was
    assert (model.head[-1].weight == before).all()
