"""Many workers, one stream: builds and annotations on a Ray cluster, byte-identical to those of one process.

A worker extracts chunks and compares them with the exemplars it knows, the first so many of the stream's. By
law L1 only rows that none of these covers can become exemplars, so it sends those alone. One owner decides them
in the order of the stream, then tells the worker what was born before each of its rows, and gets the counts.

wire.py      what goes between owner and worker, and what is refused
snapshot.py  the worker's side: rows against the exemplars it knows, and what becomes of them
deciding.py  the owner's side: births in the order of the stream, counts merged in it
identity.py  what owner and workers must have in common
worker.py    the processes that hold a model
pool.py      Ray: a number of workers, their deaths and their calls
build.py, annotate.py   the two jobs
"""
