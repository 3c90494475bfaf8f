"""Weights and configuration on disk: our own folder, and the layouts that others publish."""
