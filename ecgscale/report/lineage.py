"""What was run: archive, network, clusters, settings, code; and what each had seen before."""

from __future__ import annotations

import shlex
from typing import Any

from ecgscale.report.subject import Subject
from ecgscale.tables import Row, Table, number, percent, written


def lineage_tables(subject: Subject) -> list[Table]:
    """From the archive to the explanations."""
    return [
        Table.of_facts("Archive", _archive(subject)),
        Table.of_facts("Network", _network(subject)),
        Table.of_facts("Clusters", _clusters(subject)),
        Table.of_facts("Explanations", _explanations(subject)),
    ]


def seen_table(subject: Subject) -> Table | None:
    """How many explained records network and K-means had seen; None where that is not known."""
    seen = subject.seen
    if seen.encoder is None or seen.clusters is None or seen.neither is None:
        return None
    rows = (
        ("the network, in training or when it was stopped", seen.encoder),
        ("K-means, in the fit", seen.clusters),
        ("neither", seen.neither),
    )
    return Table(
        "Explained recordings seen before (or another recording of the same patient) by",
        ("recordings", "share"),
        tuple(Row(name, (number(int(mask.sum())), number(percent(float(mask.mean()))))) for name, mask in rows),
    )


def command_for(subject: Subject, words: str) -> str:
    """`ecgscale WORDS` with ROOT filled in, as it can be typed."""
    return f"ecgscale {words.replace('ROOT', shlex.quote(str(subject.root)))}"


def _archive(subject: Subject) -> list[tuple[str, str]]:
    facts, archive = subject.manifest.content.archive, subject.archive
    source: dict[str, Any] = dict(archive.info.get("source", {})) if archive else {}
    pairs = [("path when it was explained", facts.path), ("archive id", facts.archive_id)]
    if archive is not None:
        pairs += [
            ("path now", str(archive.path)),
            ("source", str(source.get("kind", "not told"))),
            ("made", str(archive.info.get("created_at", "not told"))),
            ("recordings, shards", f"{written(archive.info.get('records'))}, {len(archive.shards)}"),
        ]
    return pairs


def _network(subject: Subject) -> list[tuple[str, str]]:
    spec, identity = subject.spec, subject.manifest.content.identity
    training = spec.training
    pairs = [
        ("name", spec.name),
        ("encoder id", identity.encoder_id),
        ("sees", f"{', '.join(spec.input.leads)}; {spec.input.length} samples at {spec.input.sampling_rate:g} Hz"),
        ("tells", f"{spec.output.kind}: {', '.join(spec.output.names)}"),
        ("layers tapped", ", ".join(spec.layers)),
    ]
    for key, words in (
        ("target", "trained on"),
        ("train_folds", "folds it learnt from"),
        ("validation_folds", "folds it was stopped on"),
        ("train_records", "recordings it learnt from"),
        ("best_epoch", "epoch kept"),
    ):
        if training.get(key) not in (None, []):
            pairs.append((words, written(training[key])))
    metrics = training.get("metrics", {}).get("validation", {}) if isinstance(training.get("metrics"), dict) else {}
    pairs += [(f"validation {name.replace('_', ' ')}", written(value)) for name, value in metrics.items()]
    if not training:
        pairs.append(("training", "the contract tells nothing of it"))
    return pairs


def _clusters(subject: Subject) -> list[tuple[str, str]]:
    model, info = subject.model, subject.model.info
    fitted = info.get("fitted_on", {})
    diagnostics = info.get("diagnostics", {})
    pairs: list[tuple[str, Any]] = [
        ("model id", model.model_id),
        ("clusters", model.n_clusters),
        ("γ, τ", f"{model.gamma}, {model.tau:.4g}"),
        ("depth factors", list(model.layout.scales)),
        ("explained variance", info.get("explained_variance")),
        ("largest cluster's share", diagnostics.get("largest_share")),
        ("nearly empty clusters", diagnostics.get("nearly_empty")),
        ("algorithm, seed", f"{info.get('algorithm', 'not told')}, {info.get('seed', 'not told')}"),
        ("steps, settled", f"{written(info.get('n_iter'))}, {written(info.get('converged'))}"),
        ("fitted on folds", fitted.get("folds")),
        ("fitted on recordings", fitted.get("records")),
    ]
    return [(name, written(value)) for name, value in pairs if value is not None]


def _explanations(subject: Subject) -> list[tuple[str, str]]:
    manifest = subject.manifest
    run, content = manifest.run, manifest.content
    pairs: list[tuple[str, Any]] = [
        ("dataset id", subject.dataset_id),
        ("manifest, published", f"{manifest.number}, {manifest.created}"),
        ("recordings, shards", f"{content.totals.records:,}, {content.totals.shards}"),
        ("settings", dict(content.identity.settings)),
        ("results version", content.identity.results_version),
        ("code", f"ecgscale {run.code_version}" + (f", commit {run.code_commit[:12]}" if run.code_commit else "")),
        ("device", run.device),
    ]
    versions = subject.model.info.get("versions") or {}
    pairs.append(("versions in the fit", {name: str(version) for name, version in versions.items()} or None))
    return [(name, written(value)) for name, value in pairs if value is not None]
