#!/usr/bin/env python3
"""The demo gives the same answer on other processors, which qemu emulates. Prints TAP.

    test_processors.py HYPURA SOURCE_FOLDER TOKENS QEMU PROCESSOR...
"""
import os
import re
import subprocess
import sys
import tempfile

HYPURA, SOURCE, TOKENS, QEMU, PROCESSORS = *sys.argv[1:5], sys.argv[5:]
sys.path.append(os.path.join(SOURCE, "tests"))
from patience import PATIENCE
from tap import run_tests

MODEL = os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf")
WORK = tempfile.TemporaryDirectory(prefix="hypura-processors-test-")
# Step between budgets that leave most of the model on the drive.
SLACK = 4 << 20


def run(*command, memory):
    """Returns None if the program was built for another family of processors than this one."""
    try:
        return subprocess.run([*command, HYPURA, "run", MODEL, "--memory", str(memory), "--context", "128", "--kv-type",
                               "q8_0", "--temperature", "0", "--max-tokens", TOKENS, "--prompt", "What does the ls command do?"],
                              capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600 * PATIENCE,
                              env={**os.environ, "HYPURA_GPU": "none", "XDG_CACHE_HOME": WORK.name,
                                   "XDG_STATE_HOME": WORK.name})
    except OSError:
        return None


def run_under_qemu(processor):
    """Runs the program in qemu, whose memory counts. The message about a too small budget says how much is needed."""
    small = run(QEMU, "-cpu", processor, memory=os.path.getsize(MODEL) // 2)
    least = re.search(r"the smallest that works is (\d+) bytes", small.stderr)
    assert small.returncode == 0 or least, (small.returncode, small.stdout, small.stderr)
    return run(QEMU, "-cpu", processor, memory=int(least[1]) + SLACK) if least else small


def answers(processor):
    def test():
        here = run(memory=os.path.getsize(MODEL) // 2 + SLACK) or run_under_qemu("max")
        assert here.returncode == 0, here.stderr
        there = run_under_qemu(processor)
        assert there.returncode == 0, (there.returncode, there.stdout, there.stderr)
        assert there.stdout == here.stdout and here.stdout.strip(), (there.stdout, here.stdout)

    test.__name__ = f"a {processor} gives the same answer"
    return test


if __name__ == "__main__":
    sys.exit(1 if run_tests([answers(processor) for processor in PROCESSORS]) else 0)
