"""Procedurally drawn scenes: things with an appearance of their own over textured stuff, with exact panoptic truth."""
