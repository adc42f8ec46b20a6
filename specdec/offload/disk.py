"""DiskTier: keys and values in a file that ends with the process."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import tempfile
import weakref
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from specdec.cache.level import paged
from specdec.errors import InvalidArgument, OutOfMemory
from specdec.offload.disk_folder import disk_folder
from specdec.offload.pace import Pace

_PAGE = mmap.ALLOCATIONGRANULARITY


class DiskTier:
    """One file, memory-mapped for writes and gathers, read with `pread` when it is streamed.

    The file has no name once it is open, so it is gone when the process is, however that ends
    (where the system cannot do so, it is removed at exit). Its blocks are reserved before they are
    used: a full disk is an OutOfMemory when a buffer is made, not a lost write later.
    """

    name = "disk"

    def __init__(self, folder: str | Path | None = None, pace: Pace | None = None) -> None:
        self.folder, self.pace = folder, pace or Pace()
        self.nbytes = 0
        self._offsets: dict[int, int] = {}  # address of a buffer -> its place in the file
        self._fd: int | None = None

    def empty(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        nbytes = like.dtype.itemsize * torch.Size(shape).numel()
        fd, offset = self._file(), self.nbytes
        size = -(-nbytes // _PAGE) * _PAGE
        try:
            if size > shutil.disk_usage(self._folder).free:  # before a part of it is taken
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            _reserve(fd, offset, size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise OutOfMemory(
                f"offload_folder {self.place}: no room for {size:,} bytes of keys and values "
                f"behind {self.nbytes:,} ({error.strerror}); free some, or give another folder"
            ) from error
        self.nbytes += size
        mapped = mmap.mmap(fd, size, offset=offset)
        buffer = torch.frombuffer(mapped, dtype=like.dtype, count=nbytes // like.dtype.itemsize)
        self._offsets[buffer.data_ptr()] = offset
        return buffer.view(shape)

    def is_remote(self, device: torch.device) -> bool:
        return True

    def fetch(self, buffer: Tensor, row: int, start: int, end: int, out: Tensor) -> None:
        """See Tier; `out` lies in host memory."""
        started = perf_counter()
        assert self._fd is not None
        _, heads, capacity, dim = buffer.shape
        width = dim * buffer.element_size()
        offset = self._offsets[buffer.data_ptr()]
        flat: Any = out.view(torch.uint8).view(-1).numpy()
        target = memoryview(flat)
        each = (end - start) * width
        for head in range(heads):
            at = offset + ((row * heads + head) * capacity + start) * width
            _read(self._fd, target[head * each : (head + 1) * each], at)
        self.pace.after(out.nbytes, started)

    def gather(self, buffer: Tensor, row: int, heads: Tensor, pages: Tensor, out: Tensor) -> None:
        """See Tier; `out` lies in host memory."""
        started = perf_counter()
        out.copy_(paged(buffer, row, out.shape[1])[heads.cpu(), pages.cpu()])
        self.pace.after(out.nbytes, started)

    def landing(self, shape: tuple[int, ...], like: Tensor, device: torch.device) -> Tensor:
        return torch.empty(shape, dtype=like.dtype)

    def forget_cache(self) -> None:
        """Write the file out and ask the system to keep none of it in memory, to measure reads."""
        if self._fd is not None and hasattr(os, "posix_fadvise"):
            os.fsync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    @property
    def place(self) -> str:
        """The folder, as given or as found."""
        return str(self._folder)

    @cached_property
    def _folder(self) -> Path:
        return disk_folder(self.folder)

    def _file(self) -> int:
        if self._fd is None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                fd, path = tempfile.mkstemp(prefix="specdec-kv-", dir=self._folder)
            except OSError as error:
                raise InvalidArgument(
                    f"offload_folder={self.place!r} cannot be written ({error.strerror}): give "
                    "another folder"
                ) from error
            named = True
            with contextlib.suppress(OSError):  # an open file cannot be removed on Windows
                os.unlink(path)
                named = False
            self._fd = fd
            weakref.finalize(self, _close, fd, path if named else None)
        return self._fd


def _reserve(fd: int, offset: int, size: int) -> None:
    """Give the file blocks of its own from `offset` on."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, offset, size)
        return
    zeros, end = bytes(1 << 20), offset + size
    os.lseek(fd, offset, os.SEEK_SET)
    while offset < end:
        offset += os.write(fd, zeros[: end - offset])


def _read(fd: int, target: memoryview, at: int) -> None:
    """Fill `target` from position `at`."""
    done = 0
    while done < len(target):
        count = os.preadv(fd, [target[done:]], at + done)
        if not count:
            raise OSError(f"the file of offloaded keys and values ends at {at + done}")
        done += count


def _close(fd: int, path: str | None) -> None:
    os.close(fd)
    if path is not None:
        with contextlib.suppress(OSError):
            os.unlink(path)
