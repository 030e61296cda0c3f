"""The tutorial with TRL does what it says. Needs ``pip install 'trueup[peers,stories]'``, and skips without.

On the pretrained story writer where it lies beside the project, else on a random model with a vocabulary of feelings; fewer steps in both.
"""

from __future__ import annotations

import gzip
import importlib
import json
import re
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from trueup.cli.main import invoke
from trueup.core.rng import Key
from trueup.models.tiny import tiny_llama, tiny_tokenizer
from trueup.store.records import frame

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorials" / "trl.md"
DATA = ROOT.parent / "shared" / "data"
STEPS = 4
WORDS = ("happy", "sad", "good", "bad", "love", "hate", "fun", "cry", "cat", "dog", "ran", "sat")


def writer(folder: Path) -> list[str]:
    """Put the model where the tutorial expects it; returns openings."""
    stories = DATA / "tinystories" / "tinystories_cased.jsonl.gz"
    if (DATA / "stories260K").is_dir() and stories.is_file():
        (folder / "stories260K").symlink_to(DATA / "stories260K")
        with gzip.open(stories, "rt", encoding="utf-8") as file:
            texts = [json.loads(line)["story"] for _, line in zip(range(120), file, strict=False)]
        return list(dict.fromkeys(" ".join(text.split()[:6]) for text in texts))[:60]
    tokenizer = tiny_tokenizer(WORDS)
    tokenizer.save_pretrained(folder / "stories260K")
    tiny_llama(len(tokenizer), 16, 1, 2, 128, key=Key(0)).save_pretrained(folder / "stories260K")
    return [f"{a} {b}" for a in WORDS[:8] for b in WORDS[:8]]


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl", reason="needs the extra 'peers': TRL 1.16.0")
    pytest.importorskip("vaderSentiment", reason="needs the extra 'stories'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "prompts.txt").write_text("\n".join(writer(tmp_path)) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8").replace("STEPS = 40", f"STEPS = {STEPS}").replace("num_train_epochs=4", "num_train_epochs=1")
    page = page.replace("checkpoint-20", f"checkpoint-{STEPS // 2}").replace("checkpoint-40", f"checkpoint-{STEPS}")
    names: dict[str, Any] = {"__name__": "tutorial"}
    commands = []
    try:
        for language, code in re.findall(r"^```(python|bash)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
            if language == "bash":
                commands += code.strip().splitlines()
            elif code.startswith("# truth.py"):
                (tmp_path / "truth.py").write_text(code, encoding="utf-8")
                importlib.invalidate_caches()
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # TRL asks transformers under names that the latter is giving up
                    exec(compile(code, str(PAGE), "exec"), names)
    finally:
        sys.modules.pop("truth", None)
    watched = frame("runs/trl")
    assert sorted(watched["step"].unique()) == list(range(STEPS + 1))
    assert watched.groupby("step").size().unique().tolist() == [24 * 4]
    assert watched[watched["step"] == 0]["kl_policy_ref_exact_nats"].abs().max() == 0
    assert watched[watched["step"] == STEPS]["kl_policy_ref_exact_nats"].mean() > 0
    assert (watched["proxy_fixed"] == watched["scores.rm"]).all()
    assert watched["gold"].tolist() == names["sentiment"](watched["prompt"], watched["response"])
    assert "policy" in names["trueup"].audit("runs/trl").decisions
    capsys.readouterr()
    assert len(commands) == 3
    for command in commands:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert invoke(shlex.split(command)[1:]) == 0, (command, capsys.readouterr().err)
    audited = frame("audits/trl")
    rows = audited[audited["step"].notna() & audited["gold"].notna()]
    assert sorted(rows["step"].astype(int).unique()) == [0, STEPS // 2, STEPS]
    curves = json.loads(Path("audits/curves/report.json").read_text(encoding="utf-8"))
    assert curves["logs"][0]["used"]["proxy"] == "reward"
    assert curves["logs"][0]["points"]["proxy"] == STEPS
    assert {d["verdict"] for d in curves["diagnoses"]} == {"not enough data"}  # four steps say nothing, and it says so
