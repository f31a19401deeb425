"""Option values that several commands share: lists of numbers, sizes in bytes."""

from __future__ import annotations

import re

import click

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class IntegerList(click.ParamType):
    """ "1,2,5" or "1-7,9" → (1, 2, …)."""

    name = "N,N,…"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Parse, or fail with what was expected."""
        if isinstance(value, tuple):
            return value
        numbers: list[int] = []
        for part in value.split(","):
            match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
            if not match:
                self.fail(f"{value!r} is not a list of numbers such as 1,2,5 or 1-7,9", param, ctx)
            first, last = int(match[1]), int(match[2] or match[1])
            numbers.extend(range(first, last + 1))
        return tuple(dict.fromkeys(numbers))


class ByteSize(click.ParamType):
    """ "8GiB", "500M", "1073741824" → bytes."""

    name = "SIZE"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse, or fail with what was expected."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", value, re.IGNORECASE)
        if not match:
            self.fail(f"{value!r} is not a size such as 8GiB or 500MiB", param, ctx)
        return int(float(match[1]) * _UNITS[match[2].upper()])


INTEGERS = IntegerList()
BYTES = ByteSize()
