"""Runs `trueup decode` in a process of its own; may kill itself at a rename, between writing a file and giving it its name.

Usage: decode_child.py CONFIG OUT [COUNT]: with COUNT, SIGKILL at the COUNT-th rename of a temporary file or folder.
"""

from __future__ import annotations

import os
import signal
import sys

from trueup.cli.main import invoke


def main(config: str, out: str, count: int | None) -> int:
    if count is not None:
        seen = [0]

        def deadly(real: object) -> object:
            def renamed(source: object, target: object, **more: object) -> None:
                if ".partial-" in str(source):
                    seen[0] += 1
                    if seen[0] == count:
                        os.kill(os.getpid(), signal.SIGKILL)
                real(source, target, **more)  # type: ignore[operator]

            return renamed

        os.rename, os.replace = deadly(os.rename), deadly(os.replace)  # type: ignore[assignment]
    return invoke(["decode", config, "--out", out, "--resume", "--quiet"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None))
