"""The kernel that executes a chapter: reached by files, not by ports.

Two processes that look for free ports at the same moment can find the same ones.
"""

from __future__ import annotations

import os

from jupyter_client.manager import AsyncKernelManager
from traitlets import default


class IpcKernelManager(AsyncKernelManager):
    """A kernel manager whose sockets lie in JUPYTER_RUNTIME_DIR (a short path: a socket's path
    may have 107 characters)."""

    @default("transport")
    def _transport_default(self) -> str:
        return "ipc"

    @default("ip")
    def _ip_default(self) -> str:
        return os.path.join(os.environ["JUPYTER_RUNTIME_DIR"], "kernel")
