"""Block-sparse attention over packed sequences, log-sum-exps of the attention to each document, and what is between.

Depends on torch alone. One operation is one folder: ``api`` checks arguments and picks the
implementation, ``reference`` is the specification, ``sdpa`` is portable and fast enough for CPUs, ``triton``
is for GPUs.
"""

from blockrank_kernels.block_attention import block_attention
from blockrank_kernels.document_lse import document_lse
from blockrank_kernels.gated_activation import gated_activation
from blockrank_kernels.last_rows import LastRows
from blockrank_kernels.last_rows_attention import last_rows_attention
from blockrank_kernels.rms_norm import rms_norm
from blockrank_kernels.rotary import rotary_
from blockrank_kernels.segments import Segments

__all__ = [
    "LastRows",
    "Segments",
    "block_attention",
    "document_lse",
    "gated_activation",
    "last_rows_attention",
    "rms_norm",
    "rotary_",
]
