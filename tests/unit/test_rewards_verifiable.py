"""Rewards that check replies, combinations and shaping, and code in confinement."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from trueup.core.errors import UserError
from trueup.data.rows import Conversation, Reply
from trueup.data.turns import prompt_id
from trueup.rewards import confined
from trueup.rewards.combine import Product, Rules, WeightedSum
from trueup.rewards.confined import CHILD, NOT_CONFINED, Limits, run_confined, unavailable
from trueup.rewards.programmed import ProgrammedReward
from trueup.rewards.shaping import Clipped, LengthPenalty, SigmoidToReference
from trueup.rewards.verifiable.exact_match import ExactMatch
from trueup.rewards.verifiable.numeric_answer import NumericAnswer, final_number
from trueup.rewards.verifiable.pattern import Pattern
from trueup.rewards.verifiable.unit_tests import UnitTests, code_of

REASON = unavailable()
confinement = pytest.mark.skipif(REASON is not None, reason=f"no confinement here: {REASON}")


def replies(*texts: str) -> list[Reply]:
    return [Reply(text=t) for t in texts]


def numbers(*values: float) -> ProgrammedReward:
    return ProgrammedReward(lambda p, r: values[: len(r)])


def asked(reward: object, *texts: str, prompt: Conversation = "q") -> list[float]:
    found = reward.score([prompt] * len(texts), replies(*texts))  # type: ignore[attr-defined]
    assert isinstance(found, Tensor)
    assert found.dtype == torch.float32
    return list(found.tolist())


# Answers


def test_exact_match() -> None:
    said = ("Paris", "  the PARIS. ", "Paris, France", "Pariss", "")
    assert asked(ExactMatch({"q": "Paris"}), *said) == [1, 1, 0, 0, 0]
    assert asked(ExactMatch({"q": "Paris"}, contained=True), *said) == [1, 1, 1, 0, 0]
    assert asked(ExactMatch({"q": ["Rome", "paris france"]}), *said) == [0, 0, 1, 0, 0]
    with pytest.raises(UserError, match="no answer for the prompt 'other'"):
        asked(ExactMatch({"q": "Paris"}), "x", prompt="other")
    chat: Conversation = ({"role": "user", "content": "where ?"},)
    assert asked(ExactMatch({prompt_id(chat): "here"}), "here", prompt=chat) == [1]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7.", 7.0), ("it costs $1,234.50 in all", 1234.5), ("-12", -12.0), ("#### 5 (not 6)", 5.0), ("\\boxed{42} of 99", 42.0),
        ("The answer is: 1/4 of 8", 0.25), ("none", None), ("2e3", 2000.0), ("1/0", None), ("about .5", 0.5), ("", None), ("1e999", None),
    ],
)  # fmt: skip
def test_final_number(text: str, number: float | None) -> None:
    assert final_number(text) == number


def test_numeric_answer() -> None:
    assert asked(NumericAnswer({"q": 72}), "so 72", "72.0 apples", "73", "no idea", "72.0000001") == [1, 1, 0, 0, 1]
    assert asked(NumericAnswer({"q": 1e6}, tolerance=0.01), "1,005,000", "1,020,000") == [1, 0]


def test_pattern() -> None:
    assert asked(Pattern("c.t"), "a cat", "c\nt", "dog") == [1, 1, 0]
    assert asked(Pattern("c.t", whole=True), "a cat", "cat") == [0, 1]
    assert asked(Pattern("sorry", wanted=False), "sorry!", "sure") == [0, 1]
    with pytest.raises(UserError, match="no regular expression"):
        Pattern("(")


# Combinations


def test_sums_products_and_rules() -> None:
    a, b = numbers(1.0, 2.0, 0.0), numbers(4.0, 0.5, 9.0)
    assert asked(WeightedSum([(2.0, a), (-1.0, b)]), "x", "y", "z") == [-2.0, 3.5, -9.0]
    assert asked(Product([(1.0, a), (0.5, b)]), "x", "y", "z") == pytest.approx([2.0, 2 * 0.5**0.5, 0.0])
    with pytest.raises(UserError, match="at least 0"):
        asked(Product([(1.0, numbers(-1.0))]), "x")
    rules = Rules([(Pattern("no"), -1.0), (Pattern("yes"), 1.0)], otherwise=a)
    assert asked(rules, "yes and no", "yes", "maybe") == [-1.0, 1.0, 0.0]
    assert asked(Rules([(Pattern("no"), -1.0)], otherwise=0.25), "no", "x") == [-1.0, 0.25]


def test_shaping() -> None:
    assert asked(Clipped(numbers(-3.0, 0.5, 3.0), -1.0, 1.0), "x", "y", "z") == [-1.0, 0.5, 1.0]
    with pytest.raises(ValueError, match="below"):
        Clipped(numbers(0.0), 1.0, 1.0)
    # 5 words, 2 of them free, at .1 each
    assert asked(LengthPenalty(numbers(1.0, 1.0), 0.1, 2), "a b c d e", "a") == pytest.approx([0.7, 1.0])


def test_sigmoid_to_reference() -> None:
    calls: list[int] = []

    def program(prompts: Sequence[Conversation], said: Sequence[Reply]) -> list[float]:
        calls.append(len(said))
        return [float(len(r.text)) for r in said]

    reward = SigmoidToReference(ProgrammedReward(program), {"q": replies("a", "aaa")})
    # lengths 4 against 1 and 3: sigmoid(3) = .9525741, sigmoid(1) = .7310586
    assert asked(reward, "aaaa") == pytest.approx([(0.9525741 + 0.7310586) / 2], abs=1e-6)
    asked(reward, "aa", "aaaa")
    assert calls == [1, 2, 2]  # references are scored once
    with pytest.raises(UserError, match="no reference reply for the prompt"):
        asked(reward, "x", prompt="other")


# Code


def ended(code: str, **limits: float) -> tuple[str, str]:
    outcome = run_confined({"main.py": code}, Limits(**{"wall_s": 20.0, **limits}))  # type: ignore[arg-type]
    assert outcome.seconds < 60
    return outcome.ending, outcome.output


@confinement
def test_code_runs_and_ends() -> None:
    assert ended("print('hello')") == ("passed", "hello\n")
    assert ended("import sys; sys.exit(3)")[0] == "failed"
    assert "ZeroDivisionError" in ended("1 / 0")[1]
    assert ended("import os; os.kill(os.getpid(), 9)")[0] == "killed"


@confinement
def test_code_is_an_unprivileged_stranger() -> None:
    code = "import os; print(os.getuid() > 10**9, os.geteuid() == os.getuid(), os.getgroups(), sorted(os.listdir('.')), os.getpid() < 10)"
    assert ended(code) == ("passed", "True True [] ['main.py'] True\n")
    for forbidden in ("os.setuid(0)", "os.kill(1, 9)", "os.chroot('/')", "os.listdir('/proc/1/fd')"):
        ending, output = ended(f"import os; {forbidden}")
        assert ending == "failed", forbidden
        assert "Error" in output


@confinement
def test_nothing_of_the_machine_can_be_written_or_read(tmp_path: object) -> None:
    for place in ("/usr/x", "/x", "/proc/sys/kernel/hostname", "/dev/x"):
        ending, output = ended(f"open({place!r}, 'w').write('x')")
        assert ending == "failed", place
        assert "Error" in output
    assert "FileNotFoundError" in ended(f"open({str(tmp_path)!r})")[1]
    assert "FileNotFoundError" in ended(f"open({str(CHILD)!r})")[1]
    assert "FileNotFoundError" in ended("open('/etc/passwd')")[1]


@confinement
def test_there_is_no_network() -> None:
    ending, output = ended("import socket; s = socket.socket(); s.settimeout(3); s.connect(('127.0.0.1', 9))")
    assert ending == "failed"
    assert "unreachable" in output
    assert "gaierror" in ended("import socket; socket.getaddrinfo('example.org', 80)")[1]


@confinement
def test_hogs_are_stopped() -> None:
    assert ended("while True: pass", cpu_s=1)[0] == "killed"
    assert ended("import time; time.sleep(100)", wall_s=1.0) == ("wall time", "")
    assert "MemoryError" in ended("x = bytearray(10**10)")[1]
    ending, output = ended("while True: print('x' * 1000)", output_bytes=5000)
    assert (ending, len(output)) == ("output", 5000)
    assert "No space left" in ended("open('/tmp/x', 'wb').write(bytes(10**8))")[1]
    assert "Error" in ended("import os\nfor i in range(10**4): open(f'/tmp/{i}', 'w')")[1]


def strangers() -> list[str]:
    """Processes of the users that this process's runs have."""
    own = confined.FIRST_USER + os.getpid() % 1_000_000 * 100
    listed = subprocess.run(["ps", "-eo", "uid=,pid="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if own <= int(line.split()[0]) < own + 100]


@confinement
def test_a_fork_bomb_is_stopped_and_nothing_is_left() -> None:
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    assert ended(bomb, wall_s=1.5, cpu_s=5)[0] in ("wall time", "killed")
    daemon = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    [os.close(i) for i in (0, 1, 2)]\n    time.sleep(60)"
    assert ended(daemon)[0] == "passed"
    many = "import os, time\nn = 0\ntry:\n    while os.fork(): n += 1\n    time.sleep(9)\nexcept OSError: print(n)"
    ending, output = ended(many, processes=6)
    assert (ending, int(output) <= 6) == ("passed", True)
    deadline = time.monotonic() + 10
    while strangers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert strangers() == []


@confinement
def test_code_that_hides_its_output_is_stopped_too() -> None:
    assert ended("import os, time\nos.close(1); os.close(2)\ntime.sleep(60)", wall_s=1.0)[0] == "wall time"


@confinement
def test_unit_tests() -> None:
    tests = {"q": "assert add(2, 3) == 5\nassert add(-1, 1) == 0"}
    good = "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nDone."
    wrong = good.replace("a + b", "a - b")
    early = "```python\nimport sys\nsys.exit(0)\n```"
    loop = "```python\nwhile True: pass\n```"
    reward = UnitTests(tests, Limits(cpu_s=1, wall_s=20), jobs=2)
    assert asked(reward, good, wrong, early, loop, "def add(a, b): return a + b", "I cannot") == [1, 0, 0, 0, 1, 0]
    with pytest.raises(UserError, match="no test for the prompt"):
        asked(reward, good, prompt="other")


def test_the_code_of_a_reply() -> None:
    assert code_of("x = 1") == "x = 1"
    assert code_of("a\n```py\nx = 1\n```\nb\n```\ny = 2\n") == "y = 2\n"


def test_without_root_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match=r"needs root.*never run unconfined"):
        run_confined({"main.py": "print(1)"})
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match="needs Linux"):
        asked(UnitTests({"q": ""}), "x")


@confinement
@pytest.mark.parametrize("missing", ["unshare", "mount", "prctl"])
def test_with_a_part_of_it_missing_nothing_is_run(missing: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that refuses one of the calls: the code must not run, and the message must say so."""
    program = CHILD.read_text().replace("def _call(name: str, *arguments: Any) -> None:\n", (
        "def _call(name: str, *arguments: Any) -> None:\n"
        f"    if name == {missing!r}:\n"
        "        raise OSError(1, f'{name} was refused')\n"
    ))  # fmt: skip
    changed = os.path.join(str(tmp_path), "child.py")
    with open(changed, "w") as file:
        file.write(program)
    monkeypatch.setattr(confined, "CHILD", changed)
    with pytest.raises(UserError, match=rf"{missing} was refused.*never run unconfined"):
        run_confined({"main.py": "print('ran')"})
    outcome, _ = confined._run({"main.py": "print('ran')"}, Limits())
    assert (outcome.status, outcome.output) == (NOT_CONFINED, "")
