"""The project package: settings, URLs and the wiring between the services. It holds no business rules."""

__version__ = "0.1.0"
