"""What a query ever reads of a document, and where it is kept."""
