"""Walks over a program's calls that may fail: lets the n-th call fail, for n = 1, 2, 3 ..., and judges the result."""
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
    """The memory shared with the shim: commands to it, and its reports."""

    def __init__(self, shim):
        self.file = tempfile.NamedTemporaryFile(prefix="hypura-faults-")
        self.file.write(bytes(SIZE + 4096))
        self.file.flush()
        self.shared = mmap.mmap(self.file.fileno(), SIZE)
        self.environment = {"LD_PRELOAD": shim, "HYPURA_FAULTS": self.file.name}

    def arm(self, kinds, at, lasting=False):
        """Lets call number "at" fail (with lasting, all later ones, too). With 0, none fails and calls are only counted."""
        self.disarm()
        self.shared[WHERE:SIZE] = bytes(SIZE - WHERE)
        self.shared[:WHERE] = struct.pack(FORMAT, 0, lasting, at, 0, 0)
        self.shared[:4] = struct.pack("=I", kinds)

    def disarm(self):
        """Returns the number of calls and the number of failed ones."""
        self.shared[:4] = bytes(4)
        _, _, _, count, failed = struct.unpack(FORMAT, self.shared[:WHERE])
        return count, failed

    def where(self):
        return self.shared[WHERE:SIZE].rstrip(b"\0").decode(errors="replace")


def points(count, most):
    """Returns the numbers of all calls, or an even selection of "most" of them."""
    if most is None or count <= most:
        return range(1, count + 1)
    return sorted({1 + i * (count - 1) // (most - 1) for i in range(most)})


def say_where(where, program):
    """Returns the call stack of a failure, with source lines where they are known."""
    lines = []
    for frame in where.splitlines()[:14]:
        name, address, symbol = (frame.split(" ") + ["", ""])[:3]
        if name == os.path.basename(program):
            found = subprocess.run(["addr2line", "-f", "-s", "-e", program, address], capture_output=True, text=True)
            symbol = " ".join(found.stdout.split()[:2])
        lines.append(f"{name} {symbol}")
    return " < ".join(lines)
