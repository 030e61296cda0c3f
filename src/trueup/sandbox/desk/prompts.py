"""Which prompts exist, and how they fall into splits: disjoint texts, a known share of contexts covered by preference data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trueup.core.errors import UserError
from trueup.core.rng import Key
from trueup.data.rows import Prompt, Split
from trueup.sandbox.desk.language import KINDS, Context, Kind, contexts, wordings


@dataclass(frozen=True)
class Splits:
    """All prompts of a world.

    Args:
        train, validation, test: disjoint prompts of each split.
        lessons: further prompts, about all contexts, that only demonstrations use.
        covered: names of the contexts that training and validation may ask about.
    """

    train: tuple[Prompt, ...]
    validation: tuple[Prompt, ...]
    test: tuple[Prompt, ...]
    lessons: tuple[Prompt, ...]
    covered: frozenset[str]


def make_splits(sizes: Mapping[Split, int], shares: Mapping[Kind, float], covered_share: float, key: Key) -> Splits:
    """Draw the prompts of every split.

    Args:
        sizes: prompts per split.
        shares: relative number of prompts of each kind.
        covered_share: share of each kind's contexts that training may use; the test split asks about both sides in this proportion.
        key: where the random numbers come from.

    Raises:
        UserError: more prompts are asked for than the language has.
    """
    known = {kind: [c for c in contexts() if c.kind == kind] for kind in KINDS}
    drawn: dict[str, list[Prompt]] = {"train": [], "validation": [], "test": [], "lessons": []}
    covered: set[str] = set()
    wanted = {split: _apportion(size, shares) for split, size in sizes.items()}
    for kind in KINDS:
        order = (key / kind / "contexts").permutation(len(known[kind]))
        n_inside = max(1, round(covered_share * len(order)))
        inside, outside = ([known[kind][int(i)] for i in part] for part in (order[:n_inside], order[n_inside:]))
        covered |= {c.name for c in inside}
        pool, other = _shuffled(inside, key / kind / "inside"), _shuffled(outside, key / kind / "outside")
        n_other = min(round(wanted["test"][kind] * len(outside) / len(order)), len(other) // 2)
        counts = {"train": wanted["train"][kind], "validation": wanted["validation"][kind], "test": wanted["test"][kind] - n_other}
        if sum(counts.values()) > len(pool):
            raise UserError(
                f"{sum(counts.values())} prompts of kind '{kind}' are wanted, the language has {len(pool)}. "
                "Lower train_prompts, validation_prompts or test_prompts, or raise covered_share."
            )
        for split, count in counts.items():
            drawn[split] += [_prompt(*pool.pop(), split, covered=True) for _ in range(count)]
        drawn["test"] += [_prompt(*other.pop(), "test", covered=False) for _ in range(n_other)]
        drawn["lessons"] += [_prompt(*item, "lessons", covered=True) for item in pool]
        drawn["lessons"] += [_prompt(*item, "lessons", covered=False) for item in other]
    named = {split: tuple(_named(prompts, split, key)) for split, prompts in drawn.items()}
    return Splits(**named, covered=frozenset(covered))


def _apportion(size: int, shares: Mapping[Kind, float]) -> dict[Kind, int]:
    """Whole numbers that add up to ``size``, nearest to the shares (largest remainders)."""
    whole = sum(shares.values())
    exact = {kind: size * shares.get(kind, 0.0) / whole for kind in KINDS}
    counts = {kind: int(value) for kind, value in exact.items()}
    for kind in sorted(KINDS, key=lambda k: counts[k] - exact[k])[: size - sum(counts.values())]:
        counts[kind] += 1
    return counts


def _shuffled(group: list[Context], key: Key) -> list[tuple[Context, str]]:
    """Every wording of every context in random order, one wording of each context before the second of any."""
    if not group:
        return []
    orders = [[(c, text) for text in wordings(c)] for c in group]
    ranks = [(key / c.name).permutation(len(texts)) for c, texts in zip(group, orders, strict=True)]
    rounds = [[texts[int(rank[i])] for texts, rank in zip(orders, ranks, strict=True)] for i in range(len(orders[0]))]
    return [item for one in reversed(rounds) for item in one]  # users pop from the end


def _prompt(context: Context, text: str, split: str, *, covered: bool) -> Prompt:
    tags = {"kind": context.kind, "context": context.name, "covered": "yes" if covered else "no"}
    return Prompt(id=text, text=text, split="train" if split == "lessons" else split, tags=tags)  # type: ignore[arg-type]


def _named(prompts: list[Prompt], split: str, key: Key) -> list[Prompt]:
    """In random order, numbered."""
    order = (key / "order" / split).permutation(len(prompts))
    return [Prompt(id=f"{split}-{n:04d}", text=p.text, split=p.split, tags=p.tags) for n, p in enumerate(prompts[int(i)] for i in order)]
