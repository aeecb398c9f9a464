"""Runs the tests of a Python script and prints TAP. Each test is a function whose name states what it checks."""
import time
import traceback


def tests_of(script, helpers):
    """Returns a script's functions in order, without the helpers. script is the script's globals()."""
    return [value for value in script.values()
            if callable(value) and getattr(value, "__module__", "") == "__main__" and not isinstance(value, type) and
            value not in helpers]


def run_tests(tests, after_failure=None):
    """Returns the number of failed tests. A test that returns a text was skipped; the text is the reason."""
    print(f"1..{len(tests)}")
    failed = 0
    for number, test in enumerate(tests, 1):
        name = test.__name__.replace("_", " ")
        try:
            start = time.time()
            skipped = test()
            print(f"ok {number} - {name} # {'SKIP ' + skipped if skipped else f'{time.time() - start:.2f} s'}", flush=True)
        except Exception:
            failed += 1
            print(f"not ok {number} - {name}", flush=True)
            for line in traceback.format_exc().splitlines():
                print(f"# {line}")
            if after_failure:
                after_failure()
    return failed
