#!/usr/bin/env python3
"""make install: the files can be removed again, man pages render, and completions work. Prints TAP.

    test_install.py HYPURA SOURCE_FOLDER
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

HYPURA, SOURCE = os.path.abspath(sys.argv[1]), sys.argv[2]
BUILD = os.path.dirname(HYPURA)
sys.path.append(os.path.join(SOURCE, "tests"))
from tap import run_tests, tests_of

WORK = tempfile.TemporaryDirectory(prefix="hypura-test-")


def output(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, **options).stdout.decode()


def commands():
    return re.findall(r"^  ([a-z]+) +[a-z]", output(HYPURA, "--help").split("Start here")[0], re.M)


def options_of(command):
    return set(re.findall(r"^  --([a-z-]+)", output(HYPURA, command, "--help"), re.M))


def script(name, destination):
    return output(os.path.join(SOURCE, "scripts", name), BUILD, env={**os.environ, "DESTDIR": destination})


def left_in(folder):
    return [os.path.join(where, name) for where, folders, names in os.walk(folder) for name in folders + names]


def installed_files_and_folders_are_removed_again():
    destination = os.path.join(WORK.name, "destination")
    script("install", destination)
    script("install", destination)  # again, with the folders already present
    files = left_in(destination)
    assert any(name.endswith("/bin/hypura") for name in files), files
    assert any(os.path.basename(name).startswith("libhypura.so") for name in files), files
    kept = os.path.join(os.path.dirname(next(name for name in files if name.endswith(".gguf"))), "of-the-user.gguf")
    with open(kept, "w", encoding="ascii"):
        pass
    script("uninstall", destination)
    left = [name for name in left_in(destination) if not os.path.isdir(name)]
    assert left == [kept], left
    os.remove(kept)
    script("install", destination)
    script("uninstall", destination)
    # The folders that contain that file existed before the last installation.
    left = left_in(destination)
    assert all(kept.startswith(name + "/") for name in left), left


def uninstalling_leaves_an_empty_folder():
    destination = os.path.join(WORK.name, "empty")
    script("install", destination)
    assert left_in(destination)
    script("uninstall", destination)
    assert not os.path.exists(destination) or not left_in(destination), left_in(destination)


def every_command_has_a_page():
    with open(os.path.join(BUILD, "meson-info", "intro-installed.json"), encoding="utf-8") as file:
        installed = json.load(file)
    pages = {os.path.basename(name) for name in installed.values() if name.endswith(".1")}
    assert pages == {"hypura.1"} | {f"hypura-{command}.1" for command in commands()}, \
        f"program_commands in src/cli/meson.build differs: {pages}"
    for command in commands():
        page = output(HYPURA, "manual", command).replace("\\-", "-")
        assert set(re.findall(r"^\\fB--([a-z-]+)", page, re.M)) == options_of(command) | {"help"}, command
        assert f"hypura-{command} (1)" in output(HYPURA, "manual").replace("\\-", "-"), command


def pages_render_without_a_warning():
    if not shutil.which("man") or not shutil.which("groff"):
        return "man or groff is missing"
    folder = os.path.join(WORK.name, "pages")
    os.mkdir(folder)
    output(HYPURA, "manual", "--folder", folder)
    for name in os.listdir(folder):
        shown = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", os.path.join(folder, name)],
                               capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"})
        assert shown.returncode == 0 and not shown.stderr and shown.stdout, (name, shown.stderr.decode()[-600:])


def bash_completes_every_option():
    completions = output(HYPURA, "completion", "bash")

    def complete(*words):
        text = completions + f"\nCOMP_WORDS=({' '.join(words)} ''); COMP_WORDS[-1]=$1; COMP_CWORD={len(words)}; _hypura\n" + \
            'printf "%s\\n" "${COMPREPLY[@]}"'
        return text

    assert set(output("bash", "-c", complete("hypura"), "bash", "").split()) == set(commands())
    for command in commands():
        found = output("bash", "-c", complete("hypura", command), "bash", "--").split()
        assert set(found) == {"--" + option for option in options_of(command) | {"help"}}, (command, found)


def fish_completes_every_option():
    if not shutil.which("fish"):
        return "fish is missing"
    completions = os.path.join(WORK.name, "hypura.fish")
    with open(completions, "w", encoding="utf-8") as file:
        file.write(output(HYPURA, "completion", "fish"))
    asked = "".join(f"; echo = {command}; complete -C 'hypura {command} --'" for command in commands())
    home = {**os.environ, "HOME": WORK.name, "XDG_CONFIG_HOME": WORK.name, "XDG_DATA_HOME": WORK.name}
    found = output("fish", "--no-config", "-c", f"source {completions}; complete -C 'hypura '{asked}", env=home)
    first, *rest = re.split(r"^= ", found, flags=re.M)
    assert set(commands()) <= set(re.findall(r"^([a-z]+)\t", first, re.M)), first
    for part in rest:
        command, *lines = part.splitlines()
        assert {line.split("\t")[0][2:] for line in lines} >= options_of(command), (command, lines)


def zsh_accepts_its_completions():
    if not shutil.which("zsh"):
        return "zsh is missing"
    output("zsh", "-n", "-c", output(HYPURA, "completion", "zsh"))
    # Replace _arguments and _describe by functions that print their arguments.
    told = output("zsh", "-f", "-c", "_arguments() { print -rl -- \"$@\" }; _describe() { print -rl -- $commands }; words=(hypura); "
                  "CURRENT=2; compdef() { }\n" + output(HYPURA, "completion", "zsh"))
    assert set(re.findall(r"^([a-z]+):", told, re.M)) == set(commands()), told
    for command in commands():
        told = output("zsh", "-f", "-c", "_arguments() { print -rl -- \"$@\" }\n"
                      f"words=(hypura {command} ''); CURRENT=3\n" + output(HYPURA, "completion", "zsh"))
        assert set(re.findall(r"^\*?--([a-z-]+)", told, re.M)) == options_of(command) | {"help"}, (command, told)


if __name__ == "__main__":
    failed = run_tests(tests_of(globals(), [output, commands, options_of, script, left_in]))
    WORK.cleanup()
    sys.exit(1 if failed else 0)
