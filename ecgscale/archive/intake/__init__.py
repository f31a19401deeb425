"""Archives that grow night by night: the log of what was taken in, what a source has that is new, how it comes in."""
