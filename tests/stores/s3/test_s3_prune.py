"""`enginepress prune` on a store on S3: the rules are the same, and nothing is shared, so all bytes are freed."""

from __future__ import annotations

from pathlib import Path

from enginepress.steps.prune import Policy, plan_prune, prune
from enginepress.stores.s3 import S3Store
from tests.stores.parts import MODEL, key
from tests.stores.s3.stores import promote, publish


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
