"""One of several replicas works, the others wait.

In: a Lease in the operator's namespace. Out: work is done while the Lease is ours. Once it is not, `LeaseLost` ends the process,
because whoever has it then works already. The protocol is that of client-go, in `kubernetes.aio`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from finetune_operator.act.apiserver import ApiServer
from finetune_operator.settings import Settings

logger = logging.getLogger(__name__)

LEASE, RENEW, RETRY = 15, 10, 2
"""Seconds, as in client-go: a lease lasts, its holder tries to renew it, between two tries."""
_ANSWER = 4
"""Seconds for one request: the client's own five minutes would outlast the lease."""


class LeaseLost(Exception):
    """Another replica may have the Lease."""


async def lead(server: ApiServer, settings: Settings, work: Callable[[], Awaitable[None]]) -> None:
    """Wait for the Lease, then work while it is ours, or until the work is done. Raises LeaseLost."""
    outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def started() -> None:
        logger.info("This replica has the Lease %s/%s", settings.lease_namespace, settings.lease_name)
        try:
            await work()
        except Exception as error:  # the library would keep it to itself
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    async def stopped() -> None:
        raise LeaseLost

    lock = _Lock(settings.lease_name, settings.lease_namespace, settings.identity, server.api)
    settings_of_election = Config(
        lock,
        lease_duration=LEASE,
        renew_deadline=RENEW,
        retry_period=RETRY,
        onstarted_leading=started,
        onstopped_leading=stopped,
    )
    election = asyncio.create_task(LeaderElection(settings_of_election).run())
    await asyncio.wait([election, outcome], return_when=asyncio.FIRST_COMPLETED)
    if outcome.done():
        election.cancel()
        outcome.result()
    else:
        election.result()


class _Lock(LeaseLock):
    """The library takes an API server that does not answer for a bug, and ends. It is a try that failed."""

    async def get(self, name: str, namespace: str) -> Any:
        try:
            async with asyncio.timeout(_ANSWER):
                return await super().get(name, namespace)
        except (aiohttp.ClientError, TimeoutError) as error:
            return False, ApiException(status=0, reason=str(error))

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:
        """Not the library's, which passes an argument that its own client refuses (37.0.2)."""
        body = client.V1Lease(metadata=client.V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        try:
            async with asyncio.timeout(_ANSWER):
                await self.api_instance.create_namespaced_lease(namespace, body)
        except (ApiException, aiohttp.ClientError, TimeoutError) as error:
            logger.warning("The Lease could not be made: %s", error)
            return False
        return True

    async def update(self, name: str, namespace: str, election_record: Any) -> bool:
        try:
            async with asyncio.timeout(_ANSWER):
                return bool(await super().update(name, namespace, election_record))
        except (aiohttp.ClientError, TimeoutError):
            return False
