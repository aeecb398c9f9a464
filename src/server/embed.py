#!/usr/bin/env python3
"""Writes the bytes of FILE to OUT as a C array: embed.py FILE NAME OUT."""
import sys

path, name, out = sys.argv[1:]
with open(path, "rb") as file:
    data = file.read()
with open(out, "w") as file:
    file.write(f"#include <stddef.h>\nextern const char {name}[];\nextern const size_t {name}_size;\n")
    file.write(f"const size_t {name}_size = {len(data)};\nconst char {name}[] = {{\n")
    for start in range(0, len(data), 24):
        file.write(",".join(str(b if b < 128 else b - 256) for b in data[start:start + 24]) + ",\n")
    file.write("};\n")
