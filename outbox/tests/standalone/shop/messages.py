"""What the shop is asked to do."""

from outbox.message import Message


class Pack(Message, name="shop.pack", to="shop"):
    """Pack the goods of a sale."""

    sale_id: str


class Lose(Message, name="shop.lose", to="shop"):
    """Do something that can't be done."""

    sale_id: str
