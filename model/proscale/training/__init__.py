"""Training from scratch: data, matcher, losses, loop."""
