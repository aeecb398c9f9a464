#!/usr/bin/env python3
"""A build without Vulkan: what the rest calls of the GPU's files stands in the files that take their place. Prints TAP.

    without_gpu.py LIBRARY SOURCE COMPILER...
"""
import os
import subprocess
import sys
import tempfile

library, source, compiler = sys.argv[1], sys.argv[2], sys.argv[3:]
GPU_FILES = ("src_compute_vulkan_", "src_engine_gpu_", "src_hw_gpu_speed.", "src_store_device.", "src_store_in_place.", "src_store_moves.")
STAND_INS = ("compute/vulkan/none.c", "engine/gpu/none.c", "hw/gpu_speed_none.c", "store/device_none.c")


def symbols(path):
    """Of each object in a file: its name, what it defines and what it wants."""
    objects, name = {}, os.path.basename(path)
    for line in subprocess.run(["nm", path], check=True, capture_output=True, text=True).stdout.splitlines():
        if line.endswith(":"):
            name = os.path.basename(line[:-1])
            continue
        words = line.split()
        if len(words) >= 2:
            defined, wanted = objects.setdefault(name, (set(), set()))
            (wanted if words[-2] == "U" else defined).add(words[-1])
    return objects


objects = symbols(library)
gpu = {name for name in objects if name.startswith(GPU_FILES)}
lost = set().union(*(objects[name][0] for name in gpu))
kept = [objects[name] for name in objects if name not in gpu]
with tempfile.TemporaryDirectory() as folder:
    for number, file in enumerate(STAND_INS):
        path = os.path.join(folder, f"{number}.o")
        subprocess.run([*compiler, "-std=c17", "-D_GNU_SOURCE", "-I", source + "/src", "-I", source + "/include", "-c",
                        f"{source}/src/{file}", "-o", path], check=True)
        kept += symbols(path).values()
wanted = set().union(*(wants for _, wants in kept)) & lost - set().union(*(defines for defines, _ in kept))

print("1..2")
print(("ok" if gpu and lost else "not ok"), "1 - the library has the GPU's files")
print(("not ok" if wanted else "ok"), "2 - it would be whole without them")
for name in sorted(wanted):
    print("# missing:", name)
sys.exit(bool(wanted) or not gpu)
