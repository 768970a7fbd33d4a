"""A project with one database and one service: all the settings that the outbox needs."""

import json
import os

SECRET_KEY = "standalone"
USE_TZ = True
DATABASES = {"default": json.loads(os.environ["STANDALONE_DATABASE"])}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["outbox", "outbox.tests.standalone.shop"]

AMQP_URL = os.environ["AMQP_URL"]
OUTBOX_SUBJECT_FIELD = "sale_id"
