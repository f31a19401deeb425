"""TOML as we write it: the standard library only reads it."""

from __future__ import annotations

import json
import re
from typing import Any


def to_toml(content: dict[str, Any]) -> str:
    """Nested dicts of strings, numbers, booleans and lists as TOML; plain keys first, then one table a dict."""
    lines: list[str] = []
    _write_table(content, (), lines)
    return "\n".join(lines) + "\n"


def _write_table(table: dict[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    lines += [f"{_key(key)} = {_value(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for key, value in table.items():
        if isinstance(value, dict) and value:
            inner = (*path, _key(key))
            lines += ["", f"[{'.'.join(inner)}]"] if lines else [f"[{'.'.join(inner)}]"]
            _write_table(value, inner, lines)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which TOML wants escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
    raise TypeError(f"{type(value).__name__} has no place in TOML")
