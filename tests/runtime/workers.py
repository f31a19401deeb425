"""Workers that do what workers of a bad night do; importing them costs nothing."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path
from typing import Any


class Trouble(Exception):
    """An error that cannot be unpickled: it wants an argument that pickling does not keep."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")


class Worker:
    """Echoes, fails, hangs and dies on request."""

    def __init__(self, device: str = "cpu", versions: dict[str, str] | None = None, starts: str = "") -> None:
        self.device = device
        self.kept: dict[str, Any] = {}
        if versions:
            from ecgscale.runtime import worker

            before = worker.kind
            worker.kind = lambda: {**before(), **versions}
        if starts:
            # One line a start; a process that was killed in the middle of a line would be seen.
            with open(starts, "a") as file:
                file.write(f"{os.getpid()}\n")

    def echo(self, value: Any) -> Any:
        return value

    def pid(self) -> int:
        return os.getpid()

    def threads(self) -> tuple[int, int]:
        """Of torch and of the compiled kernels."""
        import torch

        from ecgscale.clusters.accumulate import kernel_threads

        return torch.get_num_threads(), kernel_threads()

    def keep(self, name: str, value: Any) -> int:
        self.kept[name] = value
        return os.getpid()

    def kept_here(self) -> list[str]:
        return sorted(self.kept)

    def fail(self, error: Exception) -> None:
        raise error

    def trouble(self) -> None:
        raise Trouble("a lead fell off", "V3")

    def unsendable(self) -> Any:
        return lambda: None

    def die(self, how: int = signal.SIGKILL) -> None:
        os.kill(os.getpid(), how)
        time.sleep(60)

    def exit(self, code: int) -> None:
        os._exit(code)

    def die_once(self, marker: str, how: int = signal.SIGKILL) -> int:
        """Die where no marker was left yet; else answer."""
        if not Path(marker).exists():
            Path(marker).touch()
            self.die(how)
        return os.getpid()

    def hang(self, marker: str = "") -> int:
        """Do not answer where no marker was left yet; else do."""
        if not marker or not Path(marker).exists():
            if marker:
                Path(marker).touch()
            while True:
                time.sleep(0.1)
        return os.getpid()

    def sleep(self, seconds: float, marker: str = "") -> int:
        if marker:
            Path(marker).write_text(str(os.getpid()))
        time.sleep(seconds)
        return os.getpid()

    def hog(self, limit: int) -> int:
        """Take more memory than this process may have."""
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
        return len(bytearray(4 * limit))


def broken(**_: Any) -> Worker:
    """A factory that cannot make a worker."""
    raise OSError("no such device")
