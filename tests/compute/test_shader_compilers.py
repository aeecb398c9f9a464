#!/usr/bin/env python3
"""With shader compilers that fail or lack an extension, the program still builds, and the set-up says what is missing. Prints TAP.

    test_shader_compilers.py SOURCE_FOLDER GLSLC
"""
import os
import subprocess
import sys
import tempfile

SOURCE, GLSLC = sys.argv[1], sys.argv[2]
sys.path.append(os.path.join(SOURCE, "tests"))
from tap import run_tests

WORK = tempfile.TemporaryDirectory(prefix="hypura-shader-test-")
CRASH = "kill -SEGV $$"


def set_up(name, script):
    """Sets up a build folder with a glslc that runs script before the real one. Returns the folder and the set-up's message."""
    tools, build = os.path.join(WORK.name, name + "-tools"), os.path.join(WORK.name, name)
    os.mkdir(tools)
    with open(os.path.join(tools, "glslc"), "w") as file:
        file.write(f'#!/bin/sh\n{script}\nexec {GLSLC} "$@"\n')
    os.chmod(os.path.join(tools, "glslc"), 0o755)
    result = subprocess.run(["meson", "setup", build, SOURCE, "-Dtests=false", "-Doptimization=1"], text=True,
                            capture_output=True, env={**os.environ, "PATH": tools + ":" + os.environ["PATH"]})
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    return build, [line.split(":", 1)[1].strip() for line in result.stdout.splitlines() if "GPU tier" in line][-1]


def a_failing_compiler_costs_the_gpu_tier():
    assert set_up("none", "exit 1")[1] == "none: glslc fails for matmat.comp"


def a_compiler_that_crashes_on_cooperative_matrices_costs_only_their_kernels():
    _, said = set_up("scalar", f'case "$*" in *cooperative*) {CRASH} ;; esac')
    assert said.startswith("without matrix units: glslc compiles neither GL_KHR_cooperative_matrix nor"), said


def the_newer_extension_is_tried_first():
    """Either of the two extensions is enough."""
    found = set_up("any", "")[1]
    khr = set_up("khr", f'case "$*" in *KHR_MATRICES*) ;; *cooperative*) {CRASH} ;; esac')[1]
    nv = set_up("nv", f'case "$*" in *KHR_MATRICES*) {CRASH} ;; esac')[1]
    neither = [said for said in (khr, nv) if "without matrix units" in said]
    assert len(neither) < 2 and found == (khr if khr not in neither else nv), (found, khr, nv)


def a_late_failure_costs_the_gpu_tier_but_not_the_program():
    build, said = set_up("late", f'case "$*" in *TYPE_IQ2_S*matvec.comp*) {CRASH} ;; esac')
    assert "matrix units" in said, said
    result = subprocess.run(["ninja", "-C", build, "hypura"], text=True, capture_output=True)
    assert result.returncode == 0 and "no code for matvec_IQ2_S" in result.stdout, result.stdout[-2000:]
    model = os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf")
    program = [os.path.join(build, "hypura"), "run", model, "--max-tokens", "4", "--prompt", "What does ls do?"]
    cache = {"XDG_CACHE_HOME": WORK.name, "XDG_STATE_HOME": WORK.name}
    plain = subprocess.run(program, text=True, capture_output=True, env={**os.environ, **cache})
    assert plain.returncode == 0 and plain.stdout.strip(), plain.stderr
    wanting = subprocess.run([*program, "--gpu", "0"], text=True, capture_output=True, env={**os.environ, **cache})
    assert wanting.returncode == 0 and wanting.stdout == plain.stdout, wanting
    assert wanting.stderr.startswith("hypura: computing on the CPU: ") and "(glslc) failed for matvec_IQ2_S" in wanting.stderr, wanting


if __name__ == "__main__":
    if not GLSLC:
        print("1..0 # SKIP glslc is missing")
        sys.exit(0)
    sys.exit(1 if run_tests([a_failing_compiler_costs_the_gpu_tier,
                             a_compiler_that_crashes_on_cooperative_matrices_costs_only_their_kernels,
                             the_newer_extension_is_tried_first,
                             a_late_failure_costs_the_gpu_tier_but_not_the_program]) else 0)
