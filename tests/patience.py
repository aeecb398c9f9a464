"""How many times longer than here something may take before a test calls it hung or slow: machines differ, others load
them too, and a sanitizer slows a program down."""
import sys


def is_instrumented(program=sys.argv[1]):
    """Whether sanitizers were built in, which take memory of their own."""
    with open(program, "rb") as file:
        content = file.read()
    return b"__asan_init" in content or b"__tsan_init" in content


PATIENCE = 20 if is_instrumented() else 6
