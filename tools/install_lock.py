"""Run a command while no other runs with the same lock: `python tools/install_lock.py FILE COMMAND ...`.

`make` runs what it installs so. `flock` is a command of Linux only, and this needs Python alone, which
installing needs anyway. The command inherits the lock, so that the lock ends with it however it ends.
"""

import fcntl
import os
import sys


def main(file: str, *command: str) -> None:
    """Take the lock of the file, and become the command."""
    lock = os.open(file, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("another make installs into .venv: this one waits for it", file=sys.stderr, flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    os.set_inheritable(lock, True)
    os.execvp(command[0], command)


main(*sys.argv[1:])
