"""The shell around a worker in another process or actor: makes it on the first call, and says what it is like."""

from __future__ import annotations

from typing import Any

from ecgscale.passes.workers import WorkerSpec


class WorkerShell:
    """Makes the worker of a specification when first called, then passes calls on."""

    def __init__(self, spec: WorkerSpec, threads: int | None = None) -> None:
        self._spec, self._threads = spec, threads
        self._worker: Any = None

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """`hello` answers with the facts that all workers of a run must share; others are the worker's own methods."""
        if self._worker is None:
            if self._threads is not None:
                import torch

                torch.set_num_threads(self._threads)
            self._worker = self._spec.make()
        if method == "hello":
            return self._hello()
        return getattr(self._worker, method)(*arguments)

    def _hello(self) -> dict[str, Any]:
        from ecgscale.store.provenance import versions

        return {**versions(), "device": getattr(self._worker, "device", "cpu")}
