"""Layers that more than one box of the network is made of."""
