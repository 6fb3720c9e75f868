"""dydist: training jobs for dynamic-convolution networks. Importing it imports neither torch nor deepspeed."""

__version__ = "0.1.0"
