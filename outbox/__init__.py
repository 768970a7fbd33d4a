"""
Transactional messaging for a Django project with PostgreSQL, RabbitMQ and Celery.

In an app of yours, a service, declare proxies named Outgoing, Incoming and DeadLetter, and messages with handlers:

    class Outgoing(OutgoingMessage):
        class Meta:
            proxy = True

    class Reserve(Message, name="shop.reserve", to="shop"):
        sale_id: str

    @consumes(Reserve)
    def reserve(message: Reserve) -> None: ...

Post with the change that the message is about; it is sent when the transaction commits, and never without it:

    with transaction.atomic(using=database_of("shop")):
        sale.save()
        Outgoing.post(Reserve(sale_id=sale.pk))

Then run `manage.py relay` and a Celery worker on the queue `shop`. What can't be handled becomes a dead letter:
`manage.py dlq`. conf.py lists the settings; tests/standalone is a whole project.
"""
