"""What computes: one Protocol, one file per kind of engine."""
