"""How an object store is reached: endpoint, region, anonymous access, encryption, patience. Never who one is.

Credentials come from the usual chain alone (environment, shared files, instance roles), which refreshes those that
expire; there is no place for them here, so that none can end up in a configuration, a run record or a log. What else is
needed comes from the usual variables (`AWS_ENDPOINT_URL`, `AWS_REGION`) or from `[storage]` of a configuration, and
travels to other processes in one variable, `ECGSCALE_STORAGE`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ecgscale.errors import EcgscaleError, UsageError, first_problem

VARIABLE = "ECGSCALE_STORAGE"
CARRIED = (VARIABLE, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE")
"""Variables that tell other nodes where the store is; none of them is a secret."""


class StoreError(EcgscaleError):
    """The store refuses to write or read (full, read-only, gone); what was committed before stays."""


class StorageSettings(BaseModel):
    """`[storage]`: all optional.

    endpoint, region: of the store, where it is not AWS's own or the variables do not say
    anonymous: requests are not signed (public buckets)
    encryption: server-side, as S3 names it; kms_key: with "aws:kms"
    conditional_put: whether the store honours If-None-Match; False: the last commit wins, and publishing needs the lock
    attempts: how often a request is tried, with growing, jittered pauses in between
    connect_seconds, read_seconds: how long a silent server is waited for
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str | None = Field(default=None, pattern=r"^https?://[^@]+$")
    region: str | None = None
    anonymous: bool = False
    encryption: Literal["AES256", "aws:kms"] | None = None
    kms_key: str | None = None
    conditional_put: bool = True
    attempts: int = Field(default=8, ge=1)
    connect_seconds: float = Field(default=10, gt=0)
    read_seconds: float = Field(default=60, gt=0)


def use_storage(settings: StorageSettings) -> None:
    """Let this process, and those that inherit its environment, reach object stores so."""
    os.environ[VARIABLE] = settings.model_dump_json(exclude_defaults=True)


def storage_settings() -> StorageSettings:
    """The settings in force; `UsageError` when the variable cannot be understood."""
    return _parsed(os.environ.get(VARIABLE, "{}"))


@cache
def _parsed(text: str) -> StorageSettings:
    try:
        return StorageSettings.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(
            f"{VARIABLE} cannot be understood: {first_problem(error)}. It is a JSON object with"
            f" the keys of [storage]: {', '.join(StorageSettings.model_fields)}"
        ) from error


def storage_variables() -> dict[str, str]:
    """What another node has to have in its environment to reach the same store; no secrets."""
    return {name: os.environ[name] for name in CARRIED if name in os.environ}


def s3_options(settings: StorageSettings | None = None) -> dict[str, Any]:
    """Keyword arguments of `s3fs.S3FileSystem` for these settings."""
    settings = settings or storage_settings()
    # botocore knows AWS_DEFAULT_REGION alone, most other programs and every AWS machine AWS_REGION.
    client = {"endpoint_url": settings.endpoint, "region_name": settings.region or os.environ.get("AWS_REGION")}
    encrypted = {"ServerSideEncryption": settings.encryption, "SSEKMSKeyId": settings.kms_key}
    return {
        "anon": settings.anonymous,
        "client_kwargs": {name: value for name, value in client.items() if value is not None},
        "s3_additional_kwargs": {name: value for name, value in encrypted.items() if value is not None},
        "config_kwargs": {
            "retries": {"mode": "standard", "total_max_attempts": settings.attempts},
            "connect_timeout": settings.connect_seconds,
            "read_timeout": settings.read_seconds,
            "max_pool_connections": 32,
        },
        # What another process has just written is there: nothing is answered from an earlier listing.
        "use_listings_cache": False,
        "max_concurrency": 16,
    }


BODY_TRIES = 3


def s3() -> Any:
    """The `s3fs.S3FileSystem` in force: one a process and setting, made anew after a fork."""
    import fsspec
    from s3fs import core

    system = fsspec.filesystem("s3", **s3_options())
    # botocore repeats requests, with jitter, until their answer begins. To the loop that s3fs puts around that is left
    # what comes later: bodies that break off. Both for the same would multiply the waiting.
    core.S3_RETRYABLE_ERRORS = tuple(kind for kind in core.S3_RETRYABLE_ERRORS if kind.__name__ != "HTTPClientError")
    system.retries = BODY_TRIES
    return system


def put_object(name: str, data: bytes, mode: Literal["overwrite", "create"] = "overwrite") -> None:
    """Put BUCKET/KEY in one piece; "create": only if there is no such object yet.

    As a bytearray, because for bytes botocore first asks the server whether they may come ("Expect: 100-continue"), and
    aiohttp waits for that answer without end, whatever the timeouts are.
    """
    s3().pipe_file(name, bytearray(data), mode=mode)


def get_object(name: str) -> bytes:
    """BUCKET/KEY, whole, by one request; FileNotFoundError when there is no such object."""
    # One stream: for several, s3fs would ask for the size first.
    return bytes(s3().cat_file(name, max_concurrency=1))


REFUSALS = {
    "NoSuchBucket": "there is no such bucket; create it, or mend its name",
    "InvalidAccessKeyId": "the store does not know these credentials (AWS_ACCESS_KEY_ID, profile or role)",
    "SignatureDoesNotMatch": "the store does not accept these credentials' secret",
    "ExpiredToken": "the credentials have expired; renew them",
    "AccessDenied": "these credentials may not do this; reading, writing and listing below the place are needed",
}

SILENCES = {
    "ReadTimeoutError": "the store did not answer in time ([storage] read_seconds, attempts)",
    "ConnectTimeoutError": "the store cannot be reached in time ([storage] connect_seconds, attempts)",
    "FSTimeoutError": "the store did not answer in time ([storage] read_seconds, attempts)",
    "EndpointConnectionError": "the store cannot be reached",
    "ClientPayloadError": "the store's answer broke off",
}


S3_LIBRARIES = ("botocore", "aiobotocore", "s3fs", "fsspec", "aiohttp")


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Raise `StoreError`, beginning with `what`, for whatever a disk or an object store refuses in this block."""
    try:
        yield
    except Exception as error:
        # By name, so that a run on local disks never loads what speaks S3.
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in S3_LIBRARIES:
            raise
        raise StoreError(
            f"{what}: {reason_of(error)}. What was committed so far stays; when this is put right "
            "(free space, permissions, credentials, the network), type the same command again."
        ) from error


def reason_of(error: BaseException) -> str:
    """Why a disk or an object store refused, in words; never with a credential in it."""
    code = refusal_code(error)
    if code in REFUSALS:
        return REFUSALS[code]
    silence = SILENCES.get(type(error).__name__)
    if silence is not None:
        endpoint = str(getattr(error, "kwargs", {}).get("endpoint_url", "")).partition("?")[0]
        endpoint = re.sub(r"//[^/@]*@", "//", endpoint)  # an address may hold a password
        return f"{silence}: {endpoint}" if endpoint else silence
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).rstrip(".")


OF_ONE_OBJECT = ("NoSuchKey", "404", "AccessDenied", "403", "InvalidRange", "416", "InvalidObjectState")
"""Refusals that may concern a single object; an object of another owner is forbidden where all others are not."""


def is_of_the_store(error: BaseException) -> bool:
    """Whether an error says that an object store is away, or sends us away whatever we ask for."""
    code = refusal_code(error)
    if code:
        return code not in OF_ONE_OBJECT
    return any(type(one).__module__.partition(".")[0] in S3_LIBRARIES for one in _chain(error))


def refusal_code(error: BaseException | None) -> str:
    """The code with which an object store refused, from an error or from what caused it; "" when there is none."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__
