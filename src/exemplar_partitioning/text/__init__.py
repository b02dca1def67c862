"""Documents (`documents.read_documents`) to token windows (`windows.windows`); imports no transformers."""
