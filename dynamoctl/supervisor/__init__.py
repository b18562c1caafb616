"""A detached process per deployment that starts, watches and stops its units."""
