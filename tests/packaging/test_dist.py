#!/usr/bin/env python3
"""The tarball of make dist builds without git, by the formula. Prints TAP.

    test_dist.py SOURCE_FOLDER
"""
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile

SOURCE = os.path.abspath(sys.argv[1])
sys.path[:0] = [os.path.join(SOURCE, "tests"), os.path.join(SOURCE, "tests", "packaging")]
sys.dont_write_bytecode = True
from formula import Formula
from tap import run_tests, tests_of

WORK = tempfile.TemporaryDirectory(prefix="hypura-test-")


def dist(name):
    folder = os.path.join(WORK.name, name)
    return subprocess.run([os.path.join(SOURCE, "scripts", "dist"), folder], check=True, capture_output=True, text=True).stdout.strip()


def no_checkout():
    return None if os.path.exists(os.path.join(SOURCE, ".git")) and shutil.which("git") else "this is no git checkout"


def one_commit_gives_one_tarball_and_a_formula_for_it():
    if no_checkout():
        return no_checkout()
    first, second = dist("first"), dist("second")
    with open(first, "rb") as a, open(second, "rb") as b:
        content = a.read()
        assert content == b.read()
    with open(os.path.join(os.path.dirname(first), "hypura.rb"), encoding="utf-8") as file:
        formula = file.read()
    assert hashlib.sha256(content).hexdigest() in formula and f'url "file://{first}"' in formula and "@" not in formula, formula
    if shutil.which("ruby"):
        subprocess.run(["ruby", "-c"], input=formula.encode(), check=True, capture_output=True)


def the_tarball_builds_by_the_formula_without_git():
    if no_checkout():
        return no_checkout()
    with tarfile.open(dist("built")) as tarball:
        tarball.extractall(WORK.name)
    source = next(os.path.join(WORK.name, name) for name in os.listdir(WORK.name) if name.startswith("hypura-"))
    assert not os.path.exists(os.path.join(source, ".git"))
    tools, asked = os.path.join(WORK.name, "tools"), os.path.join(WORK.name, "git was asked")
    os.mkdir(tools)
    with open(os.path.join(tools, "git"), "w", encoding="utf-8") as file:
        file.write(f"#!/bin/sh\ntouch '{asked}'\nexit 127\n")
    os.chmod(os.path.join(tools, "git"), 0o755)
    environment = {**os.environ, "PATH": tools + os.pathsep + os.environ["PATH"]}
    prefix = os.path.join(WORK.name, "prefix")
    command, expected = Formula(source).trial(prefix)
    for step in [*Formula(source).steps(prefix), ["sh", "-c", command]]:
        result = subprocess.run(step, cwd=source, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, (step, result.stdout[-2000:], result.stderr[-2000:])
    assert expected in result.stdout, result.stdout
    for name in ("lib/pkgconfig/hypura.pc", "include/hypura/hypura.h", "share/man/man1/hypura-run.1"):
        assert os.path.exists(os.path.join(prefix, name)), name
    assert not os.path.exists(asked)


if __name__ == "__main__":
    failed = run_tests(tests_of(globals(), [dist, no_checkout, Formula]))
    WORK.cleanup()
    sys.exit(1 if failed else 0)
