"""What Dagster reads: partitions, provenance, the forms of assets, jobs, automation conditions and sensors."""
