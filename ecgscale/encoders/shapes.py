"""What the numbers of a tap mean: which axis of what a layer returns is time, and where its steps sit on it.

`[taps]` of encoder.toml says so, for all taps (`[taps."*"]`) or for one (`[taps."blocks.3"]`), by letters, one an axis:

    b records   c channels   t time   l leads   1 an axis of one   (lt) leads and time in one axis, leads outside
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ecgscale.archive_config import Section
from ecgscale.errors import EncoderError

if TYPE_CHECKING:
    import torch

ALL = "*"
DEFAULT_AXES = "bct"
NODE = "fx:"
"""Begins the name of an intermediate value: a node of the torch.fx graph."""

_KNOWN = {
    2: ("bt",),
    3: ("bct", "btc", "tbc", "b(lt)c", "b(tl)c", "bc(lt)"),
    4: ("bclt", "bltc", "blct", "bctl", "btlc", "bc1t", "b1tc", "b1ct"),
}
"""Axes that networks are known to have, by how many there are, the most usual first."""


class TapSpec(Section):
    """A section of `[taps]`: how to read what a layer returns. What is not stated is as it is by default.

    axes: "bct" by default; drop_steps: leading steps that are no time, or [leading, trailing] (0)
    leads: what becomes of an axis of leads: their "mean" (by default), or all of them as channels ("stack")
    start, step: samples; step l of the tap sits at start + step · l on the input's axis (half-pixel centres by default)
    trust: true where all this is right whatever impulses say of it
    """

    axes: str | None = None
    drop_steps: int | tuple[int, int] | None = None
    leads: Literal["mean", "stack"] | None = None
    start: Annotated[float, Field(allow_inf_nan=False)] | None = None
    step: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    trust: bool | None = None

    @field_validator("axes")
    @classmethod
    def _readable(cls, axes: str | None) -> str | None:
        if axes is not None:
            groups_of(axes)
        return axes

    @field_validator("drop_steps", mode="before")
    @classmethod
    def _counted(cls, drop: Any) -> Any:
        counts = list(drop) if isinstance(drop, list | tuple) and len(drop) == 2 else [drop]
        if drop is not None and not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError("expected how many leading steps are no time, as 1, or [leading, trailing], as [1, 0]")
        return drop

    @model_validator(mode="after")
    def _whole(self) -> TapSpec:
        if (self.start is None) != (self.step is None):
            raise ValueError("start and step belong together: state both, or neither")
        return self


def groups_of(axes: str) -> tuple[str, ...]:
    """The axes one by one: "b(lt)c" → ("b", "lt", "c"). ValueError when they make no sense."""
    if not re.fullmatch(r"([bctl1]|\((lt|tl)\))+", axes):
        raise ValueError(
            f"axes {axes!r}: one letter an axis, of b (records), c (channels), t (time), l (leads), 1 (an axis of "
            'one), or (lt), (tl) for leads and time in one axis; "bct" and "btc" are usual'
        )
    letters = [letter for letter in axes if letter in "bctl"]
    if len(set(letters)) < len(letters) or not {"b", "t"} <= set(letters):
        raise ValueError(f"axes {axes!r}: b and t have to be there once each, c and l at most once")
    return tuple(found.strip("()") for found in re.findall(r"\(\w+\)|\w", axes))


@dataclass(frozen=True)
class TimeMap:
    """Where the steps of a tap sit on the input's axis, in samples: step l at `start` + `step` · l."""

    start: float
    step: float

    @classmethod
    def half_pixel(cls, steps: int, length: int) -> TimeMap:
        """The default: each step in the middle of its part of the axis."""
        hop = length / steps
        return cls((hop - 1) / 2, hop)


@dataclass(frozen=True)
class Tap:
    """How to read one layer: a `TapSpec` with nothing left open. `stated`: the keys that encoder.toml gives."""

    layer: str
    axes: str = DEFAULT_AXES
    drop: tuple[int, int] = (0, 0)
    leads: Literal["mean", "stack"] = "mean"
    time: TimeMap | None = None
    trust: bool = False
    stated: frozenset[str] = frozenset()

    @classmethod
    def of(cls, layer: str, sections: Mapping[str, TapSpec]) -> Tap:
        """What `sections` says of `layer`: its own section first, then that of all."""
        said: dict[str, Any] = {}
        for section in (sections.get(ALL), sections.get(layer)):
            said |= section.model_dump(exclude_none=True) if section else {}
        drop = said.get("drop_steps", 0)
        time = TimeMap(said["start"], said["step"]) if "start" in said else None
        return cls(
            layer,
            said.get("axes", DEFAULT_AXES),
            (drop, 0) if isinstance(drop, int) else tuple(drop),
            said.get("leads", "mean"),
            time,
            said.get("trust", False),
            frozenset(said),
        )

    def block(self, tensor: torch.Tensor, n: int, length: int, n_leads: int) -> torch.Tensor:
        """What the layer returned for n records as (n, channels, steps), at most `length` steps.

        EncoderError, which says how to settle it, where the tensor is not of these axes.
        """
        shape = tuple(tensor.shape)
        groups = groups_of(self.axes)
        if len(groups) != len(shape):
            raise self._unfit(shape, n, length, n_leads)
        for place, group in reversed(list(enumerate(groups))):
            if group == "1" and shape[place] == 1:
                tensor = tensor.squeeze(place)
            elif group == "lt" and shape[place] % n_leads and shape[place] > n_leads:
                tensor = _divided(tensor, place, n_leads)
            elif len(group) == 2 and shape[place] % n_leads == 0:
                parts = {"l": n_leads, "t": shape[place] // n_leads}
                tensor = tensor.unflatten(place, [parts[letter] for letter in group])
            elif group == "1" or len(group) == 2:
                raise self._unfit(shape, n, length, n_leads)
        letters = "".join(groups).replace("1", "")
        for missing in (letter for letter in "lc" if letter not in letters):
            tensor, letters = tensor.unsqueeze(-1), letters + missing
        tensor = tensor.permute([letters.index(letter) for letter in "blct"])
        first, last = self.drop
        steps = tensor.shape[3] - first - last
        if tensor.shape[0] != n or 0 in tensor.shape or not 0 < steps <= length:
            raise self._unfit(shape, n, length, n_leads)
        if self.time and (self.time.start > length - 1 or self.time.start + self.time.step * (steps - 1) < 0):
            raise EncoderError(
                f"{section_of(self.layer)} start = {self.time.start:g}, step = {self.time.step:g} puts the {steps} "
                f"steps of {self.layer!r} beside the time axis of {length} samples"
            )
        tensor = tensor[..., first : first + steps]
        stacked = tensor.flatten(1, 2) if self.leads == "stack" or tensor.shape[1] == 1 else tensor.mean(1)
        return stacked.contiguous()

    def _unfit(self, shape: Sequence[int], n: int, length: int, n_leads: int) -> EncoderError:
        others = [axes for axes in plausible_axes(shape, n, length, n_leads) if axes != self.axes]
        choice = " or ".join(f'axes = "{axes}"' for axes in others[:4])
        groups = groups_of(self.axes)
        over = shape[groups.index("t")] - length if len(groups) == len(shape) and "t" in groups else 0
        if 0 < over <= length // 4:
            drop = f"drop_steps = [{over // 2}, {over - over // 2}]"
            choice = " or ".join(filter(None, (f"{drop} (steps at its ends that see padding alone)", choice)))
        remedy = f"encoder.toml settles it: {section_of(self.layer)} {choice}; then `encoder check` measures its time"
        if not choice:
            remedy = "No axis of it can be time: tap an earlier layer. `ecgscale encoder check` lists layers that do"
        dropped = f" less {sum(self.drop)} dropped" if any(self.drop) else ""
        wanted = "(records, channels, steps)" if self.axes == DEFAULT_AXES else f'axes "{self.axes}"'
        return EncoderError(
            f"layer {self.layer!r} gives shape {tuple(shape)}; a tap has to give {wanted} with {n} records and at most "
            f"{length} steps{dropped}. {remedy}"
        )


def _divided(tensor: torch.Tensor, place: int, n_leads: int) -> torch.Tensor:
    """An axis of leads one after the other whose tokens straddle them, as axes of leads and of whole steps each.

    Each lead's part is interpolated to as many steps as it has whole tokens, at their half-pixel centres.
    """
    import torch  # who only reads a contract does without

    size, steps = tensor.shape[place], tensor.shape[place] // n_leads
    at = (torch.arange(n_leads, dtype=torch.float64)[:, None] + (torch.arange(steps) + 0.5) / steps).flatten()
    position = (at * size / n_leads - 0.5).clamp(0, size - 1)
    left = position.floor().long()
    weight = (position - left).to(tensor.dtype).to(tensor.device).unflatten(0, (n_leads, steps))
    left = left.to(tensor.device)
    before, after = (
        tensor.index_select(place, index).unflatten(place, (n_leads, steps))
        for index in (left, (left + 1).clamp(max=size - 1))
    )
    weight = weight[(..., *[None] * (tensor.ndim - place - 1))]
    return before * (1 - weight) + after * weight


def section_of(layer: str) -> str:
    """The head of a tap's section, as TOML has it."""
    escaped = layer.replace("\\", "\\\\").replace('"', '\\"')
    return f'[taps."{escaped}"]'


def plausible_axes(shape: Sequence[int], n: int, length: int, n_leads: int) -> Iterator[str]:
    """Axes that a tensor of this shape may have, judged by sizes alone, the most usual first."""
    for axes in _KNOWN.get(len(shape), ()):
        groups = groups_of(axes)
        sizes = dict(zip(groups, shape, strict=True))
        joined = next((group for group in groups if len(group) == 2), None)
        steps = sizes["t"] if joined is None else sizes[joined] // n_leads
        straddling = joined == "lt" and sizes[joined] > 2 * n_leads
        whole = joined is None or (n_leads > 1 and (sizes[joined] % n_leads == 0 or straddling))
        leads = "l" not in sizes or sizes["l"] in (1, n_leads)
        ones = "1" not in sizes or sizes["1"] == 1
        if sizes["b"] == n and 0 < steps <= length and whole and leads and ones and 0 not in shape:
            yield axes


def split_layer(layer: str) -> tuple[str, tuple[str, ...]]:
    """The module (or fx:NODE) and the path to an element of what it returns: "block1#1" → ("block1", ("1",)).

    EncoderError when there is nothing between or behind the #.
    """
    name, *path = layer.split("#")
    if not all(path) or not name:
        raise EncoderError(
            f"layer {layer!r}: after # comes the number of an element of the tuple that it returns, or the key of a "
            f"dict, as in {(name or 'block1') + '#1'!r}, {(name or 'block1') + '#last_hidden_state'!r}"
        )
    return name, tuple(path)
