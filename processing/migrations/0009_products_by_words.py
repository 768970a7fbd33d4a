from django.contrib.postgres.indexes import GinIndex
from django.db import migrations

from common.search import Words
from outbox.online_ddl import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("processing", "0008_returned_stock"),
    ]

    operations = [
        AddIndexOnline(model_name="product", index=GinIndex(Words("sku", "name"), name="product_by_words")),
    ]
