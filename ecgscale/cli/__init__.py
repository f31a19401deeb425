"""`ecgscale COMMAND`: parse, call, print. Commands are imported when they are used, so `--help` is quick."""

from __future__ import annotations

import importlib

import click

from ecgscale.errors import did_you_mean

SECTIONS = {
    "From recordings to explanations": {
        "demo": ("ecgscale.cli.run:demo", "the whole of it on simulated recordings"),
        "run": ("ecgscale.cli.run:run", "the whole of it on yours, from one file"),
        "plan": ("ecgscale.cli.plan:plan", "what `run` would do, how long, with how much memory"),
        "ingest": ("ecgscale.cli.ingest:ingest", "recordings to an archive of Parquet shards"),
        "simulate": ("ecgscale.cli.ingest:simulate", "an archive with known truth, of any size"),
        "inspect": ("ecgscale.cli.checks:inspect", "what is in an archive, and what is wrong with it"),
        "train": ("ecgscale.cli.network:train", "a reference network (1D ResNet)"),
        "encoder": ("ecgscale.cli.network:encoder", "does this network load, and do its taps keep time?"),
        "fit": ("ecgscale.cli.fit:fit", "clusters of what the network does"),
        "explain": ("ecgscale.cli.explain:explain", "segments, entropy, proportions of every recording"),
    },
    "Looking and evaluating": {
        "plot": ("ecgscale.cli.pictures:plot", "one explained recording on ECG paper"),
        "report": ("ecgscale.cli.pictures:report", "everything on one page: recordings, atlas, evaluations"),
        "figures": ("ecgscale.cli.pictures:figures", "figures for a paper, or pictures for a blinded study"),
        "surrogate": ("ecgscale.cli.surrogate:surrogate", "how much of the network the proportions hold"),
        "localise": ("ecgscale.cli.evaluations:localise", "are clusters P, QRS, T? against shifts; average beats"),
        "uncertainty": ("ecgscale.cli.evaluations:uncertainty", "does entropy say when the network errs?"),
        "temporal": ("ecgscale.cli.evaluations:temporal", "does the order of clusters matter?"),
        "probe": ("ecgscale.cli.sampled:probe", "Grad-CAM, dropout, masking, lead by lead and more, on a sample"),
        "compare": ("ecgscale.cli.compare:compare", "another network or fit: same clusters, other answers?"),
        "sweep": ("ecgscale.cli.sampled:sweep", "how much rests on K, training records, layers, γ and τ"),
        "audit": ("ecgscale.cli.evaluations:audit", "records whose label, network and surrogate disagree"),
    },
    "Every night": {
        "nightly": ("ecgscale.cli.explain:nightly", "what is new: ingested, explained, judged, published"),
        "status": ("ecgscale.cli.status:status", "what is published, waits, failed or is held; the last runs"),
        "quarantine": ("ecgscale.cli.status:quarantine", "recordings without explanations; shards that are held"),
        "release": ("ecgscale.cli.operate:release", "publish a shard that the gates hold back"),
        "reject": ("ecgscale.cli.operate:reject", "keep such a shard out"),
        "rollback": ("ecgscale.cli.operate:rollback", "serve an earlier manifest again"),
        "refit": ("ecgscale.cli.fit:refit", "a new model in which cluster 7 is still cluster 7"),
        "promote": ("ecgscale.cli.operate:promote", "serve another dataset of explanations, and the way back"),
        "verify": ("ecgscale.cli.checks:verify", "is everything there, and what the network computes?"),
        "retry-failed": ("ecgscale.cli.operate:retry_failed", "shards that were given up are tried again"),
        "gc": ("ecgscale.cli.operate:gc", "what nobody refers to any more goes"),
        "forget": ("ecgscale.cli.operate:forget", "a patient goes, from everything, and does not come back"),
    },
}
"""Commands by what they are for: where each is to be found, and what it does, in a line that fits any terminal."""

COMMANDS = {name: place for section in SECTIONS.values() for name, (place, _) in section.items()}


class _LazyGroup(click.Group):
    """Click's documented recipe for commands that are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if args[0].startswith("-"):
                raise  # click has suggestions for options
            raise click.UsageError(error.message + did_you_mean(args[0], COMMANDS), ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), line) for name, (_, line) in commands.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ecgscale")
def main() -> None:
    """See what a neural network sees in ECGs: when it is in which learned state, for every recording.

    \b
    Nothing at hand?      ecgscale demo
    Your own recordings:  ecgscale ingest ptbxl SRC ARCHIVE
                          ecgscale train ARCHIVE --target superclasses --out ENCODER   (or bring a trained one)
                          ecgscale fit ARCHIVE --encoder ENCODER --out ROOT
                          ecgscale explain ARCHIVE --out ROOT
                          ecgscale plot ROOT RECORD_ID -o ecg.png
    All of it at once:    ecgscale run CONFIG.toml
    Every night:          ecgscale nightly CONFIG.toml

    Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 done but for shards set aside,
    4 held by a quality gate, 5 locked by another run, 6 stopped and resumable.
    """
