"""The back office: the site where operators work."""
