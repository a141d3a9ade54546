"""Namespaces of its own for a program that tries something as root: what it mounts and starts ends with it, and the ports that it uses are
not those of the system."""

import fcntl
import os
import socket
import struct
import subprocess
import sys


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def enter():
    """Begins the program again as the first process of its own namespaces, as root, with a loopback interface alone."""
    if not os.environ.get("IN_NAMESPACES"):
        root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        keep = ["env", "IN_NAMESPACES=yes", f"PATH={os.environ['PATH']}:/usr/sbin:/sbin", f"HOME={os.environ['HOME']}"]
        namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = [*root, *keep, *namespaces, sys.executable, *sys.argv]
        os.execvp(command[0], command)
    with socket.socket() as any_socket:
        name_and_flags = struct.pack("16sh", b"lo", 1)
        fcntl.ioctl(any_socket, 0x8914, name_and_flags)  # SIOCSIFFLAGS, IFF_UP
