"""Progress that travels through the browser, signed: see the note in bulk.py [Steps, not a task]."""

from dataclasses import asdict
from typing import Any, ClassVar, Self

from django.core import signing
from django.http import Http404

MAX_AGE = 86_400  # seconds


class SealedRun:
    """For a dataclass with the progress of a run, of which `done` of `total` are done."""

    salt: ClassVar[str]

    @property
    def percent(self) -> int:
        here: Any = self
        return round(100 * here.done / here.total) if here.total else 100

    def sealed(self) -> str:
        run: Any = self
        return signing.dumps(asdict(run), salt=self.salt, compress=True)

    @classmethod
    def unsealed(cls, text: str) -> Self:
        """
        Return the run in a signed text.

        :raises Http404: if the signature is wrong
        """
        try:
            return cls(**signing.loads(text, salt=cls.salt, max_age=MAX_AGE))
        except signing.BadSignature as error:
            raise Http404 from error
