#!/usr/bin/env python3
"""The static library defines only the names that the public headers declare, and programs link with it. Prints TAP.

    test_static.py SHARED_LIBRARY SOURCE_FOLDER SYSTEM COMPILER...
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

BUILD, SOURCE, SYSTEM, COMPILER = os.path.dirname(os.path.abspath(sys.argv[1])), os.path.abspath(sys.argv[2]), sys.argv[3], sys.argv[4:]
sys.path[:0] = [os.path.join(SOURCE, "tests"), os.path.join(SOURCE, "src", "api")]
sys.dont_write_bytecode = True
from archive import make
from exports import read_exports
from patience import PATIENCE, is_instrumented
from tap import run_tests, tests_of

MODEL = os.path.join(SOURCE, "models", "manpage-moe-24m-Q4_K_M.gguf")
LISTED = read_exports(os.path.join(SOURCE, "src", "api", "exports.txt"))
WORK = tempfile.TemporaryDirectory(prefix="hypura-test-")
ARCHIVE = os.path.join(WORK.name, "libhypura.a")
# A program with functions named like internal ones of the library.
PROGRAM = """
#include <hypura/hypura.h>
#include <stdio.h>
#include <string.h>
int error_set(void) { return 3; }
int memory_free(void) { return 4; }
static bool print(void *context, const hypura_event *event)
{
    (void)context;
    if (event->kind == HYPURA_EVENT_CONTENT)
        fwrite(event->text, 1, event->size, stdout);
    return true;
}
int main(int count, char **arguments)
{
    hypura_options options = {.struct_size = sizeof options, .context_tokens = 256, .gpu = "none", .forget_usage = true};
    hypura_sampling sampling = {.struct_size = sizeof sampling};
    hypura_chat chat = {.struct_size = sizeof chat, .messages = "[{\\"role\\": \\"user\\", \\"content\\": \\"What does the ls command do?\\"}]"};
    hypura_request request = {.struct_size = sizeof request, .chat = &chat, .sampling = &sampling, .max_tokens = 12};
    hypura_model *model = NULL;
    hypura_session *session = NULL;
    hypura_error error = {0};
    char *text = NULL;
    hypura_default_sampling(&sampling);
    sampling.temperature = 0;
    int failed = count != 2 || hypura_open(&model, arguments[1], &options, &error) || hypura_session_open(&session, model, &error) ||
                 hypura_answer(session, &request, print, NULL, &error) || hypura_inspect(arguments[1], &options, NULL, &text, &error);
    printf("%s|%d%d\\n", error.message, error_set(), memory_free());
    hypura_free(text);
    hypura_session_close(session);
    hypura_close(model);
    return failed;
}
"""


def private_libraries():
    """Returns the options that "pkg-config --static --libs hypura" adds."""
    with open(os.path.join(BUILD, "meson-private", "hypura.pc"), encoding="utf-8") as file:
        return re.search(r"^Libs\.private: (.*)$", file.read(), re.M)[1].split()


def only_the_public_names_are_visible():
    archives = [os.path.join(BUILD, f"libhypura-{part}.a") for part in ("engine", "tools", "server", "web")]
    make(LISTED, ARCHIVE, SYSTEM, COMPILER, archives)
    lines = subprocess.run(["nm", "-g", "--defined-only", ARCHIVE], check=True, capture_output=True, text=True).stdout.splitlines()
    found = {line.split()[-1].lstrip("_") for line in lines if len(line.split()) == 3}
    assert found == set(LISTED), sorted(found ^ set(LISTED))[:20]


def a_program_with_the_same_names_links_and_answers():
    source, program = os.path.join(WORK.name, "ask.c"), os.path.join(WORK.name, "ask")
    with open(source, "w", encoding="ascii") as file:
        file.write(PROGRAM)
    subprocess.run([*COMPILER, "-I", os.path.join(SOURCE, "include"), source, "-o", program, ARCHIVE, *private_libraries()], check=True)
    done = subprocess.run([program, MODEL], capture_output=True, text=True, timeout=120 * PATIENCE,
                          env={**os.environ, "XDG_CACHE_HOME": WORK.name, "XDG_STATE_HOME": WORK.name})
    assert done.returncode == 0 and "list directory contents" in done.stdout and done.stdout.endswith("|34\n"), done
    if shutil.which("ldd"):
        assert "libhypura" not in subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout


def the_debian_symbols_match_the_exports():
    """Each symbol is listed with the version of the package that first had it."""
    with open(os.path.join(SOURCE, "debian", "libhypura0.symbols"), encoding="ascii") as file:
        first, *lines = file.read().splitlines()
    assert first == "libhypura.so.0 libhypura0 #MINVER#", first
    rows = dict(line.split() for line in lines if not line.startswith("*"))
    expected = {f"{name}@HYPURA_{version}": f"{version}.0" for name, version in LISTED.items()}
    expected.update({f"HYPURA_{version}@HYPURA_{version}": f"{version}.0" for version in LISTED.values()})
    assert rows == expected, sorted(rows.items() ^ expected.items())
    if not shutil.which("dpkg-gensymbols") or SYSTEM != "linux":
        return
    folder = os.path.join(WORK.name, "package")
    shutil.copytree(os.path.join(SOURCE, "debian"), os.path.join(folder, "debian"))
    library = os.path.join(folder, "debian", "libhypura0", "usr", "lib")
    os.makedirs(library)
    shutil.copy(os.path.join(BUILD, "libhypura.so.0"), library)
    done = subprocess.run(["dpkg-gensymbols", "-plibhypura0", "-v0.1.0", "-Pdebian/libhypura0", "-c4", "-O"], cwd=folder,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]


if __name__ == "__main__":
    if is_instrumented():
        print("1..0 # SKIP objects built with sanitizers cannot be merged")
        sys.exit(0)
    failed = run_tests(tests_of(globals(), (make, private_libraries)))
    WORK.cleanup()
    sys.exit(1 if failed else 0)
