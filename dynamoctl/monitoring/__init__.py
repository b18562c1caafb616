"""Requests to the units of a running deployment, and the figures from their answers."""
