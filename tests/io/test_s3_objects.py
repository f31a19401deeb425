"""The promises of an object store, kept by a disk and by a server that speaks S3."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ecgscale.io.objects import S3Objects, open_objects
from ecgscale.io.places import absolute, is_remote, local_copy, place
from ecgscale.io.settings import (
    StorageSettings,
    StoreError,
    s3,
    s3_options,
    storage_settings,
    storage_variables,
    use_storage,
)


def test_objects_are_there_or_not(any_root: str) -> None:
    store = open_objects(any_root)
    assert store.where == any_root
    assert store.read("a/b") is None
    assert store.stat("a/b") is None
    assert list(store.list_prefix("a")) == []
    store.delete("a/b")
    assert store.put_if_absent("a/b", b"one")
    assert not store.put_if_absent("a/b", b"two")
    assert store.read("a/b") == b"one"
    before = store.stat("a/b")
    store.put("a/b", b"three")
    after = store.stat("a/b")
    assert before is not None
    assert after is not None
    assert (before.size, after.size) == (3, 5)
    assert before.version != after.version
    store.put("a/c/d", b"")
    store.put("other", b"")
    assert list(store.list_prefix("a")) == ["a/b", "a/c/d"]
    assert store.list_stats("a")["a/b"] == after
    store.copy("a/b", "copied")
    assert store.read("copied") == b"three"
    with pytest.raises(StoreError, match="cannot copy"):
        store.copy("absent", "copied")
    store.delete("a/b")
    assert store.read("a/b") is None


def test_the_clock_is_that_of_the_objects(any_root: str) -> None:
    store = open_objects(any_root)
    store.put("x", b"")
    found = store.stat("x")
    assert found is not None
    assert 0 <= (store.clock() - found.modified).total_seconds() < 5
    assert abs((store.clock() - datetime.now(UTC)).total_seconds()) < 5
    assert list(store.list_prefix("")) == ["x"]


def test_one_of_many_wins(any_root: str) -> None:
    store, won, barrier = open_objects(any_root), [], threading.Barrier(8)

    def race(name: str) -> None:
        barrier.wait()
        if store.put_if_absent("prize", name.encode()):
            won.append(name)

    threads = [threading.Thread(target=race, args=(str(i),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read("prize") == won[0].encode()
    assert len(won) == 1


def refusal(code: str) -> OSError:
    """What s3fs raises when a store answers with this code."""
    error = OSError(22, "refused")
    error.__cause__ = ClientError({"Error": {"Code": code, "Message": "no"}}, "PutObject")
    return error


@pytest.fixture
def answers(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the server answers to the next conditional puts, before it works as usual."""
    queue: list[Any] = []
    system = s3()
    usual = system.pipe_file

    def pipe_file(path: str, data: bytes, **options: Any) -> None:
        if options.get("mode") == "create" and queue:
            written, error = queue.pop(0)
            if written:
                usual(path, data)
            raise error
        usual(path, data, **options)

    monkeypatch.setattr(system, "pipe_file", pipe_file)
    return queue


def test_an_answer_that_was_lost_is_not_a_lost_race(s3_root: str, answers: list[Any]) -> None:
    store = S3Objects(s3_root)
    # The first request went through, its answer did not; the client's own second try finds the object there.
    answers.append((True, refusal("PreconditionFailed")))
    assert store.put_if_absent("x", b"mine")
    answers.append((False, FileExistsError("x")))
    assert not store.put_if_absent("x", b"another's")


def test_a_conflict_is_tried_again(s3_root: str, answers: list[Any]) -> None:
    answers += [(False, refusal("ConditionalRequestConflict"))] * 3
    assert S3Objects(s3_root).put_if_absent("x", b"mine")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ExpiredToken", "the credentials have expired"),
        ("AccessDenied", "these credentials may not do this"),
        ("InvalidAccessKeyId", "does not know these credentials"),
        ("NoSuchBucket", "there is no such bucket"),
    ],
)
def test_refusals_are_told_in_words(s3_root: str, answers: list[Any], code: str, message: str) -> None:
    answers.append((False, refusal(code)))
    with pytest.raises(StoreError, match=message) as caught:
        S3Objects(s3_root).put_if_absent("x", b"mine")
    assert "type the same command again" in str(caught.value)


def test_without_conditional_puts_the_one_before_holds(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECGSCALE_STORAGE", "{}")
    use_storage(StorageSettings(conditional_put=False))
    store = S3Objects(s3_root)
    assert store.put_if_absent("x", b"one")
    assert not store.put_if_absent("x", b"two")
    assert store.read("x") == b"one"


def test_settings_travel_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECGSCALE_STORAGE", "{}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell")
    use_storage(StorageSettings(endpoint="https://s3.example.org", encryption="aws:kms", kms_key="alias/ecg"))
    assert storage_settings().endpoint == "https://s3.example.org"
    message = storage_variables()
    assert "do-not-tell" not in str(message)
    assert '"kms_key":"alias/ecg"' in message["ECGSCALE_STORAGE"]


def test_the_region_is_that_of_the_settings_or_of_the_usual_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    assert "region_name" not in s3_options(StorageSettings())["client_kwargs"], "left to AWS_DEFAULT_REGION"
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert s3_options(StorageSettings())["client_kwargs"]["region_name"] == "eu-central-1"
    assert s3_options(StorageSettings(region="eu-north-1"))["client_kwargs"]["region_name"] == "eu-north-1"


def test_an_endpoint_with_credentials_in_it_is_refused() -> None:
    with pytest.raises(ValueError, match="pattern"):
        StorageSettings(endpoint="https://key:secret@s3.example.org")


def test_places(s3_root: str) -> None:
    where = place(s3_root) / "models" / "k4"
    assert is_remote(where)
    assert absolute(where) == f"{s3_root}/models/k4"
    assert where.name == "k4"
    open_objects(where).put("model.json", b"{}")
    assert (where / "model.json").exists()
    copy = local_copy(where)
    assert (copy / "model.json").read_bytes() == b"{}"
    assert local_copy(where) == copy
    open_objects(where).put("model.json", b"[]")
    assert (local_copy(where) / "model.json").read_bytes() == b"[]"
    with pytest.raises(FileNotFoundError):
        local_copy(f"{s3_root}/nothing")
