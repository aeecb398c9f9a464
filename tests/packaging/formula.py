"""Reads packaging/homebrew/hypura.rb for tests."""
import os
import re


class Formula:
    def __init__(self, source):
        with open(os.path.join(source, "packaging", "homebrew", "hypura.rb"), encoding="utf-8") as file:
            self.text = file.read()
        self.needs = set(re.findall(r'^\s+(?:depends_on|uses_from_macos) "([\w-]+)"', self.text, re.M))

    def steps(self, prefix):
        """Returns the commands of "def install", as Homebrew runs them."""
        standard = [f"--prefix={prefix}", f"--libdir={prefix}/lib", "--buildtype=release", "--wrap-mode=nofallback"]
        body = re.search(r"^  def install\n(.*?)^  end$", self.text, re.M | re.S)[1]
        steps = []
        for line in body.splitlines():
            call = re.fullmatch(r'\s+system ((?:"[^"]*"|\*std_meson_args)(?:, (?:"[^"]*"|\*std_meson_args))*)', line)
            assert call, f"unknown step in the formula: {line}"
            words = call[1].split(", ")
            steps.append([word for each in words for word in (standard if each.startswith("*") else [each.strip('"')])])
        return steps

    def trial(self, prefix):
        """Returns the shell command of "test do", and the text that its output must contain."""
        run = re.search(r'shell_output\("#\{bin\}(/[^"]*)"\)', self.text)[1]
        return prefix + "/bin" + run, re.search(r'assert_match "([^"]*)"', self.text)[1]
