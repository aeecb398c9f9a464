"""PATIENCE is the factor by which an action may take longer than on the developer's machine before a test calls it hung or
slow. Machines differ and carry other load, and sanitizers slow a program down."""
import sys


def is_instrumented(program=sys.argv[1]):
    """Whether the program was built with sanitizers, which need memory of their own."""
    with open(program, "rb") as file:
        content = file.read()
    return b"__asan_init" in content or b"__tsan_init" in content


PATIENCE = 20 if is_instrumented() else 6
