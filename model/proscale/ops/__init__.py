"""The deformable attention operator and its reference form in pure torch."""
