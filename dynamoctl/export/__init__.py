"""A plan for other programs. Pure: from a plan to text or plain data."""
