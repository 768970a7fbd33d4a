"""
The standard health service, answered in the event loop: no thread and no database is needed to answer it.

The status of the server itself ("") says that it is alive; that of a service, whether it has what it needs.
"""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):
    """
    The status of the server and its services, asked for once or watched.

    No watcher can keep another one waiting, however slowly it reads, and all watches end when the server stops.
    """

    def __init__(self, *services: str) -> None:
        self._status: dict[str, int] = dict.fromkeys(("", *services), SERVING)
        self._changed = asyncio.Event()
        self._stopping = False

    def set(self, service: str, status: int) -> bool:
        """Set the status of a service; return whether it was another one before."""
        if self._stopping or self._status[service] == status:
            return False
        self._status[service] = status
        self._tell()
        return True

    def stop(self) -> None:
        """Report all services as not serving, for good."""
        self._stopping = True
        self._status = dict.fromkeys(self._status, NOT_SERVING)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.service not in self._status:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=self._status[request.service])

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        shown = None
        while True:
            changed, status = self._changed, self._status.get(request.service, UNKNOWN)
            if status != shown:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                shown = status
            if self._stopping:
                return
            await changed.wait()
