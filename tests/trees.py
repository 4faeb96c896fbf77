"""What lies in a folder, to be compared before and after."""

import hashlib
import os


def tree(folder):
    """Return what each name below a folder is: a hash of its bytes, where a link leads, or that it is a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[path.relative_to(folder).as_posix()] = "-> " + os.readlink(path)
        else:
            found[path.relative_to(folder).as_posix()] = (
                hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "/"
            )
    return found
