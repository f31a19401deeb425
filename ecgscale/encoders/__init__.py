"""Encoders: any 1D network as signal → activations, by a directory that states its contract.

`spec` reads the contract, `preprocess` brings recordings to what it asks for, `taps` runs the network and catches
the activations, `resnet1d` is the reference network and `train` trains it.
"""
