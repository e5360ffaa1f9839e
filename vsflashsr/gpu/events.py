"""Events: marks in a stream that other streams, or the host, wait for."""

from __future__ import annotations

from . import driver
from .handles import Handle, Handles


class Event(Handle):
    """Set by ``Stream.record``. Before the first record it counts as happened.

    Args:
        owner: closes it at the latest.
        timing: can it measure?
    """

    what = "an event"

    def __init__(self, owner: Handles, *, timing: bool) -> None:
        api = driver.api()
        flags = api.CUevent_flags
        # The host sleeps in a wait rather than spinning, which would take a core from the encoder. Timing events are
        # for benchmarks, where the wait is the last thing to disturb.
        flag = flags.CU_EVENT_DEFAULT if timing else flags.CU_EVENT_DISABLE_TIMING | flags.CU_EVENT_BLOCKING_SYNC
        super().__init__(owner, int(driver.check(api.cuEventCreate(int(flag)), "create an event")))

    def synchronize(self) -> None:
        """Wait (on the host) until it has happened."""
        driver.check(driver.api().cuEventSynchronize(self.handle), "run what was queued")

    @property
    def happened(self) -> bool:
        """Has it, by now?"""
        api = driver.api()
        result = api.cuEventQuery(self.handle)
        if int(result[0]) == int(api.CUresult.CUDA_ERROR_NOT_READY):
            return False
        driver.check(result, "run what was queued")
        return True

    def elapsed_ms(self, since: Event) -> float:
        """Milliseconds of device time from ``since``; both are timing events that have happened."""
        return float(driver.check(driver.api().cuEventElapsedTime(since.handle, self.handle), "measure a time"))

    def _destroy(self, value: int) -> None:
        driver.check(driver.api().cuEventDestroy(value), "destroy an event")
