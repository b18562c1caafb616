"""Requests to a running deployment's units, and what their answers mean."""
