"""Every file once, whatever links there are; what is no file is told apart."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from ecgscale.io.objects import LocalObjects
from ecgscale.io.walking import NOT_UTF8, walk


def found(folder: Path) -> dict[str, str]:
    return {name: odd for name, _, odd in walk(folder)}


def test_links_are_followed_and_never_in_a_circle(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    (root / "a").mkdir(parents=True)
    elsewhere.mkdir()
    for path in (root / "1", root / "a" / "2", elsewhere / "3"):
        path.write_bytes(b"")
    (root / "up").symlink_to(tmp_path)
    (root / "a" / "self").symlink_to(root)
    (root / "latest").symlink_to("a")
    (root / "a" / "disk").symlink_to(elsewhere)
    (root / "disk again").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    assert sorted(found(root)) in (["1", "a/2", "a/disk/3"], ["1", "a/2", "disk again/3"])
    assert len(list(LocalObjects(root).list_prefix(""))) == 3
    assert found(tmp_path / "nowhere") == found(root / "1") == {}


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "good").symlink_to(__file__)
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))).write_bytes(b"")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)
        try:
            server.bind("socket")
        finally:
            os.chdir(here)
        assert found(tmp_path) == {
            "pipe": "a pipe",
            "gone": "a link into nowhere",
            "circle": "a link that leads in a circle",
            "null": "a device",
            "good": "",
            "caf\udce9": NOT_UTF8,
            "socket": "a socket",
        }
    assert list(LocalObjects(tmp_path).list_stats("")) == ["good"]
