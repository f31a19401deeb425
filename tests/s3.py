"""A small S3 server on loopback, in this process, for tests."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from moto.server import ThreadedMotoServer

from ecgscale.io.settings import s3


@contextmanager
def moto_server() -> Iterator[str]:
    """The endpoint of a moto server on a free port; it ends with the block."""
    # A line a request would bury what a failing test says.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def new_bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, bucket: str | None = None) -> str:
    """Let this process use the server at `endpoint`; a place in a new bucket of it, or in `bucket`, emptied."""
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if bucket is not None and s3().exists(bucket):
        s3().rm(bucket, recursive=True)
    bucket = bucket or f"test-{uuid.uuid4().hex[:12]}"
    s3().mkdir(bucket)
    return f"s3://{bucket}/here"
