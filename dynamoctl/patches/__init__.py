"""Patches of vLLM, LMCache, NIXL and Dynamo, applied inside the engine's processes."""
