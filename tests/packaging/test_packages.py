#!/usr/bin/env python3
"""The systemd units pass systemd's own checks, the Homebrew formula matches meson.build, and Debian's packages and the container build
with what scripts/setup installs. Prints TAP.

    test_packages.py SOURCE_FOLDER
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

SOURCE = os.path.abspath(sys.argv[1])
sys.path[:0] = [os.path.join(SOURCE, "tests"), os.path.join(SOURCE, "tests", "packaging")]
sys.dont_write_bytecode = True
from formula import Formula
from tap import run_tests, tests_of

WORK = tempfile.TemporaryDirectory(prefix="hypura-test-")
# Homebrew's names of the dependencies in meson.build.
IN_HOMEBREW = {"liburing": "liburing", "jansson": "jansson", "libpcre2-8": "pcre2", "libutf8proc": "utf8proc", "libedit": "libedit",
               "libmicrohttpd": "libmicrohttpd", "libcurl": "curl", "glslc": "shaderc", "vulkan/vulkan_core.h": "vulkan-headers"}
OPTIONAL = {"ompi-c"}  # for several hosts; a build without it uses one
OF_THE_SYSTEM = {"threads", "m", "dl", "python3"}
TO_BUILD_AND_RUN = {"meson", "ninja", "pkgconf", "molten-vk", "vulkan-loader"}


def text_of(*path):
    with open(os.path.join(SOURCE, *path), encoding="utf-8") as file:
        return file.read()


def the_formula_lists_mesons_dependencies():
    build = text_of("meson.build")
    asked = set(re.findall(r"\b(?:dependency|find_library|has_header)\('([^']+)'", build)) | set(re.findall(r"find_program\('(\w+)'", build))
    assert {"jansson", "libcurl", "glslc"} <= asked, asked
    unknown = asked - set(IN_HOMEBREW) - OPTIONAL - OF_THE_SYSTEM
    assert not unknown, f"unknown dependencies; add them to the formula and to this test: {unknown}"
    needs = Formula(SOURCE).needs
    assert needs == {IN_HOMEBREW[name] for name in asked & set(IN_HOMEBREW)} | TO_BUILD_AND_RUN, needs


def the_formula_uses_existing_options():
    steps = Formula(SOURCE).steps("/opt/hypura")
    own = set(re.findall(r"^option\('(\w+)'", text_of("meson_options.txt"), re.M))
    given = {match[1] for step in steps for word in step if (match := re.match(r"-D(\w+)=", word))}
    assert [step[:2] for step in steps] == [["meson", "setup"], ["meson", "compile"], ["meson", "install"]], steps
    assert given and given <= own | {"werror"}, given
    command, expected = Formula(SOURCE).trial("/opt/hypura")
    assert command.startswith("/opt/hypura/bin/hypura run ") and expected, command


def the_formula_is_valid_ruby():
    if not shutil.which("ruby"):
        return "ruby is missing"
    subprocess.run(["ruby", "-c"], input=Formula(SOURCE).text.encode(), check=True, capture_output=True)


def units_pass_the_checks_of_systemd():
    if not shutil.which("systemd-analyze"):
        return "systemd-analyze is missing"
    # Exposure in tenths; lower is safer. A user's own manager can restrict less.
    for folder, scope, worst in (("debian", [], 25), ("extras", ["--user"], 100)):
        unit = os.path.join(WORK.name, folder, "hypura.service")
        os.makedirs(os.path.dirname(unit))
        with open(unit, "w", encoding="utf-8") as file:
            file.write(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text_of(folder, "hypura.service"), flags=re.M))
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, (folder, done)
        if not scope:
            done = subprocess.run(["systemd-analyze", "security", "--offline=true", f"--threshold={worst}", "--no-pager", unit],
                                  capture_output=True, text=True)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def units_start_an_existing_command():
    for folder in ("debian", "extras"):
        command = re.search(r"^ExecStart=(\S+) (\w+)", text_of(folder, "hypura.service"), re.M)
        assert os.path.basename(command[1]) == "hypura" and command[2] == "serve", command
    assert "HYPURA_OPTIONS" in text_of("debian", "hypura.default")


def packages_agree_on_dependencies():
    """debian/control and the Containerfile name all libraries that scripts/setup installs, which are those that meson.build requires."""
    # A comment in scripts/setup names a library that it does not install.
    installed = re.sub(r"^#.*", "", text_of("scripts", "setup"), flags=re.M)
    wanted = set(re.findall(r"\blib[\w-]+-dev\b", installed)) - {"libc6-dev", "libcmocka-dev"}
    assert {"libjansson-dev", "libcurl4-openssl-dev"} <= wanted, wanted
    for name in (("debian", "control"), ("packaging", "Containerfile")):
        there = set(re.findall(r"\blib[\w-]+-dev\b", text_of(*name)))
        assert wanted <= there, (name, wanted - there)


def the_container_runs_as_an_ordinary_user():
    text = text_of("packaging", "Containerfile").replace("\\\n", " ")
    steps = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "RUN", "COPY", "USER", "WORKDIR", "ENV", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT"}
    assert {name for name, _ in steps} <= known, steps
    last = [name for name, _ in steps]
    assert last.index("USER") < last.index("ENTRYPOINT") and dict(steps)["USER"] not in ("root", "0")
    assert "--allow-remote" not in text


if __name__ == "__main__":
    failed = run_tests(tests_of(globals(), [text_of, Formula]))
    WORK.cleanup()
    sys.exit(1 if failed else 0)
