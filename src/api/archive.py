#!/usr/bin/env python3
"""Makes the static library from one object that exports only what the public headers declare, so its other names cannot
clash with those of a program.

    archive.py EXPORTS OUT SYSTEM COMPILER... -- ARCHIVE...
"""
import os
import subprocess
import sys
import tempfile

from exports import read_exports


def make(exports, out, system, compiler, archives):
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(out))) as folder:
        whole, names = os.path.join(folder, "hypura.o"), os.path.join(folder, "names")
        darwin = system == "darwin"
        with open(names, "w", encoding="ascii") as file:
            file.write("".join(("_" if darwin else "") + name + "\n" for name in sorted(exports)))
        if darwin:
            ends = ["-Wl,-all_load", *archives, f"-Wl,-exported_symbols_list,{names}"]
        else:
            ends = ["-Wl,--whole-archive", *archives, "-Wl,--no-whole-archive"]
        subprocess.run([*compiler, "-r", "-nostdlib", "-o", whole, *ends], check=True)
        if not darwin:
            subprocess.run(["objcopy", f"--keep-global-symbols={names}", whole], check=True)
        if os.path.exists(out):
            os.remove(out)
        subprocess.run(["ar", "rcs", out, whole], check=True)


if __name__ == "__main__":
    at = sys.argv.index("--")
    make(read_exports(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:at], sys.argv[at + 1:])
