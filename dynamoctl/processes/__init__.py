"""Starting, signalling and cleaning up processes."""
