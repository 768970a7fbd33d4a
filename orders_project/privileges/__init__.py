"""What each process may do at the broker and in the databases: tables here, which the deployment puts into effect."""
