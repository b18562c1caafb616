"""What each command does, without a word of how it looks."""
