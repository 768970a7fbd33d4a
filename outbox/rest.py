"""
How long a relay rests after a burst, so that what is posted meanwhile travels together.

# Note [What a message costs behind the relay]: in the broker, in a worker and in its database, several times what the
relay spends on it. So as soon as a few messages come at a time, a relay rests for nearly as long as an order may wait.
If it rested by its own work alone, a machine would be busiest at a third of what it can take. When very many come at a
time, larger batches are worth a longer wait.
"""

from dataclasses import dataclass

FACTOR = 8  # times as long as many messages take
MANY = 10  # messages; after fewer it rests for less time
LONG = 0.05  # seconds
LONGEST = 0.1  # seconds, with very many messages
EACH = 0.001  # seconds for each message, from LONG to LONGEST
LATELY = 10  # bursts
QUIET = 0.2  # seconds without a message, after which what was lately says nothing any more


@dataclass
class Rest:
    """
    The more the last bursts had to send, and the longer they took, the longer it is.

    # Note [Not by the last burst alone]: a small one would be followed by a short rest, and so by another small one, a
    large one by a long rest. Then the rests differ much more than the load, and an order waits for the longest.
    """

    _messages: float = 0.0
    _took: float = 0.0

    def after(self, messages: int, *, took: float, quiet: float = 0.0) -> float:
        """Return how many seconds to rest after a burst of so many messages that took so long, and after this quiet."""
        if quiet > QUIET:
            self._messages = self._took = 0.0
        self._messages += (messages - self._messages) / LATELY
        self._took += (min(took, LONGEST) - self._took) / LATELY
        longest = min(LONGEST, max(LONG, EACH * self._messages))
        return min(longest, FACTOR * self._took * min(1.0, self._messages / MANY))
