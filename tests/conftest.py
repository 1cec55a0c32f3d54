"""What every test shares: a cache of its own, so that none writes into the user's."""

import pytest

from simclr_cli.machine import share_cores

# As the command does, before torch is imported: the suite must not crawl when something else runs on the machine.
share_cores()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path_factory.mktemp("simclr-cache")))
