"""Encoders: any 1D network as signal → activations, by a directory that states its contract.

`spec` reads the contract, `preprocess` brings recordings to what it asks for, `taps` runs the network and catches
the activations, `resnet1d` is the reference network and `train` trains it.
"""

from ecgscale.encoders.preprocess import Prepared, prepare, prepare_signal
from ecgscale.encoders.spec import EncoderSpec, InputSpec, OutputSpec, encoder_digest, load_spec, write_spec
from ecgscale.encoders.taps import Activations, Encoder

__all__ = [
    "Activations",
    "Encoder",
    "EncoderSpec",
    "InputSpec",
    "OutputSpec",
    "Prepared",
    "encoder_digest",
    "load_spec",
    "prepare",
    "prepare_signal",
    "write_spec",
]
