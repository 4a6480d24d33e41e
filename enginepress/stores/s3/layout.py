"""Where things lie in a store on S3.

    <store>/server.json                             what the server was seen to guarantee (enginepress.stores.s3.probe)
    <store>/<model>/model.json                      {"format": 1, "model": "tiny", "primary": null}
    <store>/<model>/releases/7.json                 the manifest: release 7 is there when this is. Its object carries the
                                                    name of its repository, `7-1c9f03ab`, as metadata
    <store>/<model>/repositories/7-1c9f03ab/…       its files
    <store>/<model>/etags/7-1c9f03ab.json           what the server said of each file when it was published
    <store>/<model>/records/7/<name>.json           what happened to it: checks, registration, promotion
    <store>/<model>/builds/<build key>/7            so that a build is found without reading all manifests; so are
    <store>/<model>/contents/<content digest>/7     contents. Written before the release, and only hints
    <store>/<model>/channels/production.json        the release that it names, and every move
    <store>/<model>/history/production/<n>.json     older moves, where there are many
    <store>/<model>/publishers/7-1c9f03ab.json      somebody is publishing or removing this repository, or was killed

S3 has no rename: files cannot move to their number when it is decided. So a repository gets a name of its own, and the
manifest, written under a number that cannot be taken twice, says which one is that release. A removed release leaves an
empty manifest, so that its number is not given again.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from enginepress.stores.layout import check_channel, check_model, check_record

FORMAT = 1
REPOSITORY = "repository"
"""Metadata of a manifest: the name of its repository."""

_MANIFEST = re.compile(r"([1-9][0-9]{0,8})\.json")
_REPOSITORY = re.compile(r"([1-9][0-9]{0,8})-[0-9a-f]{8}")


@dataclass(frozen=True)
class ModelKeys:
    """Keys of what belongs to one model. `base` ends with a slash."""

    base: str
    model: str

    @staticmethod
    def of(prefix: str, model: str) -> ModelKeys:
        return ModelKeys(f"{prefix}{check_model(model)}/", model)

    @property
    def description(self) -> str:
        return f"{self.base}model.json"

    @property
    def manifests(self) -> str:
        return f"{self.base}releases/"

    @property
    def publishers(self) -> str:
        return f"{self.base}publishers/"

    @property
    def channels(self) -> str:
        return f"{self.base}channels/"

    def manifest(self, number: int) -> str:
        return f"{self.manifests}{number}.json"

    def repository(self, name: str) -> str:
        return f"{self.base}repositories/{name}/"

    def etags(self, name: str) -> str:
        return f"{self.base}etags/{name}.json"

    def publisher(self, name: str) -> str:
        return f"{self.publishers}{name}.json"

    @property
    def all_records(self) -> str:
        return f"{self.base}records/"

    def records(self, number: int) -> str:
        return f"{self.all_records}{number}/"

    def record(self, number: int, name: str) -> str:
        return f"{self.records(number)}{check_record(name)}.json"

    def channel(self, name: str) -> str:
        return f"{self.channels}{check_channel(name)}.json"

    def history(self, channel: str, first: int) -> str:
        return f"{self.base}history/{check_channel(channel)}/{first:08}.json"

    def builds(self, build_key: str) -> str:
        return f"{self.base}builds/{build_key}/"

    def contents(self, content_digest: str) -> str:
        return f"{self.base}contents/{content_digest}/"

    def hints(self, number: int, build_key: str, content_digest: str) -> tuple[str, str]:
        return f"{self.builds(build_key)}{number}", f"{self.contents(content_digest)}{number}"


def number_of(manifest_key: str) -> int | None:
    """The number in a manifest's key; None for something else that lies there."""
    match = _MANIFEST.fullmatch(manifest_key.rpartition("/")[2])
    return int(match[1]) if match else None


def fresh_name(number: int) -> str:
    """A name for a repository that nobody else has."""
    return f"{number}-{uuid.uuid4().hex[:8]}"


def hoped_for(name: str) -> int:
    """The release number for which a repository got its name."""
    return int(name.partition("-")[0])


def is_repository_name(text: str) -> bool:
    return bool(_REPOSITORY.fullmatch(text))
