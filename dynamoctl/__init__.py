"""dynamoctl brings up whole LLM-serving deployments on one machine."""

__version__ = "0.1.0"
