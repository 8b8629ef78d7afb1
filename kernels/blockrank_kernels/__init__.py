"""Block-sparse attention over packed sequences, and log-sum-exps of the attention to each document.

Depends on torch alone. One operation is one folder: ``api`` checks arguments and picks the
implementation, ``reference`` is the specification, ``sdpa`` is portable and fast enough for CPUs, ``triton``
is for GPUs.
"""

from blockrank_kernels.block_attention import block_attention
from blockrank_kernels.document_lse import document_lse
from blockrank_kernels.last_rows import LastRows
from blockrank_kernels.last_rows_attention import last_rows_attention
from blockrank_kernels.segments import Segments

__all__ = ["LastRows", "Segments", "block_attention", "document_lse", "last_rows_attention"]
