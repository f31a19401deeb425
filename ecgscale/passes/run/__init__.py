"""One configuration: what it will do and take, and all of its steps."""
