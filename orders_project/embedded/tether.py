"""
Become a program that ends when its parent does: tether.py PARENT SIGNAL UID GID PROGRAM ARGUMENT...

Run as a program of its own between fork and exec, because what it does may not be done between fork and
exec of a process with threads. UID and GID are - to stay who we are.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(parent: str, signal: str, uid: str, gid: str, *program: str) -> None:
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    if sys.platform == "linux":  # after the change of user, which would undo it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal), 0, 0, 0)
    if os.getppid() != int(parent):  # it ended before the tie was made
        raise SystemExit(1)
    os.execvp(program[0], program)  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    main(*sys.argv[1:])
