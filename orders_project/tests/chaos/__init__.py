"""The whole system under load while a seeded schedule of faults hits every part of it: `make chaos`."""
