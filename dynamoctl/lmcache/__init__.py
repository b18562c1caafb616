"""LMCache's own settings, remote stores and cache server."""
