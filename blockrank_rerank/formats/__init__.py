"""Read and write the files that the field exchanges: documents, BEIR collections, judgements, TREC runs."""

from blockrank_rerank.errors import DataError
from blockrank_rerank.formats.beir import Corpus, Queries, read_corpus, read_queries
from blockrank_rerank.formats.collection import Collection, read_collection
from blockrank_rerank.formats.documents import FileDocument, read_documents
from blockrank_rerank.formats.qrels import Qrels, read_qrels
from blockrank_rerank.formats.trec import Run, check_ids, read_run, write_run
from blockrank_rerank.formats.units import Unit
from blockrank_rerank.system.files import check_output_path

__all__ = [
    "Collection",
    "Corpus",
    "DataError",
    "FileDocument",
    "Qrels",
    "Queries",
    "Run",
    "Unit",
    "check_ids",
    "check_output_path",
    "read_collection",
    "read_corpus",
    "read_documents",
    "read_qrels",
    "read_queries",
    "read_run",
    "write_run",
]
