#!/usr/bin/env python3
"""The program on a system where io_uring stops working during the run. Prints TAP.

    test_ring.py HYPURA SOURCE_FOLDER LIBRARY

LIBRARY is built from refuse_ring.c.
"""
import errno
import os
import signal
import subprocess
import sys
import tempfile
import time

HYPURA, SOURCE, LIBRARY = map(os.path.abspath, sys.argv[1:4])
sys.path.append(os.path.join(SOURCE, "tests"))
from patience import PATIENCE
from tap import run_tests, tests_of

MODEL = os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf")
WORK = tempfile.TemporaryDirectory(prefix="hypura-test-")
STREAMED = ["run", MODEL, "--memory", "12M", "--context", "512", "--temperature", "0", "--no-state", "--prompt"]


def start(arguments, calls=None, number=errno.EBADF):
    environment = {**os.environ, "XDG_CACHE_HOME": WORK.name, "XDG_STATE_HOME": WORK.name}
    if calls is not None:
        # A sanitizer's library wants to be loaded first.
        sanitizer = environment.get("ASAN_OPTIONS", "")
        environment.update(LD_PRELOAD=LIBRARY, HYPURA_RING_CALLS=str(calls), HYPURA_RING_ERRNO=str(number),
                           ASAN_OPTIONS=":".join(filter(None, [sanitizer, "verify_asan_link_order=0"])))
    return subprocess.Popen([HYPURA, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def end_of(process):
    try:
        out, err = process.communicate(timeout=60 * PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err.decode()


def answer(**how):
    process = start([*STREAMED, "What does the ls command do?", "--max-tokens", "24"], **how)
    status, out, err = end_of(process)
    assert status == 0, (status, err)
    return out, err


def threads_take_over_with_the_same_answer():
    expected, err = answer()
    assert "threads" not in err, err
    for calls, number in ((0, errno.EBADF), (3, errno.EINTR), (40, errno.EAGAIN)):
        out, err = answer(calls=calls, number=number)
        assert out == expected, (calls, out, expected)
        assert "io_uring fails" in err and os.strerror(number) in err and "threads instead" in err, err


def an_interrupt_ends_it():
    for number in (errno.EINTR, errno.EIO):
        for pause in (0.05, 0.2, 0.6):
            process = start([*STREAMED, "The", "--ignore-eos", "--max-tokens", "100000"], calls=20, number=number)
            process.stdout.read(1)
            time.sleep(pause)
            process.send_signal(signal.SIGINT)
            status, _, err = end_of(process)
            assert status == 130, (number, pause, status, err)


def a_drive_is_measured_with_threads():
    process = start(["iobench", MODEL, "--block", "64K", "--depth", "4", "--seconds", "0.05", "--json"], calls=2,
                    number=errno.EINTR)
    status, out, err = end_of(process)
    assert status == 0 and b"bytes_per_second" in out, (status, err)


if __name__ == "__main__":
    failed = run_tests(tests_of(globals(), [start, end_of, answer]))
    WORK.cleanup()
    sys.exit(1 if failed else 0)
