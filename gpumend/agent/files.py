"""How an agent writes: whole or not at all, and never through a link."""

from __future__ import annotations

import os
import secrets


def written(path: str, data: bytes, mode: int) -> None:
    """The file holds this, with this mode, or what it held before. Its directory must be there and be none that a
    symbolic link stands for: in a directory of another user only the name itself is replaced. Raises OSError."""
    directory, name = os.path.split(path)
    inside = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        temporary = f".{name}.{secrets.token_hex(8)}"
        handle = os.open(
            temporary,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
            dir_fd=inside,
        )
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(data)
                out.flush()
                os.fchmod(out.fileno(), mode)
                os.fsync(out.fileno())
            os.rename(temporary, name, src_dir_fd=inside, dst_dir_fd=inside)
        except BaseException:
            os.unlink(temporary, dir_fd=inside)
            raise
        os.fsync(inside)
    finally:
        os.close(inside)
