"""`list` and `config show` know every kind, and what they print is what the code does."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from trueup.cli import main
from trueup.cli.config import configuration
from trueup.cli.families import FAMILIES, base_class, find, members
from trueup.cli.template import bounds, entries, render, type_name
from trueup.core.component import offered
from trueup.core.config import Config
from trueup.core.errors import UserError

KINDS = [f"{m.family}/{m.kind}" for family in FAMILIES for m in members(family)]


class Inner(Config):
    """Inside."""

    size: int = Field(default=3, ge=1, le=9)
    """How many."""


class Item(Config):
    """One of several."""

    name: str = Field(pattern="^[a-z]+$")
    """Its name."""


class Outer(Config):
    """What it is for.

    More about it.
    """

    must: str
    """Has no default."""
    rate: Annotated[float, Field(gt=0)] = 1e-5
    """How fast: steps."""
    mode: Literal["off", "on"] = "off"
    """A word that YAML would read as false."""
    inner: Inner = Inner(size=4)
    """A group with its own default."""
    maybe: Inner | None = None
    """A group that is left out."""
    items: tuple[Item, ...] = (Item(name="a"), Item(name="b"))
    """Groups in a list."""
    weights: dict[str, float] = Field(default={"z": 1.0, "a": 0.5})
    """A mapping whose order matters."""
    words: tuple[str, ...] = ("yes", "1e-5")
    """Texts that YAML would read as something else."""


def test_every_setting_is_printed_with_help_bounds_and_default() -> None:
    text = render(Outer, {})
    assert text.startswith("# What it is for.\n# Has no default.\nmust:  # required\n")
    for line in (
        "# How fast: steps. [above 0]",
        "# A word that YAML would read as false. [off | on]",
        "  # How many. [at least 1, at most 9]\n  size: 4",
        "# A group that is left out. [null]\nmaybe: null\n#   size: 3",
        "    # Its name. [like ^[a-z]+$]\n    name: a\n  -\n    name: b",
    ):
        assert line in text
    values = yaml.safe_load(text)
    assert list(values["weights"]) == ["z", "a"]
    assert Outer.model_validate({**values, "must": "x"}) == Outer(must="x")


def test_settings_for_programs() -> None:
    found = {e.name: e for e in entries(Outer)}
    assert found["must"].required
    assert (found["inner.size"].type, found["inner.size"].bounds, found["rate"].default) == ("whole number", "at least 1, at most 9", 1e-5)
    assert found["maybe"].type == "Inner | null"
    assert found["items"].type == "list of Item"
    assert bounds(Outer.model_fields["rate"]) == "above 0"
    assert type_name(str | None) == "text | null"


GIVEN: dict[str, dict[str, Any]] = {
    "rewards/sum": {"parts": [{"reward": "learned"}]},
    "rewards/product": {"parts": [{"reward": "sigmoid"}]},
    "rewards/principles": {"principles": ["Be brief."]},
    "optimizers/constrained": {"thresholds": {"quality": 0.5}},
    "rewards/rules": {"rules": [{"name": "polite", "expression": "please"}]},
}
"""Values of lists and tables that may not be left out."""


@pytest.mark.parametrize("kind", ["run", *KINDS])
def test_the_printed_yaml_is_the_default(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.invoke(["config", "show", kind, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert main.invoke(["config", "show", kind]) == 0
    text = capfd.readouterr().out
    assert text == found["yaml"]
    _, schema = configuration(kind)
    given: dict[str, Any] = {name: "somewhere" for name, field in schema.model_fields.items() if field.is_required()}
    if kind == "run":
        given["world"] = {"kind": "helpdesk"}
    if kind in GIVEN:
        given = GIVEN[kind]
    assert schema.model_validate({**yaml.safe_load(text), **given}) == schema.model_validate(given)
    assert all(e["help"] for e in found["fields"]), "every field has its help"
    assert {e["name"] for e in found["fields"] if "." not in e["name"]} == set(schema.model_fields)


def test_the_run_template_names_the_kinds_of_worlds_and_optimizers(capfd: pytest.CaptureFixture[str]) -> None:
    assert main.invoke(["config", "show", "run"]) == 0
    text = capfd.readouterr().out
    assert "kind: " in text
    world = text.split("world:")[0].splitlines()[-1]
    assert "helpdesk" in world


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.name != "diagnoses"], ids=lambda f: f.name)
def test_listing_without_importing_finds_what_importing_finds(family: Any) -> None:
    listed = [m.kind for m in members(family)]
    assert listed == [k for package in family.packages for k in sorted(offered(package, base_class(family)))]
    assert listed
    assert all(m.summary.endswith((".", "?")) for m in members(family))


def test_list(capfd: pytest.CaptureFixture[str]) -> None:
    assert main.invoke(["list", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["families"]
    assert set(found) == {"optimizers", "decoding", "objectives", "dense", "rewards", "worlds", "selects", "diagnoses"}
    assert {"ppo", "rloo"} <= {m["kind"] for m in found["optimizers"]}
    assert "over_optimisation" in {m["kind"] for m in found["diagnoses"]}
    assert main.invoke(["list", "optimizers"]) == 0
    out = capfd.readouterr().out
    assert "rloo" in out
    assert "helpdesk" not in out
    assert main.invoke(["list", "optimisers"]) == 2
    assert "Did you mean 'optimizers'?" in capfd.readouterr().err


def test_finding_a_kind() -> None:
    assert find("ppo")[1] == find("optimizers/ppo")[1] == "trueup.optimizers.ppo"
    assert find("trueup.optimizers.ppo")[0].name == "optimizers"
    for kind, said in (
        ("pppo", r"Did you mean 'ppo'\?"),
        ("optimizers/helpdesk", "no kind 'helpdesk'"),
        ("no.such.module", "no module 'no.such.module'"),
        ("json.decoder", "defines no component"),
    ):
        with pytest.raises(UserError, match=said):
            find(kind)
