"""Checks of a plan against a host: what `dynamoctl doctor` reports, and what `up` refuses."""
