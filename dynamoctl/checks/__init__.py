"""Checks of a plan against a host: what `dynamoctl doctor` reports, and what `up` refuses.

One module a subject; `registry` lists them in order.
"""
