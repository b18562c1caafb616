"""Processes that dynamoctl starts, signals and cleans up after."""
