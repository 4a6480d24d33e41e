"""Source URIs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from enginepress.errors import SourceError
from enginepress.recipe import Source
from enginepress.sources.huggingface import HuggingFaceSource
from enginepress.sources.local import LocalSource
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
    ("uri", "message"),
    [
        ("ngc://org/name:1", "not available in this version"),
        ("s3://bucket/x", "not available in this version"),
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
        "open_source(Source(uri='hf://org/name'), cache=None)\n"
        "print(any(m.split('.')[0] in ('huggingface_hub', 'httpx', 'httpx2', 'requests') for m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
