"""The batch job: records in, answers out, resumable."""
