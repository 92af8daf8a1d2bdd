"""The models of the field that ours are compared with, each from its paper."""
