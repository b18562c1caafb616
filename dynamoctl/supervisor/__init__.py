"""The supervisor: one detached process per deployment, which starts, watches and stops its units."""
