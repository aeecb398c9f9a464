#!/usr/bin/env python3
"""Checks the rules of docs/architecture.md and CONTRIBUTING.md about the structure of the source. Prints TAP.

    test_structure.py LIBRARY SOURCE_FOLDER COMPILER...
"""
import functools
import glob
import json
import os
import re
import subprocess
import sys
import tempfile

from tap import run_tests

LIBRARY, SOURCE, COMPILER = sys.argv[1], sys.argv[2], sys.argv[3:]
# A folder may include headers only of the folders before it.
FOLDERS = ["core", "cluster", "format", "tokenizer", "template", "chat", "sampling", "grammar", "model", "compute", "steps", "hw", "plan", "store",
           "prefix", "engine", "api", "tools", "server", "cli"]
# Folders whose files must not call each other in circles.
NO_CIRCLES = ("core", "format", "tokenizer", "sampling", "chat", "model", "compute/cpu", "compute/vulkan", "steps", "hw", "plan", "store",
              "prefix", "engine", "engine/cpu", "engine/gpu", "engine/cluster", "api", "template", "grammar", "tools", "server", "cli")
# Exceptions: these files work on recursive data.
RECURSIVE = {
    # A value may come from a macro, a filter or a method, and each of these may evaluate further values.
    "template": {"arithmetic", "evaluate", "filters", "format", "methods", "render", "sequence_filters", "tests", "text_methods"},
    # The parts of a schema are themselves schemas.
    "grammar": {"schema_arrays", "schema_break", "schema_combinations", "schema_goal", "schema_hold", "schema_objects", "schema_open"}}
PEERS = {("model", "compute"), ("compute", "model")}  # do not include each other
GPU_FILES = ("src_compute_vulkan_", "src_engine_gpu_", "src_hw_gpu_layer.", "src_hw_gpu_speed.", "src_store_device.",
             "src_store_in_place.",
             "src_store_moves.")
STAND_INS = ("compute/vulkan/none.c", "engine/gpu/none.c", "hw/gpu_speed_none.c", "store/device_none.c")
# In folders with several headers, those that other folders may include.
PUBLIC = {"store": {"store/store.h", "store/device.h", "store/policy.h", "store/heap.h", "store/trace.h", "store/classes.h"}}
# Commands of the program that use only the library's public headers, as other programs do.
ON_PUBLIC_HEADERS = ("batch", "batch_input", "batch_line", "batch_output", "bench", "child", "compare_llama", "completion", "compute_options",
                     "conversation", "embed", "inspect", "inspect_hosts", "inspect_json", "layers", "logits", "manual", "names", "perplexity", "plot",
                     "plot_bars", "plot_lines", "plot_svg", "progress", "run", "sampling", "session", "summary", "talk", "template",
                     "terminal", "tier_map", "tokenize")
# Headers below the API that the server includes, by file; docs/architecture.md gives the reasons. The list may only shrink.
SERVER_FROM_BELOW = {
    "create_quantized.c": {"tools/quantize.h", "tools/quantize_recipe.h"}, "describe.c": {"model/model.h"}, "endpoint.c": {"api/opening.h"},
    "generation.c": {"grammar/grammar.h"}, "generation.h": {"chat/chat_output.h", "sampling/sampler.h"},
    "generation_prompt.c": {"engine/prompt.h"}, "header.c": {"format/format.h"}, "loaded.c": {"engine/prompt.h"},
    "loaded.h": {"engine/generate.h", "grammar/grammar.h", "template/template.h"},
    "ollama_models.c": {"engine/engine.h", "template/template.h"}, "pull_check.c": {"format/format.h"}, "rerank.c": {"engine/prompt.h"},
    "server.h": {"engine/engine.h"}}
PRINTS_OR_ENDS = {"printf", "vprintf", "__printf_chk", "__vprintf_chk", "puts", "putchar", "perror", "stdout", "stderr", "exit", "_exit",
                  "quick_exit", "abort", "__assert_fail"}
# Functions that macOS lacks and that need no Linux header or flag, so nothing at a call gives them away.
NOT_ON_MACOS = {"accept4", "clock_nanosleep", "explicit_bzero", "fallocate", "fdatasync", "getrandom", "memfd_create",
                "mempcpy", "memrchr", "mremap", "pipe2", "posix_fallocate", "posix_fallocate64", "pthread_barrier_init",
                "qsort_r", "rawmemchr", "renameat2", "secure_getenv", "sem_init", "sem_timedwait", "strchrnul"}


@functools.lru_cache
def symbols(path):
    """Returns, for each object in a library or object file, the symbols that it defines and those that it needs."""
    objects, name = {}, os.path.basename(path)
    for line in subprocess.run(["nm", path], check=True, capture_output=True, text=True).stdout.splitlines():
        if line.endswith(":"):
            name = os.path.basename(line[:-1])
            continue
        words = line.split()
        if len(words) >= 2:
            defined, wanted = objects.setdefault(name, (set(), set()))
            if words[-2].isupper():  # lower case marks local symbols
                (wanted if words[-2] == "U" else defined).add(words[-1])
    return objects


def instructions_of_objects():
    """Returns, for each object's path, the instruction sets that its compiler could use beyond the baseline."""
    build, objects = os.path.dirname(LIBRARY), {}
    with open(os.path.join(build, "compile_commands.json")) as file:
        for command in json.load(file):
            if re.match(r"libhypura-engine|src/compute/cpu/", command["output"]):
                flags = re.findall(r" -m(avx\S*|fma\S*|f16c|popcnt|bmi2?|lzcnt|sse[34]\S*|arch=\S+)", command["command"])
                objects[os.path.join(build, command["output"])] = set("+".join(flags).split("+")) - {""}
    return objects


def includes():
    """Yields (folder of a file, the file, folder of a header that it includes, that header)."""
    for path in glob.glob(os.path.join(SOURCE, "src", "**", "*.[ch]"), recursive=True):
        name = os.path.relpath(path, os.path.join(SOURCE, "src"))
        with open(path) as file:
            for header in re.findall(r'^#include "([a-z]+/[^"]*)"', file.read(), re.M):
                if header.split("/")[0] in FOLDERS:  # otherwise the build generated it
                    yield name.split("/")[0], name, header.split("/")[0], header


def calls_go_down_only():
    found = list(includes())
    assert len(found) > 300, len(found)
    up = [(name, header) for folder, name, other, header in found
          if FOLDERS.index(other) > FOLDERS.index(folder) or (folder, other) in PEERS]
    assert not up, up


def private_headers_stay_in_their_folder():
    outside = [(name, header) for folder, name, other, header in includes() if folder != other and
               (re.search(r"(_private|internal)\.h$", header) or header not in PUBLIC.get(other, {header}))]
    assert not outside, outside


def reached_from(name, found):
    """Returns all headers of the source that a file includes, directly or indirectly."""
    reached, ahead = set(), {name}
    while ahead:
        reached |= ahead
        ahead = {header for _, file, _, header in found if file in ahead} - reached
    return reached - {name}


def commands_use_only_the_public_headers():
    """Besides the public headers, they include only headers of src/cli."""
    found = list(includes())
    for command in ON_PUBLIC_HEADERS:
        reached = reached_from(f"cli/{command}.c", found)
        assert "cli/cli.h" in reached, (command, reached)
        beyond = [header for header in reached if not header.startswith("cli/")]
        assert not beyond, (command, beyond)
    with open(os.path.join(SOURCE, "src", "cli", "cli.h")) as file:
        assert "#include <hypura/hypura.h>" in file.read()


def the_server_includes_only_listed_headers_below_the_api():
    found = {}
    for folder, name, other, header in includes():
        if folder == "server" and other not in ("server", "core"):
            found.setdefault(os.path.basename(name), set()).add(header)
    assert found == SERVER_FROM_BELOW, {name: found.get(name, set()) ^ SERVER_FROM_BELOW.get(name, set())
                                        for name in found.keys() | SERVER_FROM_BELOW.keys()
                                        if found.get(name) != SERVER_FROM_BELOW.get(name)}


def the_store_header_depends_on_no_device():
    """Only the GPU executor includes store/device.h, which says what is on a device."""
    found = list(includes())
    reached, ahead = set(), {"store/store.h"}
    while ahead:
        reached |= ahead
        ahead = {header for _, name, _, header in found if name in ahead} - reached
    assert len(reached) > 2 and not [header for header in reached if "vulkan" in header], reached
    users = {name for _, name, _, header in found if header == "store/device.h"}
    assert users and not [name for name in users if not name.startswith(("store/", "engine/gpu/"))], users


def calls_within(folder):
    """Returns, for each file of a folder, the files of the same folder that it calls, according to the object files."""
    library = os.path.join(os.path.dirname(LIBRARY), f"libhypura-{folder}.a")  # tools and server have their own libraries
    prefix, objects = "src_" + folder.replace("/", "_") + "_", symbols(library if os.path.exists(library) else LIBRARY)
    if folder == "cli":
        objects = {}
        for path in glob.glob(os.path.join(os.path.dirname(LIBRARY), "hypura.p", prefix + "*.o")):
            objects |= symbols(path)
    files = {name[len(prefix):-4]: name for name in objects if name.startswith(prefix)}
    files = {file: objects[name] for file, name in files.items() if os.path.exists(os.path.join(SOURCE, "src", folder, file + ".c"))}
    home = {symbol: file for file, (defined, _) in files.items() for symbol in defined}
    return {file: {home[symbol] for symbol in wanted & home.keys()} for file, (_, wanted) in files.items()}


def circles(folder):
    """Returns the groups of a folder's files that call each other in a circle."""
    below = calls_within(folder)
    for middle in below:  # transitive closure of the calls
        for file in below:
            if middle in below[file]:
                below[file] |= below[middle]
    return {tuple(sorted(other for other in below[file] if file in below[other])) for file in below if file in below[file]}


def files_of_a_folder_do_not_call_in_circles():
    found = {folder: circles(folder) for folder in NO_CIRCLES}
    for folder, files in found.items():
        for circle in files:
            print("# in a circle:", folder, *circle)
    assert all(len(calls_within(folder)) > 1 for folder in found), found
    beyond = [(folder, files) for folder in NO_CIRCLES for files in found[folder] if not set(files) <= RECURSIVE.get(folder, set())]
    assert not beyond, beyond
    assert all(any(set(files) == RECURSIVE[folder] for files in found[folder]) for folder in RECURSIVE), found


def files_of_the_store_call_those_below():
    """A file calls only files on later lines of the list in store_private.h. Each header names its owners."""
    with open(os.path.join(SOURCE, "src", "store", "store_private.h")) as file:
        lines = [line.split() for line in re.findall(r"^ \*   ([a-z0-9_ ]+)$", file.read(), re.M)]
    lines = {name: number for number, line in enumerate(lines) for name in line}
    files = {os.path.basename(path)[:-2] for path in glob.glob(os.path.join(SOURCE, "src", "store", "*.c"))}
    assert lines.keys() == files, lines.keys() ^ files
    calls = calls_within("store")
    up = [(file, other) for file in calls for other in calls[file] if lines[other] <= lines[file]]
    assert len(calls) > 30 and not up, up
    for path in glob.glob(os.path.join(SOURCE, "src", "store", "*.h")):
        with open(path) as file:
            owners = re.search(r"Owners?: ([^*]+(\*\s[^*]+)*)", file.read())
        owned = re.findall(r"([a-z0-9_]+)\.c\b", owners.group(1)) if owners else []
        assert owned and files.issuperset(owned), (path, owned)


def the_store_has_one_word_for_one_thing():
    """No name contains a word that docs/glossary.md rules out. Files that only read or copy do not mention pieces of tensors."""
    with open(os.path.join(SOURCE, "docs", "glossary.md")) as file:
        table = file.read().split("## In the source")[1].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table if line.startswith("| ")][1:]
    terms = {term for term, _, _ in rows}
    others = {word for _, _, words in rows for word in words.split(", ") if word}
    assert len(terms) == len(rows) > 20 and len(others) > 10 and not terms & others, terms & others
    found = set()
    for path in glob.glob(os.path.join(SOURCE, "src", "store", "*.[ch]")):
        name = os.path.basename(path)
        with open(path) as file:
            code = re.sub(r'/\*.*?\*/|"(\\.|[^"\\])*"', " ", file.read(), flags=re.S)
        no = others | ({"piece"} if name.startswith(("io.", "file.", "layout.", "reader", "device", "in_place.", "moves.")) else set())
        for word in {part for word in re.findall(r"[A-Za-z_]\w*", code) for part in word.lower().split("_")}:
            stems = {word, re.sub(r"(s|es|ed|ing|ion)$", "", word), re.sub(r"(d|r|es|ing)$", "e", word), re.sub("(.)ing$", r"\1", word)}
            found |= {(name, word) for stem in stems if stem in no}
    assert not found, sorted(found)


def experts_are_prefetched_and_tokens_drafted():
    """No name speaks of guessing or speculation: experts are prefetched and tokens are drafted."""
    looked, found = 0, set()
    for folder in ("engine", "plan"):
        for path in glob.glob(os.path.join(SOURCE, "src", folder, "**", "*.[ch]"), recursive=True):
            with open(path) as file:
                code = re.sub(r'/\*.*?\*/|"(\\.|[^"\\])*"', " ", file.read(), flags=re.S)
            looked += 1
            found |= {(os.path.relpath(path, SOURCE), word) for word in re.findall(r"\w*(?:guess|speculat)\w*", code, re.I)}
    assert looked > 40 and not found, sorted(found)


def the_library_never_prints_exits_or_aborts():
    wanting, folder = {}, os.path.dirname(LIBRARY)
    for archive in [LIBRARY] + [os.path.join(folder, f"libhypura-{part}.a") for part in ("tools", "server", "web")]:
        wanting |= {name: wanted & PRINTS_OR_ENDS for name, (_, wanted) in symbols(archive).items() if wanted & PRINTS_OR_ENDS}
    assert not wanting, wanting


def callers_of(pattern):
    callers = set()
    for path in glob.glob(os.path.join(SOURCE, "src", "**", "*.c"), recursive=True):
        with open(path) as file:
            if re.search(pattern, file.read()):
                callers.add(os.path.relpath(path, SOURCE))
    return callers


def json_is_parsed_and_written_in_one_place():
    """Called directly, jansson may abort or write beyond a text when an allocation fails, and leaves out names. The program's
    commands, which see only the public headers, compare lost_memory() before and after."""
    assert callers_of(r"\bjson_load(s|b|f|fd|_file|_callback)\(") == {"src/core/json_text.c"}
    callers = {path for path in callers_of(r"\bjson_dump(s|b)\(") if not path.startswith("src/cli/")}
    assert callers == {"src/core/json_text.c"}, callers


def the_library_needs_nothing_that_macos_lacks():
    wanting = {name: wanted & NOT_ON_MACOS for name, (_, wanted) in symbols(LIBRARY).items() if wanted & NOT_ON_MACOS}
    assert not wanting, wanting


def code_for_an_instruction_set_is_reached_through_tables():
    """Every function in a file that is compiled for an instruction set may use it, even one that only fills a table. So other files
    refer to none of these functions, only to data that points to them, and check the processor before they read that data. Such
    a file must not define weak symbols either: the linker might use its copy of a function for other files, too."""
    objects, functions, wanted, weak, path = instructions_of_objects(), {}, [], [], None
    for line in subprocess.run(["nm", *objects], check=True, capture_output=True, text=True).stdout.splitlines():
        words = line.split()
        if line.endswith(":"):
            path = line[:-1]
        elif words and words[-2] == "U":
            wanted.append((path, words[-1]))
        elif words and words[-2] == "T":
            functions[words[-1]] = objects[path]
        elif words and objects[path] and words[-2] in "WVui":
            weak.append((path, words[-1]))
    assert not weak, weak
    beyond = [(os.path.basename(path), name) for path, name in wanted if not functions.get(name, set()) <= objects[path]]
    assert len(functions) > 500 and not beyond, (len(functions), beyond)


def read_source(name):
    with open(os.path.join(SOURCE, "src", name)) as file:
        return file.read()


def cpu_and_gpu_execute_the_same_list():
    """Each kind of step has one function on the CPU and at most one on a GPU. Only the kind that fuse.c makes has none on the CPU."""
    kinds = re.search(r"enum step_kind \{(.*?)STEP_KINDS", read_source("steps/steps.h"), re.S).group(1)
    kinds = re.findall(r"^ *(STEP_[A-Z_]+),", kinds, re.M)
    functions = re.findall(r"\[(STEP_(?!KINDS)[A-Z_]+)\] = ", read_source("engine/cpu/execute.c"))
    records = re.findall(r"\[(STEP_(?!KINDS)[A-Z_]+)\] = ", read_source("engine/gpu/record.c"))
    assert len(kinds) > 30 and sorted([*functions, "STEP_RESIDUAL"]) == sorted(kinds), set(kinds) ^ set(functions)
    assert len(records) > 25 and len(set(records)) == len(records) and set(records) <= set(kinds), records
    made = [name for name in os.listdir(os.path.join(SOURCE, "src", "steps"))
            if name.endswith(".c") and "kind = STEP_RESIDUAL" in read_source("steps/" + name)]
    assert made == ["fuse.c"], made


def executors_depend_on_no_architecture():
    """The list of steps describes a layer, so executors look at no architecture's name and no flag of a layer."""
    looked = 0
    names = re.findall(r'\.name = "([^"]+)"', read_source("model/architecture.c"))
    assert len(names) > 50, names
    for folder in ("cpu", "gpu"):
        for path in glob.glob(os.path.join(SOURCE, "src", "engine", folder, "*.[ch]")):
            with open(path) as file:
                text = file.read()
            looked += 1
            for word in ("ARCHITECTURE_", "model_architecture", "model_layer(", "LAYER_ATTENTION", "LAYER_LATENT",
                         "LAYER_RECURRENT"):
                assert word not in text, (os.path.relpath(path, SOURCE), word)
            named = [name for name in names if f'"{name}"' in text]
            assert not named, (os.path.relpath(path, SOURCE), named)
    assert looked > 15, looked


def other_programs_inherit_no_files():
    """A program that uses the library may start other programs, so every file is opened with close-on-exec."""
    found = 0
    for path in glob.glob(os.path.join(SOURCE, "src", "**", "*.c"), recursive=True):
        with open(path) as file:
            for call in re.findall(r"\bf?open\([^;{]*", file.read()):
                found += 1
                assert re.search(r'"[rwa][+b]*e"|O_CLOEXEC', call), (os.path.relpath(path, SOURCE), call)
    assert found > 30, found


def a_build_without_gpu_files_links():
    """The stand-in files define every symbol of the GPU's files that the rest of the library uses."""
    objects = symbols(LIBRARY)
    gpu = {name for name in objects if name.startswith(GPU_FILES)}
    if not gpu:
        return "this build has no GPU tier"
    lost = set().union(*(objects[name][0] for name in gpu))
    kept = [objects[name] for name in objects if name not in gpu]
    with tempfile.TemporaryDirectory() as folder:
        for number, file in enumerate(STAND_INS):
            path = os.path.join(folder, f"{number}.o")
            subprocess.run([*COMPILER, "-std=c17", "-D_GNU_SOURCE", "-I", SOURCE + "/src", "-I", SOURCE + "/include", "-c",
                            f"{SOURCE}/src/{file}", "-o", path], check=True)
            kept += symbols(path).values()
    wanted = set().union(*(wants for _, wants in kept)) & lost - set().union(*(defines for defines, _ in kept))
    assert lost and not wanted, wanted


if __name__ == "__main__":
    sys.exit(1 if run_tests([calls_go_down_only, private_headers_stay_in_their_folder, commands_use_only_the_public_headers,
                             the_server_includes_only_listed_headers_below_the_api, the_store_header_depends_on_no_device,
                             files_of_a_folder_do_not_call_in_circles, files_of_the_store_call_those_below,
                             the_store_has_one_word_for_one_thing, experts_are_prefetched_and_tokens_drafted,
                             the_library_never_prints_exits_or_aborts, the_library_needs_nothing_that_macos_lacks,
                             code_for_an_instruction_set_is_reached_through_tables,
                             cpu_and_gpu_execute_the_same_list, executors_depend_on_no_architecture, json_is_parsed_and_written_in_one_place,
                             other_programs_inherit_no_files, a_build_without_gpu_files_links]) else 0)
