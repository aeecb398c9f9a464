"""Runs a program in a pseudo-terminal and types into it."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

from patience import PATIENCE


class Terminal:
    def __init__(self, command, environment, columns=80):
        self.child, self.file = pty.fork()
        if self.child == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            os.environ.update({"TERM": "xterm", "LC_ALL": "C.UTF-8", **environment})
            os.execv(command[0], list(map(str, command)))
        self.greeting = self.wait("\n> ")

    def wait(self, until):
        """Returns the output up to a match of the regular expression."""
        data, end = b"", time.monotonic() + 60 * PATIENCE
        while not re.search(until, data.decode(errors="replace")):
            assert select.select([self.file], [], [], end - time.monotonic())[0], (until, data)
            try:
                got = os.read(self.file, 4096)
            except OSError:
                got = b""
            assert got, f"the program ended before {until}: {data}"
            data += got
        return data.decode(errors="replace").replace("\r", "")

    def await_editor(self):
        """Waits until the line editor listens. The prompt appears a moment earlier, and keys in between may be lost."""
        end = time.monotonic() + 60 * PATIENCE
        while termios.tcgetattr(self.file)[3] & termios.ICANON:
            assert time.monotonic() < end, "the line editor does not listen"
            time.sleep(0.005)

    def say(self, text, until="\n> "):
        """Types keys at the prompt. Returns the output up to the next prompt."""
        self.await_editor()
        os.write(self.file, text.encode())
        return self.wait(until)

    def interrupt(self):
        """Presses Ctrl-C during an answer, whose text may look like a prompt."""
        os.write(self.file, b"\x03")
        self.await_editor()
        return self.wait(r"> \Z")

    def end(self, text):
        """Types keys that end the program. Returns its exit status."""
        self.await_editor()
        os.write(self.file, text.encode())
        try:
            while select.select([self.file], [], [], 60 * PATIENCE)[0]:
                if not os.read(self.file, 4096):
                    break
            else:
                os.kill(self.child, signal.SIGKILL)
        except OSError:
            pass
        os.close(self.file)
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
