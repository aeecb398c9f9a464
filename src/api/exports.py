#!/usr/bin/env python3
"""Tells the linker what the shared library exports: writes a version script or, for macOS, a list of symbols.

    exports.py EXPORTS OUT SYSTEM
"""
import sys


def read_exports(path):
    """Maps each symbol to the version that introduced it."""
    with open(path) as file:
        return dict(line.split() for line in file if not line.startswith("#"))


def version_script(exports):
    text, before = "", ""
    for version in sorted(set(exports.values()), key=lambda number: [int(part) for part in number.split(".")]):
        names = "".join(f"    {name};\n" for name in sorted(exports) if exports[name] == version)
        text += f"HYPURA_{version} {{\n  global:\n{names}" + ("" if before else "  local:\n    *;\n") + f"}}{before};\n"
        before = f" HYPURA_{version}"
    return text


if __name__ == "__main__":
    source, out, system = sys.argv[1:]
    exports = read_exports(source)
    with open(out, "w") as file:
        file.write("".join(f"_{name}\n" for name in sorted(exports)) if system == "darwin" else version_script(exports))
