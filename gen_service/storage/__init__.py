"""Everything on disk. The front is `job_folder`, for the one writer of a job; readers use `traces`."""
