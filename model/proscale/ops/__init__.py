"""The deformable attention operator and its pure-torch twin."""
