"""Source URIs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from enginepress.errors import SourceError
from enginepress.recipe import Source
from enginepress.sources.huggingface import HuggingFaceSource
from enginepress.sources.local import LocalSource
from enginepress.sources.ngc import NgcSource
from enginepress.sources.open import open_source


@pytest.mark.parametrize(
    ("uri", "repo", "revision"),
    [
        ("hf://org/name", "org/name", "main"),
        ("hf://org/name@v1.0", "org/name", "v1.0"),
        ("hf://Org-1/Na.me_2-x@refs/pr/1", "Org-1/Na.me_2-x", "refs/pr/1"),
        ("hf://org/name@" + "a" * 40, "org/name", "a" * 40),
    ],
)
def test_a_hub_uri_names_a_repository_and_a_revision(uri: str, repo: str, revision: str) -> None:
    source = open_source(Source(uri=uri), cache=None)
    assert isinstance(source, HuggingFaceSource)
    assert (source.repo, source.revision) == (repo, revision)


def test_a_file_uri_names_a_folder() -> None:
    source = open_source(Source(uri="file:///models/with space%20"), cache=None)
    assert isinstance(source, LocalSource)
    assert str(source.folder) == "/models/with space%20"


@pytest.mark.parametrize(
    ("uri", "name", "version"),
    [
        ("ngc://org/name:1.0", "ngc://org/name", "1.0"),
        ("ngc://org/team/name:1.0_fp16-v2+x", "ngc://org/team/name", "1.0_fp16-v2+x"),
        ("ngc://org/team/name", "ngc://org/team/name", None),
        ("ngc://org/team/name:latest", "ngc://org/team/name", None),
    ],
)
def test_an_ngc_uri_names_a_model_and_a_version(uri: str, name: str, version: str | None) -> None:
    source = open_source(Source(uri=uri), cache=None)
    assert isinstance(source, NgcSource)
    assert (source.uri, source.version) == (name, version)


def test_an_s3_uri_names_a_bucket_and_a_folder() -> None:
    assert open_source(Source(uri="s3://bucket/models/tiny/"), cache=None).uri == "s3://bucket/models/tiny"  # type: ignore[attr-defined]
    with pytest.raises(SourceError, match="is not for s3"):
        open_source(Source(uri="s3://bucket/x", token="${TOKEN}"), cache=None)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ngc://name:1", "no model of NGC"),
        ("ngc://a/b/c/d:1", "no model of NGC"),
        ("ngc://org/name:", "no model of NGC"),
        ("ngc://org/../name:1", "no model of NGC"),
        ("ngc://org/name:1/../2", "no model of NGC"),
        ("ngc://org/name@1", "no model of NGC"),
        ("s3:///x", "no bucket"),
        ("s3://b/x", "no bucket"),
        ("s3://bucket//x", "no bucket"),
        ("s3://bu cket/x", "no bucket"),
        ("s3://bucket/a\x00b", "no bucket"),
        ("hf://name", "no repository's name"),
        ("hf://a/b/c", "no repository's name"),
        ("hf://../b", "no repository's name"),
        ("hf://a/..", "no repository's name"),
        ("hf://a/b?x=1", "no repository's name"),
        ("hf://a/b--c", "no repository's name"),
        ("hf:///b", "no repository's name"),
        ("hf://a/b@", "no revision"),
        ("hf://a/b@x y", "no revision"),
        ("hf://a/b@../../c", "no revision"),
        ("hf://a/b@v1?blobs=1", "no revision"),
        ("file://relative/x", "no absolute path"),
    ],
)
def test_a_uri_that_names_no_source_is_refused_naming_the_field(uri: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        open_source(Source(uri=uri), cache=None)
    assert caught.value.where == f"source.uri: {uri}"
    assert caught.value.fix


def test_opening_asks_nobody_and_imports_no_hub() -> None:
    script = (
        "import sys\nfrom enginepress.recipe import Source\nfrom enginepress.sources.open import open_source\n"
        "for uri in ('hf://org/name', 'ngc://org/name:1', 's3://bucket/x'):\n    open_source(Source(uri=uri), cache=None)\n"
        "print(any(m.split('.')[0] in ('huggingface_hub', 'httpx', 'httpx2', 'requests', 'boto3') for m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
