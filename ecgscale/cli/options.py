"""Option values that several commands share: lists of numbers, sizes in bytes."""

from __future__ import annotations

import re

import click

from ecgscale.config import byte_size


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
            if last < first:
                self.fail(f"{value!r}: a range goes upwards, as {last}-{first}", param, ctx)
            numbers.extend(range(first, last + 1))
        return tuple(dict.fromkeys(numbers))


class ByteSize(click.ParamType):
    """ "8GiB", "500M", "1073741824" → bytes."""

    name = "SIZE"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse, or fail with what was expected."""
        if isinstance(value, int):
            return value
        try:
            return byte_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


INTEGERS = IntegerList()
BYTES = ByteSize()
