#!/usr/bin/env python3
"""The shared library exports, and the public headers declare, exactly the names listed in src/api/exports.txt. Prints TAP.

    test_exports.py LIBRARY SOURCE_FOLDER SYSTEM
"""
import glob
import os
import re
import subprocess
import sys
import tempfile

LIBRARY, SOURCE, SYSTEM = sys.argv[1:]
sys.path[:0] = [os.path.join(SOURCE, "tests"), os.path.join(SOURCE, "src", "api")]
from exports import read_exports, version_script
from tap import run_tests

LISTED = read_exports(os.path.join(SOURCE, "src", "api", "exports.txt"))


def the_library_exports_the_listed_names_and_versions():
    if SYSTEM == "darwin":
        lines = subprocess.run(["nm", "-gU", LIBRARY], check=True, capture_output=True, text=True).stdout.splitlines()
        found = {line.split()[-1].lstrip("_"): LISTED.get(line.split()[-1].lstrip("_")) for line in lines if line}
    else:
        lines = subprocess.run(["nm", "-D", "--defined-only", "--with-symbol-versions", LIBRARY], check=True,
                               capture_output=True, text=True).stdout.splitlines()
        names = [line.split()[-1].split("@@") for line in lines if line.split()[-2] != "A"]
        found = {parts[0]: parts[-1].replace("HYPURA_", "") for parts in names}
    assert len(LISTED) > 40 and found == LISTED, sorted(set(found.items()) ^ set(LISTED.items()))


def the_headers_declare_the_listed_names():
    declared = set()
    for path in glob.glob(os.path.join(SOURCE, "include", "hypura", "*.h")):
        with open(path) as file:
            code = re.sub(r"/\*.*?\*/", " ", file.read(), flags=re.S)
        declared |= set(re.findall(r"HYPURA_API\b[^;()]*?\b(hypura_\w+)\(", code))
    assert declared == set(LISTED), sorted(declared ^ set(LISTED))


def macos_exports_the_same():
    script = os.path.join(SOURCE, "src", "api", "exports.py")
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run([sys.executable, script, os.path.join(SOURCE, "src", "api", "exports.txt"), out.name, "darwin"], check=True)
        lines = out.read().decode().splitlines()
    assert lines == ["_" + name for name in sorted(LISTED)], lines


def a_later_version_follows_an_earlier_one():
    text = version_script({"hypura_a": "0.2", "hypura_b": "0.10", "hypura_c": "0.2"})
    assert text == ("HYPURA_0.2 {\n  global:\n    hypura_a;\n    hypura_c;\n  local:\n    *;\n};\n"
                    "HYPURA_0.10 {\n  global:\n    hypura_b;\n} HYPURA_0.2;\n"), text


def each_header_compiles_alone_also_in_cpp():
    compilers = [["cc", "-std=c17", "-x", "c"], ["c++", "-std=c++17", "-x", "c++"]]
    headers = sorted(os.path.basename(path) for path in glob.glob(os.path.join(SOURCE, "include", "hypura", "*.h")))
    assert len(headers) > 10, headers
    for command in compilers:
        for header in headers:
            try:
                result = subprocess.run([*command, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I",
                                         os.path.join(SOURCE, "include"), "-"], input=f"#include <hypura/{header}>\n",
                                        capture_output=True, text=True)
            except FileNotFoundError:
                return f"{command[0]} is missing"
            assert result.returncode == 0, (header, result.stderr)


if __name__ == "__main__":
    sys.exit(1 if run_tests([the_library_exports_the_listed_names_and_versions, the_headers_declare_the_listed_names,
                             macos_exports_the_same,
                             a_later_version_follows_an_earlier_one, each_header_compiles_alone_also_in_cpp]) else 0)
