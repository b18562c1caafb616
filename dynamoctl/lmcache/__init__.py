"""LMCache's settings and remote stores."""
