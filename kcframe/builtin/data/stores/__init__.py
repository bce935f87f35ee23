"""Pictures that lie somewhere: files, tar shards, Parquet files, on this machine or behind any fsspec URL."""
