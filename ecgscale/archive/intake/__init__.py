"""Archives that grow night by night: the log of what was taken in, what is found in a source, and its way into shards."""
