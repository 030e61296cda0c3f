"""Families of components and their members, read from the files without importing them."""

from __future__ import annotations

import ast
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trueup
from trueup.core.errors import UserError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Family:
    """Components that can stand in one another's place."""

    name: str
    what: str
    packages: tuple[str, ...]
    """Folders whose files are its members."""
    base: str
    """``module:Class`` of the configuration that members derive from."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A kind of a family."""

    family: str
    kind: str
    module: str
    summary: str


FAMILIES = (
    Family(name="optimizers", what="train the policy", packages=("trueup.optimizers",), base="trueup.optimizers.protocol:OptimizerConfig"),
    Family(
        name="decoding",
        what="guide the policy while it writes",
        packages=("trueup.decoding.methods",),
        base="trueup.decoding.protocol:DecodingConfig",
    ),
    Family(
        name="objectives",
        what="losses of reward models",
        packages=("trueup.rewards.objectives",),
        base="trueup.rewards.objectives.protocol:ObjectiveConfig",
    ),
    Family(
        name="dense",
        what="losses of reward models that judge segments",
        packages=("trueup.rewards.dense",),
        base="trueup.rewards.dense.protocol:DenseObjectiveConfig",
    ),
    Family(
        name="rewards",
        what="what the policy is optimised against",
        packages=("trueup.rewards.kinds", "trueup.rewards.verifiable"),
        base="trueup.rewards.config:RewardConfig",
    ),
    Family(name="worlds", what="prompts, preferences and truth", packages=("trueup.sandbox",), base="trueup.sandbox.world:WorldConfig"),
    Family(
        name="selects",
        what="which offline pairs a realignment learns from",
        packages=("trueup.realign.select",),
        base="trueup.realign.select.protocol:SelectConfig",
    ),
    Family(
        name="diagnoses",
        what="questions a report answers",
        packages=("trueup.mismatch.reward_policy", "trueup.mismatch.reward_evaluation", "trueup.mismatch.policy_evaluation"),
        base="trueup.core.config:Config",
    ),
)


def family(name: str) -> Family:
    """The family of that name.

    Raises:
        UserError: there is none.
    """
    names = [f.name for f in FAMILIES]
    if name not in names:
        raise UserError(f"no family '{name}'.{did_you_mean(name, names)} Families: {', '.join(names)}.")
    return FAMILIES[names.index(name)]


def members(of: Family) -> list[Member]:
    """The kinds of a family, sorted, each with the first sentence of its file."""
    found = []
    for package in of.packages:
        folder = Path(trueup.__file__).parent.joinpath(*package.split(".")[1:])
        for file in sorted(folder.glob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            if not file.name.startswith("_") and _is_member(tree, of):
                found.append(
                    Member(
                        family=of.name, kind=file.stem, module=f"{package}.{file.stem}", summary=_sentence(ast.get_docstring(tree) or "")
                    )
                )
    return found


def find(kind: str) -> tuple[Family, str]:
    """The family and module of a kind.

    Args:
        kind: ``ppo``, ``optimizers/ppo``, or a dotted outside module (its family is found by what it defines).

    Raises:
        UserError: no such kind, or several families have one.
    """
    if "." in kind:
        return _family_of_module(kind), kind
    wanted, _, name = kind.rpartition("/")
    searched = [family(wanted)] if wanted else list(FAMILIES)
    known = [m for f in searched for m in members(f)]
    found = [m for m in known if m.kind == name]
    if not found:
        names = sorted({m.kind for m in known} | ({"run"} if not wanted else set()))
        raise UserError(f"no kind '{name}'.{did_you_mean(name, names)} Available: {', '.join(names)}, or a dotted module name.")
    if len(found) > 1:
        raise UserError(f"'{name}' is in several families. Say which: {', '.join(f'{m.family}/{m.kind}' for m in found)}.")
    return family(found[0].family), found[0].module


def base_class(of: Family) -> type[Any]:
    """The configuration class that members derive from; importing it may import torch."""
    module, _, name = of.base.partition(":")
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found


def _family_of_module(name: str) -> Family:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"no module '{name}' ({error}). A dotted kind names a module that Python can import.") from error
    for one in FAMILIES:
        base = base_class(one)
        if any(isinstance(c, type) and issubclass(c, base) and c is not base and c.__module__ == name for c in vars(module).values()):
            return one
    raise UserError(f"module '{name}' defines no component. It needs one class derived from a family's configuration.")


def _is_member(tree: ast.Module, of: Family) -> bool:
    """Whether a file defines a component: a class that names its ``kind``; a diagnosis names its question instead."""
    if of.name == "diagnoses":
        return any(isinstance(node, ast.FunctionDef) and node.name in ("diagnose", "compare") for node in tree.body)
    fields = (item for node in tree.body if isinstance(node, ast.ClassDef) for item in node.body if isinstance(item, ast.AnnAssign))
    return any(isinstance(item.target, ast.Name) and item.target.id == "kind" for item in fields)


def _sentence(text: str) -> str:
    """The first sentence of a docstring, on one line, without references in brackets."""
    first = " ".join(text.strip().split("\n\n")[0].split())
    first = re.sub(r" \([^()]*\d{4}[^()]*\)", "", first)
    return re.split(r"(?<=[.?!]) ", first)[0]
