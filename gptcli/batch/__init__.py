"""The batch job: one result for each input record, in order; resumable."""
