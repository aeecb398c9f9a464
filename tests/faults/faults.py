"""Walks over the calls of a program that may fail, n = 1, 2, 3 ..., lets the n-th fail, and judges what came of it."""
import mmap
import os
import struct
import subprocess
import tempfile

MEMORY, OPENING, READING, WRITING, THREAD, RING = 1, 2, 4, 8, 16, 32
KINDS = {MEMORY: "memory", OPENING: "opening", READING: "reading", WRITING: "writing", THREAD: "threads", RING: "io_uring"}
FORMAT = "=IIQQQ"  # struct control of shim.c
WHERE = struct.calcsize(FORMAT)
SIZE = WHERE + 4000


class Faults:
    """What the shim is told, and what it tells."""

    def __init__(self, shim):
        self.file = tempfile.NamedTemporaryFile(prefix="hypura-faults-")
        self.file.write(bytes(SIZE + 4096))
        self.file.flush()
        self.shared = mmap.mmap(self.file.fileno(), SIZE)
        self.environment = {"LD_PRELOAD": shim, "HYPURA_FAULTS": self.file.name}

    def arm(self, kinds, at, lasting=False):
        """at 0: none fails, they are only counted."""
        self.disarm()
        self.shared[WHERE:SIZE] = bytes(SIZE - WHERE)
        self.shared[:WHERE] = struct.pack(FORMAT, 0, lasting, at, 0, 0)
        self.shared[:4] = struct.pack("=I", kinds)

    def disarm(self):
        """How many calls there were, and how many failed."""
        self.shared[:4] = bytes(4)
        _, _, _, count, failed = struct.unpack(FORMAT, self.shared[:WHERE])
        return count, failed

    def where(self):
        return self.shared[WHERE:SIZE].rstrip(b"\0").decode(errors="replace")


def points(count, most):
    """All, or so many of them, evenly."""
    if most is None or count <= most:
        return range(1, count + 1)
    return sorted({1 + i * (count - 1) // (most - 1) for i in range(most)})


def say_where(where, program):
    """The places of a failure, with lines where the program knows them."""
    lines = []
    for frame in where.splitlines()[:14]:
        name, address, symbol = (frame.split(" ") + ["", ""])[:3]
        if name == os.path.basename(program):
            found = subprocess.run(["addr2line", "-f", "-s", "-e", program, address], capture_output=True, text=True)
            symbol = " ".join(found.stdout.split()[:2])
        lines.append(f"{name} {symbol}")
    return " < ".join(lines)
