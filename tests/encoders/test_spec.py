"""encoder.toml: read, refused with the right words, written, and digested."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ecgscale.encoders.spec import (
    SPEC_FILE,
    OutputSpec,
    encoder_digest,
    encoder_files,
    encoder_id,
    load_spec,
    write_spec,
)
from ecgscale.errors import EncoderError
from ecgscale.io.toml import to_toml
from tests.worlds.formula.small_networks import small_resnet, spec_of, write_small_encoder

CONTRACT = """
name = "ptbxl-superclass-resnet1d"
factory = "ecgscale.encoders.resnet1d:ResNet1d"
weights = "weights.safetensors"
weights_key = "model"
layers = ["resblock1d_2", "resblock1d_3#1", "resblock1d_4"]
depth_scales = [1.0, 1, 0.5]
[arguments]
input_dim = [12, 4096]
[input]
leads = ["DI", "II", "avr"]
sampling_rate = 400
length = 4096
[output]
kind = "multilabel"
names = ["CD", "HYP"]
[training]
folds = [1, 2]
"""


def test_reads_a_contract_with_its_defaults(tmp_path: Path) -> None:
    (tmp_path / SPEC_FILE).write_text(CONTRACT)
    spec = load_spec(tmp_path)
    assert spec.input.leads == ("I", "II", "aVR")
    assert (spec.input.millivolt, spec.input.padding, spec.input.normalisation) == (1.0, "center", "none")
    assert (spec.output.scale, spec.weights_key) == ("logit", "model")
    assert spec.depth_scales == (1.0, 1.0, 0.5)
    assert spec.training == {"folds": [1, 2]}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sampling_rate = 400", "samplingrate = 400", "sampling_rate is missing.*samplingrate.*Did you mean"),
        ("depth_scales = [1.0, 1, 0.5]", "depth_scales = [1]", "1 depth_scales for 3 layers"),
        ("depth_scales = [1.0, 1, 0.5]", "depth_scales = [1, 1, -1]", "depth_scales.2"),
        ('"resblock1d_4"]', '"resblock1d_2"]', "tapped twice"),
        ('"weights.safetensors"', '"/elsewhere/w.pt"', "not beside"),
        ('"weights.safetensors"', '"../w.pt"', "not beside"),
        ('"weights.safetensors"', r'"w\u0000.pt"', "not beside"),
        ("folds = [1, 2]", 'seen = "../../etc/passwd"', "training: '../../etc/passwd' is not beside"),
        ("folds = [1, 2]", 'seen = "/etc/passwd"', "training: '/etc/passwd' is not beside"),
        ("folds = [1, 2]", "seen = 3", "training: seen is 3"),
        ('"ecgscale.encoders.resnet1d:ResNet1d"', '"subprocess:check_output"', "of Python's standard library"),
        ('"ecgscale.encoders.resnet1d:ResNet1d"', '"os.path:join"', "of Python's standard library"),
        ('"ecgscale.encoders.resnet1d:ResNet1d"', '"builtins:eval"', "of Python's standard library"),
        ('"DI", "II", "avr"', '"DI", " "', "a lead has no name"),
        ('"DI", "II", "avr"', '"DI", 2', "input.leads.1"),
        ('["DI", "II", "avr"]', "7", "input.leads"),
        ("length = 4096", "length = 99999999999999999999", "input.length"),
        ("length = 4096", "length = " + "9" * 5000, "is not TOML"),
        ("input_dim = [12, 4096]", "x = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("input_dim = [12, 4096]", ".".join("a" * 200) + " = 1", "nested too deeply"),
        ("input_dim = [12, 4096]", "x = '" + "a" * 2**20 + "'", "longer than 1 MiB"),
        ('"weights.safetensors"', '"w.xml"', "neither .safetensors nor .pt"),
        ('"ecgscale.encoders.resnet1d:ResNet1d"', '"ResNet1d"', "package.module:callable"),
        ("length = 4096", "length = 0", "input.length"),
        ("sampling_rate = 400", "sampling_rate = inf", "input.sampling_rate"),
        ('"DI", "II"', '"II", "DII"', "lead is named twice"),
        ('kind = "multilabel"', 'kind = "segmentation"', "output.kind"),
        ('names = ["CD", "HYP"]', 'names = ["CD", "CD"]', "output is named twice"),
        ("[training]", "[trained]", "unknown key trained.*Did you mean 'training'"),
        ('name = "', "name = ", "is not TOML"),
    ],
)
def test_a_wrong_contract_is_told(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in CONTRACT
    (tmp_path / SPEC_FILE).write_text(CONTRACT.replace(old, new, 1))
    with pytest.raises(EncoderError, match=message) as caught:
        load_spec(tmp_path)
    assert SPEC_FILE in str(caught.value)
    assert "\n" not in str(caught.value)


def test_links_that_lead_out_are_refused_and_those_inside_are_not(tmp_path: Path) -> None:
    encoder = write_small_encoder(tmp_path / "encoder", training={"seen": "seen.tsv"})
    (encoder / "seen.tsv").write_text("part\trecord\tpatient\n")
    (encoder / "weights.safetensors").rename(encoder / "epoch-7.safetensors")
    (encoder / "weights.safetensors").symlink_to("epoch-7.safetensors")
    assert encoder_digest(encoder)
    assert len(encoder_files(encoder)) == 3
    (tmp_path / "secret").write_text("of somebody else")
    for name, look in (("seen.tsv", encoder_files), ("weights.safetensors", encoder_digest)):
        (encoder / name).unlink()
        (encoder / name).symlink_to(tmp_path / "secret")
        with pytest.raises(EncoderError, match="leads out of the encoder's folder"):
            look(encoder)
    (tmp_path / "link").symlink_to(write_small_encoder(tmp_path / "other"))
    assert encoder_digest(tmp_path / "link") == encoder_digest(tmp_path / "other")


def test_what_is_no_plain_file_is_told(tmp_path: Path) -> None:
    encoder = write_small_encoder(tmp_path / "encoder", training={"seen": "seen.tsv"})
    os.mkfifo(encoder / "seen.tsv")
    with pytest.raises(EncoderError, match="is no file"):
        encoder_files(encoder)
    (encoder / SPEC_FILE).unlink()
    (encoder / SPEC_FILE).mkdir()
    with pytest.raises(EncoderError, match="cannot be read: Is a directory"):
        load_spec(encoder)


def test_a_directory_without_contract_says_what_an_encoder_is(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="ecgscale train"):
        load_spec(tmp_path / "nowhere")


def test_a_regression_holds_values() -> None:
    assert OutputSpec.model_validate({"kind": "regression", "names": ["age"]}).scale == "value"
    assert OutputSpec(kind="regression", scale="logit", names=("age",)).scale == "value"
    with pytest.raises(ValidationError, match="for 'regression'"):
        OutputSpec(kind="multiclass", scale="value", names=("a", "b"))


def test_written_and_read_again(tmp_path: Path) -> None:
    spec = spec_of(name='odd "name" \\ \x7f é \n', training={"metrics": {"auroc:CD": 0.5, "n": 3}, "seen": "seen.tsv"})
    write_spec(tmp_path, spec)
    assert load_spec(tmp_path) == spec
    assert [path.name for path in tmp_path.iterdir()] == [SPEC_FILE]


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1),
        st.recursive(
            st.booleans()
            | st.integers(-(2**62), 2**62)
            | st.floats(allow_nan=False)
            | st.text(st.characters(codec="utf-8")),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=5,
        )
        | st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers(-9, 9), min_size=1, max_size=2),
        max_size=4,
    )
)
def test_toml_is_what_was_meant(content: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(content)) == content


def test_digest_names_contract_and_weights(tmp_path: Path) -> None:
    first = encoder_digest(write_small_encoder(tmp_path / "a"))
    assert encoder_digest(write_small_encoder(tmp_path / "b")) == first
    assert encoder_digest(write_small_encoder(tmp_path / "c", seed=1)) != first
    assert encoder_digest(write_small_encoder(tmp_path / "d", depth_scales=[1, 1, 2])) != first
    assert encoder_digest(write_small_encoder(tmp_path / "e", training={"seed": 1})) != first
    toml = tmp_path / "a" / SPEC_FILE
    toml.write_text("# a comment\n" + toml.read_text().replace('normalisation = "none"\n', ""))
    assert encoder_digest(tmp_path / "a") == first
    assert encoder_id("PTB-XL: ResNet 1d!", first) == f"ptb-xl-resnet-1d-{first[:12]}"


def test_digest_without_weights(tmp_path: Path) -> None:
    write_small_encoder(tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(EncoderError, match="cannot be read"):
        encoder_digest(tmp_path)


def test_files_to_copy(tmp_path: Path) -> None:
    write_small_encoder(tmp_path, training={"seen": "seen.tsv"})
    assert [path.name for path in encoder_files(tmp_path)] == [SPEC_FILE, "weights.safetensors", "seen.tsv"]
    assert small_resnet().training is False
