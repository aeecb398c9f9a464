#!/usr/bin/env python3
"""Runs the programs in examples/ with the embedded model, and compiles them as a user would. Prints TAP.

    test_examples.py LIBRARY SOURCE_FOLDER CHAT BATCH SEARCH TOOLS LOOP
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

LIBRARY, SOURCE = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
CHAT, BATCH, SEARCH, TOOLS, LOOP = map(os.path.abspath, sys.argv[3:8])
sys.path.append(os.path.join(SOURCE, "tests"))
from patience import PATIENCE, is_instrumented
from tap import run_tests, tests_of

MODEL = os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf")
WORK = tempfile.TemporaryDirectory(prefix="hypura-test-")
PROMPTS = ["The ls command", "The kernel scheduler", "mmap is", "A file system", "The tar program"]


def run(program, *arguments, given="", status=0):
    result = subprocess.run([program, *arguments], input=given.encode(), capture_output=True, timeout=120 * PATIENCE,
                            env={**os.environ, "XDG_STATE_HOME": WORK.name, "XDG_CACHE_HOME": WORK.name})
    assert result.returncode == status, (program, result.returncode, result.stderr.decode()[-600:])
    return result.stdout.decode(), result.stderr.decode()


def a_chat_of_forty_lines_answers_each_line():
    with open(os.path.join(SOURCE, "examples", "chat.c"), encoding="utf-8") as file:
        assert len(file.readlines()) <= 42
    out, err = run(CHAT, MODEL, given="What does the ls command do?\nWhat does the cp command do?\n")
    assert "list directory contents" in out and "copy" in out and not err, (out, err)


def a_batch_answers_in_order_whatever_the_threads():
    given = "".join(prompt + "\n" for prompt in PROMPTS)
    four, _ = run(BATCH, MODEL, "4", given=given)
    assert [prompt for prompt in PROMPTS if f"{prompt} ->" in four] == PROMPTS and len(four) > 200, four
    assert run(BATCH, MODEL, "1", given=given)[0] == four


def a_search_puts_the_nearest_first():
    lines = ["mmap - map files into memory", "ls - list directory contents", "socket - create an endpoint for communication"]
    out, _ = run(SEARCH, MODEL, lines[1], given="".join(line + "\n" for line in lines))
    found = out.splitlines()
    assert found[0] == "1.000 " + lines[1] and {line[6:] for line in found} == set(lines), out
    scores = [float(line.split()[0]) for line in found]
    assert scores == sorted(scores, reverse=True) and scores[1] < 0.99, scores


def tools_also_end_without_a_call():
    out, err = run(TOOLS, MODEL, "What does the date command do?")
    assert out.strip() and not err, (out, err)


def one_thread_waits_for_many_sessions():
    prompts = PROMPTS[:4]  # as many as a model runs at once by default
    out, _ = run(LOOP, MODEL, *prompts)
    for number in range(len(prompts)):
        assert re.search(rf"^{number}: ended \((max_tokens|end)\) after \d+ tokens$", out, re.M), out
    # Answers arrive in turn, a piece at a time: none ends before another has begun.
    first_end = out.index("ended")
    assert len(set(re.findall(r"^(\d): ", out[:first_end], re.M))) == len(prompts), out


def errors_of_opening_are_reported():
    for program, more in ((CHAT, []), (BATCH, []), (SEARCH, ["x"]), (TOOLS, ["x"]), (LOOP, ["x"])):
        assert "/nowhere" in run(program, "/nowhere", *more, status=1)[1]
        assert "name a model" in run(program, status=1)[1]


def users_compile_them_with_pkg_config():
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not compiler or is_instrumented():
        return "a compiler is missing, or the library was built with sanitizers"
    folder = os.path.dirname(LIBRARY)
    for name in ("chat", "batch", "search", "tools", "loop"):
        subprocess.run([compiler, "-std=gnu17", "-pedantic", "-Wall", "-Wextra", "-Werror", "-I", os.path.join(SOURCE, "include"),
                        os.path.join(SOURCE, "examples", name + ".c"), "-o", os.path.join(WORK.name, name), "-L", folder, "-lhypura",
                        "-pthread", "-Wl,-rpath," + folder], check=True)
    assert run(os.path.join(WORK.name, "search"), MODEL, "a", given="a\n")[0] == "1.000 a\n"


if __name__ == "__main__":
    failed = run_tests(tests_of(globals(), [run]))
    WORK.cleanup()
    sys.exit(1 if failed else 0)
