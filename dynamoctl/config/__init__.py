"""What the user asks for: flags, environment and `dynamoctl.toml`, checked."""
