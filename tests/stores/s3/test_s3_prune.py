"""`enginepress prune` on a store on S3: the rules are the same, and nothing is shared, so all bytes are freed."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginepress.recipe import Recipe
from enginepress.steps.prune import Policy, models_at, plan_prune, prune
from enginepress.steps.stored_recipe import stored_recipe
from enginepress.stores.s3 import S3Store
from tests.run.recipes import enginepress
from tests.s3_server import S3Server
from tests.stores.parts import MODEL, key
from tests.stores.s3.stores import a_store, promote, publish
from tests.trust.site import publish_release


def test_old_releases_leave_the_bucket_and_what_a_channel_needs_stays(store: S3Store, source: Path) -> None:
    for name in "abcde":
        publish(store, source, key(name))
    for number in (1, 2, 3):
        promote(store, "production", number)
    policy = Policy(keep=1, grace=0.0)
    plans = plan_prune([store], MODEL, policy)
    assert {f.release: f.kept for f in plans[0].fates} == {
        1: (),
        2: ("rollback of production",),
        3: ("on production",),
        4: (),
        5: ("new",),
    }
    assert plans[0].freed == store.manifest(MODEL, 1).size + store.manifest(MODEL, 4).size
    (done,) = prune(plans, policy)
    assert (done.removed, done.refused) == ([1, 4], {})
    assert store.numbers(MODEL) == [2, 3, 5]
    assert publish(store, source, key("f")).release == 6


def _recipe(**settings: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": MODEL,
            "source": "file:///checkpoints/tiny",
            "stores": [{"url": "s3://bucket/models", **settings}, "file:///other"],
        }
    )


def test_a_store_that_is_named_by_its_url_has_the_settings_of_its_own_recipe(server: S3Server, tmp_path: Path) -> None:
    server.conditions = False
    for word in (b"one", b"two"):
        publish_release(a_store(single_writer=True), _recipe(single_writer=True), tmp_path / word.decode(), word)
    ((store, model),) = models_at(f"s3://bucket/models/{MODEL}")
    policy = Policy(keep=1, grace=0.0)
    (done,) = prune(plan_prune([store], model, policy), policy)
    assert (done.removed, done.refused) == ([1], {})


def test_a_bucket_of_the_same_name_on_another_server_stands_for_itself(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of a whole store: what is tried there must not reach the one that is in use."""
    in_use = _recipe(endpoint=server.url, single_writer=True)
    publish_release(a_store(), in_use, tmp_path / "one", b"one")
    assert len(stored_recipe(f"s3://bucket/models/{MODEL}").stores) == 2
    with S3Server() as copy:
        copy.buckets = server.buckets
        monkeypatch.setenv("AWS_ENDPOINT_URL", copy.url)
        (settings,) = stored_recipe(f"s3://bucket/models/{MODEL}").stores
        assert (settings.endpoint, settings.single_writer) == (None, False)
        ((store, _),) = models_at("s3://bucket/models")
        assert store.server == copy.url


def test_a_server_that_needs_a_single_writer_is_pruned_by_an_operator_who_vouches_for_it(server: S3Server, source: Path) -> None:
    server.conditions = False
    for name in "ab":
        publish(a_store(single_writer=True), source, key(name))
    refused = enginepress("prune", "s3://bucket/models", "--keep", "1", "--grace", "0s", "--yes")
    assert refused.returncode == 1
    assert "this server overwrites an object that is there" in refused.stderr
    assert "`enginepress backup`, `restore` and `prune`: --single-writer" in refused.stderr
    assert a_store().numbers(MODEL) == [1, 2]
    done = enginepress("prune", "s3://bucket/models", "--keep", "1", "--grace", "0s", "--yes", "--single-writer")
    assert done.returncode == 0, done.stderr
    assert a_store().numbers(MODEL) == [2]
