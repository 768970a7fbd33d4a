#!/usr/bin/env python3
"""The command line of the project."""

import os
import sys

from orders_project.embedded import launcher


def main() -> None:
    if sys.argv[1:] in (["version"], ["--version"]):  # Django would print its own
        from orders_project import __version__

        sys.stdout.write(f"{__version__}\n")
        return
    launcher.use_installed_python(sys.argv)
    if sys.argv[1:2] == ["up"]:  # no command of Django's: it only starts others, and has no use for their imports
        from orders_project.embedded.up import main as up

        up()
        return
    if sys.argv[1:2] in (["backup"], ["restore"]):  # the servers' business, which need not be there
        from orders_project.embedded.backups import main as backups

        backups(sys.argv[1], sys.argv[2:])
        return
    launcher.use_running_system(os.environ)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orders_project.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
