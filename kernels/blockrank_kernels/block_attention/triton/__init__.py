"""Block attention in Triton, for GPUs; importing this package imports no Triton, its ``launch`` does."""
