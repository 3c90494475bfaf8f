"""What answers: one file per group of paths."""
