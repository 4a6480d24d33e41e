"""The S3 server for tests refuses what a real one refuses. Asked by boto3."""

from __future__ import annotations

import base64
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.s3_server import S3Server

boto3 = pytest.importorskip("boto3")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with S3Server() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


def _client(**settings: Any) -> Any:
    from botocore.config import Config

    config = Config(
        signature_version="s3v4", retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, **settings.pop("config", {})
    )
    return boto3.session.Session().client("s3", region_name="us-east-1", config=config, **settings)


def _code(call: Any, **query: Any) -> str:
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as caught:
        call(**query)
    return str(caught.value.response["Error"]["Code"])


def test_what_was_put_is_listed_and_comes_back_whole_and_in_parts(server: S3Server) -> None:
    s3 = _client()
    s3.create_bucket(Bucket="bucket")
    for key in ("a b/ü+%?.bin", "a b/2", "c"):
        s3.put_object(Bucket="bucket", Key=key, Body=b"0123456789")
    assert s3.get_object(Bucket="bucket", Key="a b/ü+%?.bin")["Body"].read() == b"0123456789"
    assert s3.get_object(Bucket="bucket", Key="c", Range="bytes=3-5")["Body"].read() == b"345"
    server.page_size = 2
    pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket="bucket"))
    assert [o["Key"] for page in pages for o in page["Contents"]] == ["a b/2", "a b/ü+%?.bin", "c"]
    folders = s3.list_objects_v2(Bucket="bucket", Delimiter="/")["CommonPrefixes"]
    assert folders == [{"Prefix": "a b/"}]


def test_wrong_secrets_unknown_keys_and_unsigned_requests_are_refused(server: S3Server) -> None:
    import botocore
    from botocore.config import Config

    server.add("bucket", {"k": b"x"})
    wrong = _client(aws_access_key_id="test-access-key", aws_secret_access_key="wrong")
    assert _code(wrong.get_object, Bucket="bucket", Key="k") == "SignatureDoesNotMatch"
    unknown = _client(aws_access_key_id="nobody", aws_secret_access_key="x")
    assert _code(unknown.get_object, Bucket="bucket", Key="k") == "InvalidAccessKeyId"
    unsigned = boto3.client("s3", region_name="us-east-1", config=Config(signature_version=botocore.UNSIGNED))
    assert _code(unsigned.get_object, Bucket="bucket", Key="k") == "AccessDenied"
    server.buckets["bucket"].public = True
    assert unsigned.get_object(Bucket="bucket", Key="k")["Body"].read() == b"x"
    assert _code(unsigned.put_object, Bucket="bucket", Key="k", Body=b"y") == "AccessDenied"


def test_a_presigned_address_is_good_for_what_it_was_signed_for(server: S3Server) -> None:
    server.add("bucket", {"k": b"x", "other": b"y"})
    url = _client().generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"}, ExpiresIn=60)
    assert urllib.request.urlopen(url).read() == b"x"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(url.replace("/k?", "/other?"))


def test_a_body_that_is_not_what_its_checksums_say_is_refused(server: S3Server) -> None:
    server.add("bucket", {})
    s3 = _client()
    md5 = base64.b64encode(b"0" * 16).decode()
    assert _code(s3.put_object, Bucket="bucket", Key="k", Body=b"x", ContentMD5=md5) == "BadDigest"
    sha256 = base64.b64encode(b"0" * 32).decode()
    assert _code(s3.put_object, Bucket="bucket", Key="k", Body=b"x", ChecksumSHA256=sha256) == "BadDigest"
    s3.put_object(Bucket="bucket", Key="k", Body=b"x", ChecksumAlgorithm="SHA256")
    assert s3.head_object(Bucket="bucket", Key="k", ChecksumMode="ENABLED")["ChecksumSHA256"]


def test_conditional_writes_are_refused_when_the_condition_does_not_hold(server: S3Server) -> None:
    server.add("bucket", {})
    s3 = _client()
    etag = s3.put_object(Bucket="bucket", Key="k", Body=b"x", IfNoneMatch="*")["ETag"]
    assert _code(s3.put_object, Bucket="bucket", Key="k", Body=b"y", IfNoneMatch="*") == "PreconditionFailed"
    s3.put_object(Bucket="bucket", Key="k", Body=b"y", IfMatch=etag)
    assert _code(s3.put_object, Bucket="bucket", Key="k", Body=b"z", IfMatch=etag) == "PreconditionFailed"
    assert _code(s3.get_object, Bucket="bucket", Key="k", IfMatch=etag) == "PreconditionFailed"


def test_a_bucket_may_keep_versions(server: S3Server) -> None:
    server.add("bucket", {})
    s3 = _client()
    s3.put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
    first = s3.put_object(Bucket="bucket", Key="k", Body=b"1")["VersionId"]
    s3.put_object(Bucket="bucket", Key="k", Body=b"2")
    s3.delete_object(Bucket="bucket", Key="k")
    assert _code(s3.get_object, Bucket="bucket", Key="k") == "NoSuchKey"
    assert s3.get_object(Bucket="bucket", Key="k", VersionId=first)["Body"].read() == b"1"
    assert _code(s3.get_object, Bucket="bucket", Key="k", VersionId="x") == "NoSuchVersion"


def test_uploads_in_parts_are_put_together(server: S3Server) -> None:
    import io

    from boto3.s3.transfer import TransferConfig

    server.add("bucket", {})
    data = bytes(range(256)) * 70_000
    config = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=2)
    s3 = _client()
    s3.upload_fileobj(io.BytesIO(data), "bucket", "k", Config=config)
    head = s3.head_object(Bucket="bucket", Key="k")
    assert head["ETag"].endswith('-4"')
    assert server.buckets["bucket"].objects["k"][-1].data == data  # type: ignore[union-attr]
