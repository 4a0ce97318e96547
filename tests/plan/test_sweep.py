"""What sweeps and passes do while things change under them, do not work, or end."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from controller.backends import BackendError, Observation
from controller.fleet import Fleet
from controller.metrics import Metrics
from controller.model import API_VERSION, KIND, BackendName, Sandbox
from controller.reconcile import WRITES, Reconciler
from controller.settings import SandboxSettings
from controller.sweep import Sweeper
from tests.plan.words import NOW, have

BODY: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": KIND,
    "metadata": {"uid": "0c1b", "name": "one", "namespace": "default", "resourceVersion": "5"},
}


class Listing:
    """Objects as a list shows them; `meanwhile` happens before its answer arrives."""

    def __init__(self, *bodies: dict[str, Any], meanwhile: Callable[[], None] = lambda: None) -> None:
        self._bodies, self.meanwhile = list(bodies), meanwhile

    async def objects(self) -> list[dict[str, Any]]:
        self.meanwhile()
        return self._bodies


class Shelf:
    """A backend with old sandboxes, some of which cannot be removed."""

    name = BackendName.MOCK

    def __init__(self, *uids: str, stuck: str = "") -> None:
        self.left, self._stuck = list(uids), stuck

    async def list(self) -> list[Observation]:
        return [have(uid=uid, created_at=NOW - timedelta(hours=1)) for uid in self.left]

    async def remove(self, uid: str) -> None:
        if uid == self._stuck:
            raise BackendError("it does not go away")
        self.left.remove(uid)


class Silent:
    """Takes what is written, and shows it to nobody."""

    def __init__(self) -> None:
        self.writes, self.told = 0, set[str]()

    async def write_status(self, sandbox: Sandbox, patch: Mapping[str, Any]) -> dict[str, Any]:
        self.writes += 1
        return BODY

    def record(self, sandbox: Sandbox, kind: str, reason: str, *_: Any) -> None:
        self.told.add(reason)


class Rival(Silent):
    """Another takes back whatever is written."""

    async def write_status(self, sandbox: Sandbox, patch: Mapping[str, Any]) -> dict[str, Any]:
        self.writes += 1
        return BODY | {"metadata": BODY["metadata"] | {"resourceVersion": str(5 + self.writes)}}


def sweeper(listing: Listing, shelf: Shelf, store: Silent | None = None) -> tuple[Sweeper, Reconciler]:
    settings, metrics = SandboxSettings(enabled=False), Metrics()
    fleet = Fleet(settings, metrics, docker=None, mock=shelf)  # type: ignore[arg-type]
    reconciler = Reconciler(settings, fleet, store or Silent(), store or Silent(), metrics)  # type: ignore[arg-type]
    return Sweeper(reconciler, listing, fleet, metrics, ()), reconciler  # type: ignore[arg-type]


async def test_an_orphan_that_cannot_be_removed_keeps_no_other() -> None:
    shelf = Shelf("a", "b", "c", stuck="a")
    swept, _ = sweeper(Listing(), shelf)
    await swept.sweep(NOW)
    assert shelf.left == ["a"]


async def test_what_goes_while_it_is_listed_does_not_come_back() -> None:
    listing = Listing(BODY)
    swept, reconciler = sweeper(listing, Shelf())
    await swept.sweep(NOW)
    assert list(reconciler.lives) == ["0c1b"]
    listing.meanwhile = lambda: reconciler.forget("0c1b")
    await swept.sweep(NOW)
    assert not reconciler.lives


async def test_after_the_last_passes_none_begins() -> None:
    swept, reconciler = sweeper(Listing(BODY), Shelf())
    await swept.sweep(NOW)
    await reconciler.drain(5)
    reconciler.wake_all()
    assert reconciler.lives["0c1b"].task is None


async def test_a_fight_over_a_status_comes_to_rest_and_is_told() -> None:
    rival = Rival()
    _, reconciler = sweeper(Listing(), Shelf(), rival)
    reconciler.see(BODY)
    fight = reconciler.lives["0c1b"].task
    assert fight is not None
    async with asyncio.timeout(10):
        await fight
    assert rival.writes == WRITES
    assert rival.told == {"StatusContested"}
