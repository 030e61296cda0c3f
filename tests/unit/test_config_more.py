"""Configurations: what is unknown or out of bounds is an error, with its line; values never change after reading."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from trueup.core.config import load_config, validate
from trueup.core.errors import UserError
from trueup.loop.config import LoopConfig


def read(tmp_path: Path, text: str, *overrides: str) -> LoopConfig:
    path = tmp_path / "loop.yaml"
    path.write_text(text)
    return load_config(path, LoopConfig, overrides)


def test_unknown_keys_are_refused_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"learning_rat \(line 2\): unknown key\. Did you mean 'learning_rate'\?"):
        read(tmp_path, "warmup_steps: 3\nlearning_rat: 0.1\n")
    with pytest.raises(UserError, match="1 wrong value:\n  speed: unknown key"):
        validate({"speed": 1}, LoopConfig, where="here")


def test_bounds_types_and_numbers_that_are_none(tmp_path: Path) -> None:
    for text, said in (
        ("learning_rate: 0", "got 0"),
        ("learning_rate: .inf", "finite"),
        ("warmup_steps: 1.5", "integer"),
        ("lr_scheduler_type: step", "'constant', 'linear' or 'cosine'"),
    ):
        with pytest.raises(UserError, match=said):
            read(tmp_path, text)


def test_overrides_win_and_are_checked_too(tmp_path: Path) -> None:
    found = read(tmp_path, "learning_rate: 0.1\n", "learning_rate=0.2", "micro_rows=4")
    assert (found.learning_rate, found.micro_rows, found.warmup_steps) == (0.2, 4, 0)
    with pytest.raises(UserError, match="micro_row: unknown key"):
        read(tmp_path, "", "micro_row=4")


def test_a_configuration_is_frozen_and_named_by_its_values(tmp_path: Path) -> None:
    one, two = read(tmp_path, "learning_rate: 0.1\nwarmup_steps: 2\n"), read(tmp_path, "warmup_steps: 2\n\nlearning_rate: 1.0e-1\n")
    assert one.digest() == two.digest()
    assert one.digest() != LoopConfig().digest()
    with pytest.raises(ValidationError, match="frozen"):
        one.learning_rate = 1.0  # type: ignore[misc]
