"""Names of places: read as they are meant, or told."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from ecgscale.config import load_config
from ecgscale.errors import UsageError
from ecgscale.io.objects import open_objects
from ecgscale.io.places import arrow_place, is_remote, local_copy, nearly, place
from ecgscale.io.settings import put_object

ODD_NAMES = ("a b", "100%", "50%25", "a#b", "a?b", "a+b", "[1]*", "Ärzte", unicodedata.normalize("NFD", "Ärzte"), "'\"")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_taken_as_they_are(any_root: str, name: str) -> None:
    where = place(f"{any_root}/{name}/")
    store = open_objects(where)
    store.put(f"{name}/x.parquet", b"1")
    assert store.put_if_absent(f"{name}/x.parquet", b"2") is False
    assert list(store.list_prefix("")) == list(store.list_prefix(name)) == [f"{name}/x.parquet"]
    assert (where / name / "x.parquet").read_bytes() == b"1"
    assert [path.name for path in (where / name).iterdir()] == ["x.parquet"]
    table = pa.table({"a": [1]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    store.put(f"{name}/x.parquet", sink.getvalue().to_pybytes())
    path, system = arrow_place(store.location(f"{name}/x.parquet"))
    assert pq.read_table(path, filesystem=system).equals(table)
    assert pyarrow.dataset.dataset([path], filesystem=system, format="parquet").to_table().equals(table)
    store.delete(f"{name}/x.parquet")
    assert list(store.list_prefix("")) == []


def test_ways_to_write_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/anna")
    assert place("~/a b") == place("file:///anna/a%20b") == place("file:/anna/a b/") == Path("/anna/a b")
    assert place("file://localhost/%C3%84rzte%25") == Path("/Ärzte%")
    assert place("a/../b//c/") == Path("a/../b/c")
    assert place("x:y") == Path("x:y")
    assert str(place("S3://bucket/a b/%41?#+/")) == "s3://bucket/a b/%41?#+"
    assert place(place("s3://bucket/x")) == place("s3://bucket/x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is a variable not set"),
        (" ", "is a variable not set"),
        ("s3://", "names no bucket"),
        ("s3:///key", "names no bucket"),
        ("s3:/bucket/key", "two slashes"),
        (Path("s3://bucket/key"), "two slashes"),
        ("s3://bucket//key", "leave it out"),
        ("s3://bucket/a/../key", "leave it out"),
        ("gs://bucket/key", "only local paths and s3://"),
        ("https://bucket.example/key", "only local paths and s3://"),
        ("file://server/share", "another machine"),
        ("file:///%FF", "not UTF-8"),
        ("caf\udce9", r"caf\\udce9: a name has to be UTF-8"),
        ("a\0b", "UTF-8"),
        ("~nobody-of-this-name/x", "no such user"),
    ],
)
def test_what_would_be_another_place_is_told(text: str | Path, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        place(text)


def test_a_configuration_means_places_as_options_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/anna")
    (tmp_path / "c.toml").write_text(
        'root = "~/results"\n[archive]\npath = "file:///a%20b"\nsource = "wfdb"\nsrc = "s3://bucket/ü/"\n'
        '[encoder]\npath = "../encoder"\n'
    )
    config = load_config(tmp_path / "c.toml")
    assert (config.root, config.archive.path) == (Path("/anna/results"), Path("/a b"))
    assert str(config.archive.src) == "s3://bucket/ü"
    assert config.encoder.path == tmp_path / "../encoder"
    assert config.model_validate(config.model_dump(mode="json")) == config
    (tmp_path / "c.toml").write_text('root = "s3:/b/x"\n[archive]\npath = "a"\n[encoder]\npath = "e"\n')
    with pytest.raises(UsageError, match="root: s3:/b/x: expected s3://BUCKET/PREFIX, with two slashes"):
        load_config(tmp_path / "c.toml")


def test_a_name_that_looks_the_same_is_offered(tmp_path: Path) -> None:
    (tmp_path / unicodedata.normalize("NFD", "Ärzte")).mkdir()
    assert "whose name is written otherwise" in nearly(tmp_path / "Ärzte")
    assert nearly(tmp_path / "Aerzte") == nearly(tmp_path / "nowhere" / "x") == ""


def test_what_would_leave_is_not_fetched(s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name = s3_root.removeprefix("s3://")
    put_object(f"{name}/encoder/encoder.toml", b"1")
    put_object(f"{name}/encoder/sub/", b"")
    assert [path.name for path in local_copy(f"{s3_root}/encoder").rglob("*")] == ["encoder.toml"]
    put_object(f"{name}/encoder/../../../evil", b"1")
    with pytest.raises(UsageError, match=r"with \.\. in it would leave"):
        local_copy(f"{s3_root}/encoder")
    assert is_remote(s3_root)
    assert not list(tmp_path.rglob("evil"))
    assert os.listdir(tmp_path) == ["ecgscale"]
