"""The page without a browser: its structure, what is escaped, what it says about what is not there."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import click
import pyarrow as pa
import pytest

from ecgscale.cli import main
from ecgscale.encoders.seen import SEEN_FILE
from ecgscale.encoders.spec import SPEC_FILE
from ecgscale.errors import UsageError
from ecgscale.evaluate.written import write_evaluation
from ecgscale.report.html import SCRIPTS, render, write_report
from ecgscale.report.subject import open_subject
from tests.worlds.published.page_root import ENCODER_ID, HOSTILE, MODEL_ID, PublishedRoot, publish_by_hand

VOID = {"meta", "link", "input", "br", "img"}


@dataclass
class Parsed(HTMLParser):
    """What a browser makes of the markup: elements, their text, data in scripts."""

    path: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    scripts: dict[str, str] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.path.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.path.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.path and self.path[-1] == "script":
            attributes = self.tags[-1][1]
            self.scripts[attributes.get("id") or "code"] = data
        elif self.path and self.path[-1] != "style":
            self.text.append(data)
            if self.path and self.path[-1] == "code":
                self.code.append(data)


def parsed(text: str) -> Parsed:
    page = Parsed()
    page.feed(text)
    assert not page.path, f"not closed: {page.path}"
    return page


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedRoot:
    return publish_by_hand(tmp_path_factory.mktemp("published"), records=60, seen_folds=(1, 2, 3, 4, 5, 6))


@pytest.fixture(scope="module")
def page(published: PublishedRoot) -> Parsed:
    text, recordings, remarks = render(open_subject(published.root), 12)
    assert (recordings, remarks) == (12, [])
    return parsed(text)


def test_it_says_what_there_is_and_how_to_make_the_rest(page: Parsed, published: PublishedRoot) -> None:
    text = " ".join(page.text)
    for words in ("59", "1 quarantined of 60", "flat_signal", "every lead constant", MODEL_ID, published.dataset_id):
        assert words in text, words
    for command in ("surrogate", "localise", "sweep", "audit"):
        assert f"ecgscale {command} {published.root}" in text
    assert "folds it learnt from" in text
    assert {"Drift", "Order in time", "Probes"}.isdisjoint(page.text), "optional, and not there"


def test_every_command_that_is_recommended_exists(page: Parsed, published: PublishedRoot) -> None:
    """On the page, where click takes it as it stands; and in backticks anywhere in the report's sentences."""
    context = click.Context(main)
    shown = [shlex.split(text) for text in page.code if text.startswith("ecgscale ")]
    assert {words[1] for words in shown} == {"surrogate", "localise", "sweep", "audit", "uncertainty", "report"}
    for words in shown:
        command = main.get_command(context, words[1])
        assert command is not None, words
        command.make_context(words[1], words[2:])
    for path in (Path(__file__).parents[2] / "ecgscale" / "report").glob("*.py"):
        for name, rest in re.findall(r"`ecgscale ([a-z-]+)([^`]*)`", path.read_text()):
            command = main.get_command(context, name)
            assert command is not None, f"{path.name}: ecgscale {name}"
            known = {option for parameter in command.params for option in parameter.opts}
            assert set(re.findall(r"--[a-z-]+", rest)) <= known, f"{path.name}: ecgscale {name}{rest}"


def test_data_for_scripts_is_data(page: Parsed) -> None:
    recordings = json.loads(page.scripts["recordings-data"])
    assert len(recordings) == 12
    one = recordings[0]
    assert len(base64.b64decode(one["signal"])) == 2 * one["n"] * len(one["leads"])
    assert (one["rate"], one["n"], one["derived"]) == (100.0, 500, ["III", "aVR", "aVL", "aVF"])
    assert one["edges"][0] == 0.0
    assert len(one["edges"]) == len(one["clusters"]) + 1
    assert json.loads(page.scripts["clusters"])["model_id"] == MODEL_ID


def test_one_script_may_run_and_nothing_is_fetched(page: Parsed) -> None:
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(page.scripts["code"].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    for tag, attributes in page.tags:
        assert "src" not in attributes, f"<{tag}> loads something"
        assert not [name for name in attributes if name.startswith("on")], f"<{tag}> has a handler"
        href = attributes.get("href") or "#"
        assert href.startswith(("#", "data:"))
    folder = Path(__file__).parents[2] / "ecgscale" / "report" / "web"
    for script in SCRIPTS:
        code = (folder / script).read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(", code), script


def test_names_that_look_like_markup_stay_text(tmp_path: Path) -> None:
    hostile = publish_by_hand(tmp_path, records=40, renamed=HOSTILE)
    facts = {"target": "<b>bold</b>", "remarks": ["<script>1</script>"], "scores": {"<i>": {"value": 1.0}}}
    write_evaluation(hostile.root, hostile.dataset_id, "temporal-superclasses", facts)
    page = parsed(render(open_subject(hostile.root), 39)[0])
    assert {tag for tag, _ in page.tags}.isdisjoint({"img", "b", "i"} - {"b", "i"})
    assert not [a for tag, a in page.tags if "onerror" in a or "onfocus" in a]
    assert [tag for tag, _ in page.tags].count("script") == 4
    embedded = json.loads(page.scripts["recordings-data"])
    assert {HOSTILE["sim0-0000000"], HOSTILE["sim0-0000002"]} <= {record["id"] for record in embedded}
    assert "<" not in page.scripts["recordings-data"]
    assert "<b>bold</b>" in " ".join(page.text)
    assert "<script>1</script>" in " ".join(page.text)


def test_evaluations_are_shown_whatever_they_hold(published: PublishedRoot, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(published.root, root)
    odd = {"deep": {"a": {"b": {"c": 1}}}, "none": None, "rows": [{"x": 1, "y": [1, 2]}], "many": list(range(100))}
    table = pa.table({"record_id": ["sim0-0000009"], "score": [0.5]})
    write_evaluation(root, published.dataset_id, "something-new", odd, {"found": table})
    top = [{"record_id": "sim0-0000009", "patient_id": "Ms Secret", "quality": 0.1, "label": ["MI"], "network": []}]
    write_evaluation(root, published.dataset_id, "audit-superclasses", {"records": 1, "top": top})
    text, _, _ = render(open_subject(root), 12)
    page = parsed(text)
    assert "something-new" in " ".join(page.text)
    assert "Ms Secret" not in text, "names of patients stay out of it"
    assert [a["data-record"] for tag, a in page.tags if tag == "button" and a.get("class") == "open"] == [
        "sim0-0000009"
    ]
    audited = [
        record["id"] for record in json.loads(page.scripts["recordings-data"]) if "label audit" in record["reasons"]
    ]
    assert audited == ["sim0-0000009"]


def test_without_an_archive_the_rest_is_shown(published: PublishedRoot, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.move(published.archive, moved)
    try:
        text, recordings, remarks = render(open_subject(published.root), 5)
        assert recordings == 5
        assert "--archive" in remarks[0]
        assert "signal" not in json.loads(parsed(text).scripts["recordings-data"])[0]
        found = render(open_subject(published.root, archive=moved), 5)
        assert "signal" in json.loads(parsed(found[0]).scripts["recordings-data"])[0]
    finally:
        shutil.move(moved, published.archive)


@pytest.mark.parametrize("kind", ["regression", "multiclass"])
def test_other_networks(tmp_path: Path, kind: str) -> None:
    made = publish_by_hand(tmp_path, records=60, kind=kind, entropy=False)
    page = parsed(render(open_subject(made.root), 9)[0])
    outputs = json.loads(page.scripts["outputs"])
    assert outputs["kind"] == kind
    record = json.loads(page.scripts["recordings-data"])[0]
    assert isinstance(record["labels"], float if kind == "regression" else list)
    assert "curve" not in record


def test_a_page_is_put_whole_into_a_folder_or_a_file(published: PublishedRoot, tmp_path: Path) -> None:
    found = open_subject(published.root)
    written = write_report(found, tmp_path / "report", 2)
    assert (written.path, written.recordings) == (tmp_path / "report" / "index.html", 2)
    assert written.size == written.path.stat().st_size
    assert write_report(found, tmp_path / "page.html", 0).path == tmp_path / "page.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "report"]
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match=r"is a file"):
        write_report(found, tmp_path / "taken", 2)


def test_what_is_lost_or_odd_is_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    made = publish_by_hand(tmp_path, records=40)
    encoder = made.root / "encoders" / ENCODER_ID
    (encoder / SEEN_FILE).unlink()
    contract = encoder / SPEC_FILE
    contract.write_text(contract.read_text().replace('target = "superclasses"', 'target = "diagnoses"'))
    text = " ".join(parsed(render(open_subject(made.root), 6)[0]).text)
    assert "names seen.tsv as the list of what it has seen" in text
    assert "no label column holds 'diagnoses', on which the network was trained" in text
    assert "superclasses" in text, "the columns that there are"
    assert "By class (as the network says)" in text


def test_one_explained_record_is_enough(tmp_path: Path) -> None:
    made = publish_by_hand(tmp_path, records=2)
    subject = open_subject(made.root)
    assert render(subject, 5)[1] == 1
