"""`ecgscale COMMAND`: parse, call, print. Commands are imported when they are used, so `--help` is quick."""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "demo": "ecgscale.cli.demo:demo",
    "run": "ecgscale.cli.run:run",
    "plan": "ecgscale.cli.plan:plan",
    "ingest": "ecgscale.cli.ingest:ingest",
    "simulate": "ecgscale.cli.simulate:simulate",
    "inspect": "ecgscale.cli.inspect:inspect",
    "train": "ecgscale.cli.train:train",
    "encoder": "ecgscale.cli.encoder:encoder",
    "fit": "ecgscale.cli.fit:fit",
    "explain": "ecgscale.cli.explain:explain",
    "plot": "ecgscale.cli.plot:plot",
    "surrogate": "ecgscale.cli.surrogate:surrogate",
    "sweep": "ecgscale.cli.sweep:sweep",
    "audit": "ecgscale.cli.audit:audit",
    "localise": "ecgscale.cli.localise:localise",
    "uncertainty": "ecgscale.cli.uncertainty:uncertainty",
    "temporal": "ecgscale.cli.temporal:temporal",
    "probe": "ecgscale.cli.probe:probe",
    "report": "ecgscale.cli.report:report",
    "figures": "ecgscale.cli.figures:figures",
    "nightly": "ecgscale.cli.nightly:nightly",
    "release": "ecgscale.cli.decisions:release",
    "reject": "ecgscale.cli.decisions:reject",
    "rollback": "ecgscale.cli.rollback:rollback",
    "refit": "ecgscale.cli.refit:refit",
    "promote": "ecgscale.cli.promote:promote",
    "status": "ecgscale.cli.status:status",
    "verify": "ecgscale.cli.verify:verify",
    "quarantine": "ecgscale.cli.quarantine:quarantine",
    "retry-failed": "ecgscale.cli.retry_failed:retry_failed",
    "gc": "ecgscale.cli.gc:gc",
    "forget": "ecgscale.cli.forget:forget",
}


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


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ecgscale")
def main() -> None:
    """See what a neural network sees in ECGs: when it is in which learned state, for every recording.

    \b
    Nothing at hand?      ecgscale demo
    Your own recordings:  ecgscale ingest ptbxl SRC ARCHIVE
                          ecgscale train ARCHIVE --target superclasses --out ENCODER   (or bring a trained one)
                          ecgscale fit ARCHIVE --encoder ENCODER --out ROOT
                          ecgscale explain ARCHIVE --model ROOT/models/ID --out ROOT
                          ecgscale plot ROOT RECORD_ID -o ecg.png
    All of it at once:    ecgscale run CONFIG.toml
    Every night:          ecgscale nightly CONFIG.toml

    Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 done but for shards set aside,
    4 held by a quality gate, 5 locked by another run, 6 stopped and resumable.
    """
