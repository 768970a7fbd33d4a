"""What the outbox refuses, with a code that stays the same: the text may change, the code may not."""


class OutboxError(Exception):
    """Something that is refused; `code` says why in a word."""

    code = "outbox_error"


class CodedError(OutboxError):
    """An error whose code comes from where it is raised."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Undeliverable(CodedError):
    """Raised by a handler for a message that another attempt can't help: it becomes a dead letter at once."""


class Unreadable(CodedError):
    """What arrived is no message that this system can handle."""


class NotKnownYet(Unreadable):
    """A message of a type or version that this release does not know: another one may, so it waits for a while."""


class TooLarge(OutboxError):
    """The data of a message is larger than a message may be."""

    code = "too_large"


class ReasonMissing(OutboxError):
    """A person has given no reason for what needs one."""

    code = "reason_missing"


class PostedOutsideTransaction(RuntimeError):
    """
    A message was posted outside `atomic(using=<the service's database>)`: it could be sent though its data is not.

    A mistake of the program and not a refusal, so it is no `OutboxError`.
    """
