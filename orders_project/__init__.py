"""The project package: settings, URLs and the wiring between the services. It holds no business rules."""

import os

__version__ = "0.1.0"

# Note [gRPC and programs that are started]: it would prepare each child for using gRPC, also one that becomes another
# program at once; while calls are under way, one in ten such children crashed before it did. Nothing here uses gRPC on
# both sides of a fork. It reads this when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
