"""A store on a real NFSv4.2 mount, in a small machine of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores.nfs.guest import missing, run_guest

CHECKS = (
    "publish_and_link",
    "channel_seen_by_the_other",
    "operators_on_two_machines",
    "publishers_on_two_machines",
    "removed_while_it_is_read",
    "stale_handle",
)


@pytest.mark.nfs
@pytest.mark.timeout(900)
def test_a_store_works_on_nfs_for_two_machines(tmp_path: Path) -> None:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    console = run_guest(tmp_path, timeout=800)
    said = "\n".join(console[-80:])
    assert [line.split()[1] for line in console if line.startswith("PASSED ")] == list(CHECKS), said
    assert "ENDED 0" in console, said
