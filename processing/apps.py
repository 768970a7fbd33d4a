from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ProcessingConfig(AppConfig):
    name = "processing"
    verbose_name = _("Processing")

    def ready(self) -> None:
        from . import consumers  # noqa: F401
