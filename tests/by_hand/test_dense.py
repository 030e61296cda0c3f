"""Dense rewards: segments and their tokens, losses, weights, and where the rewards fall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests_support import WORDS, tiny_parts, tiny_policy, tiny_reward
from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Prompt, Reply
from trueup.data.segments import Category, decoded_ends, encoded_ends, segment_ends, segments_of, token_ends
from trueup.data.spans import Marked, Span
from trueup.data.tokens import Sequences, encode_prompts, encode_replies, pack
from trueup.loop.config import LoopConfig
from trueup.loop.train import train
from trueup.models.reward import TrunkReward
from trueup.models.token_outputs import token_outputs
from trueup.ops.returns import on_last
from trueup.optimizers.experience import PromptBatch
from trueup.optimizers.ppo import PPOConfig
from trueup.optimizers.rloo import RLOOConfig
from trueup.rewards.combine import Product, WeightedSum
from trueup.rewards.dense.protocol import SegmentTargets
from trueup.rewards.dense.segments import SegmentsConfig
from trueup.rewards.dense.tokens import TokensConfig
from trueup.rewards.dense.values import ValuesConfig
from trueup.rewards.dense_reward import SegmentReward, load_dense, placed_reward, save_dense, worth
from trueup.rewards.fit_dense import DenseLearner, MarkedBatch
from trueup.rewards.in_force import RewardInForce, in_force
from trueup.rewards.learned import LearnedReward
from trueup.rewards.protocol import DenseReward, components_of
from trueup.rewards.shaping import Clipped, LengthPenalty

WHOLE = Category(name="whole", labels=("miss",), unit="reply", reading="value", labels_are="merits")
LINES = Category(name="line", labels=("wrong",), unit="line", weight=0.5, reading="chance")


def marked(text: str, *spans: Span, prompt: str = "ask", finished: bool = True) -> Marked:
    return Marked(id="m", prompt=Prompt(id="p", text=prompt), reply=Reply(text=text, finished=finished), spans=spans, where="row 3")


def cut(text: str, unit: Any) -> list[str]:
    ends = segment_ends(text, unit)
    return [text[a:b].strip() for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def test_replies_are_cut_by_rule() -> None:
    text = 'He came, saw the big grey town, and he won it all. Dr. Who and J. Doe left! "Why?" he asked\nno'
    assert cut(text, "sentence") == [
        "He came, saw the big grey town, and he won it all.",
        "Dr. Who and J. Doe left!",
        '"Why?"',
        "he asked",
        "no",
    ]
    # two words before the first comma are too few; seven before the second and five after it are enough
    assert cut(text, "clause")[:2] == ["He came, saw the big grey town,", "and he won it all."]
    assert cut("one two three four five, six seven eight nine", "clause") == ["one two three four five, six seven eight nine"]
    assert cut("a b\n\nc\n", "line") == ["a b", "c"]
    assert segment_ends("a b\n\nc\n", "line") == [3, 6]
    assert segment_ends("a b\n\nc\n", "reply") == [7]
    assert segment_ends(" ", "clause") == segment_ends("", "line") == []
    assert segment_ends("", "reply") == [0]


def test_spans_become_targets() -> None:
    text = "aa bb\ncc dd\nee ff"  # lines end at 5, 11, 17
    row = marked(text, Span(start=3, end=8, label="x"), Span(start=6, end=8, label="x", value=0.25), Span(start=12, end=14, label="y"))
    one = Category(name="c", labels=("x",), unit="line")
    assert segments_of(row, one) == [(5, 1.0), (11, 1.0), (17, 0.0)]
    assert segments_of(row, replace_(one, unknown_labels=("y",))) == [(5, 1.0), (11, 1.0), (17, None)]
    assert segments_of(row, replace_(one, unmarked="unknown")) == [(5, 1.0), (11, 1.0), (17, None)]
    # the first span has two words, "bb" and "cc", the second one
    assert segments_of(row, replace_(one, min_words=2)) == [(5, 1.0), (11, 1.0), (17, 0.0)]
    assert segments_of(row, replace_(one, min_words=3)) == [(5, 0.0), (11, 0.0), (17, 0.0)]
    # a span that reaches over a line's end by a space only is not in the next line
    assert segments_of(marked(text, Span(start=0, end=6, label="x")), one) == [(5, 1.0), (11, 0.0), (17, 0.0)]
    assert segments_of(marked(text, Span(start=0, end=2, label="x", value=-2.0)), one)[0].target == -2.0


def replace_(category: Category, **changes: Any) -> Category:
    return category.model_copy(update=changes)


def test_token_of_a_segments_end() -> None:
    # tokens reach 2, 7, 9 and 12 characters; an end inside a token is that token's
    assert token_ends([2, 6, 8, 12], [2, 7, 9, 12], 12) == [0, 1, 2, 3]
    assert token_ends([2, 3], [2, 7], 12) == [0, 1]
    assert token_ends([30], [2, 7], 31) == [1]  # clamped to the last token
    assert token_ends([7, 9], [7, 9, 9], 9) == [0, 2]  # what reaches the end of the text ends with its end-of-sequence token


@cache
def letters() -> PreTrainedTokenizerFast:
    """A token a character."""
    signs = ["<pad>", "<eos>", "<unk>", *"abdegiklostu \n"]
    backend = Tokenizer(models.WordLevel({s: i for i, s in enumerate(signs)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def sequences(tokenizer: PreTrainedTokenizerFast, replies: Sequence[Reply]) -> Sequences:
    prompts = encode_prompts(tokenizer, ["tell"] * len(replies))
    return pack(prompts, encode_replies(tokenizer, replies), tokenizer.pad_token_id)


REPLIES = [Reply(text="good bad\ndull"), Reply(text="tell", finished=False), Reply(text="good\nbad\nask ask")]


def test_characters_up_to_tokens() -> None:
    words, signs = tiny_policy().tokenizer, letters()
    assert encoded_ends(words, REPLIES[:2]) == [[4, 8, 13, 13], [4]]
    assert encoded_ends(signs, REPLIES[1:2]) == [[1, 2, 3, 4]]
    seq = sequences(signs, REPLIES)
    assert decoded_ends(signs, seq.replies, seq.mask) == encoded_ends(signs, REPLIES)
    assert decoded_ends(signs, torch.tensor([[1, 0]]), torch.tensor([[True, False]])) == [[0]]
    assert encoded_ends(words, []) == []


def columns(**of: list[list[float]]) -> SegmentTargets:
    found = {k: torch.tensor(v) for k, v in of.items()}
    whole = {k: found[k].long() for k in ("first", "last", "category")}
    return SegmentTargets(**whole, target=found["target"].float(), present=found["present"].bool())


SEGMENTS = columns(
    first=[[0, 2, 0], [0, 0, 0]],
    last=[[1, 2, 2], [1, 1, 0]],
    category=[[0, 0, 1], [0, 1, 0]],
    target=[[1, 0, 1], [0, 1, math.nan]],
    present=[[1, 1, 1], [1, 1, 0]],
)
L3 = math.log(3)  # log-odds of a chance of 3/4
OUTPUT = torch.tensor([[[9.0, 9.0], [L3, 9.0], [L3, -L3]], [[0.0, 0.0], [L3, 0.0], [math.nan, math.nan]]])
RIGHT, WRONG, EVEN = -math.log(3 / 4), -math.log(1 / 4), math.log(2)


def test_losses_of_segments() -> None:
    found = SegmentsConfig().loss(OUTPUT, SEGMENTS)
    torch.testing.assert_close(found[SEGMENTS.present], torch.tensor([RIGHT, WRONG, WRONG, WRONG, EVEN]))
    assert SegmentsConfig().elements(SEGMENTS).tolist() == [[1, 1, 1], [1, 1, 0]]
    # squared: (ln 3 - 1)^2, (ln 3)^2, (-ln 3 - 1)^2, (ln 3)^2, 1
    squared = ValuesConfig().loss(OUTPUT, SEGMENTS)[SEGMENTS.present]
    torch.testing.assert_close(squared, torch.tensor([(L3 - 1) ** 2, L3**2, (L3 + 1) ** 2, L3**2, 1.0]))


def test_losses_of_tokens() -> None:
    output = torch.tensor([[[L3, 0.0], [L3, L3], [-L3, -L3]], [[0.0, 0.0], [L3, 0.0], [math.nan, math.nan]]])
    found = TokensConfig().loss(output, SEGMENTS)
    # first row: category 0 right at tokens 0 and 1, right to say no at 2; category 1 even, right, wrong
    # second row: category 0 even, wrong; category 1 even twice
    wanted = torch.tensor([2 * RIGHT, RIGHT, EVEN + RIGHT + WRONG, EVEN + WRONG, 2 * EVEN])
    torch.testing.assert_close(found[SEGMENTS.present], wanted)
    assert TokensConfig().elements(SEGMENTS).tolist() == [[2, 1, 3], [2, 2, 0]]
    empty = replace(SEGMENTS, last=SEGMENTS.first - 1)  # segments that share their token with the one before
    assert TokensConfig().elements(empty).sum() == 0
    assert TokensConfig().loss(output, empty).abs().sum() == 0


def learner(objective: Any = None, categories: Sequence[Category] = (LINES, WHOLE)) -> DenseLearner:
    return DenseLearner(objective or SegmentsConfig(), tiny_reward(outputs=len(categories)), categories)


ROWS = [
    marked("good bad\ndull", Span(start=5, end=8, label="wrong")),
    marked("ask", Span(start=0, end=3, label="miss"), finished=False),
]


def collected(one: DenseLearner, rows: Sequence[Marked] = ROWS) -> Any:
    return one.collect(MarkedBatch(row=torch.arange(len(rows)), marked=tuple(rows)), Key(0))


def test_segments_in_tokens() -> None:
    found = collected(learner()).segments
    # "good bad" ends at token 1, "dull" at its <eos> 3, and so does the whole; "ask" is its only token
    assert found.first.tolist() == [[0, 2, 0], [0, 0, 0]]
    assert found.last.tolist() == [[1, 3, 3], [0, 0, 0]]
    assert found.category.tolist() == [[0, 0, 1], [0, 1, 0]]
    assert found.target.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert found.present.tolist() == [[True, True, True], [True, True, False]]


def test_categories_count_the_same_and_so_do_their_segments() -> None:
    one = learner()
    e = collected(one)
    assert one.totals(e).tolist() == [3.0, 2.0]
    # two categories; three lines share one half, two replies the other
    torch.testing.assert_close(one.weigh(e, one.totals(e)), torch.tensor([[1 / 6, 1 / 6, 1 / 4], [1 / 6, 1 / 4, 0.0]]))
    # of tokens: lines have 4 and 1, replies 4 and 1; a category without any leaves all to the other
    tokens = learner(TokensConfig())
    assert tokens.totals(collected(tokens)).tolist() == [5.0, 5.0]
    torch.testing.assert_close(one.weigh(e, torch.tensor([3.0, 0.0]))[0, :2], torch.tensor([1 / 3, 1 / 3]))


def test_the_loss_is_what_the_weights_say() -> None:
    one = learner()
    e = collected(one)
    loss = one.loss(e, one.weigh(e, one.totals(e)))
    said = token_outputs(one.model, e.sequences)
    wanted = F.softplus(-said[0, 1, 0]) / 6 + F.softplus(said[0, 3, 0]) / 6 + F.softplus(said[1, 0, 0]) / 6
    wanted = wanted + F.softplus(said[0, 3, 1]) / 4 + F.softplus(-said[1, 0, 1]) / 4
    torch.testing.assert_close(loss.value, wanted)
    assert loss.metrics["line/target"].value == pytest.approx(1 / 3)
    right = [said[0, 1, 0] > 0, said[0, 3, 0] <= 0, said[1, 0, 0] <= 0]
    assert loss.metrics["line/accuracy"].value == pytest.approx(sum(float(x) for x in right) / 3)
    assert "line/accuracy" not in learner(ValuesConfig()).loss(e, one.weigh(e, one.totals(e))).metrics


def test_cut_replies_lose_their_first_segments() -> None:
    one = learner()
    one.model.cut_replies, one.model.max_length = True, 4  # a prompt token and the last three of the reply
    found = collected(one, [marked("good\nbad\nask ask", Span(start=0, end=4, label="wrong"))])
    # of tokens good | bad | ask ask <eos> the last three are left
    assert found.segments.present.sum(1).tolist() == [2]
    assert found.segments.first[0, :2].tolist() == [0, 0]
    assert found.segments.last[0, :2].tolist() == [2, 2]
    one.model.max_length = 5
    assert collected(one, [marked("good\nbad\nask ask")]).segments.last[0, :3].tolist() == [0, 3, 3]


def test_a_model_that_reads_no_eos_reads_the_token_before() -> None:
    one = learner()
    one.model.reads_eos = False
    # tokens good | bad | dull: the last line and the whole end at token 2
    assert collected(one).segments.last.tolist() == [[1, 2, 2], [0, 0, 0]]
    policy = tiny_policy().tokenizer
    reward = SegmentReward(one.model, [LINES, WHOLE], policy)
    seq = sequences(policy, REPLIES)
    found = reward.token_rewards(["tell"] * 3, REPLIES, seq)
    said = token_outputs(one.model, one.model.encode(["tell"] * 3, REPLIES))
    # the policy's reply still ends with its <eos>, token 3
    torch.testing.assert_close(found[0, 3], -0.5 * torch.tanh(said[0, 2, 0] / 2) + said[0, 2, 1])


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(UserError, match="as many outputs, and it has 1"):
        DenseLearner(SegmentsConfig(), tiny_reward(), (LINES, WHOLE))
    with pytest.raises(UserError, match="own name"):
        DenseLearner(SegmentsConfig(), tiny_reward(outputs=2), (LINES, LINES))
    rated = marked("good", Span(start=0, end=4, label="wrong", value=-1.0))
    with pytest.raises(UserError, match="'line' has the value -1") as caught:
        collected(learner(), [rated])
    assert caught.value.where == "row 3"
    assert collected(learner(ValuesConfig()), [rated]).segments.target[0, 0] == -1


def test_outputs_at_the_last_token_are_the_models_own() -> None:
    model = tiny_reward(outputs=2)
    seq = model.encode(["ask", "tell", "ask bad"], REPLIES)
    last = seq.mask.sum(1) - 1
    for lean in (True, False):
        if not lean:
            model.model.config.attention_bias = True  # the general path, on the same weights
        found = token_outputs(model, seq)
        torch.testing.assert_close(found[torch.arange(3), last], model.outputs(seq), rtol=1e-4, atol=1e-5)
        assert found.shape == (3, seq.mask.shape[1], 2)


def test_worth_of_a_judgement() -> None:
    z = torch.tensor([L3, -L3, 0.0])
    error = Category(name="e", labels=("x",), weight=0.3)
    torch.testing.assert_close(worth(z, error), torch.tensor([-0.3, 0.3, 0.3]))
    torch.testing.assert_close(worth(z, replace_(error, labels_are="merits")), torch.tensor([0.3, -0.3, -0.3]))
    # 1 - 2 P(error): 1 - 3/2 and 1 - 1/2
    torch.testing.assert_close(worth(z, replace_(error, reading="chance")), torch.tensor([-0.15, 0.15, 0.0]))
    value = replace_(error, reading="value", labels_are="merits", mean=0.5, spread=2.0)
    torch.testing.assert_close(worth(torch.tensor([2.5]), value), torch.tensor([0.3]))
    # weights trade categories off: the reward is linear in each
    torch.testing.assert_close(worth(z, replace_(error, weight=0.6)), 2 * worth(z, error))


def dense(policy: PreTrainedTokenizerFast, categories: Sequence[Category] = (LINES, WHOLE), rows: int = 256) -> SegmentReward:
    return SegmentReward(tiny_reward(outputs=len(categories)), categories, policy, rows)


def test_rewards_fall_at_segment_ends() -> None:
    policy = tiny_policy().tokenizer
    reward = dense(policy)
    prompts, seq = ["tell"] * 3, sequences(policy, REPLIES)
    found = reward.token_rewards(prompts, REPLIES, seq)
    said = token_outputs(reward.model, reward.model.encode(prompts, REPLIES)).detach()
    wanted = torch.zeros(3, 5)
    # lines end at tokens 1 and 3 | 0 | 0, 1 and 4; whole replies at 3 | 0 | 4
    for row, column in ((0, 1), (0, 3), (1, 0), (2, 0), (2, 1), (2, 4)):
        wanted[row, column] += -0.5 * torch.tanh(said[row, column, 0] / 2)
    for row, column in ((0, 3), (1, 0), (2, 4)):
        wanted[row, column] += said[row, column, 1]
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found.sum(1), reward.score(prompts, REPLIES))
    torch.testing.assert_close(dense(policy, rows=1).token_rewards(prompts, REPLIES, seq), found)


def test_another_tokenizer_moves_places_and_not_rewards() -> None:
    words, signs = tiny_policy().tokenizer, letters()
    prompts = ["tell"] * 3
    by_word = dense(words).token_rewards(prompts, REPLIES, sequences(words, REPLIES))
    by_sign = dense(signs).token_rewards(prompts, REPLIES, sequences(signs, REPLIES))
    # "good bad" is 8 characters and "good bad\ndull" 13, then <eos>; "tell" is 4; "good", "good\nbad" and all are 4, 8 and 16, then <eos>
    assert [r.nonzero().flatten().tolist() for r in by_sign] == [[7, 13], [3], [3, 7, 16]]
    assert by_sign[0, 7] == by_word[0, 1]
    torch.testing.assert_close(by_sign.sum(1), by_word.sum(1))


def test_one_segment_is_the_terminal_reward() -> None:
    model, policy = tiny_reward(), tiny_policy().tokenizer
    prompts, seq = ["tell"] * 3, sequences(policy, REPLIES)
    plain = LearnedReward(model)
    found = SegmentReward(model, [WHOLE], policy).token_rewards(prompts, REPLIES, seq)
    torch.testing.assert_close(found, on_last(plain.score(prompts, REPLIES), seq.mask), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(placed_reward(plain, prompts, REPLIES, seq), found, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(placed_reward(RewardInForce(plain), prompts, REPLIES, seq), found, rtol=1e-4, atol=1e-5)


def test_sums_keep_every_reward_in_its_place() -> None:
    policy = tiny_policy().tokenizer
    lines, plain = dense(policy, [LINES]), LearnedReward(tiny_reward(seed=2))
    total = WeightedSum([(2.0, lines), (0.3, plain)])
    prompts, seq = ["tell"] * 3, sequences(policy, REPLIES)
    found = total.token_rewards(prompts, REPLIES, seq)
    assert isinstance(total, DenseReward)
    assert not isinstance(plain, DenseReward)
    wanted = 2.0 * lines.token_rewards(prompts, REPLIES, seq) + 0.3 * on_last(plain.score(prompts, REPLIES), seq.mask)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found.sum(1), total.score(prompts, REPLIES, seq))
    with pytest.raises(ValueError, match="policy's tokenizer"):
        SegmentReward(lines.model, [LINES]).token_rewards(prompts, REPLIES, seq)


def test_shaping_keeps_places_or_gives_one_number_at_the_end() -> None:
    """A price of 0.5 a word beyond the first."""
    policy = tiny_policy().tokenizer
    lines = dense(policy, [LINES])
    prompts, seq = ["tell"] * 3, sequences(policy, REPLIES)
    placed = lines.token_rewards(prompts, REPLIES, seq)
    # "good bad / dull" has 3 words, "tell" 1, "good / bad / ask ask" 4: 2, 0 and 3 beyond the first
    price = on_last(0.5 * torch.tensor([2.0, 0.0, 3.0]), seq.mask)
    cheaper = LengthPenalty(lines, per_word=0.5, free_words=1)
    assert isinstance(cheaper, DenseReward)
    torch.testing.assert_close(cheaper.token_rewards(prompts, REPLIES, seq), placed - price)
    torch.testing.assert_close(cheaper.score(prompts, REPLIES), (placed - price).sum(1))
    for whole in (Clipped(lines, -0.5, 0.5), Product([(1.0, Clipped(lines, 0.0, 1.0))])):
        assert not isinstance(whole, DenseReward)
        torch.testing.assert_close(placed_reward(whole, prompts, REPLIES, seq), on_last(whole.score(prompts, REPLIES), seq.mask))


def test_a_sum_tells_what_it_is_made_of() -> None:
    lines, plain = dense(tiny_policy().tokenizer, [LINES]), LearnedReward(tiny_reward(seed=2))
    total = WeightedSum([(2.0, lines), (0.3, plain)], ["lines", "plain"])
    assert components_of(total) == components_of(RewardInForce(total)) == {"lines": (2.0, lines), "plain": (0.3, plain)}
    assert components_of(plain) == components_of(RewardInForce(plain)) == {}
    assert in_force(RewardInForce(plain)) is in_force(plain) is plain
    assert list(components_of(WeightedSum([(1.0, plain), (1.0, lines)]))) == ["1", "2"]
    with pytest.raises(ValueError, match="distinct names"):
        WeightedSum([(1.0, plain), (1.0, lines)], ["same", "same"])


def test_saved_and_loaded(tmp_path: Path) -> None:
    policy = tiny_policy().tokenizer
    reward = dense(policy)
    save_dense(str(tmp_path / "dense"), reward)
    again = load_dense(tmp_path / "dense", policy)
    assert again.categories == reward.categories
    torch.testing.assert_close(again.score(["tell"] * 3, REPLIES), reward.score(["tell"] * 3, REPLIES))
    with pytest.raises(UserError, match="no dense reward model"):
        load_dense(tmp_path)
    (tmp_path / "dense" / "trueup_dense.json").write_text('[{"name": "x", "labels": ["a"], "units": "line"}]')
    with pytest.raises(UserError, match="Did you mean 'unit'"):
        load_dense(tmp_path / "dense")
    (tmp_path / "dense" / "trueup_dense.json").write_text("{}")
    with pytest.raises(UserError, match="list of categories"):
        load_dense(tmp_path / "dense")


class PerWord:
    """1 at every token 'good'."""

    def token_rewards(self, prompts: Any, replies: Any, sequences: Sequences) -> torch.Tensor:
        good = tiny_policy().tokenizer.convert_tokens_to_ids("good")
        return ((sequences.replies == good) & sequences.mask).float()

    def score(self, prompts: Any, replies: Sequence[Reply], sequences: Any = None) -> torch.Tensor:
        return torch.tensor([float(r.text.split().count("good")) for r in replies])


def test_optimizers_see_dense_rewards() -> None:
    parts = replace(tiny_parts(), reward=PerWord())
    tokens = parts.policy.tokenizer("ask")["input_ids"]
    batch = PromptBatch(row=torch.arange(2), prompt=("ask", "ask"), ids=(tuple(tokens),) * 2)
    shared: dict[str, Any] = {"max_completion_length": 6, "num_generations": 4, "beta": 0.0}
    ppo = PPOConfig(**shared, lam=1.0).build(parts)
    e = ppo.collect(batch, Key(4))
    placed = PerWord().token_rewards(None, None, e.sequences)
    assert len({tuple(r.tolist()) for r in placed}) > 3
    # gamma = lambda = 1: the critic's target is what is still to come
    to_come = placed.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(e.target[e.sequences.mask], to_come[e.sequences.mask])
    torch.testing.assert_close(e.score, placed.sum(1))
    # a reply that did not end pays at its last token, and so in every target before it
    late = PPOConfig(**shared, lam=1.0, missing_eos_penalty=2.0).build(parts).collect(batch, Key(4))
    owed = to_come - 2.0 * (~e.finished).float()[:, None]
    assert not bool(e.finished.all())
    torch.testing.assert_close(late.target[e.sequences.mask], owed[e.sequences.mask])
    found = RLOOConfig(**shared).build(parts).collect(batch, Key(4))
    torch.testing.assert_close(found.score, placed.sum(1))


@pytest.mark.parametrize("objective", [SegmentsConfig(), TokensConfig()], ids=lambda o: o.kind)
def test_it_learns_which_lines_are_wrong(objective: Any) -> None:
    """A line is wrong where it ends with 'bad'; held-out lines are told apart."""
    generator = Key(3).generator()

    def made(n: int) -> list[Marked]:
        rows = []
        for _ in range(n):
            lines = [" ".join(generator.choice(WORDS, 2)) for _ in range(3)]
            starts = [sum(len(x) + 1 for x in lines[:i]) for i in range(3)]
            spans = [Span(start=s, end=s + len(x), label="wrong") for s, x in zip(starts, lines, strict=True) if x.endswith("bad")]
            rows.append(marked("\n".join(lines), *spans))
        return rows

    data, held_out = made(128), made(64)
    one = learner(objective, [LINES])

    def batch(step: int) -> MarkedBatch:
        rows = torch.arange(32) + 32 * (step % 4)
        return MarkedBatch(row=rows, marked=tuple(data[i] for i in rows.tolist()))

    config = LoopConfig(learning_rate=3e-3)
    for _ in train(one, batch, steps=80, config=config, key=Key(1), accelerator=Accelerator(cpu=True)):
        pass
    e = collected(one, held_out)
    found = one.loss(e, one.weigh(e, one.totals(e))).metrics
    base = found["line/target"].value
    assert base is not None
    accuracy = found["line/accuracy"].value
    assert accuracy is not None
    assert accuracy > 0.95 > 1 - base


def test_only_causal_trunks_read_token_by_token() -> None:
    with pytest.raises(UserError, match="causal trunk"):
        SegmentReward(object(), [LINES])  # type: ignore[arg-type]
    assert isinstance(dense(letters()).model, TrunkReward)
